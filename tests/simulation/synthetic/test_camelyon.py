"""The data set on disk: layout, determinism, resumption, and refusals."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import openslide
import pytest

from fedloop.errors import DataError
from fedloop.settings import SyntheticCamelyonSettings
from simulation.synthetic import (
    finish,
    is_finished,
    slide_plan,
    write_camelyon,
    write_slide,
)
from simulation.synthetic.lymph_node import draw_slide

TINY = SyntheticCamelyonSettings(
    side_px=256,
    mpp=4.0,
    igniter_slides=("negative", "macro"),
    pool_slides=("itc", "negative"),
    test_slides=("micro",),
)


def contents(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("finished")
    write_camelyon(folder, TINY, seed=7)
    return folder


@pytest.fixture
def dataset(finished: Path, tmp_path: Path) -> Path:
    """A finished data set that a test may spoil."""
    for name, data in contents(finished).items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(data)
    return tmp_path


def test_layout_is_that_of_camelyon17(finished: Path) -> None:
    plans = slide_plan(TINY, 7)
    lesions = [plan for plan in plans if plan.category != "negative"]
    assert set(contents(finished)) == {
        "README.md",
        "centers.csv",
        "dataset.json",
        "stage_labels.csv",
        *(f"images/{plan.case_id}.tif" for plan in plans),
        *(f"annotations/{plan.case_id}.xml" for plan in lesions),
    }
    assert {"patient_000_node_0", "patient_060_node_1", "patient_081_node_0"} < {
        plan.case_id for plan in plans
    }


def test_slide_shows_what_was_drawn(finished: Path) -> None:
    plan = slide_plan(TINY, 7)[0]
    drawn = draw_slide(plan, TINY).image
    with openslide.OpenSlide(finished / "images" / f"{plan.case_id}.tif") as slide:
        assert float(slide.properties["openslide.mpp-x"]) == pytest.approx(4.0)
        assert "no real tissue" in slide.properties["tiff.ImageDescription"]
        read = np.asarray(slide.read_region((0, 0), 0, (256, 256)))[..., :3].astype(int)
    np.testing.assert_allclose(read.mean((0, 1)), drawn.mean((0, 1)), atol=1.0)
    assert np.abs(read - drawn).mean() < 6.0


def test_marker_lists_every_file_with_its_size(finished: Path) -> None:
    marker = json.loads((finished / "dataset.json").read_text())
    sizes = {name: len(data) for name, data in contents(finished).items()}
    del sizes["dataset.json"]
    assert marker["files"] == sizes
    assert marker["seed"] == 7
    assert SyntheticCamelyonSettings.model_validate(marker["settings"]) == TINY


def test_same_bytes_in_any_order_of_slides(finished: Path, tmp_path: Path) -> None:
    for plan in reversed(slide_plan(TINY, 7)):
        write_slide(tmp_path, plan, TINY)
    finish(tmp_path, TINY, 7)
    assert contents(tmp_path) == contents(finished)


def test_other_seed_gives_other_slides(finished: Path, tmp_path: Path) -> None:
    plan = slide_plan(TINY, 8)[0]
    write_slide(tmp_path, plan, TINY)
    name = f"images/{plan.case_id}.tif"
    assert contents(tmp_path)[name] != contents(finished)[name]


def test_finished_data_set_is_left_alone(finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("simulation.synthetic.camelyon.draw_slide", None)
    calls: list[tuple[int, int]] = []
    write_camelyon(finished, TINY, seed=7, progress=lambda *done: calls.append(done))
    assert calls == []
    assert is_finished(finished, TINY, 7)


@pytest.mark.parametrize(
    "name",
    [
        "images/patient_060_node_1.tif",
        "annotations/patient_060_node_1.xml",
        "stage_labels.csv",
        "dataset.json",
    ],
)
def test_a_deleted_file_is_made_again(finished: Path, dataset: Path, name: str) -> None:
    (dataset / name).unlink()
    assert not is_finished(dataset, TINY, 7)
    calls: list[tuple[int, int]] = []
    write_camelyon(dataset, TINY, seed=7, progress=lambda *done: calls.append(done))
    assert calls == [(done, 15) for done in range(1, 16)]
    assert contents(dataset) == contents(finished)


def test_a_torn_file_and_leftovers_are_repaired(finished: Path, dataset: Path) -> None:
    torn = dataset / "images" / "patient_000_node_0.tif"
    torn.write_bytes(torn.read_bytes()[:-100])
    (dataset / "images" / ".patient_000_node_0.tif.1.part").write_bytes(b"x")
    write_camelyon(dataset, TINY, seed=7)
    assert contents(dataset) == contents(finished)


def test_only_what_is_missing_is_drawn(dataset: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (dataset / "images" / "patient_020_node_0.tif").unlink()
    drawn: list[str] = []
    monkeypatch.setattr(
        "simulation.synthetic.camelyon.draw_slide",
        lambda plan, settings: drawn.append(plan.case_id) or draw_slide(plan, settings),
    )
    write_camelyon(dataset, TINY, seed=7)
    assert drawn == ["patient_020_node_0"]


def test_unfinished_slides_of_other_settings_are_replaced(finished: Path, dataset: Path) -> None:
    (dataset / "dataset.json").unlink()
    other = TINY.model_copy(update={"shift": 0.3})
    write_camelyon(dataset, other, seed=7)
    name = "images/patient_000_node_0.tif"
    assert contents(dataset)[name] != contents(finished)[name]
    name = "annotations/patient_000_node_0.xml"
    assert contents(dataset)[name] == contents(finished)[name]


def test_other_settings_or_seed_are_refused_by_name(finished: Path) -> None:
    before = contents(finished)
    other = TINY.model_copy(update={"shift": 0.3})
    with pytest.raises(DataError, match=r"shift is 0\.8 there, 0\.3 asked"):
        write_camelyon(finished, other, seed=7)
    with pytest.raises(DataError, match="seed is 7 there, 8 asked"):
        write_camelyon(finished, TINY, seed=8)
    assert contents(finished) == before


def test_foreign_and_missing_slides_are_refused(dataset: Path) -> None:
    (dataset / "images" / "patient_099_node_4.tif").write_bytes(b"x")
    with pytest.raises(DataError, match="patient_099_node_4"):
        finish(dataset, TINY, 7)
    (dataset / "images" / "patient_000_node_0.tif").unlink()
    with pytest.raises(DataError, match=r"patient_000_node_0\.tif is missing"):
        finish(dataset, TINY, 7)


@pytest.mark.parametrize("text", ["{", "[]", "{}"])
def test_an_unreadable_marker_is_refused(dataset: Path, text: str) -> None:
    (dataset / "dataset.json").write_text(text)
    with pytest.raises(DataError, match=r"dataset\.json"):
        write_camelyon(dataset, TINY, seed=7)
