"""A data set of a few tiny pictures, and sites over it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from client.site import SITE_FILE, Site, SiteSettings, open_site
from fedloop import configuration
from fedloop.models.registry import build_network
from fedloop.models.weights import state_arrays
from fedloop.records import Arrays, SelectInstruction, TrainInstruction
from fedloop.settings import (
    DataSettings,
    ImagingSettings,
    ModelSettings,
    ModelSpec,
    SelectionSettings,
    StrategySettings,
    TrainingSettings,
)

MakeSite = Callable[..., Site]


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def spec() -> ModelSpec:
    return ModelSpec(
        model=ModelSettings(
            parameters={"channels": [4, 8], "strides": [2], "norm": "batch"}, members=2
        ),
        imaging=ImagingSettings(patch_size=(16, 16), halo=4, window_cells=2),
        classes=("background", "lesion"),
    )


@pytest.fixture(scope="session")
def members(spec: ModelSpec) -> list[Arrays]:
    return [
        state_arrays(
            build_network(
                spec.model,
                spatial_dims=2,
                in_channels=3,
                classes=2,
                patch_size=(16, 16),
                seed=seed,
            )
        )
        for seed in range(spec.model.members)
    ]


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Cases ``a0`` to ``a5``: 32 x 32, four patches each; a dark square is foreground."""
    root = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(3)
    for folder in ("images", "labels"):
        (root / folder).mkdir()
    for i in range(6):
        label = np.zeros((32, 32), np.uint8)
        row, column = rng.integers(0, 24, 2)
        label[row : row + 8, column : column + 8] = 1
        image = rng.integers(150, 220, (32, 32, 3)).astype(np.uint8)
        image[label > 0] -= 100
        Image.fromarray(image).save(root / "images" / f"a{i}.png")
        Image.fromarray(label).save(root / "labels" / f"a{i}.png")
    return root


@pytest.fixture
def make_site(tmp_path: Path, pictures: Path) -> MakeSite:
    def make(name: str = "A", **options: object) -> Site:
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        options.setdefault("data", DataSettings(root=pictures))
        settings = SiteSettings(name=name, device="cpu", threads=1, **options)  # type: ignore[arg-type]
        configuration.save(settings, folder / SITE_FILE)
        return open_site(folder)

    return make


@pytest.fixture(scope="session")
def select_instruction(spec: ModelSpec) -> Callable[..., SelectInstruction]:
    def make(cycle: int = 1, **selection: object) -> SelectInstruction:
        wanted = {"strategy": "random", "patches": 3, **selection}
        return SelectInstruction(
            campaign="c",
            seed=5,
            cycle=cycle,
            spec=spec,
            selection=SelectionSettings(**wanted),  # type: ignore[arg-type]
        )

    return make


@pytest.fixture(scope="session")
def train_instruction(spec: ModelSpec) -> Callable[..., TrainInstruction]:
    def make(**changes: object) -> TrainInstruction:
        fields = {
            "campaign": "c",
            "seed": 5,
            "cycle": 1,
            "round": 1,
            "spec": spec,
            "training": TrainingSettings(batch_size=4, pseudo_label_threshold=0.51),
            "strategy": StrategySettings(),
            "steps": 2,
            "total_steps": 4,
        }
        return TrainInstruction(**(fields | changes))  # type: ignore[arg-type]

    return make
