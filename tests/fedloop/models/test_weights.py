from __future__ import annotations

import numpy as np
import pytest
from torch import nn

from fedloop.errors import ModelError
from fedloop.models.weights import load_arrays, norm_names, state_arrays


def network() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Sequential(nn.GroupNorm(2, 4), nn.ReLU())
    )


def test_round_trip_without_counters() -> None:
    one, two = network(), network()
    arrays = state_arrays(one)
    assert "1.num_batches_tracked" not in arrays
    assert "1.running_mean" in arrays
    for array in arrays.values():
        array.flags.writeable = False
    load_arrays(two, arrays)
    assert all((a == arrays[name]).all() for name, a in state_arrays(two).items())


def test_arrays_are_copies() -> None:
    one = network()
    arrays = state_arrays(one)
    arrays["0.weight"][:] = 7
    assert not (state_arrays(one)["0.weight"] == 7).any()


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda a: a.pop("0.bias"), "missing array '0.bias'"),
        (lambda a: a.update(new=np.zeros(1, np.float32)), "unknown array 'new'"),
        (lambda a: a.update({"0.bias": a["0.bias"][:2]}), r"'0.bias' is float32 \(2,\), expected"),
        (lambda a: a.update({"0.bias": a["0.bias"].astype(np.float64)}), "'0.bias' is float64"),
    ],
)
def test_mismatch_names_the_array_and_loads_nothing(change: object, match: str) -> None:
    one = network()
    before = state_arrays(one)
    arrays = {name: array + 1 for name, array in before.items()}
    change(arrays)  # type: ignore[operator]
    with pytest.raises(ModelError, match=match):
        load_arrays(one, arrays)
    assert all((a == before[name]).all() for name, a in state_arrays(one).items())


def test_norm_names() -> None:
    assert norm_names(network()) == {
        *("1.weight", "1.bias", "1.running_mean", "1.running_var"),
        *("2.0.weight", "2.0.bias"),
    }
    assert norm_names(nn.InstanceNorm3d(2)) == frozenset()
