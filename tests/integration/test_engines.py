"""One campaign, three engines, the same bits: in this process, on Ray, on real Flower processes."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Event
from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import Context, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.supercore import telemetry

from client.app import ERROR_CODE
from fedloop.errors import RoundError, SettingsError
from fedloop.models.registry import build_network
from fedloop.models.weights import state_arrays
from fedloop.records import DESCRIBE, STATUS, TRAIN
from fedloop.settings import ModelSettings, StrategySettings
from server.campaign import Campaign
from simulation.engines import inprocess, ray
from simulation.engines.inprocess import InProcessGrid
from simulation.engines.stoppable import StoppableGrid
from strategies.registry import build_strategy
from tests.integration import tiny
from tests.integration.conftest import Make
from tests.integration.deployment import Deployment
from tests.integration.run_engine import USAGE_REPORT
from tests.integration.tiny import SITES, Tiny

REPOSITORY = Path(__file__).resolve().parents[2]
STEPS = [
    *("ignite", "evaluate-0", "select-1", "corrected-1"),
    *("round-1-1", "round-1-2", "evaluate-1"),
]
RAY_SECONDS = 240.0
RAY_END_SECONDS = 30.0
RUN_SECONDS = 400.0


def history(campaign: Tiny) -> list[dict[str, Any]]:
    """What the coordinator noted of every answer."""
    state = json.loads((campaign.folder / "state.json").read_text(encoding="utf-8"))
    entries: list[dict[str, Any]] = state["history"]
    return entries


# --------------------------------------------------------------------------- in this process


def test_inprocess_is_deterministic(make: Make, uninterrupted: Callable[..., Tiny]) -> None:
    again = make()
    steps: list[str] = []
    inprocess.run_campaign(again.folder, again.sites, progress=steps.append)
    assert steps == STEPS
    assert tiny.weights(again) == tiny.weights(uninterrupted())
    assert history(again) == history(uninterrupted())


def test_order_of_the_sites_mapping_does_not_matter(
    make: Make, uninterrupted: Callable[..., Tiny]
) -> None:
    again = make()
    inprocess.run_campaign(again.folder, {name: again.sites[name] for name in reversed(SITES)})
    assert tiny.weights(again) == tiny.weights(uninterrupted())


@pytest.mark.parametrize("threads", [1, 2])
def test_coordinator_does_not_depend_on_threads(threads: int) -> None:
    settings = ModelSettings(parameters={"channels": [32, 64, 128], "strides": [2, 2]})

    def work() -> bytes:
        start, end = (
            state_arrays(
                build_network(
                    settings,
                    spatial_dims=2,
                    in_channels=3,
                    classes=2,
                    patch_size=(32, 32),
                    seed=seed,
                )
            )
            for seed in (1, 2)
        )
        strategy = build_strategy(StrategySettings(name="fedadam"))
        updated, state = strategy.apply(start, end, {})
        updated, _ = strategy.apply(updated, start, state)
        return b"".join(np.ascontiguousarray(updated[name]).tobytes() for name in sorted(updated))

    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        expected = work()
        torch.set_num_threads(threads)
        assert work() == expected
    finally:
        torch.set_num_threads(before)


# --------------------------------------------------------------------------- Ray


def run_alone(engine: str, campaign: Tiny, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run an engine in an interpreter of its own, with nothing set that would silence it."""
    silent = ("FLWR_TELEMETRY_ENABLED", "RAY_USAGE_STATS_ENABLED")
    environment = {k: v for k, v in os.environ.items() if k not in silent} | variables
    return subprocess.run(
        [sys.executable, "-m", "tests.integration.run_engine", engine, str(campaign.folder.parent)],
        cwd=REPOSITORY,
        env=environment,
        capture_output=True,
        text=True,
        timeout=RAY_SECONDS,
        check=False,
    )


def left_of_ray(mark: str) -> list[int]:
    """What Ray started for a run and is still there although it was given time to end."""
    deadline = time.monotonic() + RAY_END_SECONDS
    while (found := ray_processes(mark)) and time.monotonic() < deadline:
        time.sleep(0.2)
    return found


def ray_processes(mark: str) -> list[int]:
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if f"FEDLOOP_TEST_RAY={mark}".encode() in (entry / "environ").read_bytes().split(b"\0"):
                found.append(int(entry.name))
        except OSError:
            continue
    return found


@pytest.fixture
def ray_home() -> Iterator[str]:
    """A short path: Ray's sockets lie under it, and theirs may have 107 characters at most."""
    with tempfile.TemporaryDirectory(prefix="fl", ignore_cleanup_errors=True) as folder:
        yield folder
        for pid in ray_processes(folder):  # of a test that failed
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


@pytest.mark.e2e
def test_ray_gives_the_same_bits(
    make: Make, uninterrupted: Callable[..., Tiny], ray_home: str
) -> None:
    campaign = make()
    done = run_alone("ray", campaign, RAY_TMPDIR=ray_home, FEDLOOP_TEST_RAY=ray_home, HOME=ray_home)
    shown = f"{done.stdout}\n{done.stderr}"
    assert done.returncode == 0, shown
    assert re.findall(r"^step (\S+)$", done.stdout, re.MULTILINE) == STEPS, shown
    assert tiny.weights(campaign) == tiny.weights(uninterrupted())
    assert history(campaign) == history(uninterrupted())
    assert USAGE_REPORT not in shown
    assert "threads ['MainThread']" in done.stdout, shown
    assert left_of_ray(ray_home) == []


@pytest.mark.e2e
def test_ray_that_cannot_run_the_sites_says_so(make: Make, ray_home: str) -> None:
    """... at once: the coordinator must not wait for its sites until the round's deadline."""
    campaign = make()
    tiny.change_campaign(
        campaign,
        federation=tiny.campaign_settings().federation.model_copy(
            update={"round_timeout_seconds": 36000.0}
        ),
    )
    done = run_alone(
        "ray-too-large", campaign, RAY_TMPDIR=ray_home, FEDLOOP_TEST_RAY=ray_home, HOME=ray_home
    )
    shown = f"{done.stdout}\n{done.stderr}"
    assert done.returncode == 0, shown
    assert "SettingsError: --engine ray: Ray failed with 4096 CPU(s) and 0 GPU(s)" in done.stdout
    assert "Traceback" not in shown
    assert left_of_ray(ray_home) == []


def test_ray_missing(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    campaign = make()
    with pytest.raises(SettingsError, match=r"^--engine ray needs Ray: pip install 'fedloop\[ray"):
        ray.run_campaign(campaign.folder, campaign.sites)
    assert not (campaign.folder / "state.json").exists()


def test_usage_reports_are_off_although_flower_was_imported(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("FLWR_TELEMETRY_ENABLED", raising=False)
    monkeypatch.delenv("RAY_USAGE_STATS_ENABLED", raising=False)
    monkeypatch.setattr(telemetry, "FLWR_TELEMETRY_ENABLED", "1")
    ray._stay_silent()
    assert telemetry.FLWR_TELEMETRY_ENABLED == "0"
    assert os.environ["FLWR_TELEMETRY_ENABLED"] == os.environ["RAY_USAGE_STATS_ENABLED"] == "0"


# --------------------------------------------------------------------------- real processes


# Flower builds its FAB with a name of pathspec's that pathspec has renamed.
@pytest.mark.filterwarnings("ignore:GitWildMatchPattern:DeprecationWarning")
@pytest.mark.e2e
def test_supernodes_give_the_same_bits(
    make: Make, uninterrupted: Callable[..., Tiny], tmp_path: Path
) -> None:
    campaign = make()
    with Deployment(tmp_path / "flower") as deployment:
        keys = {name: tmp_path / f"{name}.key" for name in SITES}
        ids = {deployment.register(name, key): key for name, key in keys.items()}
        # The node with the largest id becomes the site whose name comes first.
        by_id = dict(zip(SITES, sorted(ids, reverse=True), strict=True))
        for name, node in by_id.items():
            config = {"site-folder": str(campaign.sites[name])}
            deployment.start_supernode(name, ids[node], config)
        deployment.wait(lambda: deployment.online() == len(SITES), "nodes are online", 60.0)
        run = deployment.start_run({"campaign-folder": str(campaign.folder)})
        deployment.wait(
            lambda: deployment.status(run)[0] == "finished", "the run finishes", RUN_SECONDS
        )
        assert deployment.status(run)[1] == "completed", deployment.logs()
    assert deployment.running() == []
    assert tiny.weights(campaign) == tiny.weights(uninterrupted())
    assert history(campaign) == history(uninterrupted())
    rounds = [e["site"] for e in history(campaign) if e["action"] == "train" and e["round"]]
    assert rounds == [*SITES, *SITES] == sorted(SITES) * 2
    assert sorted(SITES, key=by_id.__getitem__) == sorted(SITES, reverse=True)


# --------------------------------------------------------------------------- the in-process grid


def grid_message(node: int, kind: str = DESCRIBE) -> Message:
    return Message(RecordDict(), node, kind)


def test_grid_gives_unknown_nodes_no_message_id(make: Make) -> None:
    campaign = make()
    grid = InProcessGrid(campaign.sites)
    first, second, third = grid.get_node_ids()
    ids = grid.push_messages([grid_message(first), grid_message(999), grid_message(third)])
    assert [bool(i) for i in ids] == [True, False, True]
    assert len(set(ids)) == 3
    assert [m.metadata.src_node_id for m in grid.pull_messages(ids)] == [first, third]
    assert grid.pull_messages(ids) == []  # a reply is given out once
    assert second in grid.get_node_ids()


def test_unknown_node_is_a_failure_of_that_site(make: Make) -> None:
    campaign = make()
    other = make("b")
    tiny.change_campaign(
        campaign,
        evaluating_sites=("east",),
        federation=tiny.campaign_settings().federation.model_copy(
            update={"round_timeout_seconds": 0.5}
        ),
    )
    with pytest.raises(RoundError, match="site 'east' is not connected"):
        inprocess.run_campaign(campaign.folder, other.sites)


def test_grid_runs_a_site_when_its_reply_is_pulled(make: Make) -> None:
    asked: list[int] = []
    app = ClientApp()

    @app.query("describe")
    def describe(message: Message, context: Context) -> Message:
        asked.append(context.node_id)
        return Message(RecordDict(), reply_to=message)

    campaign = make()
    grid = InProcessGrid(campaign.sites, app)
    nodes = list(grid.get_node_ids())
    ids = grid.push_messages([grid_message(n) for n in nodes])
    assert asked == []
    grid.pull_messages([ids[1]])
    assert asked == [nodes[1]]
    grid.pull_messages(ids)
    assert asked == [nodes[1], nodes[0], nodes[2]]
    replies = grid.send_and_receive([grid_message(nodes[2])], timeout=0.0)
    assert [r.metadata.reply_to_message_id for r in replies] == ["message-4"]


def test_grid_turns_exceptions_into_error_replies_like_a_supernode(make: Make) -> None:
    app = ClientApp()

    @app.train()
    def train(message: Message, context: Context) -> Message:
        raise KeyError("mask")

    campaign = make()
    grid = InProcessGrid(campaign.sites, app)
    node = next(iter(grid.get_node_ids()))
    for kind, reason in (
        (TRAIN, "<class 'KeyError'>:<''mask''>"),
        (STATUS, "<class 'ValueError'>:<'No query function registered with name 'status''>"),
    ):
        (reply,) = grid.send_and_receive([grid_message(node, kind)])
        assert reply.has_error()
        assert (reply.error.code, reply.error.reason) == (ERROR_CODE, reason)


def test_stopped_grid_ends_a_campaign(make: Make) -> None:
    campaign = make()
    stop = Event()
    grid = StoppableGrid(InProcessGrid(campaign.sites), stop)
    runner = Campaign(
        tiny.campaign_settings(),
        campaign.folder,
        progress=lambda step: stop.set() if step == "select-1" else None,
    )
    with pytest.raises(RoundError, match="the simulation ended before the campaign"):
        runner.run(grid)
    assert runner.store.load_state(tiny.CAMPAIGN, runner._state.fingerprint).done == STEPS[:3]
