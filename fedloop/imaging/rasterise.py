"""Polygons to pixels, exactly: a pixel belongs to a polygon when its centre lies inside."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from fedloop.imaging.geometry import Box


def fill(
    rings: Sequence[NDArray[np.float64]], box: Box, downsample: tuple[float, float]
) -> NDArray[np.bool_]:
    """Fill rings by the even-odd rule inside one box.

    Every pixel is decided from the rings alone, so neighbouring boxes fit without a seam.

    Args:
        rings: closed or open ``(n, 2)`` arrays of level-0 ``(x, y)``: outlines and their holes.
        box: ``(row, column)`` box at the working resolution.
        downsample: level-0 pixels per working pixel, ``(rows, columns)``.

    Returns:
        ``box.size``, ``True`` inside.
    """
    height, width = box.size
    toggles = np.zeros((height, width + 1), dtype=np.int64)
    for ring in rings:
        toggles += _crossings(ring, box, downsample)
    return np.asarray(np.cumsum(toggles, axis=1)[:, :width] % 2 == 1)


def _crossings(
    ring: NDArray[np.float64], box: Box, downsample: tuple[float, float]
) -> NDArray[np.int64]:
    """Count where each row of pixel centres crosses the ring: ``(rows, columns + 1)``."""
    height, width = box.size
    x0, y0 = ring[:, 0] / downsample[1], ring[:, 1] / downsample[0]
    x1, y1 = np.roll(x0, -1), np.roll(y0, -1)
    # A row crosses an edge when its centre lies in [lowest, highest): a vertex counts once.
    top, bottom = box.start[0], box.stop[0]
    first = np.clip(np.ceil(np.minimum(y0, y1) - 0.5), top, bottom).astype(np.int64)
    last = np.clip(np.ceil(np.maximum(y0, y1) - 0.5), top, bottom).astype(np.int64)
    count = last - first
    edge = np.repeat(np.arange(len(ring)), count)
    offset = np.arange(len(edge)) - np.repeat(np.cumsum(count) - count, count)
    row = first[edge] + offset
    along = (row + 0.5 - y0[edge]) / (y1 - y0)[edge]
    x = x0[edge] + along * (x1 - x0)[edge]
    column = np.clip(np.ceil(x - 0.5) - box.start[1], 0, width).astype(np.int64)
    flat = (row - top) * (width + 1) + column
    return np.bincount(flat, minlength=height * (width + 1)).reshape(height, width + 1)
