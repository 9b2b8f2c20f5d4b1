"""Measures against naive formulas, their bounds and identities."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from fedloop.uncertainty.measures import (
    FLOOR,
    anchor,
    entropy,
    measure,
    mutual_information,
    uga,
)


def ensemble(seed: int, members: int, classes: int, sharpness: float) -> NDArray[np.float32]:
    logits = np.random.default_rng(seed).normal(size=(members, classes, 5, 4)) * sharpness
    raised = np.exp(logits - logits.max(1, keepdims=True))
    return (raised / raised.sum(1, keepdims=True)).astype(np.float32)


ENSEMBLES = st.builds(
    ensemble, st.integers(0, 9999), st.integers(1, 5), st.integers(2, 6), st.floats(0, 40)
)


@settings(max_examples=60, deadline=None)
@given(ENSEMBLES)
def test_bounds(probabilities: NDArray[np.float32]) -> None:
    maps = measure(probabilities)
    classes = probabilities.shape[1]
    for name in ("entropy", "uga", "mutual_information", "anchor"):
        found = getattr(maps, name)
        assert found.shape == probabilities.shape[2:]
        assert found.dtype == np.float32
        assert np.isfinite(found).all()
    assert (maps.uga >= maps.entropy).all()
    assert (maps.entropy >= maps.mutual_information).all()
    assert (maps.mutual_information >= 0).all()
    assert (maps.entropy <= math.log(classes) + 1e-5).all()
    assert (maps.uga <= -math.log(FLOOR) + 1e-3).all()
    assert ((maps.anchor >= 0) & (maps.anchor <= 1)).all()


@settings(max_examples=60, deadline=None)
@given(ENSEMBLES)
def test_naive_formulas(probabilities: NDArray[np.float32]) -> None:
    exact = probabilities.astype(np.float64)
    floored = np.maximum(exact, FLOOR)
    mean = exact.mean(0)
    mean_floored = np.maximum(mean, FLOOR)
    h = -(mean * np.log(mean_floored)).sum(0)
    members_h = np.mean([-(p * np.log(f)).sum(0) for p, f in zip(exact, floored, strict=True)], 0)
    divergence = np.mean([(mean * (np.log(mean_floored) - np.log(f))).sum(0) for f in floored], 0)
    close = {"atol": 1e-5, "rtol": 1e-4}
    np.testing.assert_allclose(entropy(mean.astype(np.float32)), h, **close)
    np.testing.assert_allclose(mutual_information(probabilities), h - members_h, **close)
    np.testing.assert_allclose(uga(probabilities), h + divergence, **close)  # H + KL
    np.testing.assert_allclose(anchor(probabilities), (1 - exact[:, 0]).min(0), **close)


def test_by_hand() -> None:
    # Two sure members that contradict each other at one voxel.
    probabilities = np.array([[[0.9], [0.1]], [[0.1], [0.9]]], np.float32)
    maps = measure(probabilities)
    assert maps.entropy[0] == pytest.approx(math.log(2))
    assert maps.uga[0] == pytest.approx(-0.5 * (math.log(0.9) + math.log(0.1)))
    assert maps.anchor[0] == pytest.approx(0.1)
    own = -(0.9 * math.log(0.9) + 0.1 * math.log(0.1))
    assert maps.mutual_information[0] == pytest.approx(math.log(2) - own, abs=1e-6)


def test_certain_and_read_only() -> None:
    probabilities = np.zeros((3, 2, 4), np.float32)
    probabilities[:, 0] = 1
    probabilities.flags.writeable = False
    maps = measure(probabilities)
    assert maps.uga.max() == maps.entropy.max() == maps.mutual_information.max() == 0
