import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from client.ranking.base import Pool
from client.ranking.registry import build_strategy
from fedloop.errors import SelectionError

NAMES = ("uga", "entropy", "mutual_information")
RNG = np.random.default_rng(0)


def make_pool(values: list[float], case: list[int] | None = None) -> Pool:
    n = len(values)
    scores = {name: np.array(values, dtype=np.float32) for name in NAMES}
    where = np.stack([np.arange(n), np.arange(n)], axis=1)
    return Pool(np.array(case or [0] * n), where, scores, np.zeros((n, 0), dtype=np.float32))


@pytest.mark.parametrize("name", NAMES)
@given(
    values=st.lists(st.floats(0, 10, width=32), min_size=1, max_size=60), budget=st.integers(1, 20)
)
def test_the_chosen_are_the_highest_and_only_as_many_as_asked(
    name: str, values: list[float], budget: int
) -> None:
    chosen = build_strategy(name).rank(make_pool(values), budget, RNG)
    assert [choice.score for choice in chosen] == sorted(values, reverse=True)[:budget]
    assert [values[choice.index] for choice in chosen] == [choice.score for choice in chosen]


def test_the_quota_passes_over_a_full_case() -> None:
    pool = make_pool([5, 4, 3, 2, 1], case=[0, 0, 0, 1, 1])
    chosen = build_strategy("uga", {}, per_case_quota=1).rank(pool, 4, RNG)
    assert [choice.index for choice in chosen] == [0, 3]


def test_equal_scores_keep_the_order_of_the_pool() -> None:
    chosen = build_strategy("uga").rank(make_pool([1.0] * 9), 3, RNG)
    assert [choice.index for choice in chosen] == [0, 1, 2]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_score_that_is_no_number_is_named(name: str, bad: float) -> None:
    with pytest.raises(SelectionError, match=f"1 values of score '{name}' are not finite"):
        build_strategy(name).rank(make_pool([1.0, bad, 2.0]), 2, RNG)


def test_a_missing_score_is_named() -> None:
    pool = make_pool([1.0])
    with pytest.raises(SelectionError, match="'uga'"):
        build_strategy("uga").rank(Pool(pool.case, pool.cell, {}, pool.features), 1, RNG)


def test_a_score_of_the_wrong_length_is_named() -> None:
    pool = make_pool([1.0, 2.0])
    short = Pool(pool.case, pool.cell, {"uga": np.ones(1, dtype=np.float32)}, pool.features)
    with pytest.raises(SelectionError, match="score 'uga' has shape"):
        build_strategy("uga").rank(short, 1, RNG)


def test_the_reason_says_how_far_up_the_patch_stands() -> None:
    pool = make_pool([float(value) for value in range(100)])
    reasons = [choice.reason for choice in build_strategy("mutual_information").rank(pool, 2, RNG)]
    assert reasons[1] == "the models disagree here (in the top 2 % of this pool)"
