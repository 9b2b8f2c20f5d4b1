"""A study: one run, or several that belong together, and the values its figures are made of."""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from fedloop.settings import ExperimentSettings
from simulation.report.runfolder import BASELINE, BOUNDS, Picture, RunFolder, RunRecord, Table
from simulation.report.statistics import Estimate, estimate

Values = dict[int, dict[str, float]]
"""seed -> center -> value, never empty in the middle."""


@dataclass(frozen=True)
class Study:
    """What one section of the report shows.

    ``metrics`` holds the last cycle of each arm, seed and budget only.
    """

    name: str
    runs: tuple[RunFolder, ...]
    settings: ExperimentSettings
    metrics: Table
    rounds: Table | None
    patches: Table | None
    selections: Table | None
    pictures: tuple[Picture, ...]
    notes: tuple[str, ...]

    @property
    def record(self) -> RunRecord:
        return self.runs[0].record

    @cached_property
    def seeds(self) -> list[int]:
        return self.metrics.distinct("seed")

    @cached_property
    def centers(self) -> list[str]:
        return self.metrics.distinct("center")

    @cached_property
    def arms(self) -> list[str]:
        """Arms with results, in the order of the settings."""
        present = {arm for arm, budget in self._present if budget}
        return [arm.name for arm in self.settings.arms if arm.name in present]

    @cached_property
    def budgets(self) -> list[int]:
        """Budgets with results; the settings' where nothing has been corrected yet."""
        fixed = {BASELINE, *BOUNDS}
        found = {budget for arm, budget in self._present if budget and arm not in fixed}
        return sorted(found) or sorted(self.settings.budgets)

    @property
    def top(self) -> int:
        """The largest budget: the one per-center figures and pictures show."""
        return self.budgets[-1]

    @cached_property
    def bounds(self) -> dict[str, int]:
        """Bounds with results -> the budget they stand under (0: no budget applies)."""
        found: dict[str, int] = {}
        for bound in BOUNDS:
            budgets = [budget for arm, budget in self._present if arm == bound]
            if budgets:
                found[bound] = 0 if 0 in budgets else max(budgets)
        return found

    @property
    def center_words(self) -> str:
        """The centers a mean runs over, in words."""
        if len(self.centers) == 1:
            return f"one center ({self.centers[0]})"
        own = ", the igniter's own included" if self.record.igniter_site in self.centers else ""
        return f"{len(self.centers)} centers{own}"

    @cached_property
    def classes(self) -> list[str]:
        """Foreground classes; scored one by one where there are several."""
        return list(self.settings.data.classes[1:])

    @cached_property
    def categories(self) -> list[str]:
        """Lesion categories from small to large; others by name."""
        order = {name: i for i, name in enumerate(("negative", "itc", "micro", "macro"))}
        found = {category for category in self.metrics["category"].tolist() if category}
        return sorted(found, key=lambda name: (order.get(name, len(order)), name))

    def reference(self, strategy: str) -> str | None:
        """The first arm with this query strategy that has results."""
        named = [arm.name for arm in self.settings.arms if arm.strategy == strategy]
        return next((name for name in named if name in self.arms), None)

    def has(self, metric: str, arm: str, budget: int) -> bool:
        return (metric, arm, budget) in self._sites

    def values(self, metric: str, arm: str, budget: int, center: str | None = None) -> Values:
        """Per-center values of a metric, at all centers or at one."""
        found = self._sites.get((metric, arm, budget), {})
        if center is None:
            return found
        return {seed: {center: of[center]} for seed, of in found.items() if center in of}

    def estimate(self, metric: str, arm: str, budget: int, center: str | None = None) -> Estimate:
        """Mean over centers (or of one center) with its 95 % interval, clustered by seed."""
        return mean_of(self.values(metric, arm, budget, center))

    def case_values(self, metric: str, arm: str, budget: int, category: str | None) -> Values:
        """Mean over a center's test cases of a category (None: of all) of a per-case metric."""
        cells: dict[int, dict[str, list[float]]] = {}
        for seed, center, found, value in self._cases.get((metric, arm, budget), ()):
            if category in (None, found):
                cells.setdefault(seed, {}).setdefault(center, []).append(value)
        return {
            seed: {center: float(np.mean(values)) for center, values in of.items()}
            for seed, of in cells.items()
        }

    @cached_property
    def _present(self) -> set[tuple[str, int]]:
        pairs = zip(self.metrics["arm"].tolist(), self.metrics["budget"].tolist(), strict=True)
        return set(pairs)

    @cached_property
    def _sites(self) -> dict[tuple[str, str, int], Values]:
        found: dict[tuple[str, str, int], Values] = defaultdict(dict)
        for arm, seed, center, case, category, budget, metric, value in self._rows():
            if not case and not category:
                found[metric, arm, budget].setdefault(seed, {})[center] = value
        return dict(found)

    @cached_property
    def _cases(self) -> dict[tuple[str, str, int], list[tuple[int, str, str, float]]]:
        found: dict[tuple[str, str, int], list[tuple[int, str, str, float]]] = defaultdict(list)
        for arm, seed, center, case, category, budget, metric, value in self._rows():
            if case:
                found[metric, arm, budget].append((seed, center, category, value))
        return dict(found)

    def _rows(self) -> zip[tuple[str, int, str, str, str, int, str, float]]:
        defined = self.metrics.take(np.isfinite(self.metrics["value"]))
        names = ("arm", "seed", "center", "case", "category", "budget", "metric", "value")
        return zip(*(defined[name].tolist() for name in names), strict=True)


def mean_of(values: Values) -> Estimate:
    """Mean over the centers of each seed, then over seeds, with its 95 % interval."""
    return estimate({seed: list(of.values()) for seed, of in values.items()})


def numbers(found: Estimate) -> tuple[float, float, float]:
    """Mean, low and high; NaN for an interval that one seed cannot give."""
    if found.low is None or found.high is None:
        return found.mean, math.nan, math.nan
    return found.mean, found.low, found.high


def last_cycle(metrics: Table) -> Table:
    """The rows of each arm, seed and budget that belong to its last cycle."""
    keys = list(zip(*(metrics[name].tolist() for name in ("arm", "seed", "budget")), strict=True))
    last: dict[tuple[str, int, int], int] = {}
    for key, cycle in zip(keys, metrics["cycle"].tolist(), strict=True):
        last[key] = max(cycle, last.get(key, cycle))
    wanted = np.array([last[key] for key in keys])
    return metrics.take(metrics["cycle"] == wanted)


def interval_words(study: Study) -> str:
    """How intervals were made, or why there are none."""
    if len(study.seeds) == 1:
        return "One seed: no interval can be given."
    return f"Bars: 95 % intervals, clustered by seed ({len(study.seeds)} seeds)."
