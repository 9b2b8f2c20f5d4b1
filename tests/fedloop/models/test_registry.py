"""Every tested network builds, learns and explains its refusals."""

from __future__ import annotations

import logging

import pytest
import torch

from fedloop.errors import ModelError
from fedloop.models.losses import build_loss
from fedloop.models.registry import build_network, needs_patch_size, network_names
from fedloop.models.weights import state_arrays
from fedloop.settings import ModelSettings

torch.set_num_threads(1)

SMALL: dict[str, dict[str, object]] = {
    "UNETR": {"hidden_size": 48, "mlp_dim": 64, "num_heads": 4, "feature_size": 8},
    "SwinUNETR": {"feature_size": 12},
    "DiNTS": {"channel_mul": 0.25, "num_blocks": 2, "num_depths": 2},
    "DynUNet": {
        "kernel_size": [3, 3, 3],
        "strides": [1, 2, 2],
        "upsample_kernel_size": [2, 2],
        "filters": [8, 16, 32],
    },
}
"""Parameters that keep the heavy networks quick; the others run with their defaults."""


def build(
    name: str, dims: int, side: int | tuple[int, ...], seed: int = 0, **parameters: object
) -> torch.nn.Module:
    return build_network(
        ModelSettings(network=name, parameters=parameters),
        spatial_dims=dims,
        in_channels=2,
        classes=3,
        patch_size=side if isinstance(side, tuple) else (side,) * dims,
        seed=seed,
    )


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("name", network_names())
def test_forward_and_backward(name: str, dims: int) -> None:
    # SwinUNETR halves five times, and its instance norm wants two voxels at the bottom.
    patch = (64, 32, 32)[:dims] if name == "SwinUNETR" else (32,) * dims
    network = build(name, dims, patch, **SMALL.get(name, {}))
    images = torch.randn(2, 2, *patch)
    logits = network(images)
    assert logits.shape == (2, 3, *patch)
    target = torch.randint(3, (2, *patch), dtype=torch.uint8)
    build_loss("dice_ce", 3)(logits, target).backward()
    gradients = [p.grad for p in network.parameters() if p.grad is not None]
    assert gradients
    assert all(bool(g.isfinite().all()) for g in gradients)


@pytest.mark.parametrize("name", network_names())
def test_name_alone_is_enough(name: str) -> None:
    # The settings' default parameters belong to UNet and must not reach another network.
    network = build_network(
        ModelSettings(network=name),
        spatial_dims=2,
        in_channels=3,
        classes=2,
        patch_size=(64, 64),
        seed=0,
    )
    assert network.training


def test_same_seed_same_weights_and_global_state_untouched() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    first, second, other = (build("UNet", 2, 32, seed=s) for s in (1, 1, 2))
    assert torch.equal(torch.rand(3), expected)
    a, b, c = (state_arrays(n) for n in (first, second, other))
    assert all((a[k] == b[k]).all() for k in a)
    assert any((a[k] != c[k]).any() for k in a)


def test_proof_leaves_running_statistics_alone() -> None:
    network = build("UNet", 2, 16, norm="batch", channels=[4, 8], strides=[2])
    state = network.state_dict()
    assert all(bool((v == 0).all()) for k, v in state.items() if k.endswith("running_mean"))


def test_unknown_network_names_the_nearest() -> None:
    with pytest.raises(ModelError, match=r"'SegResNett'; did you mean 'SegResNet'"):
        build("SegResNett", 2, 32)


def test_unknown_parameter_names_the_allowed() -> None:
    with pytest.raises(ModelError, match=r"UNet: unknown parameter 'chanels'.*'channels'.*strides"):
        build("UNet", 2, 32, chanels=[1])


@pytest.mark.parametrize(
    ("name", "parameter"),
    [("UNet", "in_channels"), ("FlexibleUNet", "pretrained"), ("DenseNet121", "pretrained")],
)
def test_parameters_of_fedloop_are_refused(name: str, parameter: str) -> None:
    with pytest.raises(ModelError, match=f"{name}: parameter '{parameter}' is set by fedloop"):
        build(name, 2, 32, **{parameter: True})


def test_bad_value_is_one_line() -> None:
    with pytest.raises(ModelError, match="network UNet cannot be built") as caught:
        build("UNet", 2, 32, channels=[4], strides=[])
    assert "\n" not in str(caught.value)


def test_indivisible_patch_names_one_that_works() -> None:
    with pytest.raises(ModelError, match=r"patches of \(60, 60\).*\(64, 64\) works"):
        build("UNet", 2, 60)


def test_patch_too_small_to_train_is_found_at_build() -> None:
    # Instance norm refuses a single voxel in training only; evaluation alone would pass.
    with pytest.raises(ModelError, match="works"):
        build("UNet", 2, 8, channels=[4, 8, 8, 8], strides=[2, 2, 2], norm="instance")


def test_dimensions_must_match_the_patch() -> None:
    with pytest.raises(ModelError, match="spatial dimensions"):
        build_network(
            ModelSettings(), spatial_dims=3, in_channels=1, classes=2, patch_size=(32, 32), seed=0
        )


def test_untested_network_is_built_with_one_warning(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            build("BasicUNet", 2, 32, features=[4, 4, 8, 8, 16, 4])
    messages = [r.message for r in caplog.records if "not among the tested" in r.message]
    assert len(messages) == 1


def test_only_unetr_needs_its_patch_size() -> None:
    assert needs_patch_size(build("UNETR", 2, 32, **SMALL["UNETR"]))
    assert not needs_patch_size(build("UNet", 2, 32))
