import numpy as np
import pytest

from client.ranking.base import Pool
from client.ranking.registry import STRATEGIES, build_strategy
from fedloop.errors import SelectionError

RNG = np.random.default_rng(0)


def make_pool(error: list[float] | None) -> Pool:
    return Pool(
        np.array([0, 0, 1]),
        np.array([[0, 0], [0, 1], [0, 0]]),
        {},
        np.zeros((3, 0), dtype=np.float32),
        None if error is None else np.array(error, dtype=np.float32),
    )


def test_it_says_that_it_needs_truth_and_refuses_without() -> None:
    assert STRATEGIES["oracle_error"].needs_truth
    with pytest.raises(SelectionError, match="only a simulation knows"):
        build_strategy("oracle_error").rank(make_pool(None), 1, RNG)


def test_the_most_wrong_patches_come_first() -> None:
    chosen = build_strategy("oracle_error").rank(make_pool([10, 30, 20]), 2, RNG)
    assert [choice.index for choice in chosen] == [1, 2]
    assert "30 voxels" in chosen[0].reason


def test_an_error_that_is_no_number_is_named() -> None:
    with pytest.raises(SelectionError, match="true error"):
        build_strategy("oracle_error").rank(make_pool([1, float("nan"), 2]), 1, RNG)


def test_no_other_strategy_claims_to_need_truth() -> None:
    assert [name for name, kind in STRATEGIES.items() if kind.needs_truth] == ["oracle_error"]
