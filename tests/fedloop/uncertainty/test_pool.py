"""Scores of patches against a plain loop over patches."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from fedloop.imaging.case import IGNORE
from fedloop.imaging.geometry import Box, Grid, Resolution
from fedloop.models.inference import WindowPrediction
from fedloop.settings import ImagingSettings
from fedloop.uncertainty.measures import measure
from fedloop.uncertainty.pool import SCORES, CaseScores, pseudo_label, score_case


@dataclass
class TissueCase:
    """A case of which only shape and tissue matter."""

    tissue: NDArray[np.bool_]
    case_id: str = "a"
    center: str = "c"
    category: str = ""
    has_label: bool = False
    channels: int = 1
    resolution: Resolution = field(default_factory=Resolution)

    @property
    def shape(self) -> tuple[int, ...]:
        return self.tissue.shape

    def read(self, box: Box) -> NDArray[Any]:
        raise NotImplementedError

    def read_label(self, box: Box) -> NDArray[np.uint8]:
        raise NotImplementedError

    def read_tissue(self, box: Box) -> NDArray[np.bool_]:
        result = np.zeros(box.size, np.bool_)
        inside = box.clipped(self.shape)
        result[tuple(slice(0, n) for n in inside.size)] = self.tissue[inside.slices]
        return result


def setup(
    shape: tuple[int, ...], patch: tuple[int, ...], seed: int = 0
) -> tuple[TissueCase, ImagingSettings, NDArray[np.float32]]:
    """A case with patchy tissue and sharp random predictions ``(3, 3, *whole grid)``."""
    rng = np.random.default_rng(seed)
    coarse = rng.random(Grid(shape, patch).cells).repeat(patch[0], 0)
    for axis in range(1, len(patch)):
        coarse = coarse.repeat(patch[axis], axis)
    tissue = (rng.random(coarse.shape) < coarse)[tuple(slice(0, n) for n in shape)]
    raised = np.exp(rng.normal(size=(3, 3, *coarse.shape)) * 3)
    probabilities = (raised / raised.sum(1, keepdims=True)).astype(np.float32)
    return TissueCase(tissue), ImagingSettings(patch_size=patch), probabilities


def windows(
    case: TissueCase, imaging: ImagingSettings, probabilities: NDArray[np.float32], cells: int
) -> list[WindowPrediction]:
    found = []
    for box in Grid(case.shape, imaging.patch_size).windows(cells):
        part = np.ascontiguousarray(probabilities[:, :, *box.slices])
        counts = [n // p for n, p in zip(box.size, imaging.patch_size, strict=True)]
        first = [a // p for a, p in zip(box.start, imaging.patch_size, strict=True)]
        # Features name their cell, so that a permutation would be noticed.
        features = np.indices(counts) + np.reshape(first, (-1, *[1] * len(counts)))
        found.append(WindowPrediction(box, part, features.astype(np.float32)))
    return found


@pytest.mark.parametrize(
    ("shape", "patch"), [((37, 50), (8, 8)), ((30, 40), (5, 10)), ((9, 12, 17), (4, 6, 8))]
)
def test_equals_a_loop_over_patches(shape: tuple[int, ...], patch: tuple[int, ...]) -> None:
    case, imaging, probabilities = setup(shape, patch)
    scores = score_case(windows(case, imaging, probabilities, 2), case, imaging)
    maps = measure(probabilities)
    grid = Grid(shape, patch)
    kept = []
    for cell in grid:
        box = grid.box(cell)
        inside = box.clipped(shape)
        tissue = case.tissue[inside.slices]
        if not tissue.any() or tissue.mean() < imaging.min_tissue:
            continue
        i = len(kept)
        kept.append(cell)
        for name in SCORES[:-1]:
            expected = getattr(maps, name)[inside.slices][tissue].mean()
            assert scores.scores[name][i] == pytest.approx(expected, rel=1e-4, abs=1e-6)
        predicted = maps.mean.argmax(0)
        foreground = (predicted[inside.slices][tissue] > 0).mean()
        assert scores.scores["foreground"][i] == pytest.approx(foreground, abs=1e-6)
        assert (scores.predicted[i] == predicted[box.slices]).all()
        outside = np.ones(patch, np.bool_)
        outside[tuple(slice(0, n) for n in inside.size)] = False
        assert (scores.pseudo_labels[i][outside] == IGNORE).all()
        assert set(np.unique(scores.pseudo_labels[i])) <= {0, 1, 2, IGNORE}
    assert 0 < len(kept) < len(list(grid))
    assert [tuple(c) for c in scores.cell] == kept
    np.testing.assert_array_equal(scores.features, kept)


def equal(a: CaseScores, b: CaseScores) -> bool:
    return (
        np.array_equal(a.cell, b.cell)
        and all(np.allclose(a.scores[n], b.scores[n], atol=1e-6) for n in SCORES)
        and np.array_equal(a.features, b.features)
        and np.array_equal(a.predicted, b.predicted)
        and np.array_equal(a.pseudo_labels, b.pseudo_labels)
    )


def test_window_size_and_order_do_not_matter() -> None:
    case, imaging, probabilities = setup((37, 50), (8, 8))
    one = score_case(windows(case, imaging, probabilities, 2), case, imaging)
    other = score_case(windows(case, imaging, probabilities, 3)[::-1], case, imaging)
    assert equal(one, other)


def test_border_patch_is_judged_by_its_part_inside() -> None:
    tissue = np.zeros((8, 10), np.bool_)
    tissue[:, 8:] = True
    case, imaging = TissueCase(tissue), ImagingSettings(patch_size=(8, 8), min_tissue=1.0)
    probabilities = np.full((1, 2, 8, 16), 0.5, np.float32)
    scores = score_case(windows(case, imaging, probabilities, 4), case, imaging)
    assert scores.cell.tolist() == [[0, 1]]
    np.testing.assert_allclose(scores.scores["entropy"], np.log(2), rtol=1e-5)


def test_pseudo_labels_need_every_member() -> None:
    member = np.array([[0.95, 0.05, 0.5], [0.05, 0.95, 0.5]], np.float32)
    doubtful = np.array([[0.95, 0.2, 0.5], [0.05, 0.8, 0.5]], np.float32)
    assert pseudo_label(np.stack([member, member]), 0.9).tolist() == [0, 1, IGNORE]
    assert pseudo_label(np.stack([member, doubtful]), 0.9).tolist() == [0, IGNORE, IGNORE]


def test_nothing_and_no_masks() -> None:
    case, imaging, probabilities = setup((16, 16), (8, 8))
    empty = score_case([], case, imaging)
    assert len(empty) == 0
    assert empty.cell.shape == (0, 2)
    assert set(empty.scores) == set(SCORES)
    plain = [
        WindowPrediction(w.box, w.probabilities, None)
        for w in windows(case, imaging, probabilities, 2)
    ]
    scores = score_case(plain, case, imaging, masks=False)
    assert scores.predicted.shape == scores.pseudo_labels.shape == (0, 8, 8)
    assert scores.features.shape == (len(scores), 0)
