import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from client.ranking.base import Pool
from client.ranking.registry import build_strategy
from fedloop.errors import SelectionError

RNG = np.random.default_rng(0)


def make_pool(seed: int, n: int = 120, dense: float = 0.1) -> Pool:
    """The first half of the patches has all of the anchor score, the second all of the doubt."""
    rng = np.random.default_rng(seed)
    half = np.arange(n) < n // 2
    foreground = np.zeros(n, dtype=np.float32)
    foreground[: round(dense * n)] = 0.3
    values = rng.uniform(0.2, 1, size=(2, n)).astype(np.float32)
    return Pool(
        case=rng.integers(4, size=n),
        cell=np.stack(np.divmod(np.arange(n), 12), axis=1),
        scores={
            "anchor": values[0] * half,
            "uga": values[1] * ~half,
            "foreground": foreground,
        },
        features=rng.normal(size=(n, 40)).astype(np.float32),
    )


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10_000), budget=st.integers(1, 8))
def test_anchors_first_then_doubt(seed: int, budget: int) -> None:
    pool = make_pool(seed)
    chosen = build_strategy("anchors_doubt").rank(pool, budget, RNG)
    anchors = -(-budget // 2)
    assert all(choice.index < 60 for choice in chosen[:anchors])
    assert all(choice.index >= 60 for choice in chosen[anchors:])
    for position, choice in enumerate(chosen):
        source = "anchor" if position < anchors else "uga"
        assert choice.score == pool.scores[source][choice.index]
        assert ("certain example" in choice.reason) == (position < anchors)


def test_the_first_patch_is_the_one_of_highest_anchor_score() -> None:
    pool = make_pool(5)
    first = build_strategy("anchors_doubt").rank(pool, 5, RNG)[0]
    assert first.index == int(np.argmax(pool.scores["anchor"]))


def test_doubt_keeps_its_distance_from_anchors() -> None:
    pool = make_pool(5)
    chosen = [choice.index for choice in build_strategy("anchors_doubt").rank(pool, 8, RNG)]
    for position, i in enumerate(chosen):
        for j in chosen[:position]:
            if pool.case[i] == pool.case[j]:
                assert np.linalg.norm(pool.cell[i] - pool.cell[j]) >= 3


@pytest.mark.parametrize(("share", "switched"), [(0.4, False), (0.5, False), (0.6, True)])
def test_the_switch(share: float, switched: bool) -> None:
    pool = make_pool(1, dense=share)
    strategy = build_strategy("anchors_doubt")
    draws = {
        tuple(c.index for c in strategy.rank(pool, 5, np.random.default_rng(s))) for s in range(5)
    }
    reasons = [choice.reason for choice in strategy.rank(pool, 5, RNG)]
    assert (len(draws) > 1) == switched
    assert all("drawn at random among" in reason for reason in reasons) == switched
    if switched:
        assert all("60 % of this pool" in reason for reason in reasons)


def test_a_dense_pool_gives_what_foreground_random_gives() -> None:
    pool = make_pool(1, dense=0.9)
    ours = build_strategy("anchors_doubt").rank(pool, 7, np.random.default_rng(3))
    theirs = build_strategy("foreground_random").rank(pool, 7, np.random.default_rng(3))
    assert [choice.index for choice in ours] == [choice.index for choice in theirs]


def test_the_switch_can_be_turned_off() -> None:
    pool = make_pool(1, dense=1.0)
    chosen = build_strategy("anchors_doubt", {"dense_above": 1.0}).rank(pool, 4, RNG)
    assert not any("random" in choice.reason for choice in chosen)


def test_no_certain_example_is_claimed_where_there_is_none() -> None:
    pool = make_pool(2)
    pool.scores["anchor"][:] = 0.001
    chosen = build_strategy("anchors_doubt").rank(pool, 4, RNG)
    assert not any("certain" in choice.reason for choice in chosen)


@pytest.mark.parametrize("name", ["anchor", "uga", "foreground"])
def test_a_score_that_is_no_number_is_named(name: str) -> None:
    pool = make_pool(2)
    pool.scores[name][7] = np.nan
    with pytest.raises(SelectionError, match=f"score '{name}'"):
        build_strategy("anchors_doubt").rank(pool, 4, RNG)


def test_a_single_patch() -> None:
    chosen = build_strategy("anchors_doubt").rank(make_pool(0, n=1), 5, RNG)
    assert [choice.index for choice in chosen] == [0]
