"""Writes run folders with plausible numbers, of any shape, for the tests of the report."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedloop.configuration import load, save
from fedloop.settings import ExperimentSettings
from simulation.report.runfolder import COLUMNS, read_run

STRATEGIES = {
    "random": 0.0,
    "foreground_random": 0.03,
    "uga": 0.0,
    "anchors_doubt": 0.1,
    "entropy": -0.02,
    "mutual_information": -0.01,
    "anchors_suspect": 0.09,
    "clasp": 0.01,
    "disagreement": 0.05,
    "kcenter": -0.03,
    "badge": 0.02,
    "margin": 0.0,
}
"""Query strategies and what each gains over random, in this made-up world."""


@dataclass
class Fake:
    """The shape of a made-up run."""

    seeds: Sequence[int] = (0,)
    centers: Sequence[str] = ("center_0",)
    arms: Sequence[str] = ("random", "foreground_random", "uga", "anchors_doubt")
    classes: Sequence[str] = ("background", "tumour")
    categories: Sequence[str] = ("negative", "itc", "micro", "macro")
    budgets: Sequence[int] = (5, 10)
    bounds: Sequence[str] = ()
    skip: Sequence[str] = ()
    cases: int = 8
    patches: int = 120
    pictures: bool = True
    changes: dict[str, Any] = field(default_factory=dict)
    record: dict[str, Any] = field(default_factory=dict)
    gains: dict[str, float] = field(default_factory=lambda: dict(STRATEGIES))


def write_run(folder: Path, fake: Fake) -> Path:
    """Write a whole run folder; ``fake.skip`` names files to leave out."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(7)
    save(_settings(fake), folder / "settings.yaml")
    (folder / "run.json").write_text(json.dumps(_record(fake) | fake.record))
    for name, rows in {
        "metrics.csv": _metrics(fake, rng),
        "rounds.csv": _rounds(fake, rng),
        "patches.csv": _patches(fake, rng),
        "selections.csv": _selections(fake, rng),
    }.items():
        if name not in fake.skip:
            with (folder / name).open("w", newline="") as stream:
                csv.writer(stream).writerows([COLUMNS[name].split(), *rows])
    if fake.pictures:
        _pictures(folder / "pictures", fake, rng)
    return folder


def _settings(fake: Fake) -> ExperimentSettings:
    arms = [
        {"name": _name(arm), "strategy": arm, "draws": 3 if "random" in arm else 1}
        for arm in fake.arms
    ]
    changes = {
        "name": "fake",
        "seeds": list(fake.seeds),
        "budgets": list(fake.budgets),
        "arms": arms,
        "bounds": list(fake.bounds),
        "data": {"classes": list(fake.classes), "synthetic": {"shift": 0.6}},
    }
    return load(ExperimentSettings, changes={**changes, **fake.changes})


def _name(strategy: str) -> str:
    return {"foreground_random": "fg_random", "anchors_doubt": "default"}.get(strategy, strategy)


def _record(fake: Fake) -> dict[str, Any]:
    counts = {"labelled": 0, "pool": 6, "test": fake.cases}
    return {
        "command": "fedloop simulate configs/experiments/fake.yaml --out runs/fake",
        "versions": {"fedloop": "0.1.0", "torch": "2.9.0", "numpy": "2.4.6"},
        "machine": {"cpu": "Made-up CPU", "cores": 2, "device": "cpu", "memory_gib": 16.0},
        "started": "2026-11-21T12:00:00+00:00",
        "seconds": 1234.5,
        "peak_memory_mib": 812.3,
        "igniter_site": fake.centers[0],
        "center_rule": "Centers as listed in centers.csv; synthetic slides carry their center.",
        "notes": ["Random arms are averaged over 3 draws."],
        "centers": dict.fromkeys(fake.centers, counts),
        "finished": True,
    }


def _plans(fake: Fake) -> Iterator[tuple[str, float, int]]:
    """(arm, gain over the baseline, budget)."""
    yield "baseline", 0.0, 0
    for bound in fake.bounds:
        gain = {"site_alone": 0.15, "pooled": 0.35, "oracle": 0.2}[bound]
        for budget in fake.budgets if bound == "oracle" else (0,):
            yield bound, gain, budget
    for arm in fake.arms:
        for budget in fake.budgets:
            yield _name(arm), 0.13 + fake.gains[arm] + 0.003 * budget, budget


def _metrics(fake: Fake, rng: np.random.Generator) -> Iterator[list[Any]]:
    for seed in fake.seeds:
        igniter = rng.normal(0, 0.03)
        hard = {center: rng.normal(-0.03 * i, 0.05) for i, center in enumerate(fake.centers)}
        for arm, gain, budget in _plans(fake):
            for center in fake.centers:
                value = float(np.clip(0.45 + igniter + hard[center] + gain, 0.02, 0.97))
                head = [arm, seed, center]
                cycle = 1 if budget else 0
                yield from _cases(fake, rng, head, cycle, budget, value)
                noisy = float(np.clip(value + rng.normal(0, 0.025), 0, 1))
                tail = {"dice_global": noisy, "dice_case_mean": noisy - 0.05}
                if budget:
                    pixels = 900 * budget * (1 + 5 * max(gain - 0.15, 0)) * rng.uniform(0.7, 1.3)
                    tail |= {"dice_personal": noisy + 0.02, "patches": budget}
                    tail |= {"corrected_px": pixels, "minutes": budget * 0.2 + pixels / 3000}
                for metric, number in tail.items():
                    yield [*head, "", "", cycle, budget, metric, round(number, 6)]


def _cases(
    fake: Fake, rng: np.random.Generator, head: list[Any], cycle: int, budget: int, value: float
) -> Iterator[list[Any]]:
    for index in range(fake.cases):
        category = fake.categories[index % len(fake.categories)] if fake.categories else ""
        dice = float(np.clip(value + rng.normal(0, 0.1), 0, 1))
        dice = float(dice > 0.6) if category == "negative" else dice
        row = [*head, f"{head[2]}-T{index:02d}", category, cycle, budget]
        yield [*row, "dice", round(dice, 5)]
        for name in fake.classes[1:]:
            yield [*row, f"dice_{name}", round(float(np.clip(dice + rng.normal(0, 0.05), 0, 1)), 5)]
        undefined = category == "negative" and dice == 1
        yield [*row, "precision", "" if undefined else round(dice, 5)]
        yield [*row, "recall", "" if category == "negative" else round(min(dice + 0.1, 1), 5)]
        yield [*row, "fp_share", round(0.05 * (1 - value) * rng.uniform(0.5, 1.5), 5)]


def _rounds(fake: Fake, rng: np.random.Generator) -> Iterator[list[Any]]:
    for seed in fake.seeds:
        for arm, gain, budget in _plans(fake):
            if not budget:
                continue
            yield [arm, seed, 0, budget, 0, 0, "coordinator", "", 0, 0, 0, 0.4]
            for index in range(1, 9):
                for site in fake.centers:
                    loss = 0.9 * np.exp(-index / 4) + 0.3 - gain / 3 + rng.normal(0, 0.02)
                    dice = round(0.4 + gain * (1 - np.exp(-index / 3)), 4) if index % 2 == 0 else ""
                    row = [arm, seed, 0, budget, 1, index, site, round(loss, 4), 80]
                    yield [*row, 412_000, 410_500, dice]


def _patches(fake: Fake, rng: np.random.Generator) -> Iterator[list[Any]]:
    for seed in fake.seeds:
        for center in fake.centers:
            for index in range(fake.patches):
                uga = float(rng.gamma(1.5, 0.03))
                kind = rng.choice(3, p=[0.55, 0.3, 0.15])
                overlap = float(np.clip(0.9 - 4 * uga + rng.normal(0, 0.15), 0, 1))
                dice = ["", 0.0, round(overlap, 4)]
                error = [0, int(rng.gamma(2, 120)), int(rng.gamma(2, 60 + 1500 * uga))]
                doubt = [uga * (0.3 if kind == 0 else 1), uga * 2, uga * 0.8]
                row = [seed, center, f"{center}-P{index % 6}", f"{index // 8}-{index % 8}"]
                shares = [round(rng.uniform(0, 0.5), 4), 0 if kind == 0 else 0.2]
                yield [*row, *(round(d, 5) for d in doubt), *shares, dice[kind], error[kind]]


def _selections(fake: Fake, rng: np.random.Generator) -> Iterator[list[Any]]:
    for seed in fake.seeds:
        for arm in fake.arms:
            share = 0.06 + 3 * max(fake.gains[arm], 0)
            for budget in fake.budgets:
                for center in fake.centers:
                    for order in range(budget):
                        holds = int(rng.random() < share) * int(rng.gamma(2, 500))
                        row = [_name(arm), seed, 0, budget, 1, center, f"{center}-P{order % 6}"]
                        why = "models disagree on a small island"
                        tail = [f"{order}-3", order, 0.1, why, int(rng.gamma(2, 300)), holds]
                        yield [*row, *tail]


def _pictures(folder: Path, fake: Fake, rng: np.random.Generator) -> None:
    folder.mkdir()
    listed = []
    for center in fake.centers:
        for arm in [_name(a) for a in fake.arms if a in ("uga", "anchors_doubt")]:
            for rank in ("best", "median", "worst"):
                name = f"{len(listed):03d}.npz"
                np.savez(folder / name, **_picture(rng, len(fake.classes)))  # type: ignore[arg-type]
                head = {"seed": fake.seeds[0], "arm": arm, "budget": fake.budgets[-1]}
                where = {"center": center, "case": f"{center}-T{len(listed):02d}", "rank": rank}
                after = {"best": 0.91, "median": 0.66, "worst": 0.12}[rank]
                listed.append(
                    head | where | {"dice_before": 0.4, "dice_after": after, "file": name}
                )
    (folder / "pictures.json").write_text(json.dumps(listed))


def _picture(rng: np.random.Generator, classes: int) -> dict[str, np.ndarray[Any, Any]]:
    height, width = 192, 256
    y, x = np.mgrid[:height, :width]
    tissue = 200 + 20 * np.sin(x / 9) * np.cos(y / 11) + rng.normal(0, 12, (height, width))
    image = np.stack([tissue, tissue * 0.75, tissue * 0.95], -1).clip(0, 255).astype(np.uint8)
    masks = []
    for wobble in (0, 9, 3):
        mask = np.zeros((height, width), np.uint8)
        for label in range(1, classes):
            middle = rng.uniform(50, 150, 2) if wobble == 9 else np.array([90.0, 60 + 50 * label])
            mask[np.hypot(y - middle[0], x - middle[1]) < 22 + wobble] = label
        masks.append(mask)
    masks[0][:, -12:] = 255
    doubt = np.exp(-((np.hypot(y - 90, x - 110) - 25) ** 2) / 200).astype(np.float16) * 0.7
    boxes = np.array([[64, 96, 32, 32], [128, 32, 32, 32]])
    named = zip(("reference", "before", "after"), masks, strict=True)
    return {"image": image, **dict(named), "uncertainty": doubt, "boxes": boxes}


@pytest.mark.parametrize("arms", [("random", "uga"), tuple(STRATEGIES)])
def test_fake_runs_are_read(tmp_path: Path, arms: tuple[str, ...]) -> None:
    run = read_run(write_run(tmp_path / "run", Fake(arms=arms, seeds=(0, 1))))
    assert run.metrics.distinct("seed") == [0, 1]
    assert len(run.pictures) == 3 * len({"uga", "anchors_doubt"} & set(arms))
