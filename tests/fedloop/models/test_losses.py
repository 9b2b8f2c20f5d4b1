"""Losses against MONAI, against numbers worked out by hand, and with ignored voxels."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.losses.dice import DiceCELoss

from fedloop.errors import ModelError
from fedloop.imaging.case import IGNORE
from fedloop.models.losses import build_loss

torch.set_num_threads(1)


@pytest.mark.parametrize(("classes", "spatial"), [(2, (9, 7)), (4, (5, 6, 4))])
def test_equals_monai_without_ignored_voxels(classes: int, spatial: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    logits = torch.randn(3, classes, *spatial)
    target = torch.randint(classes, (3, *spatial))
    theirs = DiceCELoss(
        include_background=False,
        to_onehot_y=True,
        softmax=True,
        batch=True,
        smooth_nr=20.0,
        smooth_dr=20.0,
    )
    # MONAI drops the background from both terms; its cross-entropy alone is torch's.
    expected = theirs.dice(logits, target[:, None]) + theirs.cross_entropy(logits, target)
    assert torch.allclose(build_loss("dice_ce", classes)(logits, target), expected, atol=1e-6)


def test_by_hand() -> None:
    # Two voxels, p(foreground) = 3/4 and 1/4, truth foreground and background.
    logits = torch.tensor([[[[0.0, math.log(3)]], [[math.log(3), 0.0]]]])
    target = torch.tensor([[[1, 0]]], dtype=torch.uint8)
    cross_entropy = -math.log(3 / 4)
    dice = 1 - (2 * 0.75 + 1) / (1 + 1 + 1)
    assert build_loss("ce", 2)(logits, target).item() == pytest.approx(cross_entropy)
    together = build_loss("dice_ce", 2, smooth=1.0)(logits, target).item()
    assert together == pytest.approx(cross_entropy + dice)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), share=st.floats(0, 1), name=st.sampled_from(["ce", "dice_ce"]))
def test_ignored_voxels_change_nothing(seed: int, share: float, name: str) -> None:
    g = torch.Generator().manual_seed(seed)
    logits = torch.randn(2, 3, 6, 5, generator=g)
    target = torch.randint(3, (2, 6, 5), generator=g)
    ignored = torch.rand(2, 6, 5, generator=g) < share
    target[ignored] = IGNORE
    changed = torch.where(ignored[:, None], torch.randn(2, 3, 6, 5, generator=g) * 9, logits)
    loss = build_loss(name, 3)
    logits.requires_grad_()
    value = loss(logits, target)
    value.backward()
    assert torch.equal(value, loss(changed, target))
    assert logits.grad is not None
    assert bool((logits.grad.movedim(1, -1)[ignored] == 0).all())
    if not ignored.all():
        # The same as if the ignored voxels had been cut out.
        kept = logits.detach().movedim(1, -1)[~ignored].T[None, :, :, None]
        assert torch.allclose(value, loss(kept, target[~ignored][None, :, None]), atol=1e-5)


@pytest.mark.parametrize("name", ["ce", "dice_ce"])
def test_only_ignored_voxels_give_zero(name: str) -> None:
    logits = torch.randn(2, 2, 4, 4, requires_grad=True)
    value = build_loss(name, 2)(logits, torch.full((2, 4, 4), IGNORE, dtype=torch.uint8))
    value.backward()
    assert value.item() == 0
    assert logits.grad is not None
    assert not logits.grad.any()


def test_float32_under_autocast() -> None:
    logits, target = torch.randn(2, 2, 8, 8).bfloat16(), torch.randint(2, (2, 8, 8))
    with torch.autocast("cpu", torch.bfloat16):
        value = build_loss("dice_ce", 2)(logits, target)
    assert value.dtype == torch.float32
    assert torch.equal(value, build_loss("dice_ce", 2)(logits.float(), target))


def test_refusals() -> None:
    with pytest.raises(ModelError, match="did you mean 'dice_ce'"):
        build_loss("dice-ce", 2)
    with pytest.raises(ModelError, match="foreground"):
        build_loss("ce", 1)
    with pytest.raises(ModelError, match="expected a target"):
        build_loss("ce", 2)(torch.zeros(1, 2, 4, 4), torch.zeros(1, 1, 4, 4))
