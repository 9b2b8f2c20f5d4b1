"""Training losses by name, with voxels that take no part."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch.nn import functional

from fedloop.configuration import suggest
from fedloop.errors import ModelError
from fedloop.imaging.case import IGNORE

Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""``(logits (N, classes, *spatial), target (N, *spatial) uint8 or int64) -> scalar``."""

SMOOTH = 20.0
"""Voxels added to both sides of the Dice ratio, so that a handful of foreground voxels in a batch
does not decide the whole gradient."""


def build_loss(name: str, classes: int, *, smooth: float = SMOOTH) -> Loss:
    """Return the loss ``name`` (``dice_ce`` or ``ce``) for ``classes`` classes.

    Voxels labelled :data:`fedloop.imaging.case.IGNORE` take no part; a batch of only such voxels
    has loss 0 and zero gradients. Computed in float32, also under autocast.

    Args:
        name: ``ce``: cross-entropy, mean over voxels. ``dice_ce``: the same plus
            :func:`soft_dice_loss`.
        classes: number of classes, background (0) included.
        smooth: see :data:`SMOOTH`.

    Raises:
        ModelError: unknown name, or fewer than two classes.
    """
    if name not in ("dice_ce", "ce"):
        raise ModelError(f"unknown loss {name!r}{suggest(name, ['dice_ce', 'ce'])}")
    if classes < 2:
        raise ModelError(f"a segmentation needs background and a foreground class, found {classes}")

    def loss(logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        _check(logits, target, classes)
        with torch.autocast(logits.device.type, enabled=False):
            logits, target = logits.float(), target.long()
            result = cross_entropy(logits, target)
            if name == "dice_ce":
                result = result + soft_dice_loss(logits, target, smooth=smooth)
            return result

    return loss


def cross_entropy(logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Cross-entropy, mean over the voxels that are not ignored (0 where there are none)."""
    total = functional.cross_entropy(logits, target, ignore_index=IGNORE, reduction="sum")
    return total / (target != IGNORE).sum().clamp(min=1)


def soft_dice_loss(logits: torch.Tensor, target: torch.Tensor, *, smooth: float) -> torch.Tensor:
    """``1 - mean_c (2 Σ p_c t_c + s) / (Σ p_c + Σ t_c + s)`` over the foreground classes c.

    The sums run over all voxels of the batch that are not ignored (*batch* Dice): with rare
    lesions most single patches hold none, and their own Dice would say nothing.
    """
    foreground = torch.arange(1, logits.shape[1], device=logits.device)
    foreground = foreground.view(1, -1, *[1] * (logits.ndim - 2))
    axes = [0, *range(2, logits.ndim)]
    valid = (target != IGNORE).unsqueeze(1)
    probability = logits.softmax(1)[:, 1:] * valid
    truth = target.unsqueeze(1) == foreground  # IGNORE equals no class
    overlap = (probability * truth).sum(axes)
    total = probability.sum(axes) + truth.sum(axes)
    return 1 - ((2 * overlap + smooth) / (total + smooth)).mean()


def _check(logits: torch.Tensor, target: torch.Tensor, classes: int) -> None:
    expected = (logits.shape[0], *logits.shape[2:])
    if logits.shape[1] != classes or tuple(target.shape) != expected:
        raise ModelError(
            f"loss for {classes} classes met logits {tuple(logits.shape)} "
            f"and a target {tuple(target.shape)}; expected a target {expected}"
        )
