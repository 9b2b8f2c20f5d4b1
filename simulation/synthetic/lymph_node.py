"""One synthetic slide: anatomy, stain and scanner put together."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedloop.settings import SyntheticCamelyonSettings
from simulation.synthetic.anatomy import Anatomy, draw_anatomy
from simulation.synthetic.centers import center_at
from simulation.synthetic.plan import SlidePlan
from simulation.synthetic.staining import eosin, hematoxylin, scan, thickness


@dataclass(frozen=True)
class LymphNode:
    """``image`` (H, W, 3) uint8 RGB at ``settings.mpp``, and the truth behind it."""

    image: NDArray[np.uint8]
    anatomy: Anatomy


def draw_slide(plan: SlidePlan, settings: SyntheticCamelyonSettings) -> LymphNode:
    """Draw the planned slide. It depends on the plan and the settings' dials alone.

    Raises:
        DataError: the tissue has no room for a lesion.
    """
    center = center_at(plan.center, shift=settings.shift, tissue_shift=settings.tissue_shift)
    anatomy = draw_anatomy(
        plan.seed,
        center.tissue,
        plan.category,
        phenotype_b=plan.phenotype_b,
        side_px=settings.side_px,
        mpp=settings.mpp,
        mimics=settings.mimics,
        lesion_scale=settings.lesion_scale,
    )
    nuclei = hematoxylin(plan.seed, anatomy, settings.mpp)
    ground = eosin(plan.seed, anatomy, nuclei, settings.mpp)
    section = thickness(plan.seed, anatomy, settings.mpp)
    image = scan(plan.seed, nuclei, ground, section, center.stain, center.scanner, settings.mpp)
    return LymphNode(image, anatomy)
