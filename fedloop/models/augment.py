"""Random changes of a batch of training patches; labels follow the geometry."""

from __future__ import annotations

from itertools import combinations

import torch

from fedloop.models.inputs import memory_format
from fedloop.settings import AugmentSettings


def augment(
    images: torch.Tensor,
    labels: torch.Tensor,
    settings: AugmentSettings,
    generator: torch.Generator,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return randomly changed copies; every sample draws its own change.

    Args:
        images: ``(N, C, *spatial)`` float32, two or three spatial axes, any device.
        labels: ``(N, *spatial)``, any integer type; flipped and rotated with the images.
        settings: which changes, and how strong.
        generator: a CPU generator, so that CPU and GPU runs draw the same changes.

    Returns:
        Images (channels last) and labels of the shapes given. Rotations by 90° take place in the
        planes whose two sides are equal. Gain and offset jitter changes images only.
    """
    if settings.flip:
        for axis in range(1, labels.ndim):
            chosen = torch.randint(2, (len(images),), generator=generator).bool()
            images, labels = _flip(images, labels, axis, chosen.to(images.device))
    if settings.rotate90:
        for plane in _square_planes(labels.shape[1:]):
            turns = torch.randint(4, (len(images),), generator=generator).to(images.device)
            images, labels = _rotate(images, labels, plane, turns)
    if settings.intensity_jitter:
        images = _jitter(images, settings.intensity_jitter, generator)
    return images.contiguous(memory_format=memory_format(labels.ndim - 1)), labels.contiguous()


def _square_planes(spatial: torch.Size) -> list[tuple[int, int]]:
    """Pairs of spatial axes (0-based) with equal sides."""
    return [(a, b) for a, b in combinations(range(len(spatial)), 2) if spatial[a] == spatial[b]]


def _flip(
    images: torch.Tensor, labels: torch.Tensor, axis: int, chosen: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Flip the ``chosen`` samples; ``axis`` counts in the labels, so it is one more in images."""
    where = chosen.view(-1, *[1] * (labels.ndim - 1))
    return (
        torch.where(where.unsqueeze(1), images.flip(axis + 1), images),
        torch.where(where, labels.flip(axis), labels),
    )


def _rotate(
    images: torch.Tensor, labels: torch.Tensor, plane: tuple[int, int], turns: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Rotate sample i by ``turns[i]`` quarter turns in ``plane``."""
    new_images, new_labels = images.clone(), labels.clone()
    for count in (1, 2, 3):
        index = torch.nonzero(turns == count).flatten()
        new_images[index] = torch.rot90(images[index], count, (plane[0] + 2, plane[1] + 2))
        new_labels[index] = torch.rot90(labels[index], count, (plane[0] + 1, plane[1] + 1))
    return new_images, new_labels


def _jitter(images: torch.Tensor, deviation: float, generator: torch.Generator) -> torch.Tensor:
    shape = (2, *images.shape[:2], *[1] * (images.ndim - 2))
    noise = torch.randn(shape, generator=generator).mul_(deviation).to(images.device)
    return images * (1 + noise[0]) + noise[1]
