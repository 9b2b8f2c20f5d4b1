"""Overlap counts and ratios: properties, conventions and refusals."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from fedloop.errors import DataError
from fedloop.imaging.case import IGNORE
from fedloop.metrics.overlap import (
    Counts,
    count,
    dice,
    mean_dice,
    precision,
    recall,
    total,
)

CLASSES = 3
PAIRS = (
    st.integers(0, 40)
    .flatmap(
        lambda n: st.tuples(
            st.lists(st.integers(0, CLASSES - 1), min_size=n, max_size=n),
            st.lists(st.sampled_from([*range(CLASSES), IGNORE]), min_size=n, max_size=n),
        )
    )
    .map(lambda pair: tuple(np.array(side, np.uint8) for side in pair))
)
Pair = tuple[NDArray[np.uint8], NDArray[np.uint8]]


@given(PAIRS)
def test_equals_set_formulas(pair: Pair) -> None:
    prediction, reference = pair
    counts = count(prediction, reference, CLASSES)
    known = reference != IGNORE
    for c in range(CLASSES):
        a, b = (prediction == c) & known, reference == c
        assert counts.tp[c] == (a & b).sum()
        assert counts.fp[c] == (a & ~b).sum()
        assert counts.fn[c] == (b & ~a).sum()
        size = a.sum() + b.sum()
        assert dice(counts)[c] == pytest.approx(2 * (a & b).sum() / size if size else 1)


@given(PAIRS)
def test_bounds_and_symmetry(pair: Pair) -> None:
    prediction, reference = pair
    reference = np.where(reference == IGNORE, 0, reference)
    forward, back = (
        count(prediction, reference, CLASSES),
        count(reference, prediction, CLASSES),
    )
    assert ((dice(forward) >= 0) & (dice(forward) <= 1)).all()
    np.testing.assert_array_equal(dice(forward), dice(back))
    np.testing.assert_array_equal(precision(forward), recall(back))
    assert (dice(count(reference, reference, CLASSES)) == 1).all()


@given(PAIRS, st.integers(0, 40))
def test_parts_add_up(pair: Pair, cut: int) -> None:
    prediction, reference = pair
    parts = [count(prediction[s], reference[s], CLASSES) for s in (slice(0, cut), slice(cut, None))]
    assert total(parts, CLASSES) == count(prediction, reference, CLASSES)


@given(PAIRS)
def test_predictions_under_ignore_do_not_count(pair: Pair) -> None:
    prediction, reference = pair
    changed = np.where(reference == IGNORE, 77, prediction)
    assert count(changed, reference, CLASSES) == count(prediction, reference, CLASSES)


def test_conventions_for_absent_classes() -> None:
    empty = Counts.zero(2)
    assert mean_dice(empty) == 1
    assert np.isnan(precision(empty)).all()
    assert np.isnan(recall(empty)).all()
    one_false_positive = count(np.array([1, 0]), np.array([0, 0]), 2)
    assert mean_dice(one_false_positive) == 0
    assert precision(one_false_positive)[1] == 0
    assert np.isnan(recall(one_false_positive)[1])


def test_mean_leaves_the_background_out() -> None:
    counts = Counts(tp=(90, 1, 3), fp=(1, 1, 0), fn=(0, 1, 2))
    assert mean_dice(counts) == pytest.approx((0.5 + 0.75) / 2)


@pytest.mark.parametrize(
    ("prediction", "reference", "match"),
    [
        (np.zeros(3, np.uint8), np.zeros(4, np.uint8), "differ"),
        (np.array([2]), np.array([0]), "prediction holds class 2"),
        (np.array([0]), np.array([7]), "reference holds class 7"),
        (np.array([-1]), np.array([0]), "prediction holds class -1"),
    ],
)
def test_refusals(prediction: NDArray[np.int64], reference: NDArray[np.int64], match: str) -> None:
    with pytest.raises(DataError, match=match):
        count(prediction, reference, 2)


def test_counts_of_other_classes_do_not_add() -> None:
    with pytest.raises(DataError, match="cannot be added"):
        _ = Counts.zero(2) + Counts.zero(3)
    with pytest.raises(DataError, match="same two or more"):
        Counts((1,), (1,), (1,))
