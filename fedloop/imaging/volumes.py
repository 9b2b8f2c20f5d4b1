"""A NIfTI volume with a label volume on the same voxels, as a Case."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from fedloop.errors import DataError
from fedloop.imaging.boxes import read_edge, read_filled
from fedloop.imaging.cache import ARRAYS
from fedloop.imaging.case import IGNORE
from fedloop.imaging.files import stamp
from fedloop.imaging.geometry import Box, Resolution
from fedloop.imaging.intensity import voxel_statistics
from fedloop.imaging.masks import class_ids
from fedloop.imaging.nifti import VolumeHeader, read_header, read_volume
from fedloop.imaging.tissue import TissueKind, tissue_mask

SAME_PLACE_VOXELS = 0.1
"""How far a label's corner may lie from the image's: headers round, registrations do not."""

SpacingMm = tuple[float, float, float]


@dataclass(frozen=True)
class VolumeCase:
    """A volume in RAS order, resampled to ``spacing_mm`` where given."""

    case_id: str
    center: str
    image_path: Path
    label_path: Path | None = None
    category: str = ""
    classes: int = 2
    spacing_mm: SpacingMm | None = None
    tissue: TissueKind = "all"

    @property
    def channels(self) -> int:
        return 1

    @property
    def has_label(self) -> bool:
        return self.label_path is not None

    @cached_property
    def shape(self) -> tuple[int, ...]:
        """``(i, j, k)`` at the working spacing.

        Raises:
            DataError: the header is broken.
        """
        return working_shape(self._header, self.spacing_mm)

    @cached_property
    def resolution(self) -> Resolution:
        """Voxel size of the working grid.

        Raises:
            DataError: the header is broken.
        """
        return Resolution(spacing_mm=self.spacing_mm or self._header.spacing_mm)

    def read(self, box: Box) -> NDArray[np.float32]:
        """``(1, *box.size)`` float32 in the file's units, the nearest voxel outside.

        Raises:
            DataError: the file is truncated, or holds voxels that are not finite.
        """
        return read_edge(box, self.shape, lambda inner: self._image()[(slice(None), *inner.slices)])

    def read_label(self, box: Box) -> NDArray[np.uint8]:
        """``box.size`` class ids, :data:`IGNORE` outside.

        Raises:
            DataError: no label, other voxels than the image's, or unknown class ids.
        """
        return read_filled(box, self.shape, lambda inner: self._label()[inner.slices], IGNORE)

    def read_tissue(self, box: Box) -> NDArray[np.bool_]:
        """``box.size``, ``False`` outside.

        Raises:
            DataError: the image cannot be read.
        """
        return read_filled(box, self.shape, lambda inner: self._tissue()[inner.slices], False)

    def statistics(self) -> tuple[float, float]:
        """Mean and deviation over tissue voxels, computed once.

        Raises:
            DataError: the image cannot be read.
        """
        return self._statistics

    @cached_property
    def _statistics(self) -> tuple[float, float]:
        return voxel_statistics(self._image(), self._tissue())

    @cached_property
    def _header(self) -> VolumeHeader:
        return read_header(self.image_path)

    def _image(self) -> NDArray[np.float32]:
        def load() -> NDArray[np.float32]:
            voxels, header = read_volume(self.image_path)
            return np.asarray(resampled(voxels, header, self.spacing_mm, order=1)[None])

        return ARRAYS.get(("volume", self.spacing_mm, *stamp(self.image_path)), load)

    def _tissue(self) -> NDArray[np.bool_]:
        key = ("volume tissue", self.tissue, self.spacing_mm, *stamp(self.image_path))
        return ARRAYS.get(key, lambda: tissue_mask(self._image(), self.tissue))

    def _label(self) -> NDArray[np.uint8]:
        path = self.label_path
        if path is None:
            raise DataError(f"case {self.case_id} has no label: {self.image_path} lacks a mask")

        def load() -> NDArray[np.uint8]:
            voxels, header = read_volume(path)
            require_same_grid(header, path, self._header, self.image_path)
            if (fractions := int((voxels != np.round(voxels)).sum())) > 0:
                raise DataError(
                    f"{path}: {fractions} label voxels are not whole numbers: export the label "
                    "without interpolation"
                )
            ids = class_ids(voxels, self.classes, path)
            return np.asarray(resampled(ids, header, self.spacing_mm, order=0))

        key = ("volume label", self.classes, self.spacing_mm, *stamp(self.image_path), *stamp(path))
        return ARRAYS.get(key, load)


def working_shape(header: VolumeHeader, spacing_mm: SpacingMm | None) -> tuple[int, int, int]:
    """Voxels per axis after resampling: the same extent, rounded to whole voxels."""
    if spacing_mm is None:
        return header.shape
    i, j, k = (
        max(1, round(n * own / new))
        for n, own, new in zip(header.shape, header.spacing_mm, spacing_mm, strict=True)
    )
    return i, j, k


def resampled(
    voxels: NDArray[Any], header: VolumeHeader, spacing_mm: SpacingMm | None, *, order: int
) -> NDArray[Any]:
    """Resample to exactly ``spacing_mm`` from the volume's first corner on.

    Corners are aligned, not voxel centres: image and label cover the same millimetres whatever the
    two spacings are. ``order`` 1 is linear, 0 nearest.
    """
    if spacing_mm is None or np.allclose(header.spacing_mm, spacing_mm, rtol=1e-4):
        return voxels
    ratio = np.asarray(spacing_mm) / np.asarray(header.spacing_mm)
    return np.asarray(
        ndimage.affine_transform(
            voxels,
            ratio,
            offset=0.5 * ratio - 0.5,
            output_shape=working_shape(header, spacing_mm),
            order=order,
            mode="nearest",
        )
    )


def require_same_grid(label: VolumeHeader, path: Path, image: VolumeHeader, of: Path) -> None:
    """Refuse a label that lies on other voxels than its image.

    Raises:
        DataError: other shape, or a corner more than a tenth of a voxel away.
    """
    if label.shape != image.shape:
        raise DataError(
            f"label {path} has shape {label.shape}, its image {of} has {image.shape}: resample it"
        )
    corners = np.array(np.meshgrid(*((0, n) for n in image.shape), [1])).reshape(4, -1)
    distance = np.linalg.norm(((label.affine - image.affine) @ corners)[:3], axis=0).max()
    if distance > SAME_PLACE_VOXELS * min(image.spacing_mm):
        raise DataError(
            f"label {path} lies {distance:.3g} mm away from its image {of} (affines differ): "
            "resample it onto the image"
        )
