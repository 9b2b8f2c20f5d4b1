"""The greedy against a plain transcription of its formula, and its limits."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from client.ranking.base import Pool
from client.ranking.diversity import DiverseGreedy
from client.ranking.embedding import embed, squared_length
from fedloop.errors import SelectionError


def make_pool(seed: int, n: int, cases: int = 2, features: int = 24) -> Pool:
    rng = np.random.default_rng(seed)
    cell = np.stack(np.divmod(np.arange(n), 10), axis=1)
    return Pool(
        rng.integers(cases, size=n), cell, {}, rng.normal(size=(n, features)).astype(np.float32)
    )


def plain(
    pool: Pool, scores: NDArray[np.float64], count: int, exclusion: float, penalty: float
) -> list[int]:
    """Brute force: the whole product anew for every patch and step."""
    centred = pool.features.astype(np.float64)
    centred = (centred - centred.mean(axis=0)) / centred.std(axis=0)
    u, s, _ = np.linalg.svd(centred, full_matrices=False)
    points = (u * s)[:, :16]
    distance = np.linalg.norm(points[:, None] - points[None], axis=-1)
    scale = np.median(distance[np.triu_indices(len(points), 1)] ** 2) / 4
    chosen: list[int] = []
    while len(chosen) < count:
        worth = np.full(len(points), -1.0)
        for i in set(range(len(points))) - set(chosen):
            same = [j for j in chosen if pool.case[j] == pool.case[i]]
            if all(np.linalg.norm(pool.cell[i] - pool.cell[j]) >= exclusion for j in same):
                unlike = [1 - np.exp(-(distance[i, j] ** 2) / (2 * scale)) for j in chosen]
                worth[i] = scores[i] * np.prod(unlike) * penalty ** len(same)
        if worth.max() < 0:
            break
        chosen.append(int(worth.argmax()))
    return chosen


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10_000), n=st.integers(20, 80))
def test_it_is_the_formula(seed: int, n: int) -> None:
    pool = make_pool(seed, n)
    scores = np.random.default_rng(seed).random(n) + 0.01
    expected = plain(pool, scores, 6, 3.0, 0.7)
    greedy = DiverseGreedy(pool, exclusion=3.0, case_penalty=0.7, components=16)
    assert [greedy.take(scores) for _ in expected] == expected


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10_000), exclusion=st.floats(0, 4))
def test_nothing_near_a_chosen_patch_of_the_same_case(seed: int, exclusion: float) -> None:
    pool = make_pool(seed, 100)
    scores = np.random.default_rng(seed).random(100)
    greedy = DiverseGreedy(pool, exclusion=exclusion, case_penalty=0.7, components=16)
    # Five discs of radius 4 cannot cover either case, so no exclusion is ever lifted here.
    chosen = [index for _ in range(4) if (index := greedy.take(scores)) is not None]
    for position, i in enumerate(chosen):
        for j in chosen[:position]:
            if pool.case[i] == pool.case[j]:
                assert np.linalg.norm(pool.cell[i] - pool.cell[j]) >= exclusion


def test_the_exclusion_gives_way_when_nothing_else_is_left() -> None:
    pool = make_pool(0, 9, cases=1)
    greedy = DiverseGreedy(pool, exclusion=99.0, case_penalty=0.7, components=16)
    taken = [greedy.take(np.ones(9)) for _ in range(10)]
    assert sorted(index for index in taken if index is not None) == list(range(9))
    assert taken[-1] is None


def test_a_copy_of_a_chosen_patch_comes_last() -> None:
    features = np.random.default_rng(0).normal(size=(6, 5)).astype(np.float32)
    features[1] = features[0]
    pool = Pool(np.arange(6), np.zeros((6, 2), dtype=np.int64), {}, features)
    greedy = DiverseGreedy(pool, exclusion=3.0, case_penalty=0.7, components=16)
    scores = np.array([1.0, 0.99, 0.1, 0.1, 0.1, 0.1])
    taken = [greedy.take(scores) for _ in range(6)]
    assert (taken[0], taken[-1]) == (0, 1)


def test_an_exclusion_box_in_three_dimensions() -> None:
    cell = np.array([[0, 0, 0], [2, 2, 0], [2, 2, 2]])
    pool = Pool(np.zeros(3, dtype=np.int64), cell, {}, np.zeros((3, 1), dtype=np.float32))
    greedy = DiverseGreedy(pool, exclusion=3.0, case_penalty=1.0, components=16)
    scores = np.array([1.0, 0.9, 0.1])
    assert [greedy.take(scores), greedy.take(scores)] == [0, 2]


def test_features_are_standardised() -> None:
    pool = make_pool(3, 60)
    stretched = (pool.features * np.geomspace(0.01, 100, 24) + 7).astype(np.float32)
    a, b = embed(pool, 16), embed(Pool(pool.case, pool.cell, {}, stretched), 16)
    between = np.linalg.norm(a[0] - a, axis=1)
    np.testing.assert_allclose(np.linalg.norm(b[0] - b, axis=1), between, rtol=1e-3, atol=1e-3)


def test_without_varying_features_only_score_and_place_count() -> None:
    pool = make_pool(0, 30)
    flat = Pool(pool.case, pool.cell, {}, np.full((30, 8), 0.1, dtype=np.float32))
    assert embed(flat, 16).shape == (30, 0)
    assert squared_length(flat, embed(flat, 16)) == 0.0


def test_mostly_identical_patches_still_have_a_length() -> None:
    features = np.zeros((20, 3), dtype=np.float32)
    features[0] = 1.0
    pool = Pool(np.arange(20), np.zeros((20, 2), dtype=np.int64), {}, features)
    assert squared_length(pool, embed(pool, 16)) > 0


def test_features_that_are_no_numbers_are_named() -> None:
    pool = make_pool(0, 5)
    pool.features[2, 3] = np.nan
    with pytest.raises(SelectionError, match="1 values of the features"):
        DiverseGreedy(pool, exclusion=3.0, case_penalty=0.7, components=16)


def test_a_large_pool_may_be_listed_in_any_order() -> None:
    pool = make_pool(4, 500)  # more than the length scale's sample
    order = np.random.default_rng(1).permutation(500)
    shuffled = Pool(pool.case[order], pool.cell[order], {}, pool.features[order])
    scores = np.random.default_rng(2).random(500)
    straight, mixed = (
        DiverseGreedy(p, exclusion=3.0, case_penalty=0.7, components=16) for p in (pool, shuffled)
    )
    for _ in range(8):
        index = mixed.take(scores[order])
        assert index is not None
        assert straight.take(scores) == order[index]
    lengths = [squared_length(p, embed(p, 16)) for p in (pool, shuffled)]
    assert lengths[0] == pytest.approx(lengths[1], rel=1e-6)
