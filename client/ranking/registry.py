"""Query strategies by name.

How to add one
--------------
1.  Write one new file beside this one. A strategy is a class with a ``name``, a settings class for
    its parameters (defaults included) and one method::

        class Brightest(QueryStrategy[BrightestParameters]):
            \"\"\"One line: what it chooses and why that should help.\"\"\"

            name: ClassVar[str] = "brightest"
            Parameters: ClassVar[type[Settings]] = BrightestParameters

            def rank(self, pool, budget, rng):
                require_patches(pool, budget)
                scores = usable_score(pool, "foreground")
                chosen = take_top(scores, pool.case, budget, self.per_case_quota)
                return [Choice(i, float(scores[i]), "the brightest left") for i in chosen]

2.  Add one line to :data:`STRATEGIES` below.

It can then be named in a site's configuration (``selection.strategy``) and as an arm of an
experiment, with its parameters, and the tests of the registry exercise it. What helps:

* :mod:`client.ranking.checks`: refuse an empty pool or a score with NaN, with a clear message;
* :mod:`client.ranking.quota`: ``take_in_order`` keeps the quota per case and no patch twice;
* :mod:`client.ranking.top_score`: ``take_top`` for "the highest first";
* :mod:`client.ranking.diversity`: ``DiverseGreedy`` for "high, and unlike the others";
* :mod:`client.ranking.wording`: the reasons a clinician reads.

Rules: choose exactly as many patches as budget, pool and quota allow; draw from the ``rng`` that is
handed in and nowhere else (and then set ``random = True``, so experiments average several draws);
set ``needs_truth = True`` if it reads ``pool.true_error``; give a reason that the numbers support.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from client.ranking.anchors_doubt import AnchorsDoubt
from client.ranking.base import QueryStrategy
from client.ranking.foreground_random import ForegroundRandom
from client.ranking.oracle_error import OracleError
from client.ranking.random_choice import RandomChoice
from client.ranking.top_score import UGA, Entropy, MutualInformation
from fedloop.configuration import load, suggest
from fedloop.errors import SettingsError

STRATEGIES: dict[str, type[QueryStrategy[Any]]] = {
    AnchorsDoubt.name: AnchorsDoubt,
    Entropy.name: Entropy,
    ForegroundRandom.name: ForegroundRandom,
    MutualInformation.name: MutualInformation,
    OracleError.name: OracleError,
    RandomChoice.name: RandomChoice,
    UGA.name: UGA,
}


def build_strategy(
    name: str, parameters: Mapping[str, Any] | None = None, per_case_quota: int = 0
) -> QueryStrategy[Any]:
    """Build a strategy from its name and the parameters that deviate from its defaults.

    Args:
        per_case_quota: most patches of one case; 0: no limit.

    Raises:
        SettingsError: an unknown name (with the nearest one), an unknown or unusable parameter
            (naming strategy, key and what is allowed), or a negative quota.
    """
    strategy = STRATEGIES.get(name)
    if strategy is None:
        raise SettingsError(f"unknown query strategy {name!r}{suggest(name, list(STRATEGIES))}")
    if per_case_quota < 0:
        raise SettingsError(f"per_case_quota must be 0 (no limit) or more, found {per_case_quota}")
    return strategy(_parameters(strategy, parameters or {}), per_case_quota=per_case_quota)


def _parameters(strategy: type[QueryStrategy[Any]], given: Mapping[str, Any]) -> Any:
    if given and not strategy.Parameters.model_fields:
        raise SettingsError(
            f"query strategy {strategy.name!r} has no parameters, found: {', '.join(given)}"
        )
    try:
        return load(strategy.Parameters, changes=given)
    except SettingsError as error:
        # The loader names its source, which here is the strategy.
        detail = str(error).removeprefix("defaults: ")
        raise SettingsError(f"parameters of query strategy {strategy.name!r}: {detail}") from None
