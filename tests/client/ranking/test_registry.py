"""Names, parameters and their errors; every strategy keeps the base contract."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from client.ranking.base import Pool, QueryStrategy
from client.ranking.registry import STRATEGIES, build_strategy
from fedloop.errors import SelectionError, SettingsError

SCORES = ("uga", "entropy", "mutual_information", "anchor", "foreground")
NAMES = sorted(STRATEGIES)


def make_pool(seed: int, n: int, cases: int, dimensions: int, features: int, kind: str) -> Pool:
    """A pool on grids: scores random, constant or mostly zero."""
    rng = np.random.default_rng(seed)
    case = rng.integers(cases, size=n)
    side = 8 if dimensions == 2 else 4
    cell = np.stack(np.unravel_index(np.arange(n) % side**dimensions, (side,) * dimensions), axis=1)

    def score() -> Any:
        if kind == "constant":
            return np.full(n, 0.25, dtype=np.float32)
        values = rng.random(n, dtype=np.float32)
        return values * (rng.random(n) < 0.2) if kind == "sparse" else values

    spread = 0.0 if kind == "constant" else 1.0
    return Pool(
        case=case,
        cell=cell,
        scores={name: score() for name in SCORES},
        features=(5 + spread * rng.normal(size=(n, features))).astype(np.float32),
        true_error=score(),
    )


pools = st.builds(
    make_pool,
    seed=st.integers(0, 10_000),
    n=st.integers(1, 40),
    cases=st.integers(1, 5),
    dimensions=st.sampled_from([2, 3]),
    features=st.sampled_from([0, 1, 3, 20]),
    kind=st.sampled_from(["random", "constant", "sparse"]),
)


@settings(max_examples=40, deadline=None)
@given(pool=pools, budget=st.integers(0, 50), quota=st.integers(0, 4), seed=st.integers(0, 99))
@pytest.mark.parametrize("name", NAMES)
def test_contract(name: str, pool: Pool, budget: int, quota: int, seed: int) -> None:
    strategy = build_strategy(name, {}, per_case_quota=quota)
    chosen = strategy.rank(pool, budget, np.random.default_rng(seed))
    indices = [choice.index for choice in chosen]
    sizes = np.bincount(pool.case)
    possible = int(np.minimum(sizes, quota).sum() if quota else sizes.sum())
    assert len(chosen) == min(budget, possible)
    assert len(set(indices)) == len(indices)
    assert all(0 <= index < len(pool) for index in indices)
    assert all(np.isfinite(choice.score) and choice.reason for choice in chosen)
    assert all(type(c.index) is int and type(c.score) is float for c in chosen)
    if quota and indices:
        assert np.bincount(pool.case[indices]).max() <= quota
    assert chosen == strategy.rank(pool, budget, np.random.default_rng(seed))


@pytest.mark.parametrize("name", NAMES)
def test_two_draws_differ_only_where_announced(name: str) -> None:
    pool = make_pool(1, 40, 3, 2, 20, "sparse")
    strategy = build_strategy(name)
    draws = {
        tuple(choice.index for choice in strategy.rank(pool, 5, np.random.default_rng(seed)))
        for seed in range(8)
    }
    assert (len(draws) > 1) == strategy.random


@pytest.mark.parametrize("name", [name for name in NAMES if not STRATEGIES[name].random])
@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), n=st.integers(20, 60))
def test_deterministic_strategies_ignore_the_order_of_the_pool(
    name: str, seed: int, n: int
) -> None:
    pool = make_pool(seed, n, 3, 2, 20, "random")
    order = np.random.default_rng(seed + 1).permutation(n)
    assert pool.true_error is not None
    shuffled = Pool(
        pool.case[order],
        pool.cell[order],
        {key: values[order] for key, values in pool.scores.items()},
        pool.features[order],
        pool.true_error[order],
    )
    # The switch off: this is about the deterministic part.
    parameters = {"dense_above": 1.0} if name == "anchors_doubt" else {}
    strategy = build_strategy(name, parameters)
    rng = np.random.default_rng(0)
    straight = [choice.index for choice in strategy.rank(pool, 6, rng)]
    assert [int(order[choice.index]) for choice in strategy.rank(shuffled, 6, rng)] == straight


@pytest.mark.parametrize("name", NAMES)
def test_an_empty_pool_is_an_error(name: str) -> None:
    with pytest.raises(SelectionError, match="pool is empty"):
        build_strategy(name).rank(make_pool(0, 0, 1, 2, 3, "random"), 5, np.random.default_rng(0))


@pytest.mark.parametrize("name", NAMES)
def test_a_negative_budget_is_an_error(name: str) -> None:
    with pytest.raises(SelectionError, match="budget"):
        build_strategy(name).rank(make_pool(0, 9, 1, 2, 3, "random"), -1, np.random.default_rng(0))


def test_every_strategy_is_registered_under_its_own_name() -> None:
    assert all(name == strategy.name for name, strategy in STRATEGIES.items())
    assert {"random", "foreground_random", "uga", "anchors_doubt"} <= set(STRATEGIES)


def test_defaults_and_given_parameters() -> None:
    strategy: QueryStrategy[Any] = build_strategy("anchors_doubt", {"case_penalty": 0.5}, 3)
    assert strategy.per_case_quota == 3
    assert strategy.settings() == {
        "exclusion": 3.0,
        "case_penalty": 0.5,
        "components": 16,
        "min_foreground": 0.01,
        "dense_above": 0.5,
    }


def test_an_unknown_name_suggests_the_nearest() -> None:
    with pytest.raises(SettingsError, match="'anchor_doubt'; did you mean 'anchors_doubt'"):
        build_strategy("anchor_doubt")


def test_an_unknown_parameter_names_strategy_key_and_allowed_keys() -> None:
    with pytest.raises(SettingsError) as caught:
        build_strategy("foreground_random", {"min_forground": 0.1})
    text = str(caught.value)
    assert "'foreground_random'" in text
    assert "'min_forground'" in text
    assert "allowed keys: min_foreground" in text
    assert "defaults" not in text


def test_a_value_out_of_range_names_strategy_and_key() -> None:
    with pytest.raises(SettingsError, match=r"'anchors_doubt': key 'case_penalty': found 0"):
        build_strategy("anchors_doubt", {"case_penalty": 0})


def test_a_parameter_for_a_strategy_without_any() -> None:
    with pytest.raises(SettingsError, match="'uga' has no parameters, found: temperature"):
        build_strategy("uga", {"temperature": 2})


def test_a_negative_quota_is_an_error() -> None:
    with pytest.raises(SettingsError, match="per_case_quota"):
        build_strategy("random", {}, per_case_quota=-1)
