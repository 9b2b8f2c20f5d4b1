"""The running average is the weighted mean, whatever comes in."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from fedloop.records import Arrays
from strategies.base import RunningAverage

FLOATS = st.floats(-1e4, 1e4, width=32)
WEIGHTS = st.floats(1e-3, 1e4)


@st.composite
def updates(draw: st.DrawFn) -> list[tuple[Arrays, float]]:
    shapes = draw(st.lists(hnp.array_shapes(min_dims=0, max_dims=3, max_side=3), max_size=3))
    return [
        (
            {
                f"a{i}": draw(hnp.arrays(np.float32, shape, elements=FLOATS))
                for i, shape in enumerate([(2,), *shapes])
            },
            draw(WEIGHTS),
        )
        for _ in range(draw(st.integers(1, 5)))
    ]


def mean_of(given: list[tuple[Arrays, float]]) -> Arrays:
    average = RunningAverage()
    for arrays, weight in given:
        average.add(arrays, weight)
    return average.mean()


@given(updates())
def test_it_equals_numpy_s_average(given: list[tuple[Arrays, float]]) -> None:
    mean = mean_of(given)
    weights = [weight for _, weight in given]
    assert set(mean) == set(given[0][0])
    for name, values in mean.items():
        stack = np.stack([arrays[name] for arrays, _ in given]).astype(np.float64)
        expected = np.average(stack, axis=0, weights=weights)
        assert values.dtype == np.float32
        assert values.shape == expected.shape
        np.testing.assert_allclose(values, expected, rtol=1e-6, atol=1e-6)


@given(updates(), st.integers(0, 4), st.integers(1, 4))
def test_it_does_not_depend_on_how_a_site_s_weight_is_split(
    given: list[tuple[Arrays, float]], index: int, parts: int
) -> None:
    index %= len(given)
    arrays, weight = given[index]
    split = [*given[:index], *[(arrays, weight / parts)] * parts, *given[index + 1 :]]
    for a, b in zip(mean_of(given).values(), mean_of(split).values(), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-5)


@given(updates(), st.randoms())
def test_equal_order_gives_equal_bits_and_any_order_the_same_mean(given, random) -> None:
    again = mean_of(given)
    assert all(np.array_equal(v, again[n]) for n, v in mean_of(given).items())
    random.shuffle(given)
    for name, values in mean_of(given).items():
        np.testing.assert_allclose(values, again[name], rtol=1e-6, atol=1e-5)


def test_half_precision_is_summed_in_double() -> None:
    # 3 000 times 1 in float16 would stop at 2 048; in float32 sums of large values lose ones.
    mean = mean_of([({"a": np.full(1, 40_000, np.float16)}, 1.0)] * 3000)
    assert mean["a"] == np.float16(40_000)
    assert mean["a"].dtype == np.float16


def test_updates_are_left_as_they_were() -> None:
    first = np.ones(3, np.float32)
    mean_of([({"a": first}, 2.0), ({"a": first * 5}, 1.0)])
    assert first.tolist() == [1, 1, 1]


@pytest.mark.parametrize("weight", [0.0, -1.0, float("nan")])
def test_a_weight_that_is_not_positive_is_refused(weight: float) -> None:
    with pytest.raises(ValueError, match="weight must be positive"):
        RunningAverage().add({"a": np.ones(1)}, weight)


def test_other_names_and_nothing_at_all_are_refused() -> None:
    average = RunningAverage()
    with pytest.raises(ValueError, match="no update to average"):
        average.mean()
    average.add({"a": np.ones(1)}, 1.0)
    with pytest.raises(ValueError, match="different array names"):
        average.add({"b": np.ones(1)}, 1.0)
    assert average.weight == 1.0
