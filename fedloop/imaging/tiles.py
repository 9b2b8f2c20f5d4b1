"""A small picture (PNG, JPEG, TIFF) with a mask of the same size, as a Case."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fedloop.errors import DataError
from fedloop.imaging.boxes import read_edge, read_filled
from fedloop.imaging.cache import ARRAYS
from fedloop.imaging.case import IGNORE
from fedloop.imaging.files import stamp
from fedloop.imaging.geometry import Box, Resolution
from fedloop.imaging.intensity import voxel_statistics
from fedloop.imaging.masks import tile_class_ids
from fedloop.imaging.pixels import read_mask, read_rgb, tile_size
from fedloop.imaging.tissue import TissueKind, tissue_mask


@dataclass(frozen=True)
class TileCase:
    """An RGB tile, read at its own pixels (tiles do not state their scale).

    ``classes`` is the number of classes of the mask, background included.
    """

    case_id: str
    center: str
    image_path: Path
    label_path: Path | None = None
    category: str = ""
    classes: int = 2
    tissue: TissueKind = "all"

    @property
    def channels(self) -> int:
        return 3

    @property
    def resolution(self) -> Resolution:
        return Resolution()

    @property
    def has_label(self) -> bool:
        return self.label_path is not None

    @cached_property
    def shape(self) -> tuple[int, ...]:
        """``(rows, columns)``.

        Raises:
            DataError: the file is no image.
        """
        return tile_size(self.image_path)

    def read(self, box: Box) -> NDArray[np.uint8]:
        """``(3, *box.size)`` uint8, the nearest pixel outside.

        Raises:
            DataError: the image cannot be decoded.
        """
        return read_edge(box, self.shape, lambda inner: self._image()[(slice(None), *inner.slices)])

    def read_label(self, box: Box) -> NDArray[np.uint8]:
        """``box.size`` class ids, :data:`IGNORE` outside.

        Raises:
            DataError: no mask, another size than the image, or unknown values.
        """
        return read_filled(box, self.shape, lambda inner: self._label()[inner.slices], IGNORE)

    def read_tissue(self, box: Box) -> NDArray[np.bool_]:
        """``box.size``, ``False`` outside.

        Raises:
            DataError: the image cannot be decoded.
        """
        return read_filled(box, self.shape, lambda inner: self._tissue()[inner.slices], False)

    def statistics(self) -> tuple[float, float]:
        """Mean and deviation of all channels over tissue, computed once.

        Raises:
            DataError: the image cannot be decoded.
        """
        return self._statistics

    @cached_property
    def _statistics(self) -> tuple[float, float]:
        return voxel_statistics(self._image(), self._tissue())

    def _image(self) -> NDArray[np.uint8]:
        return ARRAYS.get(("rgb", *stamp(self.image_path)), lambda: read_rgb(self.image_path))

    def _tissue(self) -> NDArray[np.bool_]:
        key = ("tissue", self.tissue, *stamp(self.image_path))
        return ARRAYS.get(key, lambda: tissue_mask(self._image(), self.tissue))

    def _label(self) -> NDArray[np.uint8]:
        path = self.label_path
        if path is None:
            raise DataError(f"case {self.case_id} has no label: {self.image_path} lacks a mask")

        def load() -> NDArray[np.uint8]:
            mask = read_mask(path)
            if mask.shape != self.shape:
                raise DataError(
                    f"mask {path} has {mask.shape[0]} x {mask.shape[1]} pixels, its image "
                    f"{self.image_path} has {self.shape[0]} x {self.shape[1]}: export it again"
                )
            return tile_class_ids(mask, self.classes, path)

        return ARRAYS.get(("mask", self.classes, *stamp(path)), load)
