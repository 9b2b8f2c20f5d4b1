"""NIfTI files, with the traps that nibabel walks into silently refused by name."""

from __future__ import annotations

import gzip
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
from nibabel.filebasedimages import ImageFileError
from nibabel.spatialimages import HeaderDataError
from nibabel.wrapstruct import WrapStructError
from numpy.typing import NDArray

from fedloop.errors import DataError
from fedloop.imaging.files import one_line, require_file

nib: Any = nibabel  # it calls itself typed, its functions are not
HEADER_BYTES = 540  # NIfTI-2; NIfTI-1 has 348
_BROKEN = (
    OSError,
    EOFError,
    ValueError,
    KeyError,
    OverflowError,
    zlib.error,
    ImageFileError,
    HeaderDataError,
    WrapStructError,
)


@dataclass(frozen=True, eq=False)
class VolumeHeader:
    """Geometry of a volume in RAS order: ``shape``, ``affine`` (4, 4), ``spacing_mm``."""

    shape: tuple[int, int, int]
    affine: NDArray[np.float64]
    spacing_mm: tuple[float, float, float]


def read_header(path: Path) -> VolumeHeader:
    """Read the geometry only.

    Raises:
        DataError: see :func:`read_volume`, as far as the header shows it.
    """
    return _geometry(_parse(_bytes(path, HEADER_BYTES), path), path)


def read_volume(path: Path) -> tuple[NDArray[np.float32], VolumeHeader]:
    """Read a whole volume, reoriented to RAS, as float32 ``shape`` in the file's own units.

    Raises:
        DataError: the file is truncated or fails its checksum; its voxel size is zero, negative or
            not finite; its affine is not finite or singular; it is not 3D (a last axis of length
            1 is dropped); or voxels are not finite.
    """
    raw = _bytes(path, None)
    header = _parse(raw, path)
    geometry = _geometry(header, path)
    _require_whole(header, len(raw), path)
    image_class = nib.Nifti2Image if isinstance(header, nib.Nifti2Header) else nib.Nifti1Image
    try:
        image = image_class.from_bytes(raw)
        voxels = np.asanyarray(image.get_fdata(dtype=np.float32, caching="unchanged"))
    except _BROKEN as error:
        raise DataError(f"{path} cannot be decoded ({one_line(error)}): export it again") from error
    if wrong := int(voxels.size - np.isfinite(voxels).sum()):
        raise DataError(
            f"{path} holds {wrong} of {voxels.size} voxels that are not finite (NaN or infinite): "
            "replace them and export it again"
        )
    voxels = voxels.reshape(voxels.shape[:3])
    oriented = nib.apply_orientation(voxels, nib.io_orientation(_affine(header)))
    return np.ascontiguousarray(oriented, dtype=np.float32), geometry


def _bytes(path: Path, count: int | None) -> bytes:
    """Unpacked bytes: the first ``count``, or all, which is what makes gzip verify its checksum."""
    require_file(path)
    packed = path.name.lower().endswith(".gz")
    try:
        with gzip.open(path) if packed else path.open("rb") as stream:
            return bytes(stream.read() if count is None else stream.read(count))
    except gzip.BadGzipFile as error:
        if "CRC" not in str(error) and "length" not in str(error):
            raise DataError(
                f"{path} is no gzip file, although it is named .gz: rename it"
            ) from error
        raise DataError(f"{path} fails its checksum ({one_line(error)}): copy it again") from error
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(
            f"{path} is truncated or fails its checksum ({one_line(error)}): copy it again"
        ) from error


def _parse(raw: bytes, path: Path) -> Any:
    """The header as written: nibabel's own loading repairs what should be refused."""
    kinds = ((nib.Nifti1Header, 348), (nib.Nifti2Header, 540))
    for kind, size in kinds:
        if len(raw) >= size and size in (
            int.from_bytes(raw[:4], "little"),
            int.from_bytes(raw[:4], "big"),
        ):
            try:
                return kind(raw[:size], check=False)
            except _BROKEN as error:
                raise DataError(f"{path} has a damaged header ({one_line(error)})") from error
    raise DataError(f"{path} is no NIfTI file ({len(raw)} bytes of header read): convert it again")


def _geometry(header: Any, path: Path) -> VolumeHeader:
    shape = _shape(header, path)
    pixdim = np.asarray(header["pixdim"][1:4], dtype=float)
    if not np.isfinite(pixdim).all() or (pixdim <= 0).any():
        raise DataError(
            f"{path} has voxel size (pixdim) {_numbers(pixdim)} mm: it must be positive; "
            "correct the header"
        )
    affine = _affine(header)
    if not np.isfinite(affine).all() or abs(np.linalg.det(affine[:3, :3])) < 1e-12:
        raise DataError(f"{path} has an affine that is not finite or singular: correct the header")
    orientation = nib.io_orientation(affine)
    if np.isnan(orientation).any():
        raise DataError(f"{path} has an affine without three directions: correct the header")
    ras = affine @ nib.orientations.inv_ornt_aff(orientation, shape)
    order = np.argsort(orientation[:, 0])
    turned = tuple(shape[i] for i in order)
    spacing = nib.affines.voxel_sizes(ras)
    return VolumeHeader(
        (turned[0], turned[1], turned[2]),
        ras,
        (float(spacing[0]), float(spacing[1]), float(spacing[2])),
    )


def _shape(header: Any, path: Path) -> tuple[int, int, int]:
    dim = [int(n) for n in header["dim"]]
    shape = dim[1 : 1 + max(0, min(dim[0], 7))]
    while len(shape) > 3 and shape[-1] == 1:
        shape.pop()
    if len(shape) != 3 or min(shape) < 1:
        raise DataError(
            f"{path} has axes {shape or 'none'}, needed are three (one scalar volume): "
            "save one volume per file"
        )
    return shape[0], shape[1], shape[2]


def _affine(header: Any) -> NDArray[np.float64]:
    """Like nibabel's choice: sform, else qform, else the voxel size alone."""
    if header["sform_code"] > 0:
        return np.asarray(header.get_sform(), dtype=np.float64)
    if header["qform_code"] > 0:
        try:
            return np.asarray(header.get_qform(), dtype=np.float64)
        except (ValueError, HeaderDataError):
            return np.full((4, 4), np.nan)
    return np.asarray(header.get_base_affine(), dtype=np.float64)


def _require_whole(header: Any, length: int, path: Path) -> None:
    """Before nibabel asks for the memory that a damaged header pretends to need."""
    try:
        kind = header.get_data_dtype()
    except HeaderDataError as error:
        raise DataError(f"{path} has an unknown data type ({one_line(error)})") from error
    if kind.kind not in "iuf":
        raise DataError(f"{path} holds {kind} voxels, needed are plain numbers: convert it")
    shape = [int(n) for n in header["dim"][1 : 1 + int(header["dim"][0])]]
    needed = int(np.prod(shape, dtype=object)) * kind.itemsize + max(0, int(header["vox_offset"]))
    if length < needed:
        raise DataError(
            f"{path} is truncated: {length} bytes found, {needed} announced: copy it again"
        )


def _numbers(values: NDArray[np.float64]) -> str:
    return " x ".join(f"{value:g}" for value in values)
