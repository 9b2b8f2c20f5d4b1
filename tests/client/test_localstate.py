"""Local arrays never travel, and a repeated round starts from where it started the first time."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from client.localstate import ROUNDS_KEPT, LocalState
from fedloop.errors import RunFolderError
from fedloop.records import Arrays, DescribeInstruction, Step

RECEIVED: list[Arrays] = [{"w": np.zeros(2, np.float32), "n": np.full(2, -1.0, np.float32)}] * 2


def at(cycle: int, number: int) -> Step:
    return DescribeInstruction(campaign="c", seed=0, cycle=cycle, round=number)


def norms(value: float) -> list[Arrays]:
    return [{"n": np.full(2, value + 100 * k, np.float32)} for k in range(2)]


def seen(state: LocalState, step: Step, *, before: bool) -> list[float]:
    return [float(m["n"][0]) for m in state.overlay(step, RECEIVED, before=before)]


@pytest.fixture
def state(tmp_path: Path) -> LocalState:
    return LocalState(tmp_path / "local")


def test_before_the_first_round_the_received_arrays_count(state: LocalState) -> None:
    assert seen(state, at(1, 1), before=True) == [-1, -1]
    assert seen(state, at(0, 0), before=False) == [-1, -1]


def test_training_starts_from_the_round_before_and_scoring_from_the_round_itself(
    state: LocalState,
) -> None:
    state.save(at(1, 1), norms(1))
    state.save(at(1, 2), norms(2))
    assert seen(state, at(1, 2), before=True) == [1, 101]
    assert seen(state, at(1, 2), before=False) == [2, 102]
    assert seen(state, at(1, 3), before=True) == [2, 102]
    # Selection of the next cycle (round 0) and its first round go on from the last one.
    assert seen(state, at(2, 0), before=False) == [2, 102]
    assert seen(state, at(2, 1), before=True) == [2, 102]


def test_a_repeated_round_starts_where_it_did(state: LocalState) -> None:
    state.save(at(1, 1), norms(1))
    state.save(at(1, 2), norms(2))
    assert seen(state, at(1, 2), before=True) == [1, 101]
    state.save(at(1, 2), norms(7))
    assert seen(state, at(1, 2), before=True) == [1, 101]
    assert seen(state, at(1, 3), before=True) == [7, 107]


def test_two_rounds_are_kept_per_member(state: LocalState) -> None:
    for number in range(1, 13):
        state.save(at(1, number), norms(number))
    names = sorted(path.name for path in state.folder.iterdir())
    assert names == [f"c1_r{n}_m{k}.safetensors" for n in (11, 12) for k in (0, 1)]
    assert ROUNDS_KEPT == 2


def test_other_arrays_are_the_received_ones_and_stay_untouched(state: LocalState) -> None:
    state.save(at(1, 1), norms(5))
    (first, _) = state.overlay(at(1, 2), RECEIVED, before=True)
    assert first["w"] is RECEIVED[0]["w"]
    assert RECEIVED[0]["n"].tolist() == [-1, -1]


def test_other_files_are_passed_over(state: LocalState) -> None:
    state.save(at(1, 1), norms(5))
    (state.folder / "c1_r9_m0.tmp").write_bytes(b"half")
    (state.folder / "notes.safetensors").write_bytes(b"mine")
    assert seen(state, at(1, 9), before=False) == [5, 105]


def test_a_damaged_file_is_named(state: LocalState) -> None:
    state.save(at(1, 1), norms(5))
    (state.folder / "c1_r1_m1.safetensors").write_bytes(b"half")
    with pytest.raises(RunFolderError, match=r"c1_r1_m1\.safetensors: damaged local state"):
        state.overlay(at(1, 2), RECEIVED, before=True)


@settings(max_examples=20)
@given(st.lists(st.booleans(), max_size=8))
def test_any_sequence_of_rounds_and_repeats_equals_an_uninterrupted_one(
    tmp_path_factory: pytest.TempPathFactory, repeats: list[bool]
) -> None:
    """Each round adds one to what it starts from; a repeat must not add twice."""
    state = LocalState(tmp_path_factory.mktemp("local"))
    for number, repeat in enumerate(repeats, start=1):
        for _ in range(2 if repeat else 1):
            start = seen(state, at(1, number), before=True)[0]
            state.save(at(1, number), norms(start + 1))
    assert seen(state, at(1, len(repeats)), before=False)[0] == len(repeats) - 1


def test_only_what_is_kept_is_laid_over(state: LocalState) -> None:
    """A strategy under which an array travels must not take along what another left here."""
    state.save(at(1, 1), [{"norm": np.full(2, 7, np.float32)}])
    received = [{"norm": np.zeros(2, np.float32)}]
    (arrays,) = state.overlay(at(1, 2), received, before=True, keep=lambda name: name != "norm")
    assert (arrays["norm"] == 0).all()
    (arrays,) = state.overlay(at(1, 2), received, before=True)
    assert (arrays["norm"] == 7).all()
