"""FedBN keeps the arrays of norm layers, running statistics included, and nothing else."""

from __future__ import annotations

import numpy as np

from fedloop.models.registry import build_network
from fedloop.models.weights import norm_names, state_arrays
from fedloop.settings import ModelSettings
from strategies.base import NoParameters
from strategies.fedavg import FedAvg
from strategies.fedbn import FedBN


def test_the_partition_of_a_unet() -> None:
    network = build_network(
        ModelSettings(parameters={"channels": [4, 8], "strides": [2], "norm": "batch"}),
        spatial_dims=2,
        in_channels=3,
        classes=2,
        patch_size=(8, 8),
        seed=0,
    )
    norms = norm_names(network)
    names = set(state_arrays(network))
    local = {n for n in names if FedBN(NoParameters()).is_local(n, norms)}
    assert local == norms
    kinds = {name.rsplit(".", 1)[-1] for name in local}
    assert kinds == {"weight", "bias", "running_mean", "running_var"}
    assert any(name.endswith("conv.weight") for name in names - local)
    assert not any(FedAvg(NoParameters()).is_local(n, norms) for n in names)


def test_local_arrays_of_the_coordinator_stay_what_they_are() -> None:
    current = {"conv": np.zeros(2, np.float32), "norm": np.ones(2, np.float32)}
    updated, state = FedBN(NoParameters()).apply(current, {"conv": np.full(2, 5, np.float32)}, {})
    assert updated["conv"].tolist() == [5, 5]
    assert updated["norm"].tolist() == [1, 1]
    assert current["conv"].tolist() == [0, 0]
    assert state == {}
