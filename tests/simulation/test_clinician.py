"""The simulated clinician: every wrong voxel, and seconds that follow from them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from client.annotation.annotator import build_annotator
from client.annotation.store import CorrectionStore, Item
from fedloop.errors import DataError, SettingsError
from fedloop.imaging.case import IGNORE
from fedloop.imaging.geometry import Grid
from fedloop.imaging.tiles import TileCase
from simulation.clinician import READER, SimulatedClinician


@pytest.fixture
def case(tmp_path: Path) -> TileCase:
    """20 x 20 with lesion in rows 0 to 9: the second patch row leaves the image after row 19."""
    label = np.zeros((20, 20), np.uint8)
    label[:10] = 1
    Image.fromarray(np.full((20, 20, 3), 200, np.uint8)).save(tmp_path / "x.png")
    Image.fromarray(label).save(tmp_path / "label.png")
    return TileCase("x", "A", tmp_path / "x.png", tmp_path / "label.png")


def queue(store: CorrectionStore, cell: tuple[int, int], predicted: np.ndarray) -> Item:
    made = Item(0, "x", cell, 0, 0.0, "", predicted.astype(np.uint8))
    store.enqueue("c", 1, [made], pool_patches=1, predicted_foreground=0)
    return store.items("c", 1)[0]


@pytest.mark.parametrize(
    ("cell", "predicted", "wrong"),
    [
        ((0, 0), np.zeros((16, 16)), 160),  # ten rows of sixteen
        ((0, 0), np.ones((16, 16)), 96),
        ((0, 0), np.r_[np.ones((10, 16)), np.zeros((6, 16))], 0),
        ((1, 1), np.ones((16, 16)), 16),  # only 4 x 4 voxels lie inside the image
        ((1, 1), np.zeros((16, 16)), 0),
    ],
)
def test_every_wrong_voxel_inside_the_image_is_corrected(
    tmp_path: Path, case: TileCase, cell: tuple[int, int], predicted: np.ndarray, wrong: int
) -> None:
    store = CorrectionStore(tmp_path / "annotation")
    item = queue(store, cell, predicted)
    clinician = SimulatedClinician({"seconds_per_patch": 7, "seconds_per_1000_px": 30})
    clinician.correct(store, item, case, Grid(case.shape, (16, 16)))
    (correction,) = store.corrections("c", up_to_cycle=1)
    assert correction.corrected_px == wrong
    assert correction.seconds == pytest.approx(7 + 30 * wrong / 1000)
    assert correction.reader == READER
    box = Grid(case.shape, (16, 16)).box(cell)
    assert np.array_equal(correction.mask, case.read_label(box))
    assert (correction.mask == IGNORE).sum() == 256 - (256 if cell == (0, 0) else 16)


@given(st.floats(0, 60), st.floats(0, 200), st.integers(0, 10**6))
def test_seconds_are_a_look_and_the_drawing(look: float, per_1000: float, px: int) -> None:
    clinician = SimulatedClinician({"seconds_per_patch": look, "seconds_per_1000_px": per_1000})
    assert clinician.seconds(px) == pytest.approx(look + per_1000 * px / 1000)


def test_a_case_without_label_is_told(tmp_path: Path, case: TileCase) -> None:
    store = CorrectionStore(tmp_path / "annotation")
    item = queue(store, (0, 0), np.zeros((16, 16)))
    bare = TileCase("x", "A", case.image_path)
    with pytest.raises(DataError, match="x"):
        SimulatedClinician({}).correct(store, item, bare, Grid(case.shape, (16, 16)))
    assert store.counts("c", 1).corrected == 0


def test_it_is_an_installed_annotator_like_any_other() -> None:
    assert isinstance(build_annotator("simulated", {}), SimulatedClinician)
    with pytest.raises(SettingsError, match="unknown key 'second_per_patch'"):
        build_annotator("simulated", {"second_per_patch": 1})
