"""Metastases by category: how many, how large, and where in the tissue."""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import label

from fedloop.errors import DataError
from simulation.synthetic.textures import Mask, irregular_disc


@dataclass(frozen=True)
class LesionKind:
    """``fewest`` to ``most`` lesions (both included) of radius ``low_um`` to ``high_um``."""

    fewest: int
    most: int
    low_um: float
    high_um: float


_ITC = (12.0, 28.0)
_MICRO = (60.0, 120.0)
_MACRO = (220.0, 380.0)

# Isolated tumour cells are at most .2 mm across, micrometastases at most 2 mm, macrometastases
# larger. A whole synthetic node measures 2 mm, so the two larger kinds are drawn to its scale.
LESIONS = MappingProxyType(
    {
        "negative": (),
        "itc": (LesionKind(2, 4, *_ITC),),
        "micro": (LesionKind(1, 2, *_MICRO), LesionKind(0, 2, *_ITC)),
        "macro": (
            LesionKind(1, 1, *_MACRO),
            LesionKind(0, 2, 50.0, 120.0),
            LesionKind(0, 3, *_ITC),
        ),
    }
)
CATEGORIES = tuple(LESIONS)

_WOBBLE = 0.30
_TRIES = 30
_ENOUGH = 0.6
"""A place is taken when this share of the lesion lies on tissue that is not yet tumour."""

_LARGEST_SHARE = 0.25
"""Of the slide's side, before ``scale``: on a small slide a larger radius would leave no normal
tissue. A slide of 2 mm is not touched by it."""

_SMALLEST_PX = 1.5


def draw_lesions(
    rng: np.random.Generator, tissue: Mask, category: str, *, mpp: float, scale: float
) -> Mask:
    """Return where a slide of this category holds tumour, (H, W), always inside ``tissue``.

    ``scale`` multiplies every radius.

    Raises:
        DataError: the tissue has no room for a lesion.
    """
    tumor = np.zeros_like(tissue)
    places = np.flatnonzero(tissue)
    if LESIONS[category] and not places.size:
        raise DataError("a synthetic slide came out without tissue; use another seed")
    limit_px = _LARGEST_SHARE * tissue.shape[0]
    for kind in LESIONS[category]:
        for _ in range(rng.integers(kind.fewest, kind.most + 1)):
            radius_px = min(rng.uniform(kind.low_um, kind.high_um) / mpp, limit_px) * scale
            _place(rng, tumor, tissue, places, max(radius_px, _SMALLEST_PX))
    return tumor


def _place(
    rng: np.random.Generator,
    tumor: Mask,
    tissue: Mask,
    places: NDArray[np.intp],
    radius_px: float,
) -> None:
    """Add one lesion to ``tumor`` at the first good place, or the best of those tried."""
    room = tissue & ~tumor
    best: tuple[int, tuple[slice, slice], Mask] | None = None
    for _ in range(_TRIES):
        row, column = divmod(int(rng.choice(places)), tissue.shape[1])
        blob = irregular_disc(rng, (row, column), radius_px, _WOBBLE)
        window, mask = blob.clip((tissue.shape[0], tissue.shape[1]))
        lesion = _largest_piece(mask & room[window])
        gained = int(lesion.sum())
        if best is None or gained > best[0]:
            best = gained, window, lesion
        if gained >= _ENOUGH * blob.mask.sum():
            break
    if best is None or not best[0]:
        raise DataError("a synthetic slide has no room for a lesion; use fewer or smaller lesions")
    tumor[best[1]] |= best[2]


def _largest_piece(mask: Mask) -> Mask:
    """Keep the largest connected piece: the wobbly rim can shed crumbs, which are no lesions."""
    pieces, count = label(mask)
    if count < 2:
        return mask
    largest: Mask = pieces == 1 + int(np.argmax(np.bincount(pieces.ravel())[1:]))
    return largest
