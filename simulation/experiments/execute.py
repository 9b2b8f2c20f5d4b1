"""Turns one job into site folders and a campaign, and runs it on an engine."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol

from client.site import LOG_FILE, SITE_FILE, AnnotatorSettings, SiteSettings
from fedloop import configuration
from fedloop.errors import RoundError
from fedloop.settings import (
    CampaignSettings,
    ExperimentSettings,
    IgniterSettings,
    ModelSpec,
    SelectionSettings,
)
from server.app import CAMPAIGN_FILE
from simulation.experiments.jobs import (
    POOLED,
    Job,
    igniter_job,
    model_folder,
    path_safe,
    seed_folder,
)
from simulation.experiments.world import Roles, World

Progress = Callable[[str], None]


class Engine(Protocol):
    """Runs or resumes the campaign of a folder over some sites."""

    def __call__(self, folder: Path, sites: Mapping[str, Path], *, progress: Progress) -> None: ...


def execute(
    job: Job,
    settings: ExperimentSettings,
    world: World,
    out: Path,
    engine: Engine,
    *,
    progress: Progress = lambda _: None,
) -> None:
    """Run one job to its end, resuming what a killed run left; a finished one returns at once.

    Raises:
        FedloopError: whatever stopped the campaign.
    """
    if job.done(out):
        return
    folder = job.folder(out)
    campaign = campaign_settings(job, settings, world, out)
    sites = _write_sites(job, settings, world, out)
    folder.mkdir(parents=True, exist_ok=True)
    configuration.save(campaign, folder / CAMPAIGN_FILE)
    try:
        engine(folder, sites, progress=progress)
    except RoundError as error:
        raise RoundError(f"{error}{_from_site_logs(sites)}") from None
    _keep_model(folder / "model", model_folder(out, job))
    shutil.rmtree(folder / "checkpoints", ignore_errors=True)
    (folder / "done").touch()


def _from_site_logs(sites: Mapping[str, Path]) -> str:
    """What failed sites wrote in their own logs: a coordinator in the field could not read it."""
    found = []
    for name, folder in sites.items():
        try:
            lines = (folder / LOG_FILE).read_text(encoding="utf-8").split("\n")
        except OSError:
            continue
        errors = [line for line in lines if line.startswith("ERROR ")]
        if errors:
            found.append(f"; log of site {name}: {errors[-1].removeprefix('ERROR ')}")
    return "".join(found)


def model_spec(settings: ExperimentSettings, world: World) -> ModelSpec:
    return ModelSpec(
        model=settings.model,
        imaging=settings.imaging,
        classes=settings.data.classes,
        in_channels=world.in_channels,
    )


def campaign_settings(
    job: Job, settings: ExperimentSettings, world: World, out: Path
) -> CampaignSettings:
    """The campaign of a job. Training seeds do not depend on the arm, so arms of one seed differ
    by their patches alone."""
    common = CampaignSettings(
        campaign=job.name,
        seed=job.seed,
        spec=model_spec(settings, world),
        training=settings.training,
        federation=settings.federation,
        igniter=settings.igniter.model_copy(update={"site": world.igniter_site}),
        evaluating_sites=tuple(world.centers),
    )
    bound = IgniterSettings(
        steps=settings.bound_steps, learning_rate=settings.igniter.learning_rate
    )
    match job.kind:
        case "igniter":
            return common
        case "pooled":
            return common.model_copy(update={"igniter": bound.model_copy(update={"site": POOLED})})
        case "site_alone":
            igniter = bound.model_copy(update={"site": job.site})
            return common.model_copy(update={"igniter": igniter, "evaluating_sites": (job.site,)})
    annotating = tuple(name for name, roles in world.centers.items() if roles.pool)
    selection = SelectionSettings(
        strategy=job.strategy,
        parameters=dict(job.parameters),
        patches=job.budget // settings.federation.cycles,
        per_case_quota=settings.per_case_quota,
    )
    return common.model_copy(
        update={
            "igniter": None,
            "initial_model": model_folder(out, igniter_job(job.seed)),
            "selection": selection,
            "annotating_sites": annotating,
            "training_sites": tuple(world.centers),
            "evaluating_sites": tuple(world.centers),
        }
    )


def _write_sites(
    job: Job, settings: ExperimentSettings, world: World, out: Path
) -> dict[str, Path]:
    """``site.yaml`` of every site that takes part; sites of one seed share the pool cache."""
    roles = dict(world.centers)
    match job.kind:
        case "pooled":
            everything = sum((r.labelled + r.pool for r in world.centers.values()), ())
            roles[POOLED] = Roles(labelled=everything, pool=(), test=())
        case "site_alone":
            own = world.centers[job.site]
            roles = {job.site: Roles(labelled=own.labelled + own.pool, pool=(), test=own.test)}
    folders = {}
    for name, role in roles.items():
        site = SiteSettings(
            name=name,
            data=world.data,
            labelled=role.labelled,
            pool=role.pool,
            test=role.test,
            annotator=AnnotatorSettings(
                name="simulated", parameters=settings.clinician.model_dump(mode="json")
            ),
            study=True,
            cache=seed_folder(out, job.seed) / "cache",
            device=settings.device,
            threads=1 if settings.device != "cuda" else 0,
        )
        folders[name] = site_folder(job, out, name)
        folders[name].mkdir(mode=0o700, parents=True, exist_ok=True)
        configuration.save(site, folders[name] / SITE_FILE)
    return folders


def site_folder(job: Job, out: Path, site: str) -> Path:
    return job.folder(out) / "sites" / path_safe(site)


def _keep_model(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    shutil.copytree(source, temporary)
    shutil.rmtree(target, ignore_errors=True)
    temporary.rename(target)
