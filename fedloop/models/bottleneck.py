"""Where a network is narrowest: found by one probe forward, for any architecture."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from fedloop.errors import ModelError
from fedloop.models.modes import evaluating


@dataclass(frozen=True, slots=True)
class Bottleneck:
    """Where a network is narrowest.

    Args:
        module: qualified name of the module.
        side: whether its ``output`` or its ``input`` is the bottleneck. (UNETR's tokens become a
            map outside any module, on their way into the first decoder.)
        channels: channels of the map.
        size: spatial size of the map for the probe.
        probe: spatial size of the probe.
    """

    module: str
    side: str
    channels: int
    size: tuple[int, ...]
    probe: tuple[int, ...]

    @property
    def multiple(self) -> tuple[int, ...]:
        """Input sides must be multiples of this: the total downsampling along each axis.

        Where that is no whole number, the probe's own size, which is known to work.
        """
        return tuple(
            p // s if p % s == 0 else p for p, s in zip(self.probe, self.size, strict=True)
        )


_KNOWN: WeakKeyDictionary[nn.Module, dict[tuple[int, ...], Bottleneck]] = WeakKeyDictionary()


def find_bottleneck(network: nn.Module, sample: torch.Tensor) -> Bottleneck:
    """Find the smallest feature map of a forward of ``sample`` (remembered per network and shape).

    Among maps of the smallest size the one with most channels is taken, and of those the last
    computed. Global descriptors (squeeze-and-excitation) are not maps: they stay one voxel large
    when the input grows.

    Args:
        sample: ``(N, C, *spatial)`` on the network's device; only its shape matters.

    Raises:
        ModelError: no module has a spatial output.
    """
    known = _KNOWN.setdefault(network, {})
    shape = tuple(sample.shape)
    if shape not in known:
        known[shape] = _find(network, sample)
    return known[shape]


def _find(network: nn.Module, sample: torch.Tensor) -> Bottleneck:
    maps = _maps(network, sample)
    if any(math.prod(found.size) == 1 for found in maps):
        # Ambiguous: a true map of one voxel, or a global descriptor? Only the former grows.
        maps = _growing(network, sample, maps)
    if not maps:
        raise ModelError(f"{type(network).__name__} has no spatial feature map to read")
    smallest = min(math.prod(found.size) for found in maps)
    best = maps[0]
    for found in maps:
        if math.prod(found.size) == smallest and (
            math.prod(best.size) > smallest or found.channels >= best.channels
        ):
            best = found
    return best


def _growing(network: nn.Module, sample: torch.Tensor, maps: list[Bottleneck]) -> list[Bottleneck]:
    """Drop the one-voxel maps that stay one voxel when the input is doubled."""
    try:
        larger = _maps(network, torch.cat([sample, sample], dim=2))
    except (RuntimeError, ValueError):
        return maps  # a network of fixed input size; none of these has global descriptors
    flat = {(found.module, found.side) for found in larger if math.prod(found.size) == 1}
    return [found for found in maps if (found.module, found.side) not in flat]


def _maps(network: nn.Module, sample: torch.Tensor) -> list[Bottleneck]:
    """All spatial maps that enter or leave a module, in the order of computation."""
    probe = tuple(sample.shape[2:])
    found: list[Bottleneck] = []

    def note(module: str, side: str) -> Callable[[torch.Tensor], None]:
        def store(tensor: torch.Tensor) -> None:
            size = tuple(tensor.shape[2:])
            # Attention matrices and channels-last tokens have the right number of axes by chance:
            # they differ in the batch, or are larger than the image along some axis.
            spatial = len(size) == len(probe) and tensor.shape[0] == sample.shape[0]
            if spatial and all(0 < s <= p for s, p in zip(size, probe, strict=True)):
                found.append(Bottleneck(module, side, tensor.shape[1], size, probe))

        return store

    handles = [
        listen(module, side, note(name, side))
        for name, module in network.named_modules()
        for side in ("input", "output")
        if name
    ]
    try:
        with evaluating(network), torch.inference_mode():
            network(sample)
    finally:
        for handle in handles:
            handle.remove()
    return found


def listen(module: nn.Module, side: str, store: Callable[[torch.Tensor], None]) -> RemovableHandle:
    """Call ``store`` with the module's first input or its output whenever it is a tensor."""

    def before(_module: nn.Module, inputs: tuple[Any, ...]) -> None:
        if inputs and isinstance(inputs[0], torch.Tensor):
            store(inputs[0])

    def after(_module: nn.Module, _inputs: tuple[Any, ...], output: Any) -> None:
        if isinstance(output, torch.Tensor):
            store(output)

    if side == "input":
        return module.register_forward_pre_hook(before)
    return module.register_forward_hook(after)
