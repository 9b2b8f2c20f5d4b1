"""A checkpoint is whole or not there; the one in use is never removed."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedloop.errors import RunFolderError
from fedloop.records import Arrays
from server.checkpoint import CampaignState, CheckpointStore


def weights(value: float) -> tuple[list[Arrays], list[Arrays]]:
    members = [{"w": np.full(3, value + k, np.float32)} for k in range(2)]
    return members, [{"m/w": np.full(3, value, np.float64)}, {}]


@pytest.fixture
def store(tmp_path: Path) -> CheckpointStore:
    return CheckpointStore(tmp_path)


def names(store: CheckpointStore) -> list[str]:
    return sorted(p.name for p in (store.folder / "checkpoints").iterdir())


def commit(store: CheckpointStore, state: CampaignState, name: str, value: float) -> None:
    store.save_weights(name, *weights(value))
    before, state.checkpoint = state.checkpoint, name
    store.prune(name, before)
    store.save_state(state)


def value_of(store: CheckpointStore) -> float:
    state = store.load_state("c", "f")
    assert state.checkpoint is not None
    members, states = store.load_weights(state.checkpoint)
    assert len(members) == len(states) == 2
    return float(members[0]["w"][0])


# ------------------------------------------------------------------ round trips


def test_weights_and_strategy_states_come_back(store: CheckpointStore) -> None:
    store.save_weights("one", *weights(2))
    members, states = store.load_weights("one")
    assert [float(m["w"][0]) for m in members] == [2, 3]
    assert members[0]["w"].dtype == np.float32
    assert states[0]["m/w"].dtype == np.float64
    assert states[1] == {}


def test_the_state_comes_back(store: CheckpointStore) -> None:
    assert store.load_state("c", "f") == CampaignState("c", "f")
    state = CampaignState("c", "f", ["ignite"], "one", [{"loss": float("nan"), "site": "Zürich"}])
    store.save_state(state)
    loaded = store.load_state("c", "f")
    assert (loaded.done, loaded.checkpoint) == (["ignite"], "one")
    assert loaded.history[0]["site"] == "Zürich"


def test_a_repeated_step_replaces_its_checkpoint(store: CheckpointStore) -> None:
    store.save_weights("one", *weights(1))
    store.save_weights("one", *weights(5))
    assert float(store.load_weights("one")[0][0]["w"][0]) == 5
    assert names(store) == ["one"]


# ------------------------------------------------------------------ killed anywhere


class Killed(BaseException):
    """The process ended here."""


def kill_at(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    """End at the n-th time anything is flushed, renamed or removed."""
    left = [count]

    def counted(function):
        def step(*args, **kwargs):
            left[0] -= 1
            if left[0] < 0:
                raise Killed
            return function(*args, **kwargs)

        return step

    monkeypatch.setattr("server.checkpoint.os.fsync", counted(os.fsync))
    monkeypatch.setattr("server.checkpoint.os.replace", counted(os.replace))
    monkeypatch.setattr(Path, "rename", counted(Path.rename))
    monkeypatch.setattr("server.checkpoint._write", counted(_write))


from server.checkpoint import _write  # noqa: E402 - the real one, before it is replaced


@pytest.mark.parametrize("count", range(14))
def test_a_kill_at_any_point_leaves_the_last_complete_step(
    store: CheckpointStore, monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    state = CampaignState("c", "f")
    commit(store, state, "r1", 1)
    commit(store, state, "r2", 2)
    done = False
    with monkeypatch.context() as patch:
        kill_at(patch, count)
        try:
            commit(store, state, "r3", 3)
            done = True
        except Killed:
            pass
    assert value_of(store) == (3 if done else 2)
    # ... and the run goes on from there, leftovers or not.
    state = store.load_state("c", "f")
    commit(store, state, "r3", 3)
    commit(store, state, "r4", 4)
    assert value_of(store) == 4
    assert names(store) == ["r3", "r4"]


def test_leftovers_of_a_killed_save_are_replaced(store: CheckpointStore) -> None:
    left = store.folder / "checkpoints" / ".one.tmp"
    left.mkdir(parents=True)
    (left / "member_7.safetensors").write_bytes(b"half")
    store.save_weights("one", *weights(1))
    assert len(store.load_weights("one")[0]) == 2
    assert not left.exists()


# ------------------------------------------------------------------ pruning


def test_old_checkpoints_go(store: CheckpointStore) -> None:
    state = CampaignState("c", "f")
    for i in range(5):
        commit(store, state, f"r{i}", i)
    assert names(store) == ["r3", "r4"]


@settings(max_examples=20)
@given(
    order=st.permutations(range(5)),
    current=st.integers(0, 4),
    other=st.none() | st.integers(0, 4),
    keep=st.integers(1, 3),
)
def test_what_is_in_use_stays_whatever_the_clock_says(
    tmp_path_factory, order: list[int], current: int, other: int | None, keep: int
) -> None:
    store = CheckpointStore(tmp_path_factory.mktemp("run"), keep=keep)
    for number, time in enumerate(order):
        store.save_weights(f"r{number}", *weights(number))
        os.utime(store.folder / "checkpoints" / f"r{number}", (time, time))
    store.prune(f"r{current}", None if other is None else f"r{other}")
    newest = {f"r{order.index(time)}" for time in range(5 - keep, 5)}
    assert set(names(store)) == newest | {f"r{current}"} | ({f"r{other}"} - {"rNone"})


# ------------------------------------------------------------------ damage


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "null",
        '"x"',
        "{}",
        '{"version": 1}',
        '{"version": 1, "campaign": "c", "fingerprint": "f", "extra": 1}',
        "\x00\x01",
    ],
)
def test_a_damaged_state_names_its_file(store: CheckpointStore, text: str) -> None:
    (store.folder / "state.json").write_text(text)
    with pytest.raises(RunFolderError, match=r"state\.json: not a campaign state"):
        store.load_state("c", "f")


def test_a_state_of_another_version(store: CheckpointStore) -> None:
    store.save_state(CampaignState("c", "f"))
    path = store.folder / "state.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"version": 2}))
    with pytest.raises(RunFolderError, match="version 2, expected 1"):
        store.load_state("c", "f")


@pytest.mark.parametrize(("campaign", "fingerprint"), [("d", "f"), ("c", "g")])
def test_another_campaign_or_other_settings_are_refused(
    store: CheckpointStore, campaign: str, fingerprint: str
) -> None:
    store.save_state(CampaignState("c", "f"))
    with pytest.raises(RunFolderError, match="belongs to campaign 'c' with other settings"):
        store.load_state(campaign, fingerprint)


def test_a_missing_checkpoint(store: CheckpointStore) -> None:
    with pytest.raises(RunFolderError, match="one: the checkpoint is missing"):
        store.load_weights("one")


@pytest.mark.parametrize("name", ["member_0", "member_1", "strategy_0", "strategy_1"])
@pytest.mark.parametrize("how", ["removed", "emptied", "cut", "garbage"])
def test_a_damaged_checkpoint_is_refused(store: CheckpointStore, name: str, how: str) -> None:
    store.save_weights("one", *weights(1))
    path = store.folder / "checkpoints" / "one" / f"{name}.safetensors"
    if how == "removed":
        path.unlink()
    else:
        content = path.read_bytes()
        path.write_bytes({"emptied": b"", "cut": content[:-1], "garbage": b"\xff" * 99}[how])
    with pytest.raises(RunFolderError, match="one: damaged checkpoint"):
        store.load_weights("one")
