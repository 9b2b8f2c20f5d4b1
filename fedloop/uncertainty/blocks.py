"""Arrays of a window seen patch by patch, without a loop over patches."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from fedloop.imaging.geometry import Box


def inside_image(box: Box, shape: tuple[int, ...]) -> NDArray[np.bool_]:
    """Which voxels of the box lie inside the image: ``box.size``."""
    mask = np.zeros(box.size, np.bool_)
    inside = box.clipped(shape)
    start = tuple(a - b for a, b in zip(inside.start, box.start, strict=True))
    mask[tuple(slice(a, a + n) for a, n in zip(start, inside.size, strict=True))] = True
    return mask


def _interleaved(size: tuple[int, ...], patch: tuple[int, ...]) -> list[int]:
    """``[cells_0, p_0, cells_1, p_1, …]``."""
    return [extent for n, p in zip(size, patch, strict=True) for extent in (n // p, p)]


def sums(maps: NDArray[np.float32], patch: tuple[int, ...]) -> NDArray[np.float32]:
    """Sum over each patch: ``(m, *size)`` → ``(m, *cells)``."""
    cut = torch.from_numpy(maps).reshape(len(maps), *_interleaved(maps.shape[1:], patch))
    result: NDArray[np.float32] = cut.sum(tuple(range(2, cut.ndim, 2))).numpy()
    return result


def blocks(array: NDArray[np.uint8], patch: tuple[int, ...]) -> NDArray[np.uint8]:
    """Cut into patches: ``size`` → ``(*cells, *patch)``, a view."""
    d = array.ndim
    cut = array.reshape(_interleaved(array.shape, patch))
    return cut.transpose([*range(0, 2 * d, 2), *range(1, 2 * d, 2)])
