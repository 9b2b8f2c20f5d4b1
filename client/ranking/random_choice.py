"""Random choice: the bar that every other strategy has to clear."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from client.ranking import wording
from client.ranking.base import Choice, Pool, QueryStrategy
from client.ranking.checks import require_patches
from client.ranking.quota import take_in_order
from fedloop.settings import Settings


class RandomParameters(Settings):
    """Random choice has no parameters."""


class RandomChoice(QueryStrategy[RandomParameters]):
    """Draws uniformly among all patches; needs no score."""

    name: ClassVar[str] = "random"
    Parameters: ClassVar[type[Settings]] = RandomParameters
    random: ClassVar[bool] = True

    def rank(self, pool: Pool, budget: int, rng: np.random.Generator) -> list[Choice]:
        require_patches(pool, budget)
        order = rng.permutation(len(pool))
        chosen = take_in_order(order, pool.case, budget, self.per_case_quota)
        return [Choice(index, 0.0, wording.RANDOM) for index in chosen]
