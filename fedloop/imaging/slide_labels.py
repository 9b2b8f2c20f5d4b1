"""Reference labels of slides, made block by block at the working resolution."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fedloop.errors import DataError
from fedloop.imaging.asap import Group, Region, read_asap
from fedloop.imaging.case import IGNORE
from fedloop.imaging.files import stamp
from fedloop.imaging.geometry import Box
from fedloop.imaging.masks import class_ids
from fedloop.imaging.pyramid import View, slide_size, view
from fedloop.imaging.rasterise import fill

LESION = 1
UNMARKED = 254
"""Tissue no outline speaks of: background, or unknown where outlines are not exhaustive."""


def outline_block(path: Path, slide: View, box: Box) -> NDArray[np.uint8]:
    """Labels of a box inside the slide from ASAP outlines: 1 lesion, 0 cut out of it.

    Outlines without a group say nothing (:data:`IGNORE`) where no other outline does. All else
    stays :data:`UNMARKED`.

    Raises:
        DataError: the annotation cannot be read.
    """
    labels = np.full(box.size, UNMARKED, dtype=np.uint8)
    regions = _regions(*stamp(path))
    for group, value in (
        (Group.UNKNOWN, IGNORE),
        (Group.LESION, LESION),
        (Group.NORMAL, 0),
    ):
        for region in regions:
            if region.group is group and (part := _reach(region, slide, box)) is not None:
                start = tuple(a - b for a, b in zip(part.start, box.start, strict=True))
                window = labels[Box(start, part.size).slices]
                window[fill(region.rings, part, slide.downsample)] = value
    return labels


def mask_block(path: Path, slide: View, classes: int, box: Box) -> NDArray[np.uint8]:
    """Labels of a box inside the slide from a mask slide (``*_mask.tif``) of the same extent.

    In a two-class mask 255 paints the foreground where no pixel is 1.

    Raises:
        DataError: the mask shows another extent, unknown values, or both 1 and 255.
    """
    values = mask_view(path, slide).sample(box)[0]
    if classes == 2 and (values == IGNORE).any():
        if (values == 1).any():
            raise DataError(
                f"{path}: both 1 and 255 found in a two-class slide mask: write the foreground "
                "as 1 or as 255"
            )
        values = np.where(values == IGNORE, 1, values)
    return class_ids(values, classes, path)


def mask_view(path: Path, slide: View) -> View:
    """View of a mask slide on the pixels of ``slide``; the mask may have fewer level-0 pixels.

    Raises:
        DataError: the proportions differ by more than one per cent.
    """
    rows, columns = slide_size(slide.path)
    mask_rows, mask_columns = slide_size(path)
    ratio = (mask_rows / rows, mask_columns / columns)
    if abs(ratio[0] / ratio[1] - 1) > 0.01:
        raise DataError(
            f"mask {path} has {mask_rows} x {mask_columns} pixels, its slide {slide.path} has "
            f"{rows} x {columns}: the mask must show the same extent"
        )
    downsample = (slide.downsample[0] * ratio[0], slide.downsample[1] * ratio[1])
    return view(path, downsample, slide.shape)


def _reach(region: Region, slide: View, box: Box) -> Box | None:
    """Part of ``box`` that the region's bounds touch."""
    x_min, y_min, x_max, y_max = region.bounds
    down_rows, down_columns = slide.downsample
    start = (
        max(box.start[0], int(np.floor(y_min / down_rows))),
        max(box.start[1], int(np.floor(x_min / down_columns))),
    )
    stop = (
        min(box.stop[0], int(np.ceil(y_max / down_rows)) + 1),
        min(box.stop[1], int(np.ceil(x_max / down_columns)) + 1),
    )
    if stop[0] <= start[0] or stop[1] <= start[1]:
        return None
    return Box(start, (stop[0] - start[0], stop[1] - start[1]))


@lru_cache(maxsize=64)
def _regions(path: str, _bytes: int, _changed: int) -> tuple[Region, ...]:
    return read_asap(Path(path))
