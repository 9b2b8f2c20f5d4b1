"""Overlap against cases counted by hand."""

from __future__ import annotations

import json
from dataclasses import dataclass, field

import numpy as np
import pytest
from torch import nn

from client.evaluation import _summary, count_case, evaluate, evaluate_cases, evaluation_file
from fedloop.errors import DataError
from fedloop.imaging.case import IGNORE
from fedloop.imaging.geometry import Box, Grid, Resolution
from fedloop.models.device import choose_device
from fedloop.models.inference import WindowPrediction
from fedloop.records import METRICS, EvaluateInstruction
from fedloop.settings import ImagingSettings


@dataclass
class Drawn:
    """A case whose labels, tissue and prediction are given as arrays."""

    label: np.ndarray
    predicted: np.ndarray
    tissue: np.ndarray
    case_id: str = "x"
    center: str = "A"
    category: str = "micro"
    channels: int = 3
    resolution: Resolution = field(default_factory=Resolution)
    has_label: bool = True

    @property
    def shape(self) -> tuple[int, ...]:
        return self.label.shape

    def _cut(self, array: np.ndarray, box: Box, fill: object) -> np.ndarray:
        padded = np.pad(array, 64, constant_values=fill)
        return padded[
            tuple(slice(a + 64, b + 64) for a, b in zip(box.start, box.stop, strict=True))
        ]

    def read(self, box: Box) -> np.ndarray:
        return np.repeat(self._cut(self.predicted, box, 0)[None] * np.uint8(255), 3, 0)

    def read_label(self, box: Box) -> np.ndarray:
        return self._cut(self.label, box, IGNORE)

    def read_tissue(self, box: Box) -> np.ndarray:
        return self._cut(self.tissue, box, False)


@pytest.fixture(autouse=True)
def the_image_is_the_prediction(monkeypatch: pytest.MonkeyPatch) -> None:
    """Windows with tissue are predicted as their image says; the others are not predicted."""

    def predict(networks, case, imaging, *, classes, **_):
        for box in Grid(case.shape, imaging.patch_size).windows(imaging.window_cells):
            if case.read_tissue(box).any():
                ids = (case.read(box)[0] > 0).astype(int)
                one_hot = np.eye(classes, dtype=np.float32)[ids]
                yield WindowPrediction(box, np.moveaxis(one_hot, -1, 0)[None], None)

    monkeypatch.setattr("client.evaluation.predict_windows", predict)
    monkeypatch.setattr("client.evaluation.normaliser", lambda *_: None)


def drawn(size: int = 20, **marks: tuple[slice, slice]) -> Drawn:
    arrays = {n: np.zeros((size, size), np.uint8) for n in ("label", "predicted")}
    for name, place in marks.items():
        arrays[name.split("_")[0]][place] = 1
    return Drawn(arrays["label"], arrays["predicted"], np.ones((size, size), bool))


@pytest.fixture
def small(spec):
    return spec.model_copy(update={"imaging": ImagingSettings(patch_size=(8, 8), window_cells=1)})


def rows_of(cases, spec):
    return evaluate_cases([nn.Identity()], cases, spec, choose_device("cpu"), amp=False)


def test_a_case_counted_by_hand(small) -> None:
    # 6 x 6 of lesion, 6 x 6 predicted, 3 x 6 in both.
    case = drawn(label=(slice(2, 8), slice(2, 8)), predicted=(slice(5, 11), slice(2, 8)))
    (row,), pooled = rows_of([case], small)
    assert (pooled.tp[1], pooled.fp[1], pooled.fn[1]) == (18, 18, 18)
    assert pooled.tp[0] == 400 - 54  # outside the image nothing counts, although windows leave it
    assert row["dice"] == row["precision"] == row["recall"] == 0.5
    assert row["fp_share"] == 18 / 400
    assert (row["case"], row["center"], row["category"], row["lesion"]) == ("x", "A", "micro", True)


def test_windows_without_tissue_count_as_missed(small) -> None:
    case = drawn(
        label=(slice(0, 4), slice(0, 4)),
        predicted=(slice(0, 4), slice(0, 4)),
        label_2=(slice(16, 20), slice(16, 20)),
        predicted_2=(slice(16, 20), slice(16, 20)),
    )
    case.tissue[16:, 16:] = False
    counts, tissue = count_case([nn.Identity()], case, small, choose_device("cpu"), amp=False)
    assert (counts.tp[1], counts.fp[1], counts.fn[1]) == (16, 0, 16)
    assert tissue == 400 - 16


def test_unknown_voxels_do_not_count(small) -> None:
    case = drawn(label=(slice(0, 4), slice(0, 8)), predicted=(slice(0, 8), slice(0, 8)))
    case.label[4:8, :8] = IGNORE
    (row,), pooled = rows_of([case], small)
    assert row["dice"] == 1
    assert sum(pooled.tp) + sum(pooled.fp) == 400 - 32


def test_a_negative_case_scores_by_what_it_invents(small) -> None:
    clean, wrong = drawn(), drawn(predicted=(slice(0, 1), slice(0, 1)))
    rows, _ = rows_of([clean, wrong], small)
    assert [row["dice"] for row in rows] == [1, 0]
    assert [row["lesion"] for row in rows] == [False, False]
    assert np.isnan(rows[0]["precision"])
    assert rows[1]["precision"] == 0
    assert np.isnan(rows[0]["recall"])


def test_the_global_dice_pools_voxels_and_the_mean_skips_cases_without_lesion(small) -> None:
    half = drawn(label=(slice(0, 2), slice(0, 2)), predicted=(slice(0, 2), slice(0, 1)))
    full = drawn(label=(slice(0, 8), slice(0, 8)), predicted=(slice(0, 8), slice(0, 8)))
    rows, pooled = rows_of([half, full, drawn()], small)
    summary = _summary(rows, pooled)
    assert summary["cases"] == 3
    assert summary["dice_global"] == pytest.approx(2 * 66 / (2 * 66 + 2))
    assert summary["dice_case_mean"] == pytest.approx((2 * 2 / (2 * 2 + 2) + 1) / 2)
    assert summary["precision"] == 1
    assert summary["recall"] == pytest.approx(66 / 68)


def test_classes_are_told_apart(small) -> None:
    spec = small.model_copy(update={"classes": ("background", "liver", "spleen")})
    case = drawn(label=(slice(0, 4), slice(0, 4)), predicted=(slice(0, 4), slice(0, 4)))
    case.label[8:10, 8:10] = 2
    (row,), _ = rows_of([case], spec)
    assert (row["dice_liver"], row["dice_spleen"]) == (1, 0)
    assert row["dice"] == 0.5


# ------------------------------------------------------------------ the answer


def instruct(spec, **changes: object) -> EvaluateInstruction:
    fields = {"campaign": "c", "seed": 0, "cycle": 1, "round": 2, "spec": spec}
    return EvaluateInstruction(**(fields | changes))  # type: ignore[arg-type]


def test_details_stay_and_scalars_leave(make_site, spec, members) -> None:
    site = make_site(test=("a0", "a1"))
    instruction = instruct(spec)
    answer = evaluate(site, instruction, members)
    assert answer.keys() <= METRICS["evaluate"]
    assert "dice_personal" not in answer
    assert answer["cases"] == 2
    tree = json.loads(evaluation_file(site.folder, instruction).read_text())
    assert [row["case"] for row in tree["cases"]] == ["a0", "a1"]
    assert tree["summary"]["dice_global"] == answer["dice_global"]
    assert evaluation_file(site.folder, instruction).name == "cycle_01_round_002.json"
    assert len(list((site.folder / "evaluations" / "c").iterdir())) == 1


def test_what_is_not_defined_does_not_leave(make_site, spec, members, monkeypatch) -> None:
    monkeypatch.setattr("client.evaluation._mean", lambda _: float("nan"))
    answer = evaluate(make_site(test=("a0",)), instruct(spec), members)
    assert "precision" not in answer
    assert "recall" not in answer


def test_a_site_without_test_cases(make_site, spec, members) -> None:
    with pytest.raises(DataError, match="site 'A' has no test cases"):
        evaluate(make_site(pool=("a0",)), instruct(spec), members)


def test_weights_are_not_written_to(make_site, spec, members) -> None:
    before = [{n: a.copy() for n, a in m.items()} for m in members]
    evaluate(make_site(test=("a0",)), instruct(spec), members)
    assert all(np.array_equal(a, before[k][n]) for k, m in enumerate(members) for n, a in m.items())
