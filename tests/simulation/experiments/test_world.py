"""Who holds which cases; and what cannot be a federation."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fedloop.errors import DataError, SettingsError
from fedloop.settings import DataSettings, ExperimentSettings, ImagingSettings
from simulation.experiments.world import World, open_world, prepare_data, require_patches


def opened(settings, seed: int = 0, out: Path = Path("nowhere")) -> World:
    return open_world(settings, out, seed)


def test_every_case_has_one_role(experiment) -> None:
    world = opened(experiment())
    assert list(world.centers) == sorted(("Übach", "b.1", "c"))
    assert world.igniter_site == "c"  # it has the most cases
    assert world.in_channels == 3
    for name, roles in world.centers.items():
        cases = [*roles.labelled, *roles.pool, *roles.test]
        assert len(set(cases)) == len(cases) == (5 if name == "c" else 4)
        assert roles.test
        assert bool(roles.labelled) == (name == "c")
        assert bool(roles.pool) == (name != "c")


def test_a_seed_deals_alike_and_seeds_differ(experiment) -> None:
    assert opened(experiment(), 3) == opened(experiment(), 3)
    assert len({str(opened(experiment(), seed).centers) for seed in range(6)}) > 1


def test_the_igniter_can_be_named(experiment) -> None:
    world = opened(experiment(igniter={"site": "b.1"}))
    assert world.igniter_site == "b.1"
    assert world.centers["c"].pool
    with pytest.raises(SettingsError, match=r"igniter\.site: found 'z', the data set has the cent"):
        opened(experiment(igniter={"site": "z"}))


def test_one_center_is_no_federation(own_pictures, experiment) -> None:
    for center in ("b.1", "c"):
        shutil.rmtree(own_pictures / center)
    with pytest.raises(DataError, match=r"only one center \('Übach'\).*data\.virtual_sites=N"):
        opened(experiment(own_pictures))
    virtual = experiment(own_pictures, data={"root": str(own_pictures), "virtual_sites": 2})
    assert len(opened(virtual).centers) == 2


@pytest.mark.parametrize(
    ("name", "text"), [("x" * 129, "has 129 characters"), ("pooled", "cannot be named 'pooled'")]
)
def test_center_names_that_cannot_be_used(own_pictures, experiment, name, text) -> None:
    (own_pictures / "c").rename(own_pictures / name)
    with pytest.raises(DataError, match=text):
        opened(experiment(own_pictures))


def test_without_images_there_is_nothing_to_prepare(experiment, tmp_path) -> None:
    with pytest.raises(SettingsError, match=r"^data\.root: no folder of images given"):
        prepare_data(experiment(data={}), tmp_path, 0, workers=1, progress=lambda *_: None)


def test_real_images_are_read_once_and_counted(experiment, tmp_path) -> None:
    seen: list[tuple[int, int]] = []
    prepare_data(experiment(), tmp_path, 0, workers=1, progress=lambda *n: seen.append(n))
    assert seen == [(n, 13) for n in range(1, 14)]
    assert list(tmp_path.iterdir()) == []


def test_a_bad_case_is_found_before_anything_runs(own_pictures, experiment, tmp_path) -> None:
    Image.fromarray(np.zeros((9, 9), np.uint8)).save(own_pictures / "c" / "labels" / "case20.png")
    with pytest.raises(DataError, match="case20"):
        prepare_data(experiment(own_pictures), tmp_path, 0, workers=1, progress=lambda *_: None)


@pytest.mark.parametrize("dark", [True, False])
def test_a_center_without_a_patch_is_found_before_training(tmp_path: Path, dark: bool) -> None:
    rng = np.random.default_rng(0)
    for center in ("a", "b"):
        for kind in ("images", "labels"):
            (tmp_path / center / kind).mkdir(parents=True)
        for number in range(2):
            image = rng.integers(60, 200, (64, 64, 3), dtype=np.uint8)
            image *= not (dark and center == "b")
            name = f"{center}{number}.png"
            Image.fromarray(image).save(tmp_path / center / "images" / name)
            Image.fromarray(image[..., 0] > 130).save(tmp_path / center / "labels" / name)
    settings = ExperimentSettings(
        data=DataSettings(root=tmp_path), imaging=ImagingSettings(tissue="bright")
    )
    world = open_world(settings, tmp_path / "out", 0)
    if not dark:
        require_patches(settings, world)
        return
    with pytest.raises(DataError, match=r"center 'b': none of its 1 cases .* imaging\.tissue=all"):
        require_patches(settings, world)
