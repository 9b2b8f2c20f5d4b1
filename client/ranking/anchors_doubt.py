"""Anchors + doubt, the default: certain lesion first, then doubtful tissue, all of it varied.

A correction set of doubtful patches alone lets fine-tuning drift to one class; patches that all
models call lesion hold it in place. The rule won where lesions are rare. Where most patches hold
some of the target (vessels, nuclei) nothing in the study beat foreground-aware random choice, so
there the strategy steps back to that.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from pydantic import Field

from client.ranking import wording
from client.ranking.base import Choice, Pool, QueryStrategy
from client.ranking.checks import require_patches, usable_score
from client.ranking.diversity import DiverseGreedy
from client.ranking.foreground_random import draw_foreground
from client.ranking.top_score import UGA
from fedloop.settings import Fraction, Positive, Settings


class AnchorsDoubtParameters(Settings):
    """See :class:`client.ranking.diversity.DiverseGreedy` for the greedy's own parameters."""

    exclusion: float = Field(
        default=3.0, ge=0, description="grid steps around a chosen patch of the same case"
    )
    case_penalty: float = Field(
        default=0.7, gt=0, le=1, description="factor per patch already taken from a case"
    )
    components: Positive = Field(default=16, description="principal components of the features")
    min_foreground: Fraction = Field(
        default=0.01, description="predicted-foreground share that makes a patch hold lesion"
    )
    dense_above: Fraction = Field(
        default=0.5,
        description="draw at random among patches with predicted lesion when more than this share "
        "of the pool holds some; 1: never",
    )


class AnchorsDoubt(QueryStrategy[AnchorsDoubtParameters]):
    """⌈k/2⌉ patches by the anchor score, the rest by doubt (UGA), in one diversified greedy.

    ``random`` stays False although a dense pool makes it draw: on the rare targets it is meant
    for, it is deterministic.
    """

    name: ClassVar[str] = "anchors_doubt"
    Parameters: ClassVar[type[Settings]] = AnchorsDoubtParameters

    def rank(self, pool: Pool, budget: int, rng: np.random.Generator) -> list[Choice]:
        require_patches(pool, budget)
        foreground = usable_score(pool, "foreground")
        eligible = foreground >= self.parameters.min_foreground
        share = float(eligible.mean())
        if share > self.parameters.dense_above:
            return draw_foreground(
                pool,
                foreground,
                eligible,
                budget,
                rng,
                per_case_quota=self.per_case_quota,
                reason=wording.common_foreground(share),
            )
        return self._anchors_then_doubt(pool, budget)

    def _anchors_then_doubt(self, pool: Pool, budget: int) -> list[Choice]:
        anchor, doubt = usable_score(pool, "anchor"), usable_score(pool, "uga")
        greedy = DiverseGreedy(
            pool,
            exclusion=self.parameters.exclusion,
            case_penalty=self.parameters.case_penalty,
            components=self.parameters.components,
            per_case_quota=self.per_case_quota,
        )
        count = min(budget, greedy.possible)
        anchors = -(-count // 2)
        choices: list[Choice] = []
        while len(choices) < count:
            by_anchor = len(choices) < anchors
            index = greedy.take(anchor if by_anchor else doubt)
            if index is None:
                break
            reason = (
                wording.anchor(float(anchor[index]))
                if by_anchor
                else wording.standing(doubt, index, UGA.finding)
            )
            score = (anchor if by_anchor else doubt)[index]
            choices.append(Choice(index, float(score), reason))
        return choices
