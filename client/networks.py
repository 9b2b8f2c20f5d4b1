"""Networks of the ensemble, rebuilt from what the coordinator sent and reused between messages."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import torch
from torch import nn

from fedloop.errors import WireError
from fedloop.models.device import Device
from fedloop.models.inputs import memory_format
from fedloop.models.registry import build_network
from fedloop.models.weights import load_arrays, norm_names
from fedloop.records import Arrays
from fedloop.settings import ModelSpec

SPECS_KEPT = 2


def load_networks(
    spec: ModelSpec, members: Sequence[Arrays], device: Device
) -> tuple[nn.Module, ...]:
    """The ensemble's networks with these weights, on the device.

    The modules are shared within the process: use them before asking again.

    Raises:
        WireError: the number of members differs from the spec.
        ModelError: the arrays do not fit the network.
    """
    if len(members) != spec.model.members:
        raise WireError(f"message holds {len(members)} members, its spec says {spec.model.members}")
    networks = _networks(spec.model_dump_json(), str(device.torch_device))
    for network, arrays in zip(networks, members, strict=True):
        load_arrays(network, arrays)
    return networks


@functools.lru_cache(maxsize=SPECS_KEPT)
def _networks(spec_json: str, device: str) -> tuple[nn.Module, ...]:
    spec = ModelSpec.model_validate_json(spec_json)
    layout = memory_format(spec.spatial_dims)
    return tuple(
        build_network(
            spec.model,
            spatial_dims=spec.spatial_dims,
            in_channels=spec.in_channels,
            classes=len(spec.classes),
            patch_size=spec.imaging.patch_size,
            seed=0,
        ).to(torch.device(device), memory_format=layout)  # type: ignore[call-overload]
        for _ in range(spec.model.members)
    )


def norm_arrays(spec: ModelSpec, device: Device) -> frozenset[str]:
    """Names of the network's normalisation arrays."""
    return norm_names(_networks(spec.model_dump_json(), str(device.torch_device))[0])
