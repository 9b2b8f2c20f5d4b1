"""Random fields and blobs: moments, scale, and windows at the slide's rim."""

from __future__ import annotations

import numpy as np
import pytest

from simulation.synthetic.textures import Blob, irregular_disc, smooth_field


@pytest.mark.parametrize("sigma", [0.5, 4.0, 60.0])
def test_field_is_standardised(sigma: float) -> None:
    field = smooth_field(np.random.default_rng(0), 200, sigma)
    assert field.shape == (200, 200)
    assert field.dtype == np.float32
    assert abs(field.mean()) < 1e-4
    assert field.std() == pytest.approx(1.0, abs=1e-4)


def test_wider_sigma_gives_a_smoother_field() -> None:
    steps = [
        np.abs(np.diff(smooth_field(np.random.default_rng(0), 256, sigma), axis=0)).mean()
        for sigma in (2.0, 8.0, 32.0)
    ]
    assert steps[0] > 2 * steps[1] > 4 * steps[2]


def test_disc_has_its_area_and_center() -> None:
    blob = irregular_disc(np.random.default_rng(0), (50, 70), 20.0, wobble=0.0)
    assert blob.mask.sum() == pytest.approx(np.pi * 20**2, rel=0.02)
    rows, columns = np.nonzero(blob.mask)
    assert rows.mean() + blob.top == pytest.approx(50)
    assert columns.mean() + blob.left == pytest.approx(70)


@pytest.mark.parametrize(
    ("top", "left", "pixels"), [(-2, -1, 2 * 3), (8, 8, 4), (3, 3, 16), (20, 0, 0), (-9, -9, 0)]
)
def test_clip_keeps_what_is_on_the_slide(top: int, left: int, pixels: int) -> None:
    window, mask = Blob(np.ones((4, 4), bool), top, left).clip((10, 10))
    slide = np.zeros((10, 10), int)
    slide[window] += mask
    assert slide.sum() == mask.sum() == pixels
