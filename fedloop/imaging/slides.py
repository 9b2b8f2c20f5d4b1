"""A whole-slide image with lesion outlines or a mask slide, as a Case."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fedloop.errors import DataError
from fedloop.imaging.boxes import read_blocks, read_edge, read_filled
from fedloop.imaging.cache import ARRAYS
from fedloop.imaging.case import IGNORE
from fedloop.imaging.files import stamp
from fedloop.imaging.geometry import Box, Resolution
from fedloop.imaging.intensity import voxel_statistics
from fedloop.imaging.pyramid import View, slide_mpp, slide_size, view
from fedloop.imaging.slide_labels import UNMARKED, mask_block, outline_block
from fedloop.imaging.tissue import TissueKind, tissue_mask

THUMBNAIL_PX = 2048
FINEST_SHARE = 0.95
"""A working mpp this close below the scan's own (0.25 for a 0.252 scan) is read, not refused."""


@dataclass(frozen=True)
class SlideCase:
    """A pyramidal slide at ``mpp`` microns per pixel (none: at level 0).

    Without a label file only a slide of category ``negative`` has a label: background throughout.
    With ``itc_exhaustive`` false, tissue of an ``itc`` slide outside all outlines is unknown.
    """

    case_id: str
    center: str
    image_path: Path
    label_path: Path | None = None
    category: str = ""
    classes: int = 2
    mpp: float | None = None
    tissue: TissueKind = "saturation"
    itc_exhaustive: bool = True

    @property
    def channels(self) -> int:
        return 3

    @property
    def has_label(self) -> bool:
        return self.label_path is not None or self.category == "negative"

    @property
    def shape(self) -> tuple[int, ...]:
        """``(rows, columns)`` at the working resolution.

        Raises:
            DataError: the slide cannot be opened at that resolution.
        """
        return self._view.shape

    @cached_property
    def resolution(self) -> Resolution:
        """Microns per pixel of the working resolution, where the file states its scale.

        Raises:
            DataError: the slide cannot be opened.
        """
        native = slide_mpp(self.image_path)
        if native is None:
            return Resolution()
        rows, columns = self._view.downsample
        return Resolution(mpp=(native[0] * rows, native[1] * columns))

    def read(self, box: Box) -> NDArray[np.uint8]:
        """``(3, *box.size)`` uint8, the nearest pixel outside.

        Raises:
            DataError: the slide is damaged there.
        """
        return read_edge(box, self.shape, self._read_image)

    def read_label(self, box: Box) -> NDArray[np.uint8]:
        """``box.size`` class ids, :data:`IGNORE` outside and where unknown.

        Raises:
            DataError: no label, or the annotation cannot be read.
        """
        if not self.has_label:
            raise DataError(
                f"case {self.case_id} has no label: {self.image_path} needs an annotation, or "
                "category `negative` in stage_labels.csv or centers.csv"
            )
        return read_filled(box, self.shape, self._read_label, IGNORE)

    def read_tissue(self, box: Box) -> NDArray[np.bool_]:
        """``box.size``, ``False`` outside; from a thumbnail of at most 2048 pixels a side.

        Raises:
            DataError: the slide is damaged.
        """
        return read_filled(box, self.shape, self._read_tissue, False)

    def statistics(self) -> tuple[float, float]:
        """Mean and deviation of all channels over the thumbnail's tissue, computed once.

        Raises:
            DataError: the slide is damaged.
        """
        return self._statistics

    @cached_property
    def _statistics(self) -> tuple[float, float]:
        return voxel_statistics(self._read_thumbnail(), self._tissue())

    @cached_property
    def _view(self) -> View:
        rows, columns = slide_size(self.image_path)
        down = self._downsample()
        shape = tuple(max(1, int(n / d + 1e-6)) for n, d in zip((rows, columns), down, strict=True))
        return view(self.image_path, down, (shape[0], shape[1]))

    def _downsample(self) -> tuple[float, float]:
        """Level-0 pixels per working pixel."""
        if self.mpp is None:
            return 1.0, 1.0
        native = slide_mpp(self.image_path)
        if native is None:
            raise DataError(
                f"{self.image_path} states no microns per pixel (or an impossible value): write "
                "the resolution tags, or set imaging.mpp to null to read it at level 0"
            )
        if self.mpp < FINEST_SHARE * max(native):
            raise DataError(
                f"{self.image_path} was scanned at {max(native):.4g} microns per pixel, "
                f"imaging.mpp {self.mpp:g} is finer: raise imaging.mpp"
            )
        # Scanners write 0.2499 or 0.499: within one per cent the levels themselves are read.
        rows, columns = (self.mpp / value for value in native)
        return _snapped(rows), _snapped(columns)

    @cached_property
    def _thumbnail(self) -> View:
        slide = self._view
        factor = max(1.0, max(slide.shape) / THUMBNAIL_PX)
        down = (slide.downsample[0] * factor, slide.downsample[1] * factor)
        rows, columns = (max(1, int(n / factor + 1e-6)) for n in slide.shape)
        return view(self.image_path, down, (rows, columns))

    def _read_image(self, inner: Box) -> NDArray[np.uint8]:
        slide = self._view
        key = ("slide", slide.downsample, *stamp(self.image_path))

        def block(part: Box) -> NDArray[np.uint8]:
            return ARRAYS.get((*key, part.start), lambda: slide.read(part))

        return read_blocks(inner, slide.shape, slide.side, block)

    def _read_label(self, inner: Box) -> NDArray[np.uint8]:
        path = self.label_path
        if path is None:
            return self._settle(np.full(inner.size, UNMARKED, dtype=np.uint8), inner)
        slide = self._view
        key = ("label", self.classes, slide.downsample, *stamp(self.image_path), *stamp(path))

        def load(part: Box) -> NDArray[np.uint8]:
            if path.suffix.lower() == ".xml":
                return outline_block(path, slide, part)
            return mask_block(path, slide, self.classes, part)

        def block(part: Box) -> NDArray[np.uint8]:
            return ARRAYS.get((*key, part.start), lambda: load(part))

        return self._settle(read_blocks(inner, slide.shape, slide.side, block), inner)

    def _settle(self, labels: NDArray[np.uint8], inner: Box) -> NDArray[np.uint8]:
        """Decide what unmarked pixels are: background, or unknown tissue of an ITC slide."""
        unmarked = labels == UNMARKED
        labels[unmarked] = 0
        if self.category == "itc" and not self.itc_exhaustive:
            if self.label_path is not None and self.label_path.suffix.lower() != ".xml":
                unmarked = labels == 0  # a mask slide does not tell normal from unmarked
            labels[unmarked & self._read_tissue(inner)] = IGNORE
        return labels

    def _read_tissue(self, inner: Box) -> NDArray[np.bool_]:
        if self.tissue == "all":
            return np.ones(inner.size, dtype=np.bool_)
        mask = self._tissue()
        rows, columns = (
            np.minimum(((np.arange(a, b) + 0.5) * m / n).astype(np.int64), m - 1)
            for a, b, n, m in zip(inner.start, inner.stop, self.shape, mask.shape, strict=True)
        )
        return np.asarray(mask[rows[:, None], columns[None, :]])

    def _tissue(self) -> NDArray[np.bool_]:
        key = ("slide tissue", self.tissue, self._thumbnail, *stamp(self.image_path))
        return ARRAYS.get(key, lambda: tissue_mask(self._read_thumbnail(), self.tissue))

    def _read_thumbnail(self) -> NDArray[np.uint8]:
        small = self._thumbnail
        return read_blocks(Box((0, 0), small.shape), small.shape, small.side, small.read)


def _snapped(downsample: float) -> float:
    nearest = float(2 ** round(np.log2(downsample)))
    return nearest if abs(downsample / nearest - 1) < 0.01 else downsample
