from __future__ import annotations

import numpy as np
import pytest
import torch

from fedloop.errors import ModelError
from fedloop.models.inputs import to_input
from fedloop.settings import ImagingSettings, IntensitySettings

RGB = ImagingSettings()
CT = ImagingSettings(intensity=IntensitySettings(kind="window"))


def test_rgb_is_scaled_and_its_source_left_alone() -> None:
    images = np.random.default_rng(0).integers(0, 256, (2, 3, 8, 8), dtype=np.uint8)
    images.flags.writeable = False
    result = to_input(images, RGB)
    np.testing.assert_allclose(result.numpy(), (images / 255 - 0.7) / 0.25, atol=1e-6)
    assert result.is_contiguous(memory_format=torch.channels_last)


def test_float32_passes() -> None:
    volume = torch.randn(2, 2, 4, 4, 4)
    result = to_input(volume, CT)
    assert torch.equal(result, volume)
    assert result.is_contiguous(memory_format=torch.channels_last_3d)


@pytest.mark.parametrize(
    ("images", "imaging", "match"),
    [
        (np.zeros((1, 1, 4, 4), np.uint8), CT, "intensity kind is 'window'"),
        (np.zeros((1, 1, 4, 4), np.float64), RGB, "uint8 or float32"),
        (np.zeros((3, 4, 4), np.uint8), RGB, "N, C"),
    ],
)
def test_refusals(images: np.ndarray, imaging: ImagingSettings, match: str) -> None:
    with pytest.raises(ModelError, match=match):
        to_input(images, imaging)
