"""One batch of windows through all members: padding, forward, crop and feature pooling."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional

from fedloop.errors import ModelError
from fedloop.imaging.case import Case
from fedloop.imaging.geometry import Box
from fedloop.models.bottleneck import find_bottleneck
from fedloop.models.device import Device, autocast
from fedloop.models.features import FeatureTap
from fedloop.models.inputs import to_input
from fedloop.models.modes import evaluating
from fedloop.models.patchwise import join, split
from fedloop.models.registry import needs_patch_size
from fedloop.settings import ImagingSettings


@dataclass(frozen=True, slots=True)
class Plan:
    """How windows are fed.

    Args:
        halo: context voxels before (and at least as many after) the window.
        multiple: input sides are multiples of this.
        patchwise: the networks see single patches only.
        probe: ``(1, C, *patch_size)``, the smallest input that is known to work.
        classes: classes of the output.
    """

    halo: int
    multiple: tuple[int, ...]
    patchwise: bool
    probe: torch.Tensor
    classes: int

    def padded(self, box: Box) -> Box:
        """The box to read for a window."""
        wide = box.padded(self.halo)
        size = tuple(-(-n // m) * m for n, m in zip(wide.size, self.multiple, strict=True))
        return Box(wide.start, size)


def plan_windows(
    networks: Sequence[nn.Module],
    case: Case,
    imaging: ImagingSettings,
    *,
    classes: int,
    device: Device,
) -> Plan:
    """Find what input sizes the networks need.

    Raises:
        ModelError: there are no networks, or they cannot process a patch of this case.
    """
    if not networks:
        raise ModelError("an ensemble needs at least one network")
    probe = torch.zeros(1, case.channels, *imaging.patch_size, device=device.torch_device)
    try:
        found = [find_bottleneck(network, probe) for network in networks]
    except (RuntimeError, ValueError) as error:
        raise ModelError(
            f"the network cannot process {case.channels}-channel patches of "
            f"{imaging.patch_size}: {error}"
        ) from error
    patchwise = any(needs_patch_size(network) for network in networks)
    multiple = tuple(math.lcm(*sides) for sides in zip(*(b.multiple for b in found), strict=True))
    if patchwise:
        return Plan(0, imaging.patch_size, patchwise, probe, classes)
    return Plan(imaging.halo, multiple, patchwise, probe, classes)


def forward_windows(
    networks: Sequence[nn.Module],
    images: NDArray[Any],
    size: tuple[int, ...],
    plan: Plan,
    imaging: ImagingSettings,
    *,
    device: Device,
    amp: bool,
    with_features: bool,
) -> tuple[list[NDArray[np.float32]], list[NDArray[np.float32] | None]]:
    """Predict N windows of equal ``size`` whose padded images are ``(N, C, *padded)``.

    Returns:
        Per window: probabilities ``(K, classes, *size)``, and features ``(f, *cells)`` or None.

    Raises:
        ModelError: out of memory, or a member answers non-finite values.
    """
    cells = tuple(n // p for n, p in zip(size, imaging.patch_size, strict=True))
    host = torch.from_numpy(np.require(images, requirements="W"))
    batch = to_input(host.to(device.torch_device), imaging)
    probabilities, features = [], []
    try:
        for network in networks:
            with torch.inference_mode(), autocast(device, amp):
                logits, bottleneck = _one(network, batch, cells, plan, with_features)
            inside = tuple(slice(plan.halo, plan.halo + n) for n in size)
            probabilities.append(logits[:, :, *inside].float().softmax(1))
            if bottleneck is not None:
                features.append(_pool(bottleneck.float(), batch.shape[2:], plan, size, cells))
    except torch.OutOfMemoryError as error:
        raise ModelError(
            f"out of memory on {device.name} for inputs {tuple(batch.shape)}: "
            "lower imaging.window_cells"
        ) from error
    stacked = torch.stack(probabilities, 1)
    if not torch.isfinite(stacked.sum()):
        raise ModelError("a member of the ensemble answers non-finite values")
    maps = list(stacked.cpu().numpy())
    if not with_features:
        return maps, [None] * len(maps)
    return maps, list(torch.cat(features, 1).cpu().numpy())


def _one(
    network: nn.Module,
    batch: torch.Tensor,
    cells: tuple[int, ...],
    plan: Plan,
    with_features: bool,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Logits of one member, and its bottleneck where asked for."""
    with ExitStack() as stack:
        stack.enter_context(evaluating(network))
        tap = stack.enter_context(FeatureTap(network, plan.probe)) if with_features else None
        if not plan.patchwise:
            logits = network(batch)
            return logits, tap.latest if tap else None
        logits = join(network(split(batch, cells)), cells)
        return logits, join(tap.latest, cells) if tap else None


def _pool(
    bottleneck: torch.Tensor,
    padded: Sequence[int],
    plan: Plan,
    size: tuple[int, ...],
    cells: tuple[int, ...],
) -> torch.Tensor:
    """Mean bottleneck per patch: ``(N, f, *small)`` → ``(N, f, *cells)``, halo cut off."""
    inside: list[slice] = []
    for small, whole, side in zip(bottleneck.shape[2:], padded, size, strict=True):
        start = min(round(plan.halo * small / whole), small - 1)
        stop = max(start + 1, round((plan.halo + side) * small / whole))
        inside.append(slice(start, stop))
    cropped = bottleneck[:, :, *inside]
    pool: Callable[..., torch.Tensor] = (
        functional.adaptive_avg_pool2d if len(cells) == 2 else functional.adaptive_avg_pool3d
    )
    return pool(cropped, cells)
