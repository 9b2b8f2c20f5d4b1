"""The bottleneck is found in every tested network and read during ordinary forwards."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from fedloop.errors import ModelError
from fedloop.models.bottleneck import find_bottleneck
from fedloop.models.features import FeatureTap
from fedloop.models.registry import build_network, network_names
from fedloop.settings import ModelSettings

torch.set_num_threads(1)

DOWNSAMPLING = {"UNETR": 16, "SwinUNETR": 32, "FlexibleUNet": 32}


@pytest.mark.parametrize("name", network_names())
def test_every_tested_network(name: str) -> None:
    network = build_network(
        ModelSettings(network=name),
        spatial_dims=2,
        in_channels=1,
        classes=2,
        patch_size=(64, 64),
        seed=0,
    )
    factor = DOWNSAMPLING.get(name, 8)
    with FeatureTap(network, torch.zeros(1, 1, 64, 64)) as tap:
        assert tap.bottleneck.multiple == (factor, factor)
        images = torch.randn(2, 1, 64, 64)
        network.eval()
        with torch.no_grad():
            network(images)
            first = tap.latest.clone()
            network(images.flip(0))
        assert first.shape == (2, tap.bottleneck.channels, 64 // factor, 64 // factor)
        assert torch.allclose(tap.latest.flip(0), first, atol=1e-4)
        assert not torch.equal(first[0], first[1])


class Squeeze(nn.Module):
    """A tiny network with a global descriptor, which must not pass for a bottleneck."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.Conv2d(1, 4, 3, stride=2, padding=1)
        self.squeeze = nn.AdaptiveAvgPool2d(1)
        self.expand = nn.Conv2d(4, 9, 1)
        self.gate = nn.Conv2d(9, 4, 1)
        self.up = nn.ConvTranspose2d(4, 2, 2, stride=2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.down(x)
        result: torch.Tensor = self.up(x * self.gate(self.expand(self.squeeze(x))).sigmoid())
        return result


def test_global_descriptors_are_no_maps() -> None:
    found = find_bottleneck(Squeeze(), torch.zeros(1, 1, 8, 8))
    assert (found.module, found.side, found.size) == ("up", "input", (4, 4))


def test_hook_goes_and_mode_stays() -> None:
    network = Squeeze()
    network.gate.eval()
    tap = FeatureTap(network, torch.zeros(1, 1, 8, 8))
    assert network.training
    assert not network.gate.training
    with pytest.raises(ModelError, match="before a forward"):
        _ = tap.latest
    tap.close()
    assert not any(m._forward_pre_hooks or m._forward_hooks for m in network.modules())


def test_no_spatial_map() -> None:
    with pytest.raises(ModelError, match="no spatial feature map"):
        find_bottleneck(nn.Identity(), torch.zeros(1, 1, 4, 4))
