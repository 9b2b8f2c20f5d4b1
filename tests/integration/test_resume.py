"""A campaign that was stopped anywhere and run again ends with the same bits."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from client.app import app
from fedloop.errors import RunFolderError, SettingsError
from fedloop.settings import SelectionSettings, TrainingSettings
from server.app import CAMPAIGN_FILE
from server.checkpoint import CampaignState, CheckpointStore
from simulation.engines.inprocess import run_campaign
from tests.integration import tiny
from tests.integration.conftest import Make
from tests.integration.run_engine import IN_TRAINING
from tests.integration.tiny import Tiny

REPOSITORY = Path(__file__).resolve().parents[2]
STRATEGIES = ["fedavg", "fedbn", "fedadam"]
STEPS = [
    *("ignite", "evaluate-0", "select-1", "corrected-1"),
    *("round-1-1", "round-1-2", "evaluate-1"),
]
SECOND_CYCLE = ["select-2", "corrected-2", "round-2-1", "round-2-2", "evaluate-2"]
MOST_RUNS = 80
START_SECONDS = 120.0

Uninterrupted = Callable[..., Tiny]


class Stop(BaseException):
    """Ends a campaign on the spot, past every ``except Exception``, as a kill would."""


def run_until_done(attempt: Callable[[], None]) -> int:
    """Call ``attempt`` until it is not stopped any more; returns how often it was."""
    for stopped in range(MOST_RUNS):
        try:
            attempt()
        except Stop:
            continue
        return stopped
    raise AssertionError(f"still not finished after {MOST_RUNS} runs")


def check_same(resumed: Tiny, whole: Tiny, *, cycles: int = 1) -> None:
    """The same weights, the same answers noted, and no patch selected or corrected twice."""
    assert tiny.weights(resumed) == tiny.weights(whole)
    assert state(resumed) == state(whole)
    for site in tiny.ANNOTATING:
        for cycle in range(1, cycles + 1):
            ours, theirs = (c.store(site).items(tiny.CAMPAIGN, cycle) for c in (resumed, whole))
            assert len(ours) == tiny.PATCHES
            assert [(i.case_id, i.cell, i.reason) for i in ours] == [
                (i.case_id, i.cell, i.reason) for i in theirs
            ]
        assert rows(resumed, site, "items") == cycles * tiny.PATCHES
        assert rows(resumed, site, "versions") == cycles * tiny.PATCHES
        assert rows(resumed, site, "selections") == cycles


def state(campaign: Tiny) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((campaign.folder / "state.json").read_text(encoding="utf-8"))
    return found


def rows(campaign: Tiny, site: str, table: str) -> int:
    with closing(sqlite3.connect(campaign.store(site).folder / "store.sqlite")) as db:
        return int(db.execute(f"SELECT COUNT(*) FROM {table}").fetchone()[0])  # noqa: S608 - our own names


# --------------------------------------------------------------------------- between steps


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("last", STEPS)
def test_stopped_after_a_step(
    make: Make, uninterrupted: Uninterrupted, strategy: str, last: str
) -> None:
    campaign = make(strategy=strategy)
    steps: list[str] = []

    def stop(step: str) -> None:
        steps.append(step)
        if step == last:
            raise Stop

    with pytest.raises(Stop):
        run_campaign(campaign.folder, campaign.sites, progress=stop)
    run_campaign(campaign.folder, campaign.sites, progress=steps.append)
    assert steps == STEPS
    check_same(campaign, uninterrupted(strategy=strategy))


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_stopped_after_every_step_of_two_cycles(
    make: Make, uninterrupted: Uninterrupted, strategy: str
) -> None:
    campaign = make(strategy=strategy, cycles=2)
    steps: list[str] = []

    def stop(step: str) -> None:
        steps.append(step)
        raise Stop

    run_until_done(lambda: run_campaign(campaign.folder, campaign.sites, progress=stop))
    assert steps == STEPS + SECOND_CYCLE
    check_same(campaign, uninterrupted(strategy=strategy, cycles=2), cycles=2)


def test_finished_campaign_asks_nobody(make: Make, uninterrupted: Uninterrupted) -> None:
    campaign = uninterrupted()
    before = tiny.weights(campaign)

    def refuse(message: Message, context: Context) -> Message:
        raise Stop

    silent = ClientApp()
    silent.query("describe")(refuse)
    run_campaign(campaign.folder, campaign.sites, client_app=silent)
    assert tiny.weights(campaign) == before


# --------------------------------------------------------------------------- within steps


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_every_answer_is_lost_once(make: Make, uninterrupted: Uninterrupted, strategy: str) -> None:
    """The site has done its work, but the coordinator dies before it hears of it."""
    campaign = make(strategy=strategy, cycles=2)
    lost: set[tuple[str, str, str, int]] = set()

    def answer(message: Message, context: Context) -> Message:
        reply = app(message, context)
        asked = json.loads(str(message.content.config_records["instruction"]["body"]))
        key = (
            str(reply.content.config_records["site"]["site"]),
            message.metadata.message_type,
            str(asked["cycle"]),
            int(asked["round"]),
        )
        if key not in lost:
            lost.add(key)
            raise Stop
        return reply

    run_until_done(
        lambda: run_campaign(campaign.folder, campaign.sites, client_app=every_kind(answer))
    )
    annotating = 3 + 2 + 2  # evaluations, selections, looks at the progress
    assert len(lost) == 1 + 5 * len(tiny.SITES) + annotating * len(tiny.ANNOTATING)
    check_same(campaign, uninterrupted(strategy=strategy, cycles=2), cycles=2)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_killed_before_each_step_is_recorded(
    make: Make, uninterrupted: Uninterrupted, strategy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The checkpoint is written, the state that names it is not."""
    campaign = make(strategy=strategy, cycles=2)
    honest = CheckpointStore.save_state
    seen: set[str] = set()

    def save_state(self: CheckpointStore, state: CampaignState) -> None:
        if state.done[-1] not in seen:
            seen.add(state.done[-1])
            raise Stop
        honest(self, state)

    monkeypatch.setattr(CheckpointStore, "save_state", save_state)
    run_until_done(lambda: run_campaign(campaign.folder, campaign.sites))
    assert seen == {*STEPS, *SECOND_CYCLE, "finished"}
    check_same(campaign, uninterrupted(strategy=strategy, cycles=2), cycles=2)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_killed_in_the_middle_of_writing_a_checkpoint(
    make: Make, uninterrupted: Uninterrupted, strategy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from server import checkpoint

    campaign = make(strategy=strategy)
    honest = checkpoint._write
    seen: set[tuple[str, str]] = set()

    def write(path: Path, arrays: Any) -> None:
        key = (path.parent.name, path.name)
        if key not in seen:
            seen.add(key)
            path.write_bytes(b"half a file")
            raise Stop
        honest(path, arrays)

    monkeypatch.setattr(checkpoint, "_write", write)
    stopped = run_until_done(lambda: run_campaign(campaign.folder, campaign.sites))
    assert stopped == 3 * 2 * tiny.MODEL.members  # ignite and two rounds; weights and state
    check_same(campaign, uninterrupted(strategy=strategy))


@pytest.mark.e2e
@pytest.mark.parametrize("strategy", ["fedavg", "fedbn"])
def test_kill_9_in_the_middle_of_training(
    make: Make, uninterrupted: Uninterrupted, strategy: str
) -> None:
    campaign = make(strategy=strategy)
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "tests.integration.run_engine", "inprocess-hangs"),
            str(campaign.folder.parent),
        ],
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=os.environ | {"PYTHONUNBUFFERED": "1"},
    )
    try:
        assert process.stdout is not None
        output = []
        for line in process.stdout:
            output.append(line)
            if IN_TRAINING in line:
                break
        assert IN_TRAINING in output[-1], "".join(output)
        process.kill()
        assert process.wait(START_SECONDS) == -signal.SIGKILL
    finally:
        process.kill()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()
    assert state(campaign)["done"] == STEPS[: STEPS.index("round-1-2")]
    assert not campaign.model.exists()
    run_campaign(campaign.folder, campaign.sites)
    check_same(campaign, uninterrupted(strategy=strategy))


def every_kind(answer: Callable[[Message, Context], Message]) -> ClientApp:
    wrapped = ClientApp()
    wrapped.train()(answer)
    wrapped.evaluate()(answer)
    for action in ("select", "status", "describe"):
        wrapped.query(action)(answer)
    return wrapped


# --------------------------------------------------------------------------- another campaign


@pytest.mark.parametrize(
    "changes",
    [
        {"seed": 8},
        {"campaign": "other"},
        {"training": TrainingSettings(batch_size=5)},
        {"selection": SelectionSettings(strategy="random", patches=tiny.PATCHES)},
        {"training_sites": tiny.ANNOTATING},
    ],
    ids=lambda changes: next(iter(changes)),
)
@pytest.mark.parametrize("last", ["select-1", "evaluate-1"])
def test_folder_of_other_settings_is_refused(
    make: Make, changes: dict[str, Any], last: str
) -> None:
    campaign = make()

    def stop(step: str) -> None:
        if step == last:
            raise Stop

    with pytest.raises(Stop):
        run_campaign(campaign.folder, campaign.sites, progress=stop)
    before = state(campaign)
    tiny.change_campaign(campaign, **changes)
    with pytest.raises(RunFolderError) as caught:
        run_campaign(campaign.folder, campaign.sites)
    assert str(caught.value) == (
        f"{campaign.folder / 'state.json'}: belongs to campaign 'tiny' with other settings; "
        "choose another folder or repeat with the same settings"
    )
    assert state(campaign) == before


def test_damaged_state_and_checkpoint(make: Make) -> None:
    campaign = make()

    def stop(step: str) -> None:
        if step == "round-1-1":
            raise Stop

    with pytest.raises(Stop):
        run_campaign(campaign.folder, campaign.sites, progress=stop)
    file = campaign.folder / "state.json"
    weights = campaign.folder / "checkpoints" / "cycle-01_round-001" / "member_1.safetensors"
    honest = weights.read_bytes()
    weights.write_bytes(honest[: len(honest) // 2])
    with pytest.raises(RunFolderError, match="damaged checkpoint"):
        run_campaign(campaign.folder, campaign.sites)
    weights.unlink()
    with pytest.raises(RunFolderError, match="a member is missing"):
        run_campaign(campaign.folder, campaign.sites)
    weights.write_bytes(honest)
    text = file.read_text(encoding="utf-8")
    file.write_text(text[:-20], encoding="utf-8")
    with pytest.raises(RunFolderError, match="not a campaign state"):
        run_campaign(campaign.folder, campaign.sites)
    file.write_text(text, encoding="utf-8")
    run_campaign(campaign.folder, campaign.sites)
    assert campaign.model.exists()


def test_folder_without_a_campaign(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=f"{CAMPAIGN_FILE}: no such configuration file"):
        run_campaign(tmp_path, {})
