"""Means, paired differences and correlations that respect what was repeated: the seed.

Centers of one seed share an igniter and random draws, so they are no independent repetitions.
Everything is therefore averaged within a seed first, and intervals run over seeds.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from fedloop.errors import DataError

Unit = tuple[int, str]
"""(seed, center)"""

Outcomes = Mapping[int, Mapping[str, float]]
"""seed -> center -> value"""

Verdict = Literal["better", "worse", "no difference shown", "one seed: no interval"]

FEWEST_CLUSTERS = 5
"""Of fewer cases a bootstrap has too few distinct resamples for an interval."""
CONFIDENCE = 0.95

SMALLEST_ERROR = 1e-12
"""A standard error below this is rounding."""


# --------------------------------------------------------------------------- means


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean over seeds with its t-interval; ``low`` and ``high`` are None with one seed.

    Args:
        seeds: how many.
        values: the mean of each seed, in ascending order of the seeds.
    """

    mean: float
    low: float | None
    high: float | None
    seeds: int
    values: tuple[float, ...]

    @property
    def half_width(self) -> float | None:
        """Half the interval's width; None with one seed."""
        return None if self.high is None else self.high - self.mean

    def describe(self, *, signed: bool = False) -> str:
        """Such as ``0.629 ± 0.041 (5 seeds)``; ``signed`` writes the plus of a difference."""
        text = _signed(self.mean) if signed else f"{self.mean:.3f}"
        if self.half_width is None:
            return f"{text} (1 seed: no interval)"
        return f"{text} ± {self.half_width:.3f} ({self.seeds} seeds)"


def estimate(by_seed: Mapping[int, Sequence[float]], *, confidence: float = CONFIDENCE) -> Estimate:
    """Average within each seed, then over seeds; the interval is Student's t over seeds.

    Args:
        by_seed: the values of each seed (its centers', say); every seed needs at least one.

    Raises:
        DataError: no seed, a seed without values, or a value that is not a finite number.
    """
    if not by_seed:
        raise DataError("no outcome to average")
    for seed, found in by_seed.items():
        if len(found) == 0 or not np.isfinite(found).all():
            raise DataError(f"the outcomes of seed {seed} are not all numbers: {list(found)}")
    values = np.array([np.mean(by_seed[seed]) for seed in sorted(by_seed)])
    mean = float(values.mean())
    half = _half_width(values, confidence)
    low, high = (None, None) if half is None else (mean - half, mean + half)
    return Estimate(mean, low, high, len(values), tuple(values.tolist()))


def average_draws(rows: Iterable[tuple[int, str, float]]) -> dict[int, dict[str, float]]:
    """Average several draws of a random arm: ``(seed, center, value)`` rows to one per unit."""
    draws: defaultdict[int, defaultdict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for seed, center, value in rows:
        draws[seed][center].append(value)
    return {
        seed: {center: float(np.mean(values)) for center, values in centers.items()}
        for seed, centers in draws.items()
    }


def _half_width(values: NDArray[np.float64], confidence: float) -> float | None:
    count = len(values)
    if count < 2:
        return None
    error = values.std(ddof=1) / math.sqrt(count)
    return float(stats.t.ppf(0.5 + confidence / 2, count - 1) * error)


def _signed(value: float) -> str:
    """Three decimals with a sign, and a real minus; what rounds to zero has no direction."""
    text = f"{value:+.3f}".replace("-", "−")
    return "±0.000" if text[1:] == "0.000" else text


# --------------------------------------------------------------------------- comparisons


@dataclass(frozen=True, slots=True)
class Comparison:
    """An arm less its reference, paired by seed and center.

    Args:
        p_value: two-sided paired t-test over seeds; None with one seed.
        p_holm: after Holm's correction over a family; None until :func:`correct` set it.
        missing: units that only one of the two arms has; left out of the difference.
    """

    arm: str
    reference: str
    difference: Estimate
    p_value: float | None
    p_holm: float | None = None
    missing: tuple[Unit, ...] = ()

    def describe(self) -> str:
        """Such as ``+0.031 ± 0.012 (5 seeds), p = 0.004 after Holm's correction``."""
        text = self.difference.describe(signed=True)
        if self.p_holm is not None:
            text += f", {_p(self.p_holm)} after Holm's correction"
        elif self.p_value is not None:
            text += f", {_p(self.p_value)} uncorrected"
        if self.missing:
            units = ", ".join(f"seed {seed} {center}" for seed, center in self.missing)
            text += f"; without {len(self.missing)} unpaired: {units}"
        return text


def compare(
    arm: str,
    reference: str,
    outcomes: Mapping[str, Outcomes],
    *,
    confidence: float = CONFIDENCE,
) -> Comparison:
    """Compare two arms of ``outcomes`` (by arm name) on the seeds and centers both have.

    Raises:
        DataError: an arm without outcomes, no common unit, or an outcome that is not finite.
    """
    for name in (arm, reference):
        if name not in outcomes:
            raise DataError(f"no outcomes of arm {name!r}; there are: {', '.join(outcomes)}")
    first, second = _by_unit(outcomes[arm]), _by_unit(outcomes[reference])
    paired: defaultdict[int, list[float]] = defaultdict(list)
    for unit in sorted(first.keys() & second.keys()):
        paired[unit[0]].append(first[unit] - second[unit])
    if not paired:
        raise DataError(f"arms {arm!r} and {reference!r} share no seed and center")
    difference = estimate(paired, confidence=confidence)
    missing = tuple(sorted(first.keys() ^ second.keys()))
    return Comparison(arm, reference, difference, _p_value(difference.values), missing=missing)


def _by_unit(outcomes: Outcomes) -> dict[Unit, float]:
    return {(seed, center): value for seed, of in outcomes.items() for center, value in of.items()}


def correct(comparisons: Sequence[Comparison]) -> tuple[Comparison, ...]:
    """Fill in ``p_holm``, taking ``comparisons`` as one family (all that a reader may pick from).

    Comparisons of one seed have no p-value and stay as they are.
    """
    known = [c.p_value for c in comparisons if c.p_value is not None]
    corrected = iter(holm(known))
    return tuple(
        c if c.p_value is None else replace(c, p_holm=next(corrected)) for c in comparisons
    )


def holm(p_values: Sequence[float]) -> tuple[float, ...]:
    """Holm's step-down adjusted p-values, in the order given."""
    count = len(p_values)
    adjusted = [0.0] * count
    highest = 0.0
    for rank, index in enumerate(sorted(range(count), key=p_values.__getitem__)):
        # Never below that of a smaller p-value: the procedure stops at its first failure.
        highest = max(highest, min(1.0, (count - rank) * p_values[index]))
        adjusted[index] = highest
    return tuple(adjusted)


def verdict(
    comparison: Comparison, *, alpha: float = 1 - CONFIDENCE, higher_is_better: bool = True
) -> Verdict:
    """What may be said of a comparison after correction, and no more.

    Raises:
        ValueError: it was not corrected. Pass its whole family to :func:`correct` first.
    """
    if comparison.p_value is None:
        return "one seed: no interval"
    if comparison.p_holm is None:
        raise ValueError(
            f"{comparison.arm} against {comparison.reference} is not corrected for the number of "
            "comparisons; pass the whole family to correct() first"
        )
    # An interval that spans zero vetoes too: the two must never contradict each other in a report.
    low, high = comparison.difference.low, comparison.difference.high
    spans_zero = low is None or high is None or low <= 0 <= high
    if comparison.p_holm >= alpha or spans_zero:
        return "no difference shown"
    return "better" if (comparison.difference.mean > 0) == higher_is_better else "worse"


def _p_value(values: Sequence[float]) -> float | None:
    """Two-sided t-test of the mean against zero; None below two values, 1 where all are equal."""
    if len(values) < 2:
        return None
    differences = np.array(values)
    error = float(differences.std(ddof=1)) / math.sqrt(len(values))
    mean = float(differences.mean())
    if error <= SMALLEST_ERROR:
        # Seeds that agree to rounding are copies of one another and prove nothing.
        return 1.0
    return float(2 * stats.t.sf(abs(mean) / error, len(values) - 1))


def _p(value: float) -> str:
    return "p < 0.001" if value < 0.001 else f"p = {value:.3f}"


# --------------------------------------------------------------------------- correlation


@dataclass(frozen=True, slots=True)
class Correlation:
    """Spearman's rank correlation with a bootstrap interval.

    Args:
        rho: None where one of the two variables is constant.
        low: None with one cluster or when resamples were mostly undefined; so is ``high``.
        points: how many pairs.
        clusters: how many independent groups of pairs: cases within seeds.
    """

    rho: float | None
    low: float | None
    high: float | None
    points: int
    clusters: int

    def describe(self) -> str:
        """Such as ``ρ = 0.42 [0.31, 0.52] (900 patches, 6 cases)``."""
        cases = "case" if self.clusters == 1 else "cases"
        counts = f"({self.points} patches, {self.clusters} {cases})"
        if self.rho is None:
            return f"ρ undefined: one variable is constant {counts}"
        interval = (
            "no interval"
            if self.low is None or self.high is None
            else f"[{_rho(self.low)}, {_rho(self.high)}]"
        )
        return f"ρ = {_rho(self.rho)} {interval} {counts}"


@dataclass(frozen=True, slots=True)
class CorrelationTable:
    """The correlation over everything, and of each center: the whole can hide or invent a trend."""

    overall: Correlation
    by_center: Mapping[str, Correlation]


def spearman(
    x: NDArray[Any],
    y: NDArray[Any],
    *,
    seed: Sequence[int],
    center: Sequence[str],
    case: Sequence[str],
    resamples: int = 1000,
    rng: np.random.Generator | None = None,
) -> CorrelationTable:
    """Correlate patch scores with patch outcomes, over all centers and in each.

    Args:
        x: ``(n,)`` such as the uncertainty of each patch.
        y: ``(n,)`` such as the true error of each patch.
        seed, center, case: ``n`` each; patches of one case in one seed are resampled together.
            Cases of different centers differ even when they bear one name.

    Raises:
        DataError: unequal lengths, no patch, or a value that is not finite.
    """
    if not len(x) == len(y) == len(seed) == len(center) == len(case) or len(x) == 0:
        raise DataError(
            "a correlation needs x, y, seed, center and case of one length above zero, found "
            f"{[len(x), len(y), len(seed), len(center), len(case)]}"
        )
    x, y = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    if not (np.isfinite(x).all() and np.isfinite(y).all()):
        raise DataError("a correlation needs finite numbers; some patch has none")
    rng = rng or np.random.default_rng(0)
    keys = list(zip(seed, center, case, strict=True))
    number = {key: index for index, key in enumerate(dict.fromkeys(keys))}
    cluster = np.array([number[key] for key in keys])
    centers = np.array(center)
    by_center = {
        str(name): _correlate(
            x[centers == name], y[centers == name], cluster[centers == name], rng, resamples
        )
        for name in sorted(set(center))
    }
    return CorrelationTable(_correlate(x, y, cluster, rng, resamples), by_center)


def _correlate(
    x: NDArray[np.float64],
    y: NDArray[np.float64],
    cluster: NDArray[np.int64],
    rng: np.random.Generator,
    resamples: int,
) -> Correlation:
    _, member, sizes = np.unique(cluster, return_inverse=True, return_counts=True)
    clusters = len(sizes)
    x_level, y_level = _levels(x), _levels(y)
    rho = _weighted_spearman(x_level, y_level, np.ones(len(x)))
    low = high = None
    if rho is not None and clusters >= FEWEST_CLUSTERS:
        drawn = []
        for _ in range(resamples):
            # To draw clusters with replacement is to weight each by how often it was drawn.
            times = np.bincount(rng.integers(clusters, size=clusters), minlength=clusters)
            drawn.append(_weighted_spearman(x_level, y_level, times[member].astype(np.float64)))
        defined = [value for value in drawn if value is not None]
        if 2 * len(defined) > resamples:
            tail = 50 * (1 - CONFIDENCE)
            low, high = (float(v) for v in np.percentile(defined, [tail, 100 - tail]))
    return Correlation(rho, low, high, len(x), clusters)


def _levels(values: NDArray[np.float64]) -> NDArray[np.int64]:
    """``(n,)`` number of each value among the distinct values, ascending."""
    return np.unique(values, return_inverse=True)[1]


def _weighted_spearman(
    x_level: NDArray[np.int64], y_level: NDArray[np.int64], weight: NDArray[np.float64]
) -> float | None:
    """Spearman's ρ of a sample in which point i occurs ``weight[i]`` times; None if undefined."""
    x, y = _weighted_ranks(x_level, weight), _weighted_ranks(y_level, weight)
    x, y = x - np.average(x, weights=weight), y - np.average(y, weights=weight)
    spread = float((weight * x * x).sum() * (weight * y * y).sum())
    if spread <= 0.0:
        return None
    return float((weight * x * y).sum() / math.sqrt(spread))


def _weighted_ranks(level: NDArray[np.int64], weight: NDArray[np.float64]) -> NDArray[np.float64]:
    """Average ranks (ties share theirs), counting each point ``weight`` times."""
    held = np.bincount(level, weights=weight)
    rank: NDArray[np.float64] = (np.cumsum(held) - held / 2 + 0.5)[level]
    return rank


def _rho(value: float) -> str:
    return f"{value:.2f}".replace("-", "−")
