"""The tables of a real, tiny run."""

from __future__ import annotations

import csv
import json
import math
import shutil
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest

from client.annotation.store import CorrectionStore
from fedloop.errors import RunFolderError
from simulation.experiments import collect as module
from simulation.experiments.collect import collect
from simulation.experiments.execute import site_folder
from simulation.experiments.jobs import plan_jobs
from simulation.experiments.world import open_world
from simulation.report.runfolder import COLUMNS

CENTERS = ("Übach", "b.1", "c")
POOLS = ("Übach", "b.1")


@pytest.fixture(scope="module")
def settings(experiment):
    return experiment()


@pytest.fixture(scope="module")
def out(finished) -> Path:
    folder: Path = finished.out
    return folder


@pytest.fixture(scope="module")
def worlds(settings, out):
    return {seed: open_world(settings, out, seed) for seed in settings.seeds}


@pytest.fixture(scope="module")
def jobs(settings, worlds):
    return [j for s in settings.seeds for j in plan_jobs(settings, s, [*worlds[s].centers])]


def rows(out: Path, name: str) -> list[dict[str, str]]:
    with (out / name).open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def evaluation(out: Path, job, center: str, name: str) -> dict:
    return json.loads((site_folder(job, out, center) / "evaluations" / job.name / name).read_text())


@pytest.mark.parametrize("name", ["metrics", "rounds", "patches", "selections"])
def test_the_columns_are_those_of_the_report(out: Path, name: str) -> None:
    header = (out / f"{name}.csv").read_text(encoding="utf-8").splitlines()[0]
    assert header.split(",") == COLUMNS[f"{name}.csv"].split()


def test_metrics_are_complete(out: Path, worlds) -> None:
    found: dict[tuple[str, ...], int] = defaultdict(int)
    for row in rows(out, "metrics.csv"):
        key = [row[n] for n in ("arm", "seed", "center", "case", "budget", "cycle", "metric")]
        found[tuple(key)] += 1
    assert set(found.values()) == {1}
    for seed, world in worlds.items():
        for arm, budget, cycle in (
            ("baseline", "0", "0"),
            *((a, "2", "1") for a in ("random", "default")),
        ):
            for center, roles in world.centers.items():
                for case in roles.test:
                    for metric in module.CASE_METRICS:
                        assert (arm, str(seed), center, case, budget, cycle, metric) in found
                names = ["dice_global", "dice_case_mean"]
                if arm != "baseline" and roles.pool:
                    names += ["patches", "corrected_px", "minutes"]
                for metric in names:
                    assert (arm, str(seed), center, "", budget, cycle, metric) in found


def test_draws_are_averaged_value_by_value(out: Path, jobs) -> None:
    draws = [j for j in jobs if j.arm == "random" and j.seed == 1]
    assert [j.draw for j in draws] == [0, 1]
    trees = [evaluation(out, j, "b.1", "cycle_01_round_002.json") for j in draws]
    table = rows(out, "metrics.csv")

    def value(case: str, metric: str) -> float:
        (row,) = [
            r
            for r in table
            if (r["arm"], r["seed"], r["center"], r["case"], r["metric"])
            == ("random", "1", "b.1", case, metric)
        ]
        return float(row["value"] or "nan")

    expected = np.mean([t["summary"]["dice_global"] for t in trees])
    assert value("", "dice_global") == pytest.approx(expected, rel=1e-5)
    for i, case in enumerate(trees[0]["cases"]):
        known = [t["cases"][i]["precision"] for t in trees]
        known = [v for v in known if not math.isnan(v)]
        found = value(case["case"], "precision")
        assert found == pytest.approx(np.mean(known), rel=1e-5) if known else math.isnan(found)


def test_work_is_that_of_the_stores(out: Path, jobs) -> None:
    (job,) = [j for j in jobs if j.arm == "default" and j.seed == 0]
    table = [r for r in rows(out, "metrics.csv") if r["arm"] == "default" and r["seed"] == "0"]
    for center in POOLS:
        store = CorrectionStore(site_folder(job, out, center) / "annotation")
        corrections = store.corrections(job.name, up_to_cycle=1)
        own = {
            r["metric"]: float(r["value"])
            for r in table
            if r["center"] == center and r["metric"] in ("patches", "corrected_px", "minutes")
        }
        assert own["patches"] == 2
        assert own["corrected_px"] == sum(c.corrected_px for c in corrections)
        assert own["minutes"] == pytest.approx(sum(c.seconds for c in corrections) / 60, rel=1e-5)


def test_every_site_and_round_has_one_row(out: Path) -> None:
    table = rows(out, "rounds.csv")
    places = [tuple(r[n] for n in ("arm", "seed", "draw", "cycle", "round", "site")) for r in table]
    assert len(set(places)) == len(places)
    for arm, draws in (("random", 2), ("default", 1)):
        own = [r for r in table if r["arm"] == arm and r["round"] in ("1", "2")]
        assert len(own) == draws * 2 * 2 * len(CENTERS)
        assert all(float(r["loss"]) > 0 and int(float(r["examples"])) > 0 for r in own)
        assert all(int(r["bytes_in"]) > 0 and int(r["bytes_out"]) > 0 for r in own)
        assert all(0 <= float(r["dice_global"]) <= 1 for r in own)


def test_patches_are_the_pools_of_every_seed(out: Path, worlds) -> None:
    table = rows(out, "patches.csv")
    places = [tuple(r[n] for n in ("seed", "center", "case", "cell")) for r in table]
    assert len(set(places)) == len(places)
    expected = sum(4 * len(r.pool) for w in worlds.values() for r in w.centers.values())
    assert len(table) == expected
    assert {r["center"] for r in table} == set(POOLS)
    assert all(math.isfinite(float(r["uga"])) for r in table)
    assert all(float(r["error_px"]) >= 0 for r in table)


def test_selections_are_patches_of_the_pool(out: Path) -> None:
    pool = {
        tuple(r[n] for n in ("seed", "center", "case", "cell")): float(r["error_px"])
        for r in rows(out, "patches.csv")
    }
    table = rows(out, "selections.csv")
    assert len(table) == (2 + 1) * 2 * len(POOLS) * 2  # draws and default, seeds, centers, budget
    for row in table:
        place = tuple(row[n] for n in ("seed", "center", "case", "cell"))
        # The clinician corrects what the first model got wrong.
        assert float(row["corrected_px"]) == pool[place]
        assert row["order"] in ("0", "1")
        assert row["reason"]
        assert 0 <= int(row["foreground_px"]) <= 256


def test_draws_choose_apart(out: Path) -> None:
    table = [r for r in rows(out, "selections.csv") if r["arm"] == "random"]
    chosen = {
        draw: [(r["seed"], r["center"], r["case"], r["cell"]) for r in table if r["draw"] == draw]
        for draw in ("0", "1")
    }
    assert chosen["0"] != chosen["1"]


def test_collecting_again_gives_the_same_bytes(settings, worlds, jobs, out: Path) -> None:
    before = {p.name: p.read_bytes() for p in out.glob("*.csv")}
    collect(settings, worlds, jobs, out)
    assert {p.name: p.read_bytes() for p in out.glob("*.csv")} == before


def test_a_lost_evaluation_is_named_and_the_old_tables_stay(
    settings, worlds, jobs, out: Path, tmp_path
) -> None:
    copy = tmp_path / "run"
    shutil.copytree(out, copy)
    before = (copy / "metrics.csv").read_bytes()
    (job,) = [j for j in jobs if j.arm == "default" and j.seed == 1]
    lost = site_folder(job, copy, "c") / "evaluations" / job.name / "cycle_01_round_002.json"
    lost.unlink()
    with pytest.raises(RunFolderError, match=r"cycle_01_round_002\.json: the evaluation cannot be"):
        collect(settings, worlds, jobs, copy)
    assert (copy / "metrics.csv").read_bytes() == before
