"""Scores, features and masks of a case's patches, gathered window by window."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from fedloop.imaging.case import IGNORE, Case
from fedloop.models.inference import WindowPrediction
from fedloop.settings import ImagingSettings
from fedloop.uncertainty.blocks import blocks, inside_image, sums
from fedloop.uncertainty.measures import measure

SCORES = ("uga", "entropy", "mutual_information", "anchor", "foreground")


@dataclass(frozen=True, slots=True)
class CaseScores:
    """The kept patches of one case, in grid order; ``n`` of them, d axes.

    Args:
        cell: ``(n, d)`` grid coordinates.
        scores: ``(n,)`` float32 by name (:data:`SCORES`): means over the patch's tissue voxels.
        features: ``(n, f)`` float32, bottleneck means; f = 0 where none were computed.
        predicted: ``(n, *patch_size)`` uint8, most probable class of the ensemble mean; of length
            0 where masks were not kept.
        pseudo_labels: ``(n, *patch_size)`` uint8, the class all members agree on, IGNORE where
            they do not and outside the image; of length 0 where masks were not kept.
    """

    cell: NDArray[np.int64]
    scores: Mapping[str, NDArray[np.float32]]
    features: NDArray[np.float32]
    predicted: NDArray[np.uint8]
    pseudo_labels: NDArray[np.uint8]

    def __len__(self) -> int:
        return len(self.cell)


def score_case(
    windows: Iterable[WindowPrediction],
    case: Case,
    imaging: ImagingSettings,
    *,
    threshold: float = 0.9,
    masks: bool = True,
) -> CaseScores:
    """Score every patch of ``case`` that holds enough tissue.

    A patch is kept when at least ``imaging.min_tissue`` of its voxels inside the image (and at
    least one) are tissue.

    Args:
        windows: predictions of this case, in any order.
        case: for its shape and tissue.
        imaging: patch size and tissue share.
        threshold: all members must give a voxel's class more than this for a pseudo-label.
        masks: keep predicted masks and pseudo-labels (two bytes per voxel of the kept patches).

    Raises:
        DataError: the tissue of a window cannot be read.
    """
    parts = [_score_window(w, case, imaging, threshold, masks) for w in windows]
    if not parts:
        return _nothing(imaging.patch_size)
    cell = np.concatenate([part.cell for part in parts])
    order = np.lexsort(cell.T[::-1])

    def joined(arrays: Iterable[NDArray[Any]]) -> NDArray[Any]:
        whole = np.concatenate(list(arrays))
        return whole[order] if len(whole) else whole  # masks that were not kept

    return CaseScores(
        cell[order],
        {name: joined(part.scores[name] for part in parts) for name in SCORES},
        joined(part.features for part in parts),
        joined(part.predicted for part in parts),
        joined(part.pseudo_labels for part in parts),
    )


def pseudo_label(probabilities: NDArray[np.float32], threshold: float) -> NDArray[np.uint8]:
    """Class on which all members agree with more than ``threshold`` (> .5), else IGNORE.

    Args:
        probabilities: ``(K, C, *spatial)``.
        threshold: a probability.
    """
    least, label = torch.from_numpy(probabilities).amin(0).max(0)
    return label.to(torch.uint8).masked_fill_(least <= threshold, IGNORE).numpy()


def _score_window(
    window: WindowPrediction,
    case: Case,
    imaging: ImagingSettings,
    threshold: float,
    masks: bool,
) -> CaseScores:
    patch, box = imaging.patch_size, window.box
    tissue = case.read_tissue(box)
    inside = inside_image(box, case.shape)
    tissue_voxels = sums(tissue[None].astype(np.float32), patch)[0]
    image_voxels = sums(inside[None].astype(np.float32), patch)[0]
    # In double precision, as the patch bank does: at the limit both must decide alike.
    share = tissue_voxels.astype(np.float64) / np.maximum(image_voxels, 1)
    keep = (tissue_voxels > 0) & (share >= imaging.min_tissue)

    maps = measure(window.probabilities)
    predicted = maps.mean.argmax(0).astype(np.uint8)
    stack = np.stack([*(getattr(maps, name) for name in SCORES[:-1]), predicted != 0])
    means = sums(stack * tissue, patch)[:, keep] / tissue_voxels[keep]

    cell = np.argwhere(keep) + np.array(box.start) // np.array(patch)
    features = window.features
    if features is None:
        features = np.empty((0, *keep.shape), np.float32)
    kept_masks = np.empty((2, 0, *patch), np.uint8)
    if masks:
        labels = np.where(inside, pseudo_label(window.probabilities, threshold), np.uint8(IGNORE))
        kept_masks = np.stack([blocks(mask, patch)[keep] for mask in (predicted, labels)])
    return CaseScores(
        cell.astype(np.int64),
        dict(zip(SCORES, means.astype(np.float32), strict=True)),
        np.ascontiguousarray(features[:, keep].T),
        *kept_masks,
    )


def _nothing(patch: tuple[int, ...]) -> CaseScores:
    empty = np.empty((0, *patch), np.uint8)
    return CaseScores(
        np.empty((0, len(patch)), np.int64),
        {name: np.empty(0, np.float32) for name in SCORES},
        np.empty((0, 0), np.float32),
        empty,
        empty,
    )
