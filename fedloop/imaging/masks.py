"""Mask values become class ids, or a refusal that names what was found."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedloop.errors import DataError
from fedloop.imaging.case import IGNORE

SHOWN = 8


def class_ids(values: NDArray[Any], classes: int, path: Path) -> NDArray[np.uint8]:
    """Return whole-number ``values`` as uint8 ids ``0..classes-1``; 255 is :data:`IGNORE`.

    Raises:
        DataError: any other value.
    """
    found = np.unique(values)
    _require(found[(found != IGNORE) & ((found < 0) | (found >= classes))], found, classes, path)
    return values.astype(np.uint8)


def tile_class_ids(values: NDArray[Any], classes: int, path: Path) -> NDArray[np.uint8]:
    """Like :func:`class_ids`, but a two-class mask may paint its foreground with any one value.

    ``{0, 255}``, ``{0, 1}`` and ``{0, 38}`` are all background and foreground; only beside a 1 does
    255 mean :data:`IGNORE` in a two-class mask.

    Raises:
        DataError: any other value.
    """
    if classes == 2:
        found = np.unique(values)
        painted = found[found != 0]
        if len(painted) <= 1:
            return np.asarray(values != 0, dtype=np.uint8)
        if set(painted.tolist()) != {1, IGNORE}:
            _require(painted, found, classes, path)
    return class_ids(values, classes, path)


def _require(wrong: NDArray[Any], found: NDArray[Any], classes: int, path: Path) -> None:
    if not len(wrong):
        return
    shown = ", ".join(f"{v:g}" for v in found[:SHOWN].tolist()) + (
        f" and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
    )
    binary = " (or 0 and any one other value)" if classes == 2 else ""
    allowed = f"0 to {classes - 1}{binary}, {IGNORE} = ignore"
    raise DataError(
        f"{path}: mask values {shown} found, allowed are {allowed}: "
        "correct the mask or `data.classes`"
    )
