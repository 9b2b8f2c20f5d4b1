"""Chooses the reader of an image: tile, slide or volume."""

from __future__ import annotations

from pathlib import Path

import openslide

from fedloop.errors import DataError
from fedloop.imaging.case import Case
from fedloop.imaging.files import (
    SLIDE_SUFFIXES,
    VOLUME_SUFFIXES,
    one_line,
    require_file,
    suffix_of,
)
from fedloop.imaging.layouts import Found
from fedloop.imaging.pyramid import open_slide
from fedloop.imaging.slides import SlideCase
from fedloop.imaging.tiles import TileCase
from fedloop.imaging.volumes import VolumeCase
from fedloop.settings import DataSettings, ImagingSettings

TILE_PIXELS = 64_000_000
"""A larger TIFF is read as a slide, block by block."""


def open_case(
    found: Found, center: str, category: str, data: DataSettings, imaging: ImagingSettings
) -> Case:
    """Return the case of an image; pixels are read later.

    Raises:
        DataError: the file is missing, or its kind does not fit ``imaging`` or its label.
    """
    require_file(found.image)
    classes = len(data.classes)
    case: Case
    if suffix_of(found.image.name, VOLUME_SUFFIXES):
        case = VolumeCase(
            found.case_id,
            center,
            found.image,
            found.label,
            category,
            classes,
            spacing_mm=imaging.spacing_mm,
            tissue=imaging.tissue,
        )
        axes = 3
    elif _is_slide(found, imaging):
        case = SlideCase(
            found.case_id,
            center,
            found.image,
            found.label,
            category,
            classes,
            mpp=imaging.mpp,
            tissue=imaging.tissue,
            itc_exhaustive=data.itc_exhaustive,
        )
        axes = 2
    else:
        case = TileCase(
            found.case_id,
            center,
            found.image,
            found.label,
            category,
            classes,
            tissue=imaging.tissue,
        )
        axes = 2
    _require_fit(found, axes, imaging)
    return case


def _require_fit(found: Found, axes: int, imaging: ImagingSettings) -> None:
    if len(imaging.patch_size) != axes:
        raise DataError(
            f"{found.image} has {axes} axes, imaging.patch_size {imaging.patch_size} has "
            f"{len(imaging.patch_size)}: give one number per axis"
        )
    if axes == 3 and imaging.tissue == "saturation":
        raise DataError(
            f"{found.image} has no colour for imaging.tissue `saturation`: use `bright` or `all`"
        )
    is_volume = found.label is not None and suffix_of(found.label.name, VOLUME_SUFFIXES)
    if found.label is not None and bool(is_volume) != (axes == 3):
        raise DataError(f"label {found.label} is of another kind than its image {found.image}")


def _is_slide(found: Found, imaging: ImagingSettings) -> bool:
    """Slides by name; a TIFF by its label (ASAP outlines), its folder's kind or its pyramid."""
    path = found.image
    if suffix_of(path.name, SLIDE_SUFFIXES):
        return True
    if found.label is not None and found.label.suffix.lower() == ".xml":
        return True
    if not suffix_of(path.name, (".tif", ".tiff")):
        return False
    if (path.parent.parent / "annotations").is_dir():
        return True
    kind = _openslide_kind(path)
    if kind is None:
        return False
    slide = open_slide(path)
    width, height = slide.dimensions
    return (
        kind != "generic-tiff"
        or slide.level_count > 1
        or imaging.mpp is not None
        or width * height > TILE_PIXELS
    )


def _openslide_kind(path: Path) -> str | None:
    try:
        return openslide.OpenSlide.detect_format(path)
    except openslide.OpenSlideError as error:
        raise DataError(f"{path} cannot be opened ({one_line(error)}): copy it again") from error
