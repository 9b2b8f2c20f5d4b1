"""Against hand-computed values and SciPy."""

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats

from fedloop.errors import DataError
from simulation.report.statistics import (
    Comparison,
    Correlation,
    CorrelationTable,
    Estimate,
    average_draws,
    compare,
    correct,
    estimate,
    holm,
    spearman,
    verdict,
)

# --------------------------------------------------------------------------- means


def test_mean_and_interval_by_hand() -> None:
    # Seed means 1, 2, 3: mean 2, standard error 1/√3, t(.975, 2) = 4.302653.
    found = estimate({3: [3.0, 3.0, 3.0], 1: [0.0, 2.0], 2: [2.0]})
    assert found.mean == pytest.approx(2.0)
    assert found.values == (1.0, 2.0, 3.0)
    assert found.seeds == 3
    assert found.half_width == pytest.approx(4.302653 / math.sqrt(3), abs=1e-6)
    assert found.low == pytest.approx(2 - 2.484138, abs=1e-6)


def test_centers_of_a_seed_do_not_narrow_the_interval() -> None:
    one = estimate({0: [0.5], 1: [0.7], 2: [0.6]})
    copied = estimate({0: [0.5] * 9, 1: [0.7] * 9, 2: [0.6] * 9})
    assert copied.half_width == pytest.approx(one.half_width)


@given(st.lists(st.floats(-1, 1), min_size=2, max_size=8))
def test_interval_is_scipys(values: list[float]) -> None:
    found = estimate({seed: [value] for seed, value in enumerate(values)})
    error = stats.sem(values)
    if error > 1e-9:
        low, high = stats.t.interval(0.95, len(values) - 1, np.mean(values), error)
        assert found.low == pytest.approx(low)
        assert found.high == pytest.approx(high)


def test_one_seed_has_no_interval() -> None:
    found = estimate({4: [0.2, 0.4]})
    assert (found.low, found.high, found.half_width) == (None, None, None)
    assert found.describe() == "0.300 (1 seed: no interval)"


@pytest.mark.parametrize("outcomes", [{}, {0: []}, {0: [1.0, float("nan")]}])
def test_what_cannot_be_averaged_is_an_error(outcomes: dict[int, list[float]]) -> None:
    with pytest.raises(DataError):
        estimate(outcomes)


def test_draws_are_averaged_before_anything_else() -> None:
    rows = [(0, "a", 0.1), (0, "a", 0.3), (0, "b", 1.0), (1, "a", 0.5)]
    assert average_draws(rows) == {0: {"a": pytest.approx(0.2), "b": 1.0}, 1: {"a": 0.5}}


@pytest.mark.parametrize(
    ("mean", "text"), [(0.0312, "+0.031"), (-0.0312, "−0.031"), (-0.0001, "±0.000")]
)
def test_a_difference_is_written_with_its_sign(mean: float, text: str) -> None:
    found = Estimate(mean, mean - 0.012, mean + 0.012, 5, (mean,) * 5)
    assert found.describe(signed=True) == f"{text} ± 0.012 (5 seeds)"


# --------------------------------------------------------------------------- comparisons

BY_SEED = {0: 0.60, 1: 0.64, 2: 0.70, 3: 0.62}
REFERENCE = {seed: {"a": value, "b": value - 0.1} for seed, value in BY_SEED.items()}
GAIN = {0: 0.10, 1: 0.12, 2: 0.11, 3: 0.13}
BETTER = {
    seed: {center: value + GAIN[seed] for center, value in of.items()}
    for seed, of in REFERENCE.items()
}
ARMS = {"new": BETTER, "random": REFERENCE}


def test_paired_difference_is_scipys_paired_test_over_seeds() -> None:
    found = compare("new", "random", ARMS)
    means = [[np.mean(list(arm[s].values())) for s in BY_SEED] for arm in (BETTER, REFERENCE)]
    expected = stats.ttest_rel(*means)
    interval = expected.confidence_interval(0.95)
    assert found.p_value == pytest.approx(expected.pvalue)
    assert found.difference.mean == pytest.approx(0.115)
    assert found.difference.low == pytest.approx(interval.low)
    assert found.difference.high == pytest.approx(interval.high)
    assert found.missing == ()


def test_missing_pairs_are_left_out_and_reported() -> None:
    partial = {seed: dict(of) for seed, of in REFERENCE.items()}
    del partial[1]["b"], partial[3]
    found = compare("new", "random", {"new": BETTER, "random": partial})
    assert found.missing == ((1, "b"), (3, "a"), (3, "b"))
    assert found.difference.values == pytest.approx((0.10, 0.12, 0.11))
    assert "without 3 unpaired: seed 1 b, seed 3 a, seed 3 b" in found.describe()


def test_arms_without_a_common_unit_or_name_are_errors() -> None:
    with pytest.raises(DataError, match="share no seed and center"):
        compare("x", "y", {"x": {0: {"a": 1.0}}, "y": {0: {"b": 1.0}}})
    with pytest.raises(DataError, match="no outcomes of arm 'z'; there are: new, random"):
        compare("z", "new", ARMS)


def test_holm_by_hand() -> None:
    # Ascending .005 ×4, .01 ×3, .03 ×2, .04 ×1 -> .02, .03, .06, .04 raised to .06.
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx((0.03, 0.06, 0.06, 0.02))
    assert holm([0.6, 0.9]) == (1.0, 1.0)
    assert holm([]) == ()


@given(st.lists(st.floats(0, 1), max_size=8))
def test_holm_lies_between_none_and_bonferroni_and_keeps_order(values: list[float]) -> None:
    adjusted = holm(values)
    for p, q in zip(values, adjusted, strict=True):
        assert p <= q <= min(1.0, len(values) * p) + 1e-12
    order = np.argsort(values, kind="stable")
    assert all(np.diff([adjusted[i] for i in order]) >= 0)


def test_correction_skips_what_has_no_p_value() -> None:
    one = compare("new", "random", {"new": {0: {"a": 1.0}}, "random": {0: {"a": 0.5}}})
    many = compare("new", "random", ARMS)
    first, second, third = correct([many, one, many])
    assert first.p_value is not None
    assert first.p_holm == pytest.approx(2 * first.p_value)
    assert second == one
    assert third.p_holm == first.p_holm
    assert "after Holm's correction" in first.describe()
    assert first.describe().startswith("+0.115 ± 0.021 (4 seeds), p")


def test_verdicts() -> None:
    better = correct([compare("new", "random", ARMS)])[0]
    worse = correct([compare("random", "new", ARMS)])[0]
    assert (verdict(better), verdict(worse)) == ("better", "worse")
    assert verdict(better, higher_is_better=False) == "worse"


def test_one_seed_proves_nothing_whatever_the_difference() -> None:
    one = compare("x", "y", {"x": {0: {"a": 1.0, "b": 1.0}}, "y": {0: {"a": 0.0, "b": 0.0}}})
    assert one.p_value is None
    assert verdict(one) == "one seed: no interval"
    assert verdict(correct([one])[0]) == "one seed: no interval"


def test_correction_can_take_a_claim_back() -> None:
    difference = Estimate(0.03, 0.001, 0.059, 5, (0.03,) * 5)
    lucky = Comparison("new", "random", difference, 0.04)
    dull = Comparison("other", "random", difference, 0.5)
    assert verdict(correct([lucky])[0]) == "better"
    assert verdict(correct([lucky, dull])[0]) == "no difference shown"


def test_no_verdict_without_correction() -> None:
    with pytest.raises(ValueError, match=r"new against random .* pass the whole family"):
        verdict(compare("new", "random", ARMS))


def test_an_interval_that_spans_zero_vetoes() -> None:
    wide = Comparison("new", "random", Estimate(0.03, -0.01, 0.07, 5, ()), 0.01, 0.01)
    assert verdict(wide) == "no difference shown"


@pytest.mark.parametrize("gain", [0.0, 0.25])
def test_seeds_that_are_copies_prove_nothing(gain: float) -> None:
    arms = {"x": {s: {"a": 0.5 + gain} for s in range(5)}, "y": {s: {"a": 0.5} for s in range(5)}}
    found = correct([compare("x", "y", arms)])[0]
    assert found.p_value == 1.0
    assert verdict(found) == "no difference shown"


# --------------------------------------------------------------------------- correlation


def patches(seed: int, n: int = 240) -> dict[str, NDArray[Any]]:
    """Two centers, two seeds, three cases each; y follows x in center a and opposes it in b."""
    rng = np.random.default_rng(seed)
    center = np.where(np.arange(n) % 2 == 0, "a", "b")
    x = rng.integers(0, 30, size=n).astype(float)  # with ties
    noise = rng.normal(size=n)
    return {
        "x": x,
        "y": np.where(center == "a", x, -x) + 5 * noise,
        "center": center,
        "seed": np.arange(n) // 2 % 2,
        "case": np.arange(n) // 4 % 3,
    }


def table(data: dict[str, NDArray[Any]]) -> CorrelationTable:
    return spearman(
        data["x"],
        data["y"],
        seed=data["seed"].tolist(),
        center=data["center"].tolist(),
        case=[str(case) for case in data["case"]],
        resamples=300,
    )


def width(correlation: Correlation) -> float:
    assert correlation.low is not None
    assert correlation.high is not None
    return correlation.high - correlation.low


def test_rho_is_scipys_overall_and_by_center() -> None:
    data = patches(0)
    found = table(data)
    assert found.overall.rho == pytest.approx(stats.spearmanr(data["x"], data["y"]).statistic)
    assert (found.overall.points, found.overall.clusters) == (240, 12)
    for name in ("a", "b"):
        own = data["center"] == name
        expected = stats.spearmanr(data["x"][own], data["y"][own]).statistic
        assert found.by_center[name].rho == pytest.approx(expected)
        assert found.by_center[name].clusters == 6
    assert list(found.by_center) == ["a", "b"]


def test_the_interval_holds_rho_and_is_repeatable() -> None:
    first, again = table(patches(1)), table(patches(1))
    assert first == again
    for one in (first.overall, *first.by_center.values()):
        assert one.low is not None
        assert one.rho is not None
        assert one.high is not None
        assert -1 <= one.low <= one.rho <= one.high <= 1


def test_the_bootstrap_draws_whole_cases() -> None:
    # Five cases, perfect in each: whichever are drawn, the order within them stays.
    x = np.arange(15.0)
    cases = list("pppqqqrrrsssttt")
    found = spearman(x, x, seed=[0] * 15, center=["a"] * 15, case=cases, resamples=50)
    assert found.overall == Correlation(1.0, 1.0, 1.0, 15, 5)


def test_few_cases_give_no_interval() -> None:
    x = np.arange(6.0)
    found = spearman(x, x, seed=[0] * 6, center=["a"] * 6, case=list("pppqqq"), resamples=50)
    assert found.overall == Correlation(1.0, None, None, 6, 2)


def test_clustering_widens_the_interval() -> None:
    rng = np.random.default_rng(0)
    case = np.repeat(np.arange(6), 40)
    x = rng.normal(size=6)[case] + 0.1 * rng.normal(size=240)
    y = rng.normal(size=6)[case] + 0.1 * rng.normal(size=240)
    centers, seeds = ["a"] * 240, [0] * 240
    by_case = spearman(x, y, seed=seeds, center=centers, case=[str(c) for c in case]).overall
    alone = spearman(x, y, seed=seeds, center=centers, case=[str(i) for i in range(240)]).overall
    assert width(by_case) > 2 * width(alone)


def test_cases_of_two_centers_differ_though_named_alike() -> None:
    x = np.arange(4.0)
    found = spearman(x, x, seed=[0] * 4, center=list("aabb"), case=["1"] * 4, resamples=20)
    assert found.overall.clusters == 2


def test_one_case_has_no_interval_and_a_constant_no_rho() -> None:
    x = np.arange(5.0)
    alone = spearman(x, x, seed=[0] * 5, center=["a"] * 5, case=["p"] * 5).overall
    assert alone == Correlation(1.0, None, None, 5, 1)
    assert alone.describe() == "ρ = 1.00 no interval (5 patches, 1 case)"
    flat = spearman(x, np.ones(5), seed=[0] * 5, center=["a"] * 5, case=list("pqrst")).overall
    assert flat.rho is None
    assert "undefined" in flat.describe()


def test_correlation_refuses_unequal_lengths_and_nan() -> None:
    with pytest.raises(DataError, match="one length"):
        spearman(np.ones(2), np.ones(3), seed=[0, 0], center=["a", "a"], case=["p", "p"])
    with pytest.raises(DataError, match="finite"):
        spearman(
            np.array([1.0, np.nan]), np.ones(2), seed=[0, 0], center=["a", "a"], case=["p", "p"]
        )
