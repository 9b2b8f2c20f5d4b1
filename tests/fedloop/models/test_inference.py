"""Windows tile a case, see enough context, and are read once."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from fedloop.errors import DataError, ModelError
from fedloop.imaging.geometry import Box, Grid, Resolution
from fedloop.models.device import choose_device
from fedloop.models.inference import predict_case, predict_windows
from fedloop.models.registry import build_network
from fedloop.settings import ImagingSettings, IntensitySettings, ModelSettings

torch.set_num_threads(1)
CPU = choose_device("cpu")
SETTINGS: dict[str, Any] = {"classes": 2, "device": CPU, "amp": False}


@dataclass
class MemoryCase:
    """A case in memory: zeros outside, tissue where ``tissue_mask`` says."""

    image: NDArray[Any]
    tissue_mask: NDArray[np.bool_] | None = None
    reads: list[Box] = field(default_factory=list)
    case_id: str = "a"
    center: str = "c"
    category: str = ""
    has_label: bool = False
    resolution: Resolution = field(default_factory=Resolution)

    @property
    def shape(self) -> tuple[int, ...]:
        return self.image.shape[1:]

    @property
    def channels(self) -> int:
        return self.image.shape[0]

    def read(self, box: Box) -> NDArray[Any]:
        self.reads.append(box)
        return self._cut(self.image, box)

    def read_label(self, box: Box) -> NDArray[np.uint8]:
        raise NotImplementedError

    def read_tissue(self, box: Box) -> NDArray[np.bool_]:
        mask = np.ones(self.shape, np.bool_) if self.tissue_mask is None else self.tissue_mask
        return self._cut(mask[None], box)[0]

    def _cut(self, array: NDArray[Any], box: Box) -> NDArray[Any]:
        result = np.zeros((array.shape[0], *box.size), array.dtype)
        try:
            inside = box.clipped(self.shape)
        except DataError:
            return result
        at = tuple(
            slice(a - b, a - b + n)
            for a, b, n in zip(inside.start, box.start, inside.size, strict=True)
        )
        result[(slice(None), *at)] = array[(slice(None), *inside.slices)]
        return result


def imaging(patch: tuple[int, ...], cells: int = 2, halo: int = 8) -> ImagingSettings:
    return ImagingSettings(
        patch_size=patch,
        window_cells=cells,
        halo=halo,
        intensity=IntensitySettings(kind="zscore"),
    )


def random_case(*shape: int, seed: int = 0) -> MemoryCase:
    return MemoryCase(np.random.default_rng(seed).normal(size=shape).astype(np.float32))


def tiny(dims: int, channels: int = 1, seed: int = 0) -> nn.Module:
    """One halving; receptive field well below 8 voxels. No biases: zeros outside stay zeros."""
    settings = ModelSettings(
        parameters={"channels": [4, 6], "strides": [2], "norm": "batch", "bias": False}
    )
    return build_network(
        settings,
        spatial_dims=dims,
        in_channels=channels,
        classes=2,
        patch_size=(8,) * dims,
        seed=seed,
    ).eval()


@pytest.mark.parametrize(
    ("shape", "patch", "cells"), [((40, 52), (8, 8), 2), ((16, 24, 20), (8, 8, 8), 2)]
)
def test_windows_equal_one_forward_of_the_whole(
    shape: tuple[int, ...], patch: tuple[int, ...], cells: int
) -> None:
    case = random_case(1, *shape)
    members = [tiny(len(shape), seed=s) for s in (0, 1)]
    windows = list(predict_windows(members, case, imaging(patch, cells), **SETTINGS))
    assert [w.box for w in windows] == list(Grid(shape, patch).windows(cells))
    found = predict_case(members, case, imaging(patch, cells), **SETTINGS)
    with torch.no_grad():
        image = torch.from_numpy(case.image)[None]
        whole = torch.stack([m(image)[0].softmax(0) for m in members]).numpy()
    # The outermost voxels see the padding: zeros of convolutions there, read zeros here.
    inner = (slice(None), slice(None), *(slice(6, n - 6) for n in shape))
    np.testing.assert_allclose(found[inner], whole[inner], atol=1e-5)
    assert found.shape == (2, 2, *shape)
    assert found.dtype == np.float32


def test_each_window_is_read_and_normalised_once() -> None:
    case, calls = random_case(1, 30, 30), []

    def normalise(image: NDArray[Any]) -> NDArray[Any]:
        calls.append(image.shape)
        return image * 2

    members = [tiny(2, seed=s) for s in range(3)]
    doubled = predict_case(members, case, imaging((8, 8)), normalise=normalise, **SETTINGS)
    assert len(case.reads) == len(calls) == len(set(case.reads)) == 4
    twice = predict_case(members, MemoryCase(case.image * 2), imaging((8, 8)), **SETTINGS)
    np.testing.assert_allclose(doubled, twice, atol=1e-6)


def test_batches_equal_single_windows() -> None:
    case = random_case(1, 33, 47)
    one, many = (
        list(
            predict_windows(
                [tiny(2)], case, imaging((8, 8)), with_features=True, batch_voxels=n, **SETTINGS
            )
        )
        for n in (1, 10**9)
    )
    assert [w.box for w in one] == [w.box for w in many]
    for a, b in zip(one, many, strict=True):
        np.testing.assert_allclose(a.probabilities, b.probabilities, atol=1e-6)
        assert a.features is not None
        assert b.features is not None
        np.testing.assert_allclose(a.features, b.features, atol=1e-5)


def test_windows_without_tissue_are_skipped_unread() -> None:
    tissue = np.zeros((32, 32), np.bool_)
    tissue[3, 20] = True
    case = random_case(1, 32, 32)
    case.tissue_mask = tissue
    windows = list(predict_windows([tiny(2)], case, imaging((8, 8)), **SETTINGS))
    assert [w.box.start for w in windows] == [(0, 16)]
    assert len(case.reads) == 1
    whole = predict_case([tiny(2)], case, imaging((8, 8)), **SETTINGS)
    assert (whole[:, 0, 16:] == 1).all()
    assert np.allclose(whole.sum(1), 1)


def test_streams() -> None:
    case = random_case(1, 64, 64)
    windows = predict_windows([tiny(2)], case, imaging((8, 8)), batch_voxels=1, **SETTINGS)
    next(windows)
    assert len(case.reads) == 1


def test_odd_halo_is_rounded_up_to_what_the_network_halves() -> None:
    case = random_case(1, 32, 32)
    found = predict_case([tiny(2)], case, imaging((8, 8), halo=7), **SETTINGS)
    expected = predict_case([tiny(2)], case, imaging((8, 8), halo=8), **SETTINGS)
    assert case.reads[0].size == (30, 30)
    assert found.shape == expected.shape


def test_features_are_means_of_the_patch_under_them() -> None:
    class Identity(nn.Module):
        """Bottleneck of the input's own size: features must be patch means of the image."""

        def __init__(self) -> None:
            super().__init__()
            self.same = nn.Identity()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.cat([self.same(x)] * 2, 1)

    case = random_case(1, 24, 16)
    for window in predict_windows(
        [Identity(), Identity()], case, imaging((8, 8)), with_features=True, **SETTINGS
    ):
        image = case.read_tissue(window.box) * case._cut(case.image, window.box)[0]
        cells = [n // 8 for n in window.box.size]
        means = image.reshape(cells[0], 8, cells[1], 8).mean((1, 3))
        assert window.features is not None
        np.testing.assert_allclose(window.features, np.stack([means, means]), atol=1e-6)


def test_networks_of_fixed_size_see_patch_by_patch() -> None:
    parameters = {"hidden_size": 16, "mlp_dim": 16, "num_heads": 2, "feature_size": 4}
    network = build_network(
        ModelSettings(network="UNETR", parameters=parameters),
        spatial_dims=2,
        in_channels=1,
        classes=2,
        patch_size=(16, 32),
        seed=0,
    ).eval()
    case = random_case(1, 48, 70)
    settings = imaging((16, 32))
    found = predict_case([network], case, settings, **SETTINGS)
    with torch.no_grad():
        patch = torch.from_numpy(case.image[None, :, 16:32, 32:64])
        expected = network(patch).softmax(1)[0].numpy()
    np.testing.assert_allclose(found[0, :, 16:32, 32:64], expected, atol=1e-5)
    windows = list(predict_windows([network], case, settings, with_features=True, **SETTINGS))
    assert [w.features.shape for w in windows if w.features is not None] == [
        (16, 2, 2),
        (16, 2, 1),
        (16, 1, 2),
        (16, 1, 1),
    ]


def test_modes_are_given_back() -> None:
    network = tiny(2).train()
    list(predict_windows([network], random_case(1, 16, 16), imaging((8, 8)), **SETTINGS))
    assert all(module.training for module in network.modules())
    assert not torch.is_inference_mode_enabled()


def test_bfloat16_stays_close() -> None:
    case = random_case(1, 32, 32)
    exact = predict_case([tiny(2)], case, imaging((8, 8)), **SETTINGS)
    rough = predict_case([tiny(2)], case, imaging((8, 8)), classes=2, device=CPU, amp=True)
    assert np.abs(exact - rough).max() < 0.05


def test_refusals() -> None:
    case = random_case(3, 16, 16)
    with pytest.raises(ModelError, match="cannot process 3-channel patches"):
        predict_case([tiny(2)], case, imaging((8, 8)), **SETTINGS)
    with pytest.raises(ModelError, match="at least one"):
        predict_case([], case, imaging((8, 8)), **SETTINGS)
    broken = tiny(2, channels=3)
    with torch.no_grad():
        next(broken.parameters()).fill_(torch.nan)
    with pytest.raises(ModelError, match="non-finite"):
        predict_case([broken], case, imaging((8, 8)), **SETTINGS)
