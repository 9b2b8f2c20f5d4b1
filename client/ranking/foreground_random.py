"""Foreground-aware random choice: the strongest simple rival in the study.

Where lesions are rare, plain random choice shows a clinician mostly normal tissue; drawing among
patches in which the model already predicts some lesion costs nothing and is hard to beat.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from client.ranking import wording
from client.ranking.base import Choice, Pool, QueryStrategy
from client.ranking.checks import require_patches, usable_score
from client.ranking.quota import take_in_order
from fedloop.settings import Fraction, Settings


class ForegroundRandomParameters(Settings):
    min_foreground: Fraction = 0.01
    """Predicted-foreground share from which a patch counts as holding lesion."""


class ForegroundRandom(QueryStrategy[ForegroundRandomParameters]):
    """Draws uniformly among patches with predicted lesion; the rest only when those run out."""

    name: ClassVar[str] = "foreground_random"
    Parameters: ClassVar[type[Settings]] = ForegroundRandomParameters
    random: ClassVar[bool] = True

    def rank(self, pool: Pool, budget: int, rng: np.random.Generator) -> list[Choice]:
        require_patches(pool, budget)
        foreground = usable_score(pool, "foreground")
        return draw_foreground(
            pool,
            foreground,
            foreground >= self.parameters.min_foreground,
            budget,
            rng,
            per_case_quota=self.per_case_quota,
        )


def draw_foreground(
    pool: Pool,
    foreground: NDArray[np.float64],
    eligible: NDArray[np.bool_],
    budget: int,
    rng: np.random.Generator,
    *,
    per_case_quota: int,
    reason: str = wording.FOREGROUND,
) -> list[Choice]:
    """Draw among ``eligible`` patches (``(n,)``), then among the others.

    Args:
        foreground: ``(n,)`` predicted-foreground share, reported as the score.
        reason: what an eligible patch is chosen for.
    """
    first = rng.permutation(np.flatnonzero(eligible))
    rest = rng.permutation(np.flatnonzero(~eligible))
    chosen = take_in_order(np.concatenate([first, rest]), pool.case, budget, per_case_quota)
    return [
        Choice(
            index,
            float(foreground[index]),
            reason if eligible[index] else wording.NO_FOREGROUND_LEFT,
        )
        for index in chosen
    ]
