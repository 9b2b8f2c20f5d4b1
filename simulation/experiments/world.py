"""The data of one seed: which center holds which cases in which role."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from fedloop.errors import DataError, SettingsError
from fedloop.imaging.bank import tissue_share
from fedloop.imaging.case import Case
from fedloop.imaging.dataset import Dataset, check, open_dataset
from fedloop.imaging.deal import deal
from fedloop.imaging.geometry import Grid
from fedloop.settings import DataSettings, ExperimentSettings, ImagingSettings
from simulation.experiments.jobs import POOLED
from simulation.experiments.lock import hold_as_worker
from simulation.synthetic import finish, is_finished, slide_plan, write_slide

Count = Callable[[int, int], None]
"""Progress callback: done, total."""

LONGEST_CENTER = 128


@dataclass(frozen=True)
class Roles:
    """Case ids of one center by role (see :class:`client.site.SiteSettings`)."""

    labelled: tuple[str, ...]
    pool: tuple[str, ...]
    test: tuple[str, ...]


@dataclass(frozen=True)
class World:
    """One seed's data, dealt."""

    seed: int
    data: DataSettings
    centers: Mapping[str, Roles]
    igniter_site: str
    in_channels: int
    rule: str
    notes: tuple[str, ...]


def data_folder(settings: ExperimentSettings, out: Path, seed: int) -> Path | None:
    """Where a seed's images lie."""
    if settings.data.synthetic is not None:
        return out / "data" / f"seed_{seed}"
    return settings.data.root


def prepare_data(
    settings: ExperimentSettings, out: Path, seed: int, *, workers: int, progress: Count
) -> None:
    """Generate the seed's synthetic set, or check the given one, once.

    Raises:
        DataError: a case of the given set cannot be used.
        SettingsError: neither a root nor a synthetic world is configured.
    """
    folder = data_folder(settings, out, seed)
    if folder is None:
        raise SettingsError(
            "data.root: no folder of images given; add --set data.root=FOLDER or configure "
            "data.synthetic"
        )
    synthetic = settings.data.synthetic
    if synthetic is None:
        check(open_dataset(settings.data, settings.imaging), progress=progress)
        return
    plans = slide_plan(synthetic, seed)
    if is_finished(folder, synthetic, seed):
        progress(len(plans), len(plans))
        return
    folder.mkdir(parents=True, exist_ok=True)
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(
        max_workers=max(1, workers),
        mp_context=context,
        initializer=hold_as_worker,
        initargs=(out,),
    ) as pool:
        tasks = [pool.submit(write_slide, folder, plan, synthetic) for plan in plans]
        for done, task in enumerate(tasks, start=1):
            task.result()
            progress(done, len(tasks))
    finish(folder, synthetic, seed)


def open_world(settings: ExperimentSettings, out: Path, seed: int) -> World:
    """Deal the prepared data of a seed to its centers.

    Raises:
        DataError: fewer than two centers, centers with different channels, or an empty split.
        SettingsError: ``igniter.site`` names no center.
    """
    data = settings.data.model_copy(
        update={"root": data_folder(settings, out, seed), "synthetic": None}
    )
    dataset = open_dataset(data, settings.imaging)
    if len(dataset.centers) < 2:
        raise DataError(
            f"{dataset.root}: only one center ({next(iter(dataset.centers))!r}); a federation "
            "needs two or more: set data.virtual_sites=N to deal its cases to N virtual sites"
        )
    _check_center_names(dataset)
    igniter = _igniter_site(settings, dataset)
    notes: list[str] = []
    centers: dict[str, Roles] = {}
    for name, split in deal(dataset, seed=seed, test_fraction=data.test_fraction).items():
        train = tuple(case.case_id for case in split.pool)
        test = tuple(case.case_id for case in split.test)
        labelled, pool = (train, ()) if name == igniter else ((), train)
        centers[name] = Roles(labelled=labelled, pool=pool, test=test)
        notes += split.notes
    return World(
        seed=seed,
        data=data,
        centers=centers,
        igniter_site=igniter,
        in_channels=_channels(dataset),
        rule=dataset.rule,
        notes=tuple(notes),
    )


def require_patches(settings: ExperimentSettings, world: World) -> None:
    """Fail before training, not after, where a center would have nothing to train on or choose.

    Raises:
        DataError: no case of a center's labelled or pool cases shows a patch with enough tissue.
    """
    imaging = settings.imaging
    dataset = open_dataset(world.data, imaging)
    for name, roles in world.centers.items():
        wanted = {*roles.labelled, *roles.pool}
        cases = [case for case in dataset.centers[name] if case.case_id in wanted]
        if not any(_has_patch(case, imaging) for case in cases):
            raise DataError(
                f"center {name!r}: none of its {len(cases)} cases for training shows a patch with "
                f"at least {imaging.min_tissue:.0%} tissue (imaging.tissue is "
                f"{imaging.tissue!r}); check the images, or set imaging.tissue=all"
            )


def _has_patch(case: Case, imaging: ImagingSettings) -> bool:
    grid = Grid(case.shape, imaging.patch_size)
    return any(
        ((share := tissue_share(case, window, imaging.patch_size)) > 0).any()
        and (share >= imaging.min_tissue).any()
        for window in grid.windows(imaging.window_cells)
    )


def _igniter_site(settings: ExperimentSettings, dataset: Dataset) -> str:
    wanted = settings.igniter.site
    if wanted is not None:
        if wanted not in dataset.centers:
            raise SettingsError(
                f"igniter.site: found {wanted!r}, the data set has the centers: "
                f"{', '.join(dataset.centers)}"
            )
        return wanted
    return max(sorted(dataset.centers), key=lambda name: len(dataset.centers[name]))


def _check_center_names(dataset: Dataset) -> None:
    for name in dataset.centers:
        if len(name) > LONGEST_CENTER:
            raise DataError(
                f"{dataset.root}: the center name {name[:40]!r}... has {len(name)} characters, "
                f"allowed are {LONGEST_CENTER}"
            )
        if name == POOLED:
            raise DataError(
                f"{dataset.root}: a center cannot be named {POOLED!r}, the bound that trains on "
                "all of them: rename it"
            )


def _channels(dataset: Dataset) -> int:
    found = {case.channels: case for cases in dataset.centers.values() for case in cases}
    if len(found) > 1:
        (a, first), (b, second) = sorted(found.items())[:2]
        raise DataError(
            f"case {first.case_id!r} has {a} channels, case {second.case_id!r} has {b}; "
            "all cases must have the same"
        )
    return next(iter(found))
