"""Windows cut into patches and joined again, for networks of fixed input size."""

from __future__ import annotations

import torch


def split(batch: torch.Tensor, cells: tuple[int, ...]) -> torch.Tensor:
    """``(N, C, *(cells · p))`` → ``(N · patches, C, *p)``, in grid order."""
    d = len(cells)
    sides = [n // c for n, c in zip(batch.shape[2:], cells, strict=True)]
    interleaved = [extent for pair in zip(cells, sides, strict=True) for extent in pair]
    blocks = batch.reshape(*batch.shape[:2], *interleaved)
    order = [0, *range(2, 2 + 2 * d, 2), 1, *range(3, 3 + 2 * d, 2)]
    return blocks.permute(order).reshape(-1, batch.shape[1], *sides)


def join(patches: torch.Tensor, cells: tuple[int, ...]) -> torch.Tensor:
    """Inverse of :func:`split`."""
    d = len(cells)
    sides = patches.shape[2:]
    blocks = patches.reshape(-1, *cells, *patches.shape[1:])
    order = [0, 1 + d, *(axis for i in range(d) for axis in (1 + i, 2 + d + i))]
    whole = [c * s for c, s in zip(cells, sides, strict=True)]
    return blocks.permute(order).reshape(-1, patches.shape[1], *whole)
