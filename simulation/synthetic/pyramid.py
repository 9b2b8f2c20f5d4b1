"""Whole-slide files: tiled, JPEG-compressed, pyramidal TIFF that OpenSlide reads as levels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import openslide
import tifffile
from numpy.typing import NDArray

TILE_PX = 256
JPEG_QUALITY = 90
_FEWEST_LEVELS = 3
_SMALLEST_LEVEL_PX = 256
_UM_PER_CM = 1e4


def write_pyramid(path: Path, image: NDArray[np.uint8], *, mpp: float, description: str) -> None:
    """Write an RGB image (H, W, 3) and its halvings to ``path``.

    ``mpp`` (microns per pixel at level 0) becomes the resolution tags, where OpenSlide finds it.
    ``description`` must be ASCII. The bytes depend on the arguments alone: no time is stored.
    """
    with tifffile.TiffWriter(path) as writer:
        for number, level in enumerate(_levels(image)):
            writer.write(
                level,
                photometric="rgb",  # of the input; JPEG stores YCbCr, as readers expect
                subsampling=(1, 1),  # a nucleus is 2-5 pixels wide: halved chroma would smear it
                tile=(TILE_PX, TILE_PX),
                compression="jpeg",
                maxworkers=1,  # the caller decides how many slides are written at once
                compressionargs={"level": JPEG_QUALITY},
                # OpenSlide takes a further page for a level only if it is marked as reduced.
                subfiletype=1 if number else 0,
                resolution=(_UM_PER_CM / (mpp * 2**number),) * 2,
                resolutionunit="CENTIMETER",
                description=description if number == 0 else None,
                metadata=None,
                software=False,
            )


def read_description(path: Path) -> str | None:
    """Return the description of a pyramid's first page; None if OpenSlide cannot open it."""
    try:
        with openslide.OpenSlide(path) as slide:
            description: str | None = slide.properties.get("tiff.ImageDescription")
            return description
    except (OSError, openslide.OpenSlideError):
        return None


def _levels(image: NDArray[np.uint8]) -> list[NDArray[np.uint8]]:
    """Halve until the level is small, at least to the third level."""
    levels = [image]
    while len(levels) < _FEWEST_LEVELS or min(levels[-1].shape[:2]) > _SMALLEST_LEVEL_PX:
        levels.append(_halved(levels[-1]))
    return levels


def _halved(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Average 2 x 2 pixels, rounded to nearest."""
    wide = image.astype(np.uint16)
    total = wide[::2, ::2] + wide[1::2, ::2] + wide[::2, 1::2] + wide[1::2, 1::2]
    return ((total + 2) // 4).astype(np.uint8)
