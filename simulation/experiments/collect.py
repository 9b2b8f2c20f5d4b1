"""From finished jobs to the run folder's tables: metrics, rounds, patches, selections.

Nothing here is computed anew: evaluations, histories, pool views and corrections are read from the
folders of coordinator and sites, as they were left.
"""

from __future__ import annotations

import csv
import json
import math
import os
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from client.annotation.store import CorrectionStore
from client.pool import remembered_view
from client.site import open_site
from fedloop.errors import RunFolderError
from fedloop.imaging.case import IGNORE
from fedloop.settings import ExperimentSettings
from fedloop.uncertainty.pool import SCORES
from simulation.experiments.execute import site_folder
from simulation.experiments.jobs import Job
from simulation.experiments.world import World
from simulation.report.runfolder import COLUMNS

Row = dict[str, Any]

METRICS_KEY = COLUMNS["metrics.csv"].split()[:-1]

CASE_METRICS = ("dice", "precision", "recall", "fp_share")
CENTER_METRICS = ("dice_global", "dice_case_mean", "dice_personal")


def collect(
    settings: ExperimentSettings, worlds: Mapping[int, World], jobs: Sequence[Job], out: Path
) -> None:
    """Write ``metrics.csv``, ``rounds.csv``, ``patches.csv`` and ``selections.csv`` of a run."""
    _write(out / "metrics.csv", _metrics(settings, worlds, jobs, out))
    rounds = (row for job in jobs for row in _rounds(job, out))
    _write(out / "rounds.csv", rounds)
    _write(out / "patches.csv", _patches(settings, worlds, jobs, out))
    selections = (
        row
        for job in jobs
        if job.kind == "arm"
        for row in _selections(job, worlds[job.seed], settings, out)
    )
    _write(out / "selections.csv", selections)


# --------------------------------------------------------------------------- metrics


def _metrics(
    settings: ExperimentSettings, worlds: Mapping[int, World], jobs: Sequence[Job], out: Path
) -> Iterator[Row]:
    """Rows in long form; the draws of a random arm are averaged value by value."""
    groups: dict[tuple[Any, ...], list[float]] = defaultdict(list)
    for job in jobs:
        for key, value in _job_metrics(job, worlds[job.seed], settings, out):
            groups[key].append(value)
    for key, values in groups.items():
        known = [value for value in values if not math.isnan(value)]
        yield {
            **dict(zip(METRICS_KEY, key, strict=True)),
            "value": float(np.mean(known)) if known else math.nan,
        }


def _job_metrics(
    job: Job, world: World, settings: ExperimentSettings, out: Path
) -> Iterator[tuple[tuple[Any, ...], float]]:
    for center in _evaluated_centers(job, world):
        site = site_folder(job, out, center)
        for cycle, number in _evaluations(job, settings):
            tree = _read_evaluation(site, job.name, cycle, number)

            def key(
                case: str, category: str, metric: str, center: str = center, cycle: int = cycle
            ) -> tuple[Any, ...]:
                return job.arm, job.seed, center, case, category, cycle, job.budget, metric

            for row in tree["cases"]:
                per_class = [name for name in row if name.startswith("dice_")]
                for metric in (*CASE_METRICS, *per_class):
                    yield key(row["case"], row["category"], metric), float(row[metric])
            for metric in CENTER_METRICS:
                if metric in tree["summary"]:
                    yield key("", "", metric), float(tree["summary"][metric])
            if job.kind == "arm" and world.centers[center].pool:
                corrections = CorrectionStore(site / "annotation").corrections(
                    job.name, up_to_cycle=cycle
                )
                yield key("", "", "patches"), float(len(corrections))
                changed = sum(c.corrected_px for c in corrections)
                yield key("", "", "corrected_px"), float(changed)
                yield key("", "", "minutes"), sum(c.seconds for c in corrections) / 60.0


def _evaluated_centers(job: Job, world: World) -> Iterable[str]:
    return (job.site,) if job.kind == "site_alone" else world.centers


def _evaluations(job: Job, settings: ExperimentSettings) -> list[tuple[int, int]]:
    """``(cycle, round)`` of the evaluations that count: the igniter's, or each cycle's last."""
    if job.kind != "arm":
        return [(0, 0)]
    f = settings.federation
    return [(cycle, f.rounds) for cycle in range(1, f.cycles + 1)]


def _read_evaluation(site: Path, campaign: str, cycle: int, number: int) -> dict[str, Any]:
    path = site / "evaluations" / campaign / f"cycle_{cycle:02d}_round_{number:03d}.json"
    try:
        tree: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RunFolderError(f"{path}: the evaluation cannot be read: {error}") from None
    return tree


# --------------------------------------------------------------------------- rounds


def _rounds(job: Job, out: Path) -> Iterator[Row]:
    """One row per site and round; round 0 holds selection and the evaluation before training."""
    path = job.folder(out) / "state.json"
    try:
        history = json.loads(path.read_text(encoding="utf-8"))["history"]
    except (OSError, ValueError, KeyError) as error:
        raise RunFolderError(f"{path}: the history cannot be read: {error}") from None
    rows: dict[tuple[int, int, str], Row] = {}
    for entry in history:
        place = (entry["cycle"], entry["round"], entry["site"])
        row = rows.setdefault(
            place,
            {
                "arm": job.arm,
                "seed": job.seed,
                "draw": job.draw,
                "budget": job.budget,
                "cycle": place[0],
                "round": place[1],
                "site": place[2],
                "loss": math.nan,
                "examples": 0,
                "bytes_in": 0,
                "bytes_out": 0,
                "dice_global": math.nan,
            },
        )
        row["bytes_in"] += entry["bytes_in"]
        row["bytes_out"] += entry["bytes_out"]
        for name in ("loss", "examples", "dice_global"):
            if name in entry:
                row[name] = entry[name]
    yield from rows.values()


# --------------------------------------------------------------------------- patches, selections


def _patches(
    settings: ExperimentSettings, worlds: Mapping[int, World], jobs: Sequence[Job], out: Path
) -> Iterator[Row]:
    """The igniter's view of every pool patch; all arms of a seed start from the same one."""
    del settings
    for seed, world in worlds.items():
        first = next((j for j in jobs if j.seed == seed and j.kind == "arm"), None)
        if first is None:
            continue
        for center, roles in world.centers.items():
            if not roles.pool:
                continue
            view = remembered_view(open_site(site_folder(first, out, center)), first.name, 1)
            if view is None:
                continue
            for i in range(len(view)):
                yield {
                    "seed": seed,
                    "center": center,
                    "case": roles.pool[int(view.case[i])],
                    "cell": _cell(view.cell[i]),
                    **{name: float(view.scores[k, i]) for k, name in enumerate(SCORES)},
                    "dice": float(view.true_dice[i]),
                    "error_px": float(view.true_error[i]),
                }


def _selections(job: Job, world: World, settings: ExperimentSettings, out: Path) -> Iterator[Row]:
    for center, roles in world.centers.items():
        if not roles.pool:
            continue
        store = CorrectionStore(site_folder(job, out, center) / "annotation")
        for cycle in range(1, settings.federation.cycles + 1):
            corrections = store.corrections(job.name, up_to_cycle=cycle)
            done = {c.item.item_id: c for c in corrections}
            for item in store.items(job.name, cycle):
                correction = done[item.item_id]
                mask = correction.mask
                yield {
                    "arm": job.arm,
                    "seed": job.seed,
                    "draw": job.draw,
                    "budget": job.budget,
                    "cycle": cycle,
                    "center": center,
                    "case": item.case_id,
                    "cell": _cell(item.cell),
                    "order": item.rank,
                    "score": item.score,
                    "reason": item.reason,
                    "corrected_px": correction.corrected_px,
                    "foreground_px": int(np.count_nonzero((mask > 0) & (mask != IGNORE))),
                }


def _cell(cell: Iterable[Any]) -> str:
    return " ".join(str(int(c)) for c in cell)


def _write(path: Path, rows: Iterable[Row]) -> None:
    """Write a CSV atomically with the columns the report expects; NaN becomes an empty cell."""
    columns = COLUMNS[path.name].split()
    temporary = path.with_suffix(".tmp")
    with temporary.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, columns)
        writer.writeheader()
        for row in rows:
            writer.writerow({name: _text(row[name]) for name in columns})
    os.replace(temporary, path)


def _text(value: Any) -> Any:
    if isinstance(value, float):
        return "" if math.isnan(value) else f"{value:.6g}"
    return value
