"""What sets the five centers apart: stain, scanner and tissue mix, and their patient numbers."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from types import MappingProxyType
from typing import Any, TypeVar

import numpy as np

from fedloop.errors import SettingsError

HOME = "RUMC"
"""The center that trains the igniter; the dials measure every other center's distance to it."""

PATIENTS_PER_CENTER = 20
NODES_PER_PATIENT = 5


@dataclass(frozen=True)
class Stain:
    """Hematoxylin and eosin: optical-density directions (R, G, B) and how strongly each is used."""

    hematoxylin: tuple[float, float, float]
    eosin: tuple[float, float, float]
    hematoxylin_gain: float
    eosin_gain: float


@dataclass(frozen=True)
class Scanner:
    """Optics and sensor. ``noise`` and ``illumination`` are on the 0..1 scale of an image."""

    blur_um: float
    noise: float
    illumination: tuple[float, float, float]
    gamma: float


@dataclass(frozen=True)
class TissueMix:
    """Expected number of each field in a node of standard area, and two shares in 0..1.

    ``fat`` is half the chance that a node holds fat; ``phenotype_b`` is the share of lesion
    slides that show the second tumour phenotype.
    """

    germinal_centers: float
    histiocytosis: float
    bleeding: float
    plump_vessels: float
    fat: float
    phenotype_b: float


Part = TypeVar("Part", Stain, Scanner, TissueMix)


@dataclass(frozen=True)
class Center:
    """One hospital of the synthetic consortium. ``first_patient`` opens its block of 20 numbers."""

    name: str
    first_patient: int
    stain: Stain
    scanner: Scanner
    tissue: TissueMix


# The blocks are those of Camelyon17: 000-019 CWZ, 020-039 RST and 080-099 LPON are confirmed by a
# published slide table; 040-059 UMCU and 060-079 RUMC follow by elimination.
# Looks are invented, spread about as far apart as the real centers' slides appear to be.
_TABLE = (
    Center(
        "CWZ",
        0,
        Stain((0.72, 0.64, 0.22), (0.20, 0.95, 0.20), 1.25, 0.85),
        Scanner(0.8, 0.030, (1.0, 0.98, 0.95), 1.0),
        TissueMix(4, 4, 3, 1, 0.2, 0.40),
    ),
    Center(
        "RST",
        20,
        Stain((0.50, 0.80, 0.30), (0.05, 0.90, 0.40), 0.70, 0.80),
        Scanner(2.0, 0.015, (0.96, 0.98, 1.0), 0.95),
        TissueMix(6, 2, 2, 4, 0.1, 0.35),
    ),
    Center(
        "UMCU",
        40,
        Stain((0.55, 0.76, 0.34), (0.12, 0.92, 0.30), 0.80, 1.15),
        Scanner(1.4, 0.020, (0.98, 0.97, 1.0), 1.0),
        TissueMix(7, 2, 1, 2, 0.1, 0.35),
    ),
    Center(
        HOME,
        60,
        Stain((0.65, 0.70, 0.29), (0.07, 0.99, 0.11), 1.0, 1.0),
        Scanner(1.0, 0.015, (1.0, 1.0, 1.0), 1.0),
        TissueMix(3, 1, 1, 1, 0.1, 0.10),
    ),
    Center(
        "LPON",
        80,
        Stain((0.74, 0.62, 0.24), (0.20, 0.94, 0.11), 1.10, 1.15),
        Scanner(1.6, 0.025, (1.0, 0.96, 0.97), 1.05),
        TissueMix(5, 3, 1, 3, 0.3, 0.50),
    ),
)
CENTERS = MappingProxyType({center.name: center for center in _TABLE})


def center_at(name: str, *, shift: float, tissue_shift: float) -> Center:
    """Return the center ``name`` moved towards or away from :data:`HOME`.

    ``shift`` scales its differences in stain and scanner, ``tissue_shift`` those in tissue mix:
    0 makes it equal to home, 1 leaves the table's values, more exaggerates.

    Raises:
        SettingsError: there is no such center.
    """
    if name not in CENTERS:
        raise SettingsError(f"no synthetic center {name!r}; there are {', '.join(CENTERS)}")
    home, own = CENTERS[HOME], CENTERS[name]
    stain = _between(home.stain, own.stain, shift)
    return Center(
        name=name,
        first_patient=own.first_patient,
        stain=replace(stain, hematoxylin=_unit(stain.hematoxylin), eosin=_unit(stain.eosin)),
        scanner=_between(home.scanner, own.scanner, shift),
        tissue=_between(home.tissue, own.tissue, tissue_shift),
    )


def _between(home: Part, own: Part, amount: float) -> Part:
    """Move every field of ``home`` towards ``own``. None is below zero, however far it goes."""
    moved: dict[str, Any] = {}
    for field in fields(home):
        start, end = np.asarray(getattr(home, field.name)), np.asarray(getattr(own, field.name))
        value = np.maximum(start + amount * (end - start), 0.0).tolist()
        moved[field.name] = tuple(value) if isinstance(value, list) else value
    return type(home)(**moved)


def _unit(vector: tuple[float, float, float]) -> tuple[float, float, float]:
    """Scale to length 1, so that a stain's strength is in its gain alone."""
    red, green, blue = (np.asarray(vector) / np.linalg.norm(vector)).tolist()
    return red, green, blue
