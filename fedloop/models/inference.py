"""Ensemble prediction of a case, window by window, in memory that does not grow with the case."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from fedloop.imaging.case import Case
from fedloop.imaging.geometry import Box, Grid
from fedloop.models.device import Device
from fedloop.models.forward import Plan, forward_windows, plan_windows
from fedloop.settings import ImagingSettings

Normaliser = Callable[[NDArray[Any]], NDArray[Any]]
"""Maps image voxels ``(C, *size)`` to the same shape (a stain normalisation, for example)."""

BATCH_VOXELS = 1 << 18
"""Windows are batched up to this many voxels: small volumes together, large windows alone."""


@dataclass(frozen=True, slots=True)
class WindowPrediction:
    """What K members say about one window of a case.

    Args:
        box: the window, without halo, aligned to the patch grid; it may reach past the image.
        probabilities: ``(K, C, *box.size)`` float32, a softmax per member.
        features: ``(f, *cells)`` float32: bottleneck means per patch, all members concatenated;
            None where not asked for.
    """

    box: Box
    probabilities: NDArray[np.float32]
    features: NDArray[np.float32] | None


def predict_windows(
    networks: Sequence[nn.Module],
    case: Case,
    imaging: ImagingSettings,
    *,
    classes: int,
    device: Device,
    amp: bool,
    with_features: bool = False,
    normalise: Normaliser | None = None,
    batch_voxels: int = BATCH_VOXELS,
) -> Iterator[WindowPrediction]:
    """Predict every window of ``case`` that holds tissue, in grid order.

    Each window is read and normalised once for all members, with ``imaging.halo`` voxels of
    context around it, rounded up to what the networks can halve. Networks that accept only their
    patch size (UNETR) see the window patch by patch, without context.

    Args:
        networks: the members, on ``device`` already (see :func:`fedloop.models.device.place`);
            their training or evaluation mode is left as it was.
        case: the image.
        imaging: patch size, window size, halo and intensity kind.
        classes: number of classes, background included.
        device: where the networks are.
        amp: bfloat16 autocast where the device has it.
        with_features: also return bottleneck features.
        normalise: applied to the raw voxels of a window before they become network input.
        batch_voxels: windows of equal size are predicted together up to this many voxels.

    Raises:
        ModelError: the networks cannot process these images, run out of memory, or answer
            non-finite values.
        DataError: the case cannot be read.
    """
    plan = plan_windows(networks, case, imaging, classes=classes, device=device)
    for boxes in _batches(case, imaging, plan, batch_voxels):
        images = np.stack([_read(case, plan.padded(box), normalise) for box in boxes])
        yield from (
            WindowPrediction(box, probabilities, features)
            for box, probabilities, features in zip(
                boxes,
                *forward_windows(
                    networks,
                    images,
                    boxes[0].size,
                    plan,
                    imaging,
                    device=device,
                    amp=amp,
                    with_features=with_features,
                ),
                strict=True,
            )
        )


def predict_case(
    networks: Sequence[nn.Module],
    case: Case,
    imaging: ImagingSettings,
    *,
    classes: int,
    device: Device,
    amp: bool,
    normalise: Normaliser | None = None,
) -> NDArray[np.float32]:
    """Predict a case that fits in memory: ``(K, classes, *case.shape)`` float32.

    Windows without tissue are background with probability 1.

    Raises:
        ModelError, DataError: as :func:`predict_windows`.
    """
    result = np.zeros((len(networks), classes, *case.shape), np.float32)
    result[:, 0] = 1
    for window in predict_windows(
        networks,
        case,
        imaging,
        classes=classes,
        device=device,
        amp=amp,
        normalise=normalise,
    ):
        inside = window.box.clipped(case.shape)
        part = tuple(slice(0, n) for n in inside.size)
        # Two axes (members, classes) come before the spatial ones.
        result[:, :, *inside.slices] = window.probabilities[:, :, *part]
    return result


def _batches(
    case: Case, imaging: ImagingSettings, plan: Plan, batch_voxels: int
) -> Iterator[list[Box]]:
    """Consecutive windows with tissue, of equal size, up to ``batch_voxels`` padded voxels."""
    batch: list[Box] = []
    for box in Grid(case.shape, imaging.patch_size).windows(imaging.window_cells):
        if not case.read_tissue(box).any():
            continue
        voxels = (len(batch) + 1) * plan.padded(box).voxels
        if batch and (box.size != batch[0].size or voxels > batch_voxels):
            yield batch
            batch = []
        batch.append(box)
    if batch:
        yield batch


def _read(case: Case, box: Box, normalise: Normaliser | None) -> NDArray[Any]:
    image: NDArray[Any] = case.read(box)
    return image if normalise is None else normalise(image)
