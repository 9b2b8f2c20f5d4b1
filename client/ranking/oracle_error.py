"""An oracle: the patches on which the model is most wrong. Only a simulation knows them.

Not an upper bound. In the study, choosing by true error alone did no better than random choice: a
corrected set needs certain lesion as well as mistakes.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from client.ranking import wording
from client.ranking.base import Choice, Pool, QueryStrategy
from client.ranking.checks import require_patches, usable_values
from client.ranking.top_score import take_top
from fedloop.errors import SelectionError
from fedloop.settings import Settings


class OracleErrorParameters(Settings):
    """The oracle has no parameters."""


class OracleError(QueryStrategy[OracleErrorParameters]):
    """Largest number of wrongly predicted voxels first."""

    name: ClassVar[str] = "oracle_error"
    Parameters: ClassVar[type[Settings]] = OracleErrorParameters
    needs_truth: ClassVar[bool] = True

    def rank(self, pool: Pool, budget: int, rng: np.random.Generator) -> list[Choice]:  # noqa: ARG002
        """Raises: SelectionError: the pool is empty or its truth is unknown."""
        require_patches(pool, budget)
        if pool.true_error is None:
            raise SelectionError(
                "query strategy 'oracle_error' needs the true error of every patch, which only a "
                "simulation knows; choose another strategy at a real site"
            )
        error = usable_values(pool, pool.true_error, "the true error")
        chosen = take_top(error, pool.case, budget, self.per_case_quota)
        return [Choice(i, float(error[i]), wording.true_error(float(error[i]))) for i in chosen]
