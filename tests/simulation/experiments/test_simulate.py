"""A whole tiny experiment: what it leaves, how it goes on, and what it refuses."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fedloop.errors import DataError, FedloopError, ModelError, RunFolderError, SettingsError
from simulation.experiments import lock
from simulation.experiments.simulate import Outcome, simulate
from simulation.progress import Reporter

ROOT = Path(__file__).parents[3]


def run(settings, out: Path, *, resume: bool = False) -> Outcome:
    return simulate(settings, out, resume=resume, reporter=Reporter(quiet=True), command="test")


def models(out: Path) -> dict[str, str]:
    """SHA-256 of every kept model file."""
    return {
        str(p.relative_to(out)): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in sorted((out / "models").rglob("*.safetensors"))
    }


def tables(out: Path) -> dict[str, str]:
    return {p.name: p.read_text() for p in sorted(out.glob("*.csv"))}


# ------------------------------------------------------------------ a finished run


def test_a_run_leaves_its_parts(finished: Outcome) -> None:
    out = finished.out
    names = {p.name for p in out.iterdir() if not p.name.startswith(".")}
    assert {"settings.yaml", "run.json", "metrics.csv", "rounds.csv", "patches.csv"} <= names
    assert {"selections.csv", "pictures", "models", "report.html", "jobs"} <= names
    record = json.loads((out / "run.json").read_text())
    assert record["finished"] is True
    assert record["processes"] == 2
    assert record["igniter_site"] == "c"
    assert set(record["centers"]) == {"Übach", "b.1", "c"}
    assert not list(out.rglob("*.tmp"))
    # Two seeds of an igniter, two draws and the default, two members each.
    assert len(models(out)) == 2 * 4 * 2


def test_the_summary_is_json(finished: Outcome) -> None:
    tree = json.loads(json.dumps(finished.as_dict()))
    assert set(tree["dice_global"]) == {"baseline", "random@2", "default@2"}
    assert Path(tree["metrics"]).exists()


def test_a_finished_run_is_resumed_without_work(finished: Outcome, experiment, monkeypatch) -> None:
    before = models(finished.out), tables(finished.out)
    monkeypatch.setattr("simulation.experiments.simulate.run_parallel", None)
    again = run(experiment(), finished.out, resume=True)
    assert (models(finished.out), tables(finished.out)) == before
    assert again.dice_global == finished.dice_global


def test_without_resume_it_is_refused(finished: Outcome, experiment) -> None:
    with pytest.raises(RunFolderError, match="holds a run already; add --resume"):
        run(experiment(), finished.out)


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"seeds": [0]}, "seeds"),
        (
            {"federation": {"rounds": 3, "steps_per_round": 2, "evaluate_every": 1}},
            "federation.rounds",
        ),
        ({"igniter": {"steps": 5}}, "igniter.steps"),
    ],
)
def test_other_settings_are_refused_by_name(
    finished: Outcome, experiment, changes, key: str
) -> None:
    before = tables(finished.out)
    with pytest.raises(RunFolderError, match=f"another '{key}' than asked for"):
        run(experiment(**changes), finished.out, resume=True)
    assert tables(finished.out) == before


def test_what_does_not_change_numbers_may_change(
    finished: Outcome, experiment, monkeypatch
) -> None:
    monkeypatch.setattr("simulation.experiments.simulate.run_parallel", None)
    run(experiment(workers=1, pictures_per_center=0), finished.out, resume=True)


def test_one_worker_and_two_give_the_same_numbers(finished: Outcome, experiment, tmp_path) -> None:
    other = run(experiment(workers=1, seeds=[1]), tmp_path / "run")
    mine = {n: d for n, d in models(finished.out).items() if "seed_1" in n}
    assert models(other.out) == mine


# ------------------------------------------------------------------ refused, and nothing left


def test_a_foreign_folder_is_not_touched(experiment, tmp_path) -> None:
    (tmp_path / "holiday.jpg").write_bytes(b"beach")
    with pytest.raises(RunFolderError, match=r"not empty and not a run folder \(found 'holiday"):
        run(experiment(), tmp_path)
    assert [p.name for p in tmp_path.iterdir() if not p.name.startswith(".")] == ["holiday.jpg"]
    assert (tmp_path / "holiday.jpg").read_bytes() == b"beach"


@pytest.mark.parametrize(
    ("changes", "error", "text"),
    [
        ({"igniter": {"site": "z"}}, SettingsError, "igniter.site: found 'z'"),
        ({"data": {}}, SettingsError, "data.root"),
        ({"data": {"root": "/nowhere"}}, DataError, "/nowhere is no folder"),
        ({"model": {"network": "UNett"}}, ModelError, "UNet"),
        ({"model": {"parameters": {"chanels": [4]}}}, ModelError, "chanels"),
        ({"arms": [{"name": "a", "strategy": "randm"}]}, SettingsError, "randm"),
        ({"federation": {"strategy": {"name": "fedvag"}}}, SettingsError, "fedvag"),
    ],
)
def test_a_run_that_cannot_start_claims_no_folder(
    experiment, tmp_path, changes, error: type[FedloopError], text: str
) -> None:
    out = tmp_path / "run"
    with pytest.raises(error, match=text):
        run(experiment(**changes), out)
    assert not out.exists() or not [p for p in out.iterdir() if not p.name.startswith(".")]
    with pytest.raises(error, match=text):  # ... so the same command says the same again
        run(experiment(**changes), out)


def test_a_synthetic_run_that_cannot_start_leaves_no_slides(
    experiment, tmp_path, monkeypatch
) -> None:
    drawn = tmp_path / "run" / "data" / "seed_0"

    def draw(*_: object, **__: object) -> None:
        drawn.mkdir(parents=True, exist_ok=True)

    def fails(*_: object) -> None:
        raise SettingsError("igniter.site: found 'z'")

    monkeypatch.setattr("simulation.experiments.simulate.prepare_data", draw)
    monkeypatch.setattr("simulation.experiments.simulate.open_world", fails)
    for _ in range(2):
        with pytest.raises(SettingsError, match="igniter"):
            run(experiment(data={"synthetic": {}}), tmp_path / "run")
        assert not drawn.exists()


def test_a_run_that_failed_to_resume_keeps_what_it_has(
    finished: Outcome, experiment, monkeypatch
) -> None:
    def fails(*_: object, **__: object) -> None:
        raise DataError("a disk is gone")

    before = models(finished.out)
    monkeypatch.setattr("simulation.experiments.simulate.prepare_data", fails)
    with pytest.raises(DataError):
        run(experiment(), finished.out, resume=True)
    assert models(finished.out) == before
    assert (finished.out / "settings.yaml").exists()


def test_two_at_once_are_refused(experiment, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(lock, "WAIT_SECONDS", 0.0)
    with (
        lock.exclusive(tmp_path),
        pytest.raises(RunFolderError, match="another simulation is running"),
    ):
        run(experiment(), tmp_path)


# ------------------------------------------------------------------ killed


@pytest.mark.e2e
def test_kill_9_and_resume_give_the_models_of_an_uninterrupted_run(
    finished: Outcome, config, tmp_path
) -> None:
    out = tmp_path / "killed"
    command = [sys.executable, "-m", "fedloop.cli", "simulate", str(config()), "--out", str(out)]
    command += ["--quiet"]
    with subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    ) as process:
        # Killed in the middle of an arm: after its selection, before its end.
        while process.poll() is None:
            states = [p.read_text() for p in out.glob("jobs/seed_*/*_k2_d*/state.json")]
            if any("round-1-1" in text and "finished" not in text for text in states):
                break
            time.sleep(0.005)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    assert process.returncode == -signal.SIGKILL
    assert not (out / "report.html").exists()
    done = subprocess.run(
        [*command, "--resume", "--json"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert models(out) == models(finished.out)
    assert tables(out)["metrics.csv"] == tables(finished.out)["metrics.csv"]
    assert json.loads(done.stdout)["dice_global"] == finished.dice_global
