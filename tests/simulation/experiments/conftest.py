"""An experiment so small that it runs in seconds: three centers of tiny pictures."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from fedloop.settings import ExperimentSettings
from simulation.experiments.simulate import Outcome, simulate
from simulation.progress import Reporter

CENTERS = ("Übach", "b.1", "c")
Experiment = Callable[..., ExperimentSettings]


def write_pictures(root: Path, cases: int = 4) -> Path:
    """``ROOT/<center>/{images,labels}``: 32 x 32, a dark square is foreground."""
    rng = np.random.default_rng(5)
    for i, center in enumerate(CENTERS):
        for folder in ("images", "labels"):
            (root / center / folder).mkdir(parents=True)
        for number in range(cases + (i == 2)):
            label = np.zeros((32, 32), np.uint8)
            row, column = rng.integers(0, 20, 2)
            label[row : row + 12, column : column + 12] = 1
            image = rng.integers(150, 220, (32, 32, 3)).astype(np.uint8)
            image[label > 0] -= 100 - 15 * i
            Image.fromarray(image).save(root / center / "images" / f"case{i}{number}.png")
            Image.fromarray(label).save(root / center / "labels" / f"case{i}{number}.png")
    return root


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pictures(tmp_path_factory.mktemp("experiment") / "pictures")


@pytest.fixture
def own_pictures(tmp_path: Path) -> Path:
    """A copy that a test may damage."""
    return write_pictures(tmp_path / "pictures")


def tree_of(root: Path, **changes: Any) -> dict[str, Any]:
    tree: dict[str, Any] = {
        "name": "tiny",
        "seeds": [0, 1],
        "budgets": [2],
        "arms": [
            {"name": "random", "strategy": "random", "draws": 2},
            {"name": "default", "strategy": "anchors_doubt"},
        ],
        "data": {"root": str(root), "test_fraction": 0.5},
        "imaging": {"patch_size": [16, 16], "halo": 4, "window_cells": 2},
        "model": {"members": 2, "parameters": {"channels": [4, 8], "strides": [2]}},
        "training": {"batch_size": 4},
        "igniter": {"steps": 4},
        "federation": {"rounds": 2, "steps_per_round": 2, "evaluate_every": 1},
        "pictures_per_center": 1,
        "workers": 2,
        "device": "cpu",
    }
    return tree | changes


@pytest.fixture(scope="session")
def experiment(pictures: Path) -> Experiment:
    def make(root: Path | None = None, **changes: Any) -> ExperimentSettings:
        return ExperimentSettings.model_validate(tree_of(root or pictures, **changes))

    return make


@pytest.fixture(scope="session")
def finished(experiment: Experiment, tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    """A whole run; tests read it, or work on a copy."""
    out = tmp_path_factory.mktemp("finished") / "run"
    reporter = Reporter(quiet=True)
    return simulate(experiment(), out, resume=False, reporter=reporter, command="test")


@pytest.fixture
def config(tmp_path: Path, pictures: Path) -> Callable[..., Path]:
    """A configuration file of the experiment."""

    def write(root: Path | None = None, **changes: Any) -> Path:
        path = tmp_path / "tiny.yaml"
        text = yaml.safe_dump(tree_of(root or pictures, **changes), allow_unicode=True)
        path.write_text(text, encoding="utf-8")
        return path

    return write
