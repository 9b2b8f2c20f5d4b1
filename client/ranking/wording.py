"""Why a patch was chosen, in a clinician's words and from the numbers."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

RANDOM = "drawn at random among all patches"
FOREGROUND = "drawn at random among patches with predicted lesion"
NO_FOREGROUND_LEFT = "drawn at random: no patch with predicted lesion was left"

CERTAIN_MASS = 0.01
"""Below this agreed lesion share, to call a patch a certain example would be untrue."""


def anchor(mass: float) -> str:
    """Args: mass: mean over the patch of the minimum over members of the lesion probability."""
    if mass < CERTAIN_MASS:
        return "among the likeliest to hold lesion, though the models do not agree that it does"
    return (
        f"all models agree this is lesion (about {_percent(mass)} % of the patch): "
        "a certain example to anchor the model"
    )


def standing(scores: NDArray[np.float64], index: int, finding: str) -> str:
    """``finding`` and how far up in the pool the patch stands by ``scores`` (``(n,)``)."""
    share = float(np.mean(scores >= scores[index]))
    if share > 0.5:
        return f"taken to fill the budget: {finding} no more than in most of this pool"
    return f"{finding} (in the top {_percent(share)} % of this pool)"


def common_foreground(share: float) -> str:
    """Args: share: share of the pool's patches with predicted lesion."""
    return f"{FOREGROUND}, which is common here ({_percent(share)} % of this pool)"


def true_error(voxels: float) -> str:
    return f"the model is wrong in {voxels:.0f} voxels (known in a simulation only)"


def _percent(share: float) -> int:
    """Rounded up: "top 0 %" would be no statement."""
    return max(1, math.ceil(round(100 * share, 6)))
