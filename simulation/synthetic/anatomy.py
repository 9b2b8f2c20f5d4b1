"""The shape of a node: its outline, its compartments, its mimics and its metastases."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedloop.seeds import generator
from simulation.synthetic.centers import TissueMix
from simulation.synthetic.lesions import draw_lesions
from simulation.synthetic.textures import Mask, irregular_disc, smooth_field
from simulation.synthetic.tissues import Compartment

_STANDARD_AREA_UM2 = 2048.0**2
"""Counts of a tissue mix are per slide of this area, so that a larger slide is not emptier."""

_FIELDS = (
    # compartment, field of the tissue mix, radius low and high, wobble
    (Compartment.GERMINAL_CENTER, "germinal_centers", 50.0, 120.0, 0.12),
    (Compartment.HISTIOCYTOSIS, "histiocytosis", 50.0, 160.0, 0.45),
    (Compartment.BLEEDING, "bleeding", 40.0, 120.0, 0.50),
    (Compartment.PLUMP_VESSEL, "plump_vessels", 30.0, 90.0, 0.50),
)


@dataclass(frozen=True)
class Anatomy:
    """Maps of one node, each (H, W): where tissue is, where tumour is, which compartment.

    ``compartments`` holds :class:`Compartment` numbers and means nothing outside ``tissue``.
    """

    tissue: Mask
    tumor: Mask
    compartments: NDArray[np.uint8]


def draw_anatomy(
    seed: int,
    mix: TissueMix,
    category: str,
    *,
    phenotype_b: bool,
    side_px: int,
    mpp: float,
    mimics: float,
    lesion_scale: float,
) -> Anatomy:
    """Draw a node on a square slide. Each step has its own random stream.

    So a dial changes only its own step: more mimics leave the metastases where they were.

    Raises:
        DataError: the tissue has no room for a lesion.
    """
    tissue = _outline(generator(seed, purpose="outline"), side_px)
    compartments = _architecture(generator(seed, purpose="architecture"), side_px, mpp)
    _add_fields(seed, compartments, tissue, mix, mimics, mpp)
    _add_fat(generator(seed, purpose="fat"), compartments, mix.fat, mpp)
    rng = generator(seed, purpose="lesions")
    tumor = draw_lesions(rng, tissue, category, mpp=mpp, scale=lesion_scale)
    compartments[tumor] = Compartment.TUMOR_B if phenotype_b else Compartment.TUMOR_A
    return Anatomy(tissue, tumor, compartments)


def _outline(rng: np.random.Generator, side_px: int) -> Mask:
    """A wobbly ellipse that nearly fills the slide."""
    position = (np.arange(side_px, dtype=np.float32) - side_px / 2) / side_px
    distance = np.hypot(position[:, None] / 0.46, position[None, :] / 0.42)
    inside: Mask = distance + 0.12 * smooth_field(rng, side_px, side_px / 10) < 0.95
    return inside


def _architecture(rng: np.random.Generator, side_px: int, mpp: float) -> NDArray[np.uint8]:
    """Cortex with cords of medulla."""
    medulla = smooth_field(rng, side_px, 100.0 / mpp) > 0.25
    return np.where(medulla, Compartment.MEDULLA, Compartment.CORTEX).astype(np.uint8)


def _add_fields(
    seed: int,
    compartments: NDArray[np.uint8],
    tissue: Mask,
    mix: TissueMix,
    mimics: float,
    mpp: float,
) -> None:
    """Scatter mimics and bleeding over the tissue, later kinds above earlier ones."""
    places = np.flatnonzero(tissue)
    area = tissue.size * mpp**2 / _STANDARD_AREA_UM2
    for compartment, name, low_um, high_um, wobble in _FIELDS if places.size else ():
        rng = generator(seed, purpose=name)
        for _ in range(rng.poisson(getattr(mix, name) * mimics * area)):
            row, column = divmod(int(rng.choice(places)), tissue.shape[1])
            radius_px = rng.uniform(low_um, high_um) / mpp
            blob = irregular_disc(rng, (row, column), radius_px, wobble)
            window, mask = blob.clip((tissue.shape[0], tissue.shape[1]))
            compartments[window][mask] = compartment


def _add_fat(
    rng: np.random.Generator, compartments: NDArray[np.uint8], fat: float, mpp: float
) -> None:
    if rng.random() < 2 * fat:
        compartments[smooth_field(rng, compartments.shape[0], 70.0 / mpp) > 1.6] = Compartment.FAT
