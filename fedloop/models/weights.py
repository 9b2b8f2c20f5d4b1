"""Networks as named NumPy arrays: what is aggregated, stored and sent."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from fedloop.errors import ModelError

_NORMALISATION = (
    nn.BatchNorm1d,
    nn.BatchNorm2d,
    nn.BatchNorm3d,
    nn.SyncBatchNorm,
    nn.InstanceNorm1d,
    nn.InstanceNorm2d,
    nn.InstanceNorm3d,
    nn.GroupNorm,
    nn.LayerNorm,
    nn.RMSNorm,
)


def state_arrays(network: nn.Module) -> dict[str, NDArray[Any]]:
    """Return copies of the floating-point parameters and buffers, in the network's order.

    Integer buffers stay behind: BatchNorm's ``num_batches_tracked`` (averaging counters means
    nothing, and they tell how much a site trained) and constant index tables of transformers,
    which the constructor makes.
    """
    return {
        name: tensor.detach().cpu().numpy().copy() for name, tensor in _floating(network).items()
    }


def load_arrays(network: nn.Module, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Copy ``arrays`` into ``network``, in place and only when every one of them fits.

    Raises:
        ModelError: an array is missing, unknown, or of another shape or dtype; it is named.
    """
    own = _floating(network)
    for kind, names in (("missing", own.keys() - arrays), ("unknown", arrays.keys() - own)):
        if names:
            more = f" and {len(names) - 1} more" if len(names) > 1 else ""
            raise ModelError(f"weights do not fit the network: {kind} array {min(names)!r}{more}")
    loaded = {name: _checked(name, arrays[name], tensor) for name, tensor in own.items()}
    with torch.no_grad():
        for name, tensor in own.items():
            tensor.copy_(loaded[name])


def norm_names(network: nn.Module) -> frozenset[str]:
    """Names in :func:`state_arrays` of normalisation layers (what FedBN keeps at the site)."""
    names = {
        f"{prefix}.{name}" if prefix else name
        for prefix, module in network.named_modules()
        if isinstance(module, _NORMALISATION)
        for name in module.state_dict()
    }
    return frozenset(names & _floating(network).keys())


def _floating(network: nn.Module) -> dict[str, torch.Tensor]:
    return {n: t for n, t in network.state_dict().items() if t.is_floating_point()}


def _checked(name: str, array: NDArray[Any], tensor: torch.Tensor) -> torch.Tensor:
    expected = torch.empty(0, dtype=tensor.dtype).numpy().dtype
    if array.shape != tuple(tensor.shape) or array.dtype != expected:
        raise ModelError(
            f"weights do not fit the network: array {name!r} is {array.dtype} {array.shape}, "
            f"expected {expected} {tuple(tensor.shape)}"
        )
    # A read-only array (a memory map, a received message) is copied: torch would warn about it.
    return torch.from_numpy(np.require(array, requirements=["C", "W"]))
