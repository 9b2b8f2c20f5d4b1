"""Training and evaluation mode, borrowed and given back."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def evaluating(*networks: nn.Module) -> Iterator[None]:
    """Evaluation mode inside the block; each network's own mode afterwards."""
    modes = [{module: module.training for module in network.modules()} for network in networks]
    for network in networks:
        network.eval()
    try:
        yield
    finally:
        for mode in modes:
            for module, training in mode.items():
                module.training = training
