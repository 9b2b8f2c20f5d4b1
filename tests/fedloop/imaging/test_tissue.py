from __future__ import annotations

import numpy as np
import pytest

from fedloop.errors import DataError
from fedloop.imaging.tissue import otsu, tissue_mask


def _flat(colour, shape=(60, 80)):
    return np.broadcast_to(np.array(colour, np.uint8)[:, None, None], (3, *shape)).copy()


def _noisy(image, rng, amount=10):
    return np.clip(image + rng.integers(-amount, amount + 1, image.shape), 0, 255).astype(np.uint8)


@pytest.mark.parametrize("glass", [(255, 255, 255), (240, 241, 243), (245, 240, 228)])
def test_glass_alone_is_no_tissue(rng, glass):
    assert tissue_mask(_noisy(_flat(glass), rng), "saturation").mean() < 0.01


@pytest.mark.parametrize("stain", [(230, 200, 220), (200, 120, 170), (90, 60, 130)])
def test_tissue_alone_is_tissue(rng, stain):
    assert tissue_mask(_noisy(_flat(stain), rng), "saturation").mean() > 0.99


@pytest.mark.parametrize("stain", [(225, 200, 215), (100, 70, 140), (212, 199, 215)])
def test_tissue_on_yellowish_glass(rng, stain):
    image = _flat((246, 241, 230))
    image[:, 20:40, 20:60] = np.array(stain, np.uint8)[:, None, None]
    mask = tissue_mask(_noisy(image, rng), "saturation")
    assert mask[22:38, 22:58].all()
    assert not mask[:16].any()
    assert not mask[44:].any()


def test_pen_and_unscanned_black_are_no_tissue():
    assert not tissue_mask(_flat((5, 4, 9)), "saturation").any()


def test_bright_is_the_field_of_view():
    image = _flat((0, 0, 0))
    image[:, 10:50, 10:70] = np.array((120, 60, 20), np.uint8)[:, None, None]
    image[:, 25:30, 30:40] = 0  # a vessel belongs to the view
    mask = tissue_mask(image, "bright")
    assert mask[12:48, 12:68].all()
    assert not mask[:8].any()


def test_bright_in_a_volume_leaves_air_out():
    volume = np.full((1, 20, 20, 20), -1000, np.float32)
    volume[:, 5:15, 5:15, 5:15] = 40
    mask = tissue_mask(volume, "bright")
    assert mask[6:14, 6:14, 6:14].all()
    assert not mask[:3].any()
    assert tissue_mask(np.zeros((1, 4, 4, 4), np.float32), "bright").all()


def test_saturation_needs_colour():
    with pytest.raises(DataError, match="needs RGB"):
        tissue_mask(np.zeros((1, 4, 4, 4), np.float32), "saturation")


def test_otsu_separates_two_heaps(rng):
    values = np.concatenate([rng.normal(0.1, 0.02, 900), rng.normal(0.6, 0.05, 100)])
    assert 0.15 < otsu(values.astype(np.float32)) < 0.5
