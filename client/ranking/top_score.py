"""The patches with the highest score, one after the other: UGA, entropy, mutual information.

UGA is the paper's rule. In the study none of the three beat random choice (their top patches are
alike and hold few lesions); they are here to be compared with.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from client.ranking import wording
from client.ranking.base import Choice, Pool, QueryStrategy, ScoreName
from client.ranking.checks import require_patches, usable_score
from client.ranking.quota import take_in_order
from fedloop.settings import Settings


def take_top(
    scores: NDArray[np.float64], case: NDArray[np.int64], budget: int, per_case_quota: int
) -> list[int]:
    """Indices of the ``budget`` highest scores that the quota allows, highest first.

    Equal scores keep the pool's order, so the answer never depends on the sorting routine.
    """
    return take_in_order(np.argsort(-scores, kind="stable"), case, budget, per_case_quota)


class TopScoreParameters(Settings):
    """Top-score strategies have no parameters."""


class TopScore(QueryStrategy[TopScoreParameters]):
    """Shared by the strategies below: they differ in the score and in what it tells."""

    Parameters: ClassVar[type[Settings]] = TopScoreParameters
    score: ClassVar[ScoreName]
    finding: ClassVar[str]

    def rank(self, pool: Pool, budget: int, rng: np.random.Generator) -> list[Choice]:  # noqa: ARG002
        require_patches(pool, budget)
        scores = usable_score(pool, self.score)
        chosen = take_top(scores, pool.case, budget, self.per_case_quota)
        return [
            Choice(i, float(scores[i]), wording.standing(scores, i, self.finding)) for i in chosen
        ]


class UGA(TopScore):
    """Cross-entropy between the ensemble's mean and each member, averaged."""

    name: ClassVar[str] = "uga"
    score: ClassVar[ScoreName] = "uga"
    finding: ClassVar[str] = "the models doubt or disagree here"


class Entropy(TopScore):
    """Entropy of the ensemble's mean: doubt, whether shared or not."""

    name: ClassVar[str] = "entropy"
    score: ClassVar[ScoreName] = "entropy"
    finding: ClassVar[str] = "the models together are in doubt here"


class MutualInformation(TopScore):
    """Entropy of the mean less the mean entropy: disagreement alone."""

    name: ClassVar[str] = "mutual_information"
    score: ClassVar[ScoreName] = "mutual_information"
    finding: ClassVar[str] = "the models disagree here"
