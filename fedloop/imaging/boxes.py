"""Reads of boxes that may leave the image: the part inside is loaded, the rest is filled."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedloop.errors import DataError
from fedloop.imaging.geometry import Box

Load = Callable[[Box], NDArray[Any]]


def read_edge(box: Box, shape: tuple[int, ...], load: Load) -> NDArray[Any]:
    """Read ``box`` with the nearest image voxel repeated outside.

    Args:
        box: where to read; may lie partly or wholly outside.
        shape: spatial shape of the image.
        load: returns ``(C, *inner.size)`` for a box inside the image.

    Returns:
        A new array ``(C, *box.size)``.

    Raises:
        DataError: the box has another number of axes than the image.
    """
    _require_axes(box, shape)
    lower = [min(max(a, 0), n - 1) for a, n in zip(box.start, shape, strict=True)]
    upper = [max(min(b, n), a + 1) for a, b, n in zip(lower, box.stop, shape, strict=True)]
    inner = Box(tuple(lower), tuple(b - a for a, b in zip(lower, upper, strict=True)))
    array = load(inner)
    for axis, (a, b) in enumerate(zip(box.start, box.stop, strict=True)):
        if (a, b) != (lower[axis], upper[axis]):
            nearest = np.clip(np.arange(a, b), lower[axis], upper[axis] - 1) - lower[axis]
            array = array.take(nearest, axis=axis + 1)
    return np.array(array, order="C")  # always the caller's own: cached arrays are shared


def read_filled(box: Box, shape: tuple[int, ...], load: Load, fill: int | bool) -> NDArray[Any]:
    """Read ``box`` with ``fill`` outside the image; ``load`` returns ``inner.size``.

    Returns:
        A new array ``box.size``: bool where ``fill`` is one, else uint8.

    Raises:
        DataError: the box has another number of axes than the image.
    """
    _require_axes(box, shape)
    kind = np.bool_ if isinstance(fill, bool) else np.uint8
    out: NDArray[Any] = np.full(box.size, fill, dtype=kind)
    if box.overlaps(Box((0,) * len(shape), shape)):
        inner = box.clipped(shape)
        into = Box(tuple(a - b for a, b in zip(inner.start, box.start, strict=True)), inner.size)
        out[into.slices] = load(inner)
    return out


def read_blocks(box: Box, shape: tuple[int, int], side: int, load: Load) -> NDArray[Any]:
    """Compose a 2D box inside the image from whole blocks of ``side`` pixels.

    Reading always by the same blocks makes a pixel's value independent of the box that asks for it,
    which resampling at arbitrary offsets would not.
    """
    rows, columns = (
        range(a // side, -(-b // side)) for a, b in zip(box.start, box.stop, strict=True)
    )
    bands = [
        np.concatenate([_part(box, shape, side, row, column, load) for column in columns], axis=-1)
        for row in rows
    ]
    return np.concatenate(bands, axis=-2)


def _part(
    box: Box, shape: tuple[int, int], side: int, row: int, column: int, load: Load
) -> NDArray[Any]:
    """The pixels of one block that belong to ``box``."""
    block = Box((row * side, column * side), (side, side)).clipped(shape)
    top, left = (max(a, b) for a, b in zip(box.start, block.start, strict=True))
    bottom, right = (min(a, b) for a, b in zip(box.stop, block.stop, strict=True))
    row_0, column_0 = block.start
    return load(block)[..., top - row_0 : bottom - row_0, left - column_0 : right - column_0]


def _require_axes(box: Box, shape: tuple[int, ...]) -> None:
    if box.ndim != len(shape):
        raise DataError(f"a box of {box.ndim} axes cannot be read from an image of {shape}")
