import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from client.ranking import wording
from client.ranking.base import Pool
from client.ranking.registry import build_strategy


def make_pool(foreground: list[float]) -> Pool:
    n = len(foreground)
    return Pool(
        np.arange(n) % 2,
        np.stack([np.arange(n), np.zeros(n, dtype=np.int64)], axis=1),
        {"foreground": np.array(foreground, dtype=np.float32)},
        np.zeros((n, 0), dtype=np.float32),
    )


@given(
    foreground=st.lists(st.sampled_from([0.0, 0.009, 0.25, 1.0]), min_size=1, max_size=30),
    budget=st.integers(1, 12),
    seed=st.integers(0, 99),
)
def test_predicted_lesion_first_and_the_rest_only_when_it_runs_out(
    foreground: list[float], budget: int, seed: int
) -> None:
    strategy = build_strategy("foreground_random")
    chosen = strategy.rank(make_pool(foreground), budget, np.random.default_rng(seed))
    holds = [foreground[choice.index] >= 0.01 for choice in chosen]
    expected = min(budget, sum(share >= 0.01 for share in foreground))
    assert sum(holds) == expected
    assert all(holds[:expected])
    for choice, lesion in zip(chosen, holds, strict=True):
        assert choice.reason == (wording.FOREGROUND if lesion else wording.NO_FOREGROUND_LEFT)
        assert choice.score == np.float32(foreground[choice.index])


def test_the_threshold_is_a_parameter() -> None:
    strategy = build_strategy("foreground_random", {"min_foreground": 0.5})
    pool = make_pool([0.4, 0.6, 0.4, 0.4])
    for seed in range(10):
        assert strategy.rank(pool, 1, np.random.default_rng(seed))[0].index == 1


def test_a_full_case_gives_way_to_patches_without_lesion() -> None:
    pool = make_pool([0.5, 0.0, 0.5, 0.0])  # lesion in case 0 only
    chosen = build_strategy("foreground_random", {}, per_case_quota=1).rank(
        pool, 4, np.random.default_rng(0)
    )
    assert [pool.case[choice.index] for choice in chosen] == [0, 1]
