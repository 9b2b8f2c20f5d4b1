"""One experiment from settings to report."""

from __future__ import annotations

import functools
import os
import shlex
import shutil
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from client.ranking.registry import build_strategy as build_query_strategy
from fedloop import configuration
from fedloop.errors import FedloopError, RunFolderError
from fedloop.models.device import choose_device
from fedloop.models.registry import build_network
from fedloop.settings import ExperimentSettings
from simulation.engines import inprocess
from simulation.experiments.collect import collect
from simulation.experiments.execute import model_spec
from simulation.experiments.jobs import Job, plan_jobs
from simulation.experiments.lock import exclusive
from simulation.experiments.pictures import draw_pictures
from simulation.experiments.provenance import read_record, run_record, write_record
from simulation.experiments.runner import Plan, run_parallel, run_serial
from simulation.experiments.world import World, open_world, prepare_data, require_patches
from simulation.progress import Reporter
from simulation.report.build import build_report
from strategies.registry import build_strategy

SETTINGS_FILE = "settings.yaml"
FREE = frozenset({"workers", "device", "pictures_per_center"})
"""Settings that may change when a run is resumed: they do not change its numbers."""


@dataclass(frozen=True)
class EngineChoice:
    """``inprocess`` or ``ray``, the latter with the address of a running cluster or none."""

    name: str = "inprocess"
    address: str | None = None


@dataclass(frozen=True)
class Outcome:
    """What ``--json`` prints."""

    out: Path
    report: Path
    seconds: float
    dice_global: Mapping[str, float]

    def as_dict(self) -> dict[str, Any]:
        return {
            "out": str(self.out),
            "report": str(self.report),
            "metrics": str(self.out / "metrics.csv"),
            "models": str(self.out / "models"),
            "seconds": round(self.seconds, 1),
            "dice_global": dict(self.dice_global),
        }


def simulate(
    settings: ExperimentSettings,
    out: Path,
    *,
    resume: bool,
    reporter: Reporter,
    engine: EngineChoice = EngineChoice(),
    command: str | None = None,
) -> Outcome:
    """Run (or resume) an experiment and build its report.

    Raises:
        FedloopError: bad settings or data, a foreign run folder, or a campaign that failed.
    """
    out = out.resolve()
    _check_names(settings)
    if engine.address:
        from simulation.engines.ray import require_cluster

        require_cluster(engine.address)
    device = choose_device(settings.device)
    reporter.say(device.message)
    with exclusive(out):
        fresh = not (out / SETTINGS_FILE).exists()
        earlier = _claim(settings, out, resume=resume)
        started, clock = datetime.now(UTC), time.monotonic()
        workers = _workers(settings, engine, on_gpu=device.is_cuda)
        try:
            worlds = _prepare(settings, out, workers, reporter)
            for note in sorted({note for world in worlds.values() for note in world.notes}):
                reporter.say(f"note: {note}")
            require_patches(settings, worlds[settings.seeds[0]])
            _check_model(settings, worlds[settings.seeds[0]])
        except FedloopError:
            if fresh:
                _unclaim(out)
            raise
        jobs = [job for s in settings.seeds for job in plan_jobs(settings, s, [*worlds[s].centers])]
        record = functools.partial(
            run_record,
            worlds,
            command=command or " ".join(shlex.quote(part) for part in ["fedloop", *sys.argv[1:]]),
            device=device.name,
            started=started,
            processes=workers,
        )
        write_record(out, record(seconds=earlier, finished=False))
        _run(Plan(settings, out), jobs, workers, engine, reporter)
        with reporter.stage("collecting results"):
            collect(settings, worlds, jobs, out)
            draw_pictures(settings, worlds[settings.seeds[0]], jobs, out)
            seconds = earlier + time.monotonic() - clock
            write_record(out, record(seconds=seconds, finished=True))
        with reporter.stage("writing the report"):
            report = build_report([out], out)
    return Outcome(out, report, seconds, _headline(out))


def _check_names(settings: ExperimentSettings) -> None:
    """Fail on a mistyped strategy before hours of work, not after."""
    build_strategy(settings.federation.strategy)
    for arm in settings.arms:
        build_query_strategy(arm.strategy, arm.parameters, settings.per_case_quota)


def _claim(settings: ExperimentSettings, out: Path, *, resume: bool) -> float:
    """Make the folder ours; returns the seconds already spent in it.

    Raises:
        RunFolderError: it holds a run and ``resume`` was not asked for, or one of other settings.
    """
    path = out / SETTINGS_FILE
    if path.exists():
        if not resume:
            raise RunFolderError(
                f"{out}: holds a run already; add --resume to continue it or choose another folder"
            )
        stored = configuration.load(ExperimentSettings, path)
        if (key := _difference(stored.model_dump(), settings.model_dump())) is not None:
            raise RunFolderError(
                f"{path}: the stored run has another {key!r} than asked for now; "
                "resume with the same settings or choose another folder"
            )
        earlier = read_record(out)
        return float(earlier["seconds"]) if earlier else 0.0
    foreign = sorted(p.name for p in out.iterdir() if not p.name.startswith("."))
    if foreign:
        raise RunFolderError(
            f"{out}: not empty and not a run folder (found {foreign[0]!r}); choose another folder"
        )
    configuration.save(settings, path)
    return 0.0


def _unclaim(out: Path) -> None:
    """Undo :func:`_claim` of a run that could not start, so that the mended one needs no other
    folder; a folder that was claimed held nothing else."""
    (out / SETTINGS_FILE).unlink()
    shutil.rmtree(out / "data", ignore_errors=True)


def _check_model(settings: ExperimentSettings, world: World) -> None:
    """Fail on a network that cannot be built before the run is claimed."""
    spec = model_spec(settings, world)
    build_network(
        spec.model,
        spatial_dims=spec.spatial_dims,
        in_channels=spec.in_channels,
        classes=len(spec.classes),
        patch_size=spec.imaging.patch_size,
        seed=0,
    )


def _difference(stored: Mapping[str, Any], asked: Mapping[str, Any]) -> str | None:
    """Dotted name of the first setting that differs and matters."""
    for key, value in stored.items():
        if key in FREE or asked[key] == value:
            continue
        if isinstance(value, Mapping) and isinstance(asked[key], Mapping):
            if set(value) != set(asked[key]):
                return key
            inner = _difference(value, asked[key])
            return f"{key}.{inner}" if inner else key
        return key
    return None


def _workers(settings: ExperimentSettings, engine: EngineChoice, *, on_gpu: bool) -> int:
    if engine.name == "ray":
        return 1
    if settings.workers:
        return settings.workers
    return 1 if on_gpu else len(os.sched_getaffinity(0))


def _prepare(
    settings: ExperimentSettings, out: Path, workers: int, reporter: Reporter
) -> dict[int, World]:
    seeds = settings.seeds if settings.data.synthetic else settings.seeds[:1]
    for i, seed in enumerate(seeds, start=1):
        what = "drawing slides" if settings.data.synthetic else "checking images"
        with reporter.count(f"{what} ({i}/{len(seeds)})") as progress:
            prepare_data(settings, out, seed, workers=workers, progress=progress)
    return {seed: open_world(settings, out, seed) for seed in settings.seeds}


def _run(
    plan: Plan, jobs: list[Job], workers: int, engine: EngineChoice, reporter: Reporter
) -> None:
    todo = [job for job in jobs if not job.done(plan.out)]
    with reporter.jobs(plan.settings, jobs, todo, workers=workers) as on_step:
        if not todo:
            return
        if engine.name == "ray":
            from simulation.engines import ray

            run = functools.partial(ray.run_campaign, address=engine.address)
            run_serial(plan, todo, run, on_step)
        elif workers == 1 and choose_device(plan.settings.device).is_cuda:
            run_serial(plan, todo, inprocess.run_campaign, on_step)
        else:
            run_parallel(plan, todo, workers, on_step)


def _headline(out: Path) -> dict[str, float]:
    """Mean over seeds and centers of the primary outcome, per arm and budget."""
    from simulation.report.runfolder import read_run

    table = read_run(out).metrics.where(metric="dice_global")
    found: dict[str, float] = {}
    for arm in table.distinct("arm"):
        rows = table.where(arm=arm)
        last = rows.where(cycle=int(rows["cycle"].max()))
        for budget in last.distinct("budget"):
            name = f"{arm}@{budget}" if budget else str(arm)
            found[name] = round(float(last.where(budget=budget)["value"].mean()), 4)
    return found
