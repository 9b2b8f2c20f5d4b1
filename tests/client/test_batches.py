"""Batches hold every source, in its share."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from client.batches import BatchSampler, Source, batch_counts
from fedloop.errors import SettingsError
from fedloop.imaging.case import IGNORE


def source(name: str = "s", share: float = 1.0, count: int = 4, **options: object) -> Source:
    """Patches whose image holds their own number."""
    images = np.broadcast_to(
        np.arange(count, dtype=np.float32)[:, None, None, None], (count, 1, 2, 2)
    )
    labels = np.zeros((count, 2, 2), np.uint8)
    return Source(name, images, options.pop("labels", labels), share, **options)  # type: ignore[arg-type]


@given(st.lists(st.floats(1e-3, 1.0), min_size=1, max_size=3), st.integers(3, 64))
def test_counts_sum_up_and_leave_nobody_out(shares: list[float], batch: int) -> None:
    counts = batch_counts([source(share=share) for share in shares], batch)
    assert sum(counts) == batch
    assert min(counts) >= 1
    # No source is further than one patch above its share, or below it save for the others' one.
    for count, share in zip(counts, shares, strict=True):
        exact = share / sum(shares) * batch
        assert count <= max(1, exact + 1)
        assert count >= min(exact, batch - len(shares) + 1) - len(shares)


@pytest.mark.parametrize(
    ("shares", "batch", "counts"),
    [
        ([0.7, 0.7, 0.3], 16, [7, 6, 3]),  # the study mixes 6, 6 and 4
        ([0.7, 0.7], 16, [8, 8]),
        ([1.0], 5, [5]),
        ([0.98, 0.01, 0.01], 3, [1, 1, 1]),
        ([0.98, 0.01, 0.01], 10, [8, 1, 1]),
    ],
)
def test_counts_of_known_shares(shares: list[float], batch: int, counts: list[int]) -> None:
    found = batch_counts([source(share=share) for share in shares], batch)
    assert sorted(found, reverse=True) == sorted(counts, reverse=True)
    assert found[-1] == counts[-1]


def test_more_sources_than_places() -> None:
    with pytest.raises(SettingsError, match="batch_size: 2 is too small for 3 kinds"):
        batch_counts([source()] * 3, 2)


def test_a_batch_takes_each_source_s_patches_with_their_labels() -> None:
    labels = np.arange(4, dtype=np.uint8)[:, None, None] * np.ones((1, 2, 2), np.uint8)
    one, other = source("a", 0.5, labels=labels), source("b", 0.5, labels=labels + 10)
    images, drawn = BatchSampler([one, other], 8, np.random.default_rng(0)).draw()
    assert images.shape == (8, 1, 2, 2)
    assert drawn.shape == (8, 2, 2)
    numbers = images[:, 0, 0, 0]
    assert np.array_equal(drawn[:4, 0, 0], numbers[:4])
    assert np.array_equal(drawn[4:, 0, 0], numbers[4:] + 10)


def test_equal_generators_draw_equal_batches() -> None:
    def drawn() -> np.ndarray:
        sampler = BatchSampler([source(count=50)], 16, np.random.default_rng(5))
        return np.concatenate([sampler.draw()[0] for _ in range(3)])

    assert np.array_equal(drawn(), drawn())


def lesions(positive: int, count: int, value: int = 1) -> Source:
    labels = np.zeros((count, 2, 2), np.uint8)
    labels[:positive, 0, 0] = value
    return source(count=count, labels=labels, balanced=True)


def test_balanced_sources_draw_patches_with_and_without_foreground_equally_often() -> None:
    sampler = BatchSampler([lesions(3, 60)], 50, np.random.default_rng(1))
    drawn = np.concatenate([sampler.draw()[1] for _ in range(100)])
    share = drawn.reshape(len(drawn), -1).any(1).mean()
    assert share == pytest.approx(0.5, abs=0.03)
    probabilities = lesions(3, 60).probabilities()
    assert probabilities is not None
    assert probabilities.sum() == pytest.approx(1)
    assert probabilities[0] == pytest.approx(1 / 6)


@pytest.mark.parametrize(
    "patches", [lesions(0, 5), lesions(5, 5), lesions(3, 5, IGNORE), source(balanced=False)]
)
def test_without_two_kinds_patches_are_drawn_uniformly(patches: Source) -> None:
    assert patches.probabilities() is None
    BatchSampler([patches], 4, np.random.default_rng(0)).draw()
