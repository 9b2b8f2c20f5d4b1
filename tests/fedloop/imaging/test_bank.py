from __future__ import annotations

from dataclasses import replace
from itertools import product

import numpy as np
import pytest

from fedloop.errors import DataError
from fedloop.imaging.bank import load_bank
from fedloop.imaging.case import IGNORE
from fedloop.imaging.geometry import Box, Grid
from fedloop.imaging.intensity import normaliser
from fedloop.imaging.tiles import TileCase
from fedloop.imaging.volumes import VolumeCase
from fedloop.settings import ImagingSettings, IntensitySettings

IMAGING = ImagingSettings(patch_size=(16, 16), tissue="bright", min_tissue=0.3, window_cells=2)


@pytest.fixture(scope="module")
def tiles(tmp_path_factory, write_picture, rng):
    folder = tmp_path_factory.mktemp("bank")
    cases = []
    for name, shape in (("a", (50, 70)), ("b", (33, 16))):
        pixels = np.zeros((*shape, 3), np.uint8)
        pixels[:, 10:] = rng.integers(80, 250, (shape[0], shape[1] - 10, 3))
        image = write_picture(folder / f"{name}.png", pixels)
        mask = rng.integers(0, 2, shape, dtype=np.uint8)
        label = write_picture(folder / f"{name}_mask.png", mask)
        cases.append(TileCase(name, "x", image, label, tissue="bright"))
    return cases


def slow(cases, imaging):
    """Patch by patch, as the definition says."""
    for index, case in enumerate(cases):
        grid = Grid(case.shape, imaging.patch_size)
        for cell in grid:
            box = grid.box(cell)
            inside = box.clipped(case.shape).voxels
            if case.read_tissue(box).sum() / inside >= imaging.min_tissue:
                yield index, cell, case.read(box), case.read_label(box)


@pytest.mark.parametrize("least", [0.0, 0.3, 0.9])
def test_equals_patch_by_patch(tiles, least):
    imaging = IMAGING.model_copy(update={"min_tissue": least})
    bank = load_bank(tiles, imaging)
    expected = {(i, cell): (image, label) for i, cell, image, label in slow(tiles, imaging)}
    assert bank.case_ids == ("a", "b")
    assert bank.images.dtype == np.uint8
    assert (bank.case.dtype, bank.cell.dtype) == (np.int64, np.int64)
    assert len(bank) == len(expected)
    for n in range(len(bank)):
        image, label = expected[int(bank.case[n]), tuple(bank.cell[n].tolist())]
        np.testing.assert_array_equal(bank.images[n], image)
        np.testing.assert_array_equal(bank.labels[n], label)


def test_labels_are_ignored_outside_the_image_only(tiles):
    bank = load_bank(tiles, IMAGING.model_copy(update={"min_tissue": 0.0}))
    corner = int(np.flatnonzero((bank.case == 0) & (bank.cell == [3, 4]).all(axis=1))[0])
    assert (bank.labels[corner][2:] == IGNORE).all()
    assert (bank.labels[corner][:, 6:] == IGNORE).all()
    first = bank.labels[0]
    assert not (first == IGNORE).any(), "black surround is labelled, not unknown"


def test_without_labels(tiles):
    bank = load_bank([replace(tiles[0], label_path=None)], IMAGING, with_labels=False)
    assert len(bank)
    assert (bank.labels == IGNORE).all()
    with pytest.raises(DataError, match="no label"):
        load_bank([replace(tiles[0], label_path=None)], IMAGING)


def test_normalised_unless_rgb(tiles):
    zscore = IMAGING.model_copy(update={"intensity": IntensitySettings(kind="zscore")})
    bank = load_bank(tiles[:1], zscore)
    raw = load_bank(tiles[:1], IMAGING)
    assert bank.images.dtype == np.float32
    expected = normaliser(tiles[0], zscore.intensity)(raw.images)
    np.testing.assert_allclose(bank.images, expected, rtol=1e-6)


def test_volumes(tmp_path, write_volume, rng):
    voxels = rng.normal(50, 10, (9, 17, 8)).astype(np.float32)
    image = write_volume(tmp_path / "v.nii.gz", voxels)
    label = write_volume(tmp_path / "l.nii.gz", (voxels > 50).astype(np.uint8))
    case = VolumeCase("v", "x", image, label)
    imaging = ImagingSettings(
        patch_size=(8, 8, 8), intensity=IntensitySettings(kind="window", window=(0, 100))
    )
    bank = load_bank([case], imaging)
    assert bank.images.shape == (6, 1, 8, 8, 8)
    assert bank.cell.tolist() == [list(c) for c in product(range(2), range(3), range(1))]
    np.testing.assert_allclose(
        bank.images[4, 0], case.read(Box((8, 8, 0), (8, 8, 8)))[0] / 100, rtol=1e-5
    )
    with pytest.raises(DataError, match="zscore"):
        load_bank([case], imaging.model_copy(update={"intensity": IntensitySettings()}))


def test_nothing_kept_has_the_right_shapes(tmp_path, write_picture):
    image = write_picture(tmp_path / "k.png", np.full((20, 20, 3), (255, 255, 255), np.uint8))
    case = TileCase("k", "x", image, tissue="saturation")
    bank = load_bank([case], IMAGING, with_labels=False)
    assert len(bank) == 0
    assert bank.images.shape == (0, 3, 16, 16)
    assert bank.labels.shape == (0, 16, 16)
    assert bank.cell.shape == (0, 2)


def test_cases_that_do_not_fit(tiles, tmp_path, write_volume):
    volume = VolumeCase("v", "x", write_volume(tmp_path / "v.nii", np.ones((8, 8, 8), np.float32)))
    with pytest.raises(DataError, match="case v has 1 channel"):
        load_bank([tiles[0], volume], IMAGING)
    with pytest.raises(DataError, match="no cases"):
        load_bank([], IMAGING)
