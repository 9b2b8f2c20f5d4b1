"""Augmentation keeps images and labels together."""

from __future__ import annotations

import pytest
import torch

from fedloop.models.augment import augment
from fedloop.settings import AugmentSettings

torch.set_num_threads(1)


@pytest.mark.parametrize("spatial", [(6, 6), (4, 7), (5, 5, 5), (4, 4, 3)])
def test_labels_follow_the_geometry(spatial: tuple[int, ...]) -> None:
    g = torch.Generator().manual_seed(1)
    labels = torch.randint(0, 250, (16, *spatial), generator=g, dtype=torch.uint8)
    images = labels[:, None].float().repeat_interleave(2, 1)
    settings = AugmentSettings(intensity_jitter=0)
    new_images, new_labels = augment(images, labels, settings, g)
    assert new_images.shape == images.shape
    assert torch.equal(new_images[:, 0], new_labels.float())
    assert torch.equal(new_images[:, 1], new_labels.float())
    assert not torch.equal(new_labels, labels)
    sort = [t.flatten(1).sort().values for t in (labels, new_labels)]
    assert torch.equal(*sort)  # the voxels are permuted, none is lost


def test_all_eight_symmetries_of_a_square_occur() -> None:
    labels = torch.arange(9, dtype=torch.uint8).view(1, 3, 3).repeat(400, 1, 1)
    g = torch.Generator().manual_seed(0)
    _, found = augment(labels[:, None].float(), labels, AugmentSettings(), g)
    assert len({tuple(sample.flatten().tolist()) for sample in found}) == 8


def test_unequal_sides_are_never_rotated() -> None:
    labels = torch.arange(6).view(1, 2, 3).repeat(100, 1, 1)
    g = torch.Generator().manual_seed(0)
    _, found = augment(labels[:, None].float(), labels, AugmentSettings(), g)
    assert len({tuple(sample.flatten().tolist()) for sample in found}) == 4


def test_jitter_is_a_gain_and_an_offset_per_channel() -> None:
    images = torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    settings = AugmentSettings(flip=False, rotate90=False, intensity_jitter=0.1)
    changed, _ = augment(images, torch.zeros(4, 8, 8), settings, torch.Generator().manual_seed(0))
    for before, after in zip(images.flatten(0, 1), changed.flatten(0, 1), strict=True):
        gain = (after.max() - after.min()) / (before.max() - before.min())
        assert torch.allclose(after - after.min(), gain * (before - before.min()), atol=1e-5)


def test_reproducible_and_switchable() -> None:
    images, labels = torch.rand(4, 3, 8, 8), torch.randint(2, (4, 8, 8))
    one, two = (
        augment(images, labels, AugmentSettings(), torch.Generator().manual_seed(3))
        for _ in range(2)
    )
    assert torch.equal(one[0], two[0])
    assert torch.equal(one[1], two[1])
    off = AugmentSettings(flip=False, rotate90=False, intensity_jitter=0)
    same = augment(images, labels, off, torch.Generator().manual_seed(3))
    assert torch.equal(same[0], images)
    assert torch.equal(same[1], labels)
