"""Pillow files as arrays: RGB tiles of any common mode, and masks as they were written."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fedloop.errors import DataError
from fedloop.imaging.files import one_line, require_file

# What Pillow's decoders let through for broken files, beside its own UnidentifiedImageError.
UNREADABLE = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    KeyError,
    IndexError,
    TypeError,
    OverflowError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
    Image.DecompressionBombWarning,
)


def tile_size(path: Path) -> tuple[int, int]:
    """``(rows, columns)`` from the header alone.

    Raises:
        DataError: the file is missing or no image.
    """
    with _opened(path) as image:
        return image.height, image.width


def read_rgb(path: Path) -> NDArray[np.uint8]:
    """Decode a tile as ``(3, H, W)`` uint8 in [0, 255].

    Transparent pixels become white, as bare glass is; 16-bit grey keeps its upper 8 bits.

    Raises:
        DataError: the file is missing, truncated, or holds pixels that are no colours.
    """
    with _opened(path) as image:
        mode = image.mode
        if mode.startswith("I;16") or mode == "I":
            return np.repeat(_grey8(np.asarray(image), path)[None], 3, axis=0)
        if mode == "F":
            raise DataError(
                f"{path} holds 32-bit float pixels: save the tile with 8 bits per channel"
            )
        if "A" in image.getbands() or "transparency" in image.info:
            layer = image.convert("RGBA")
            image = Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer)
        rgb = np.asarray(image.convert("RGB"))
    return np.ascontiguousarray(np.moveaxis(rgb, -1, 0))


def read_mask(path: Path) -> NDArray[Any]:
    """Decode a mask as ``(H, W)`` whole numbers; palette images give their indices.

    Raises:
        DataError: the file is missing, truncated, or a picture with colours.
    """
    with _opened(path) as image:
        mode = image.mode
        values = np.asarray(image)
    if mode in {"1", "L", "P", "I"} or mode.startswith("I;16"):
        return values.astype(np.int64) if mode == "I" else values
    if mode in {"LA", "PA"}:
        return values[..., 0]
    if mode in {"RGB", "RGBA"} and (values[..., :3] == values[..., :1]).all():
        return values[..., 0]
    raise DataError(
        f"{path}: a mask of mode {mode} found, needed is one channel of class ids: "
        "save it as 8-bit grey"
    )


@contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    require_file(path)
    try:
        with Image.open(path) as image:
            if (pages := getattr(image, "n_frames", 1)) > 1:
                raise DataError(
                    f"{path} has {pages} pages, a tile has one: split it, "
                    "or save it as a tiled pyramid"
                )
            yield image
    except UNREADABLE as error:
        raise DataError(
            f"{path} cannot be read as an image ({one_line(error)}): copy or convert it again"
        ) from error


def _grey8(values: NDArray[Any], path: Path) -> NDArray[np.uint8]:
    if values.size and (values.min() < 0 or values.max() > 65535):
        raise DataError(
            f"{path} holds grey values {values.min()} to {values.max()}: save it with 8 or 16 bits"
        )
    return (values.astype(np.uint32) >> 8).astype(np.uint8)
