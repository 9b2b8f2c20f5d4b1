"""Greedy choice of patches that score high and differ from those already chosen."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from client.ranking.base import Pool
from client.ranking.embedding import embed, squared_length
from client.ranking.quota import CaseQuota

SMALLEST_SCORE = 1e-9
"""Keeps patches with score 0 in play: among them, difference decides."""

SMALLEST_FACTOR = 1e-12
"""A perfect copy of a chosen patch comes last, but can still be taken when nothing else is left."""


class DiverseGreedy:
    """Maximises score · Π over chosen j of (1 − exp(−d²/2l²)) · penalty^(taken from the case).

    d is the distance in feature space (see :mod:`client.ranking.embedding`). Nothing closer than
    ``exclusion`` grid steps to a chosen patch of the same case is taken, unless nothing else is
    left: a clinician's budget is spent in full. Sums of logarithms stand for the product, which
    would underflow.

    Args:
        exclusion: Euclidean distance in grid steps; a patch at exactly this distance is allowed.
        case_penalty: factor in (0, 1] for each patch already taken from a case.
        components: principal components of the features.
        per_case_quota: most patches of one case; 0: no limit.

    Raises:
        SelectionError: features are not ``(n, f)`` or not finite.
    """

    def __init__(
        self,
        pool: Pool,
        *,
        exclusion: float,
        case_penalty: float,
        components: int,
        per_case_quota: int = 0,
    ) -> None:
        self._pool = pool
        self._exclusion = exclusion
        self._log_penalty = math.log(case_penalty)
        self._quota = CaseQuota(pool.case, per_case_quota)
        self._points = embed(pool, components)
        self._squared_length = squared_length(pool, self._points)
        self._log_factor = np.zeros(len(pool))
        self._near = np.zeros(len(pool), dtype=bool)

    @property
    def possible(self) -> int:
        """How many more patches can be taken."""
        return self._quota.possible

    def take(self, scores: NDArray[np.float64]) -> int | None:
        """Choose the next patch by ``scores`` (``(n,)``, ≥ 0); None when no more is possible.

        Successive calls may pass different scores: what was chosen before still counts.
        """
        free = self._quota.open()
        if not free.any():
            return None
        far = free & ~self._near
        value = np.log(np.maximum(scores, SMALLEST_SCORE)) + self._log_factor
        index = int(np.argmax(np.where(far if far.any() else free, value, -np.inf)))
        self._quota.take(index)
        self._discourage(index)
        return index

    def _discourage(self, index: int) -> None:
        """Lower the worth of what resembles the chosen patch, or lies near it."""
        same_case = self._pool.case == self._pool.case[index]
        steps = np.square((self._pool.cell - self._pool.cell[index]).astype(np.float64)).sum(axis=1)
        self._near |= same_case & (steps < self._exclusion**2)
        self._log_factor += self._log_penalty * same_case
        if self._squared_length > 0:
            squared = np.square(self._points - self._points[index]).sum(axis=1, dtype=np.float64)
            unlike = -np.expm1(-squared / (2 * self._squared_length))
            self._log_factor += np.log(np.maximum(unlike, SMALLEST_FACTOR))
