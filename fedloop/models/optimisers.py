"""Optimisers by name and the learning-rate factor over a round."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import nn

from fedloop.settings import OptimiserSettings


def build_optimiser(
    parameters: Iterable[nn.Parameter], settings: OptimiserSettings, *, learning_rate: float
) -> torch.optim.Optimizer:
    """Build the optimiser of ``settings`` over the parameters that require a gradient.

    The learning rate is explicit because the igniter, a round and personalisation differ in it.
    """
    trained = [p for p in parameters if p.requires_grad]
    decay = settings.weight_decay
    # Fused kernels: one pass over all weights; for small networks the step costs a fifth.
    match settings.name:
        case "adamw":
            return torch.optim.AdamW(trained, learning_rate, weight_decay=decay, fused=True)
        case "adam":
            return torch.optim.Adam(trained, learning_rate, weight_decay=decay, fused=True)
        case "sgd":
            return torch.optim.SGD(
                trained, learning_rate, settings.momentum, weight_decay=decay, fused=True
            )


def cosine(step: int, total: int) -> float:
    """Learning-rate factor before ``step`` of ``total``: 1 at the start, 0 at the end."""
    return 0.5 * (1.0 + math.cos(math.pi * step / total))
