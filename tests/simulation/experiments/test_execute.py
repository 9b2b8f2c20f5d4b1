"""From a job to a campaign and its sites."""

from __future__ import annotations

from pathlib import Path

import pytest

from client.site import open_site
from fedloop.configuration import load
from fedloop.errors import RoundError
from fedloop.settings import CampaignSettings
from simulation.experiments.execute import campaign_settings, execute, site_folder
from simulation.experiments.jobs import Job, igniter_job, model_folder, plan_jobs
from simulation.experiments.world import open_world


@pytest.fixture
def planned(experiment, tmp_path):
    """Settings, world and the jobs of one seed, by name."""

    def plan(**changes):
        settings = experiment(**({"bounds": ["pooled", "site_alone"]} | changes))
        world = open_world(settings, tmp_path, 0)
        jobs = {job.name: job for job in plan_jobs(settings, 0, list(world.centers))}
        return settings, world, jobs

    return plan


def test_the_igniter_trains_alone_and_all_are_measured(planned, tmp_path) -> None:
    settings, world, jobs = planned()
    campaign = campaign_settings(jobs["baseline"], settings, world, tmp_path)
    assert campaign.igniter is not None
    assert (campaign.igniter.site, campaign.igniter.steps) == ("c", 4)
    assert campaign.selection is None
    assert campaign.evaluating_sites == tuple(world.centers)


def test_an_arm_starts_from_the_igniter_and_asks_who_has_a_pool(planned, tmp_path) -> None:
    settings, world, jobs = planned()
    campaign = campaign_settings(jobs["default_k2_d0"], settings, world, tmp_path)
    assert campaign.igniter is None
    assert campaign.initial_model == model_folder(tmp_path, igniter_job(0))
    assert set(campaign.annotating_sites) == {"Übach", "b.1"}
    assert campaign.training_sites == tuple(world.centers)
    assert campaign.selection is not None
    assert (campaign.selection.strategy, campaign.selection.patches) == ("anchors_doubt", 2)


def test_a_budget_is_spread_over_the_cycles(planned, tmp_path) -> None:
    settings, world, jobs = planned(
        budgets=[6], federation={"cycles": 3, "rounds": 1, "steps_per_round": 1}
    )
    campaign = campaign_settings(jobs["random_k6_d1"], settings, world, tmp_path)
    assert campaign.selection is not None
    assert campaign.selection.patches == 2


def test_arms_of_a_seed_share_all_but_their_patches(planned, tmp_path) -> None:
    settings, world, jobs = planned()
    one, other = (
        campaign_settings(jobs[name], settings, world, tmp_path)
        for name in ("random_k2_d0", "default_k2_d0")
    )
    assert one.model_copy(update={"campaign": "x", "selection": None}) == other.model_copy(
        update={"campaign": "x", "selection": None}
    )


def test_bounds(planned, tmp_path) -> None:
    settings, world, jobs = planned(bound_steps=7)
    pooled = campaign_settings(jobs["pooled"], settings, world, tmp_path)
    assert pooled.igniter is not None
    assert (pooled.igniter.site, pooled.igniter.steps) == ("pooled", 7)
    alone = campaign_settings(jobs["site_alone_b.2e.1"], settings, world, tmp_path)
    assert alone.igniter is not None
    assert (alone.igniter.site, alone.evaluating_sites) == ("b.1", ("b.1",))


@pytest.mark.parametrize("name", ["a+b", "0", "x-y_z"])
def test_every_arm_s_name_is_a_campaign_s(planned, tmp_path, name: str) -> None:
    settings, world, jobs = planned(arms=[{"name": name, "strategy": "random"}])
    job = jobs[f"{name}_k2_d0"]
    assert campaign_settings(job, settings, world, tmp_path).campaign == job.name


def engine(folder: Path, sites, *, progress) -> None:
    """Leaves what a campaign leaves."""
    progress("done")
    (folder / "model").mkdir()
    (folder / "model" / "model.yaml").write_text(f"{sorted(sites)}")
    (folder / "checkpoints").mkdir()


def test_sites_hold_what_the_job_gives_them(planned, tmp_path) -> None:
    settings, world, jobs = planned()
    execute(jobs["baseline"], settings, world, tmp_path, engine)
    for name, roles in world.centers.items():
        site = open_site(site_folder(jobs["baseline"], tmp_path, name))
        assert site.name == name
        assert (site.settings.labelled, site.settings.pool, site.settings.test) == (
            roles.labelled,
            roles.pool,
            roles.test,
        )
        assert site.settings.study
    job = jobs["pooled"]
    execute(job, settings, world, tmp_path, engine)
    pooled = open_site(site_folder(job, tmp_path, "pooled")).settings
    everything = {c for r in world.centers.values() for c in (*r.labelled, *r.pool)}
    assert set(pooled.labelled) == everything
    assert not everything & {c for r in world.centers.values() for c in r.test}
    job = jobs["site_alone_b.2e.1"]
    execute(job, settings, world, tmp_path, engine)
    alone = open_site(site_folder(job, tmp_path, "b.1")).settings
    assert set(alone.labelled) == set(world.centers["b.1"].pool)
    assert [p.name for p in (job.folder(tmp_path) / "sites").iterdir()] == ["b.2e.1"]


def test_a_finished_job_keeps_its_model_and_is_not_run_again(planned, tmp_path) -> None:
    settings, world, jobs = planned()
    job: Job = jobs["baseline"]
    steps: list[str] = []
    execute(job, settings, world, tmp_path, engine, progress=steps.append)
    assert job.done(tmp_path)
    assert (model_folder(tmp_path, job) / "model.yaml").exists()
    assert not (job.folder(tmp_path) / "checkpoints").exists()
    assert load(CampaignSettings, job.folder(tmp_path) / "campaign.yaml").campaign == "baseline"
    execute(job, settings, world, tmp_path, engine, progress=steps.append)
    assert steps == ["done"]


def test_a_failed_job_is_not_done_and_tells_what_its_sites_logged(planned, tmp_path) -> None:
    settings, world, jobs = planned()
    job = jobs["baseline"]

    def fails(folder: Path, sites, *, progress) -> None:
        (sites["b.1"] / "site.log").write_text("...\nERROR old\n...\nERROR case x is broken\n")
        raise RoundError("cycle 0: no site answered")

    with pytest.raises(RoundError, match=r"no site answered; log of site b\.1: case x is broken$"):
        execute(job, settings, world, tmp_path, fails)
    assert not job.done(tmp_path)
