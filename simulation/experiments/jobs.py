"""The campaigns of an experiment as independent jobs, and the folders they live in."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fedloop.settings import ArmSettings, ExperimentSettings

BASELINE = "baseline"
ORACLE = "oracle"
POOLED = "pooled"
SITE_ALONE = "site_alone"
ORACLE_STRATEGY = "oracle_error"

LONGEST_NAME = 80
"""Characters of a center's name in a folder name; file systems end at 255 bytes."""


@dataclass(frozen=True)
class Job:
    """One campaign.

    Args:
        kind: ``igniter``, ``arm``, ``pooled`` or ``site_alone``.
        arm: name in the report.
        strategy: query strategy of an arm.
        site: the center of a ``site_alone`` job.
    """

    kind: str
    seed: int
    arm: str
    budget: int = 0
    draw: int = 0
    strategy: str = ""
    parameters: tuple[tuple[str, Any], ...] = field(default=(), compare=False)
    site: str = ""

    @property
    def name(self) -> str:
        """Unique within its seed; also the campaign's name and folder."""
        match self.kind:
            case "arm":
                return f"{self.arm}_k{self.budget}_d{self.draw}"
            case "site_alone":
                return f"{SITE_ALONE}_{path_safe(self.site)}"
            case _:
                return self.arm

    @property
    def needs_igniter(self) -> bool:
        return self.kind == "arm"

    def folder(self, out: Path) -> Path:
        return seed_folder(out, self.seed) / self.name

    def done(self, out: Path) -> bool:
        return (self.folder(out) / "done").exists()


def path_safe(name: str) -> str:
    """A center's name as part of a folder name; centers are named by users' files.

    Different names stay different: only escapes hold a dot, and long names end with their digest.
    """
    safe = "".join(
        c if c.isascii() and (c.isalnum() or c in "-_") else f".{ord(c):x}." for c in name
    )
    if len(safe) > LONGEST_NAME:
        digest = hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:16]
        safe = f"{safe[:LONGEST_NAME]}..{digest}"
    return safe or "site."


def seed_folder(out: Path, seed: int) -> Path:
    return out / "jobs" / f"seed_{seed}"


def model_folder(out: Path, job: Job) -> Path:
    """Where a finished job's ensemble is kept for ``fedloop predict``."""
    return out / "models" / f"seed_{job.seed}" / job.name


def igniter_job(seed: int) -> Job:
    return Job(kind="igniter", seed=seed, arm=BASELINE)


def plan_jobs(settings: ExperimentSettings, seed: int, centers: Sequence[str]) -> list[Job]:
    """All jobs of one seed; the igniter first, since the arms start from it."""
    jobs = [igniter_job(seed)]
    arms = list(settings.arms)
    if ORACLE in settings.bounds and not any(arm.strategy == ORACLE_STRATEGY for arm in arms):
        arms.append(ArmSettings(name="largest_error", strategy=ORACLE_STRATEGY))
    for arm in arms:
        name = ORACLE if arm.strategy == ORACLE_STRATEGY else arm.name
        jobs += [
            Job(
                kind="arm",
                seed=seed,
                arm=name,
                budget=budget,
                draw=draw,
                strategy=arm.strategy,
                parameters=tuple(sorted(arm.parameters.items())),
            )
            for budget in settings.budgets
            for draw in range(arm.draws)
        ]
    if POOLED in settings.bounds:
        jobs.append(Job(kind="pooled", seed=seed, arm=POOLED))
    if SITE_ALONE in settings.bounds:
        jobs += [Job(kind="site_alone", seed=seed, arm=SITE_ALONE, site=c) for c in centers]
    return jobs
