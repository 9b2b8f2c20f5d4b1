"""The compartments of a lymph node and what each looks like under hematoxylin and eosin."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

NUCLEUS_SIGMA_UM = (2.3, 3.3, 4.7)
"""Gaussian radius of small (lymphocyte), medium and large nuclei."""

REFERENCE_MPP = 2.0
"""Resolution at which densities count nuclei per pixel."""


class Compartment(IntEnum):
    """A kind of tissue; its number is its value in a compartment map."""

    CORTEX = 0
    MEDULLA = 1
    GERMINAL_CENTER = 2
    HISTIOCYTOSIS = 3
    BLEEDING = 4
    FAT = 5
    PLUMP_VESSEL = 6
    TUMOR_A = 7
    TUMOR_B = 8


@dataclass(frozen=True)
class Appearance:
    """Nuclei and ground of a compartment.

    ``density`` (nuclei per pixel of 2 um) and ``darkness`` (peak optical density) are for small,
    medium and large nuclei; ``spread`` is the relative deviation of darkness; ``hematoxylin`` and
    ``eosin`` are the optical densities of the ground between nuclei.
    """

    density: tuple[float, float, float]
    darkness: tuple[float, float, float]
    spread: float
    hematoxylin: float
    eosin: float


APPEARANCE = MappingProxyType(
    {
        # crowded lymphocytes
        Compartment.CORTEX: Appearance((0.055, 0, 0), (1.15, 0.9, 0.8), 0.15, 0.10, 0.30),
        # sparser, pinker
        Compartment.MEDULLA: Appearance((0.022, 0.003, 0), (1.10, 0.8, 0.7), 0.15, 0.07, 0.50),
        # a mimic: paler, medium nuclei
        Compartment.GERMINAL_CENTER: Appearance(
            (0.010, 0.022, 0.002), (1.00, 0.70, 0.62), 0.18, 0.12, 0.36
        ),
        # a mimic: pink sinus full of pale medium nuclei
        Compartment.HISTIOCYTOSIS: Appearance(
            (0.006, 0.012, 0.002), (1.00, 0.60, 0.55), 0.20, 0.06, 0.72
        ),
        # a distractor: saturated eosin
        Compartment.BLEEDING: Appearance((0.004, 0, 0), (1.00, 0.8, 0.7), 0.15, 0.02, 1.15),
        # a distractor: empty vacuoles
        Compartment.FAT: Appearance((0.002, 0, 0), (1.00, 0.8, 0.7), 0.15, 0.0, 0.04),
        # a mimic: activated vessels and capsule with plump nuclei
        Compartment.PLUMP_VESSEL: Appearance(
            (0.004, 0.014, 0.004), (1.10, 0.95, 0.85), 0.15, 0.08, 0.70
        ),
        # ductal: large uneven nuclei in eosin-rich cytoplasm
        Compartment.TUMOR_A: Appearance(
            (0.004, 0.006, 0.013), (1.05, 0.85, 0.78), 0.22, 0.16, 0.55
        ),
        # lobular, dispersed: medium nuclei mixed with lymphocytes
        Compartment.TUMOR_B: Appearance(
            (0.014, 0.018, 0.003), (1.05, 0.78, 0.72), 0.20, 0.10, 0.48
        ),
    }
)

_ROWS = [APPEARANCE[compartment] for compartment in Compartment]
# One row per compartment number, so that a map indexes them directly.
DENSITY: NDArray[np.float32] = np.array([row.density for row in _ROWS], np.float32)
DARKNESS: NDArray[np.float32] = np.array([row.darkness for row in _ROWS], np.float32)
SPREAD: NDArray[np.float32] = np.array([row.spread for row in _ROWS], np.float32)
HEMATOXYLIN: NDArray[np.float32] = np.array([row.hematoxylin for row in _ROWS], np.float32)
EOSIN: NDArray[np.float32] = np.array([row.eosin for row in _ROWS], np.float32)
