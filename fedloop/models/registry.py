"""Builds a network from its name and parameters, reproducibly, and proves that it fits."""

from __future__ import annotations

import copy
import inspect
from typing import Any

import torch
from torch import nn

from fedloop.configuration import suggest
from fedloop.errors import ModelError
from fedloop.models.adapters import ADAPTERS, Adapter, Task, find_adapter
from fedloop.settings import ModelSettings

_PROVEN: set[tuple[str, Task]] = set()
"""Configurations that have passed :func:`_prove` in this process (ensembles repeat them)."""

_REFUSALS = (
    RuntimeError,
    ValueError,
    TypeError,
    KeyError,
    IndexError,
    AssertionError,
    NotImplementedError,
)
"""What MONAI and torch raise for parameters or sizes they cannot use."""


def network_names() -> tuple[str, ...]:
    """Names of the networks fedloop is tested with."""
    return tuple(ADAPTERS)


def build_network(
    settings: ModelSettings,
    *,
    spatial_dims: int,
    in_channels: int,
    classes: int,
    patch_size: tuple[int, ...],
    seed: int,
) -> nn.Module:
    """Build a network whose output is ``(N, classes, *spatial)`` logits, on the CPU, training mode.

    Args:
        settings: the MONAI class by name and its parameters; what they leave out gets a default.
        spatial_dims: 2 or 3.
        in_channels: channels of the images.
        classes: number of classes, background included.
        patch_size: sides of a training patch, in voxels.
        seed: of the initial weights; the global random state is left as it was.

    Raises:
        ModelError: unknown network or parameter, unusable values, or a patch size that the
            network cannot halve as often as it wants to.
    """
    if spatial_dims not in (2, 3) or len(patch_size) != spatial_dims:
        raise ModelError(
            f"patch size {patch_size} does not fit {spatial_dims} spatial dimensions (2 or 3)"
        )
    task = Task(spatial_dims, in_channels, classes, tuple(patch_size))
    adapter = find_adapter(settings.network)
    parameters = _parameters(settings, adapter, task)
    with torch.random.fork_rng(devices=[]):
        # Only the CPU generator: torch.manual_seed would also reset those of the GPUs.
        torch.default_generator.manual_seed(seed)
        network = _construct(settings.network, adapter, task, parameters)
        key = (settings.model_dump_json(exclude={"members"}), task)
        if key not in _PROVEN:
            _prove(settings.network, network, adapter, task, parameters)
            _PROVEN.add(key)
    return network


def needs_patch_size(network: nn.Module) -> bool:
    """Whether the network accepts only inputs of the patch size it was built for (UNETR)."""
    return "img_size" in inspect.signature(type(network)).parameters


def _parameters(settings: ModelSettings, adapter: Adapter, task: Task) -> dict[str, Any]:
    """Defaults and the configuration's parameters, checked by name."""
    given = settings.parameters
    if settings.network != "UNet" and given == ModelSettings().parameters:
        given = {}  # the settings' own default is UNet's, and says nothing about another network
    allowed = adapter.allowed(task)
    for name in given:
        if name in adapter.fixed(task):
            raise ModelError(
                f"network {settings.network}: parameter {name!r} is set by fedloop; leave it out"
            )
        if name not in allowed:
            raise ModelError(
                f"network {settings.network}: unknown parameter {name!r}{suggest(name, allowed)}"
            )
    return {**adapter.defaults, **given}


def _construct(name: str, adapter: Adapter, task: Task, parameters: dict[str, Any]) -> nn.Module:
    try:
        return adapter.construct(**copy.deepcopy(parameters), **adapter.fixed(task))
    except _REFUSALS as error:
        raise ModelError(f"network {name} cannot be built: {_line(error)}") from error


def _prove(
    name: str, network: nn.Module, adapter: Adapter, task: Task, parameters: dict[str, Any]
) -> None:
    """Feed zeros once, as in inference and as in training; the network itself is left as it was."""
    try:
        _dry_forward(network, task)
    except _REFUSALS as error:
        hint = _working_size(adapter, task, parameters)
        raise ModelError(
            f"network {name} cannot process patches of {task.patch_size}: {hint} ({_line(error)})"
        ) from error


def _dry_forward(network: nn.Module, task: Task) -> None:
    trial = copy.deepcopy(network)
    expected = (task.classes, *task.patch_size)
    # Two in training: batch norm needs more than one value, and instance norm refuses a single
    # voxel only then.
    for training, samples in ((False, 1), (True, 2)):
        trial.train(training)
        with torch.no_grad():
            output = trial(torch.zeros(samples, task.in_channels, *task.patch_size))
        shape = tuple(output.shape) if isinstance(output, torch.Tensor) else type(output).__name__
        if shape != (samples, *expected):
            raise ValueError(f"its output is {shape}, expected {(samples, *expected)}")


def _working_size(adapter: Adapter, task: Task, parameters: dict[str, Any]) -> str:
    """Find the smallest rounding up of the patch size that works, for the error message."""
    for multiple in (2, 4, 8, 16, 32, 64):
        size = tuple(-(-side // multiple) * multiple for side in task.patch_size)
        larger = Task(task.spatial_dims, task.in_channels, task.classes, size)
        try:
            _dry_forward(_construct("", adapter, larger, parameters), larger)
        except (*_REFUSALS, ModelError):
            continue
        return f"it is too small, or not divisible by what the network halves; {size} works"
    return "no larger patch size up to a multiple of 64 works either"


def _line(error: Exception) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 200 else text[:197] + "..."
