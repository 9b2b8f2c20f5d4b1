"""An OpenSlide pyramid seen at one working resolution, with memory bounded by one block."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import openslide
from numpy.typing import NDArray
from PIL import Image

from fedloop.errors import DataError
from fedloop.imaging.files import one_line, require_file, stamp
from fedloop.imaging.geometry import Box

BLOCK_PX = 512
SOURCE_PX = 2048
"""Largest side of a region decoded at once: a slide with no lower levels is read in smaller
blocks, not in larger regions."""

SCAN_MPP = (0.01, 50.0)
"""Microns per pixel of any microscope scan. Image software writes 72 dpi (353 microns) where it
knows nothing, and that must not pass for a scale."""


@dataclass(frozen=True)
class View:
    """The slide of ``path`` as an image of ``shape`` (rows, columns).

    ``downsample`` counts level-0 pixels and ``step`` pixels of pyramid level ``level`` per pixel of
    the view, both as ``(rows, columns)``; ``side`` is the block side in pixels of the view.
    """

    path: Path
    shape: tuple[int, int]
    downsample: tuple[float, float]
    level: int
    step: tuple[float, float]
    side: int

    def read(self, box: Box) -> NDArray[np.uint8]:
        """Area-averaged RGB ``(3, *box.size)`` of a box inside the view.

        Raises:
            DataError: the file is damaged there.
        """
        region, (top, left) = self._region(box)
        if self.step != (1.0, 1.0):
            rows, columns = (
                (a * s, b * s) for a, b, s in zip(box.start, box.stop, self.step, strict=True)
            )
            source = (
                columns[0] - left,
                rows[0] - top,
                min(columns[1] - left, region.width),
                min(rows[1] - top, region.height),
            )
            size = (box.size[1], box.size[0])
            region = region.resize(size, Image.Resampling.BOX, box=source)
        return np.ascontiguousarray(np.moveaxis(np.asarray(region), -1, 0))

    def sample(self, box: Box) -> NDArray[np.uint8]:
        """RGB ``(3, *box.size)`` of the source pixels nearest to the centres: for masks.

        Raises:
            DataError: the file is damaged there.
        """
        region, (top, left) = self._region(box)
        rows, columns = (
            np.floor((np.arange(a, b) + 0.5) * s).astype(np.int64)
            for a, b, s in zip(box.start, box.stop, self.step, strict=True)
        )
        rows = np.clip(rows - top, 0, region.height - 1)
        columns = np.clip(columns - left, 0, region.width - 1)
        pixels = np.asarray(region)[rows[:, None], columns[None, :]]
        return np.ascontiguousarray(np.moveaxis(pixels, -1, 0))

    def _region(self, box: Box) -> tuple[Image.Image, tuple[int, int]]:
        """Level pixels that cover ``box``, and the level row and column of the first."""
        slide = open_slide(self.path)
        width, height = slide.level_dimensions[self.level]
        top, left = (
            min(int(a * s), n - 1)
            for a, s, n in zip(box.start, self.step, (height, width), strict=True)
        )
        bottom, right = (
            min(max(int(np.ceil(b * s - 1e-6)), a + 1), n)
            for a, b, s, n in zip((top, left), box.stop, self.step, (height, width), strict=True)
        )
        # OpenSlide takes level-0 coordinates and divides them by its own factor of the level.
        factor = slide.level_downsamples[self.level]
        try:
            region = slide.read_region(
                (round(left * factor), round(top * factor)),
                self.level,
                (right - left, bottom - top),
            )
        except openslide.OpenSlideError as error:
            open_slide_handle.cache_clear()  # a handle that failed once fails for ever
            raise DataError(
                f"{self.path} is damaged near level-{self.level} row {top}, column {left} "
                f"({one_line(error)}): copy or convert the slide again"
            ) from error
        return _opaque(region, slide.properties), (top, left)


def view(path: Path, downsample: tuple[float, float], shape: tuple[int, int]) -> View:
    """Choose the pyramid level and block side for a view of ``shape`` at ``downsample``.

    Raises:
        DataError: the slide cannot be opened.
    """
    slide = open_slide(path)
    # One per cent: levels are rounded to whole pixels, 4.016 is meant as 4.
    level = max(
        (i for i, d in enumerate(slide.level_downsamples) if d <= min(downsample) * 1.01),
        default=0,
    )
    width, height = slide.level_dimensions[level]
    full_width, full_height = slide.dimensions
    step = (downsample[0] * height / full_height, downsample[1] * width / full_width)
    step = (_whole(step[0]), _whole(step[1]))
    side = BLOCK_PX
    while side > 1 and side * max(step) > SOURCE_PX:
        side //= 2
    return View(path, shape, downsample, level, step, side)


def slide_size(path: Path) -> tuple[int, int]:
    """Level-0 ``(rows, columns)``.

    Raises:
        DataError: the slide cannot be opened.
    """
    width, height = open_slide(path).dimensions
    return height, width


def slide_mpp(path: Path) -> tuple[float, float] | None:
    """Level-0 microns per pixel ``(rows, columns)``, or none where the file does not know.

    Raises:
        DataError: the slide cannot be opened.
    """
    properties = open_slide(path).properties
    mpp = _named_mpp(properties) or _tiff_mpp(properties)
    low, high = SCAN_MPP
    return mpp if mpp is not None and all(low <= value <= high for value in mpp) else None


def open_slide(path: Path) -> openslide.OpenSlide:
    """Open a slide, or return the handle this process already holds.

    Raises:
        DataError: the file is missing or OpenSlide does not know or accept it.
    """
    require_file(path)
    return open_slide_handle(*stamp(path), os.getpid())


@lru_cache(maxsize=16)  # few handles stay open: a pool of 500 slides would exhaust descriptors
def open_slide_handle(path: str, _bytes: int, _changed: int, _process: int) -> openslide.OpenSlide:
    """Open a slide; keyed by process because a handle must not be shared across a fork."""
    try:
        return openslide.OpenSlide(path)
    except openslide.OpenSlideUnsupportedFormatError as error:
        raise DataError(
            f"{path} is no slide that OpenSlide can open (damaged, or a plain TIFF): copy it "
            "again, or convert it to a tiled pyramidal TIFF"
        ) from error
    except openslide.OpenSlideError as error:
        raise DataError(
            f"{path} cannot be opened as a slide ({one_line(error)}): copy it again"
        ) from error


def _whole(step: float) -> float:
    """Snap to a whole number of level pixels where rounding of level sizes is the only reason."""
    return float(round(step)) if step > 0.5 and abs(step / round(step) - 1) < 1e-4 else step


def _named_mpp(properties: Mapping[str, str]) -> tuple[float, float] | None:
    try:
        return float(properties["openslide.mpp-y"]), float(properties["openslide.mpp-x"])
    except (KeyError, ValueError):
        return None


def _tiff_mpp(properties: Mapping[str, str]) -> tuple[float, float] | None:
    microns = {"centimeter": 1e4, "inch": 2.54e4}.get(properties.get("tiff.ResolutionUnit", ""))
    try:
        per_unit = [float(properties[f"tiff.{axis}Resolution"]) for axis in "YX"]
    except (KeyError, ValueError):
        return None
    if microns is None or min(per_unit) <= 0:
        return None
    return microns / per_unit[0], microns / per_unit[1]


def _opaque(region: Image.Image, properties: Mapping[str, str]) -> Image.Image:
    """RGB over the slide's own background colour: scanners leave unscanned parts transparent."""
    if region.getchannel("A").getextrema() == (255, 255):
        return region.convert("RGB")
    colour = "#" + properties.get("openslide.background-color", "ffffff")
    return Image.alpha_composite(Image.new("RGBA", region.size, colour), region).convert("RGB")
