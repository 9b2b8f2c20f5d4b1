"""The coordinator's state machine over scripted sites: order, resumption, and who counts how."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import Error, Message, RecordDict
from flwr.serverapp import Grid
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity

from fedloop.errors import RoundError, RunFolderError
from fedloop.models.store import load_members
from fedloop.records import (
    DESCRIBE,
    EVALUATE,
    SELECT,
    STATUS,
    TRAIN,
    DescribeInstruction,
    EvaluateInstruction,
    Reply,
    SelectInstruction,
    StatusInstruction,
    TrainInstruction,
    decode_instruction,
    encode_reply,
)
from fedloop.settings import (
    CampaignSettings,
    FederationSettings,
    IgniterSettings,
    ImagingSettings,
    ModelSettings,
    ModelSpec,
    SelectionSettings,
)
from server import campaign as module
from server.campaign import Campaign, fingerprint

KINDS = {
    TRAIN: TrainInstruction,
    EVALUATE: EvaluateInstruction,
    SELECT: SelectInstruction,
    STATUS: StatusInstruction,
    DESCRIBE: DescribeInstruction,
}


class Sites(Grid):
    """Sites that answer by rule; each update adds one to every weight.

    ``fail(site, kind, instruction)`` makes a site answer with an error.
    """

    def __init__(
        self, *names: str, fail: Callable[[str, str, Any], bool] = lambda *_: False
    ) -> None:
        TaskIdentity.task_id = TaskIdentity.run_id = TaskIdentity.node_id = 1
        self.names = dict(enumerate(names, start=10))
        self.fail = fail
        self.asked: list[tuple[str, str, Any]] = []
        self.pending = 0
        self._sent: list[Message] = []

    def set_run(self, run: Run) -> None:
        raise NotImplementedError

    @property
    def run(self) -> Run:
        raise NotImplementedError

    def create_message(self, *args: object, **kwargs: object) -> Message:
        raise NotImplementedError

    def send_and_receive(self, *args: object, **kwargs: object) -> Sequence[Message]:
        raise NotImplementedError

    def get_node_ids(self) -> Iterable[int]:
        return list(self.names)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        first = len(self._sent)
        self._sent += messages
        return [str(i) for i in range(first, len(self._sent))]

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        (number,) = message_ids
        message = self._sent[int(number)]
        message.metadata.__dict__["_message_id"] = number
        kind = message.metadata.message_type
        name = self.names[message.metadata.dst_node_id]
        instruction, members = decode_instruction(KINDS[kind], message.content)
        self.asked.append((name, kind, instruction))
        if self.fail(name, kind, instruction):
            return [Message(Error(code=2, reason="data: no"), reply_to=message)]
        return [Message(self._answer(name, kind, members), reply_to=message)]

    def _answer(self, name: str, kind: str, members: Any) -> RecordDict:
        if kind == TRAIN:
            updates = [{n: a + np.float32(1) for n, a in m.items()} for m in members]
            return encode_reply(name, {"examples": 4, "corrected_patches": 2}, updates)
        if kind == STATUS:
            self.pending -= 1
            done = 0 if self.pending >= 0 else 3
            return encode_reply(name, {"selected_patches": 3, "corrected_patches": done})
        metrics = {EVALUATE: {"dice_global": 0.5}, SELECT: {"selected_patches": 3}}
        return encode_reply(name, metrics.get(kind, {}))

    def said(self, kind: str) -> list[tuple[str, int, int]]:
        return [(n, i.cycle, i.round) for n, k, i in self.asked if k == kind]


def settings(**changes: Any) -> CampaignSettings:
    fields: dict[str, Any] = {
        "campaign": "c",
        "seed": 1,
        "spec": ModelSpec(
            model=ModelSettings(parameters={"channels": [4, 8], "strides": [2]}, members=2),
            imaging=ImagingSettings(patch_size=(16, 16)),
            classes=("background", "lesion"),
        ),
        "federation": FederationSettings(
            rounds=2, steps_per_round=5, cycles=2, evaluate_every=1, round_timeout_seconds=30
        ),
        "selection": SelectionSettings(),
        "igniter": IgniterSettings(site="a", steps=9),
        "annotating_sites": ("b", "c"),
        "training_sites": ("a", "b", "c"),
        "evaluating_sites": ("b", "c"),
    }
    return CampaignSettings(**(fields | changes))


STEPS = [
    "ignite",
    "evaluate-0",
    *(
        step
        for c in (1, 2)
        for step in (
            f"select-{c}",
            f"corrected-{c}",
            f"round-{c}-1",
            f"evaluate-{c}-1",
            f"round-{c}-2",
            f"evaluate-{c}",
        )
    ),
    "finished",
]


def weight(folder: Path) -> float:
    """How often one was added since the start."""
    members, _ = load_members(folder / "model")
    start = Campaign(settings(), folder / "other")
    start._state = start.store.load_state("x", "x")
    start._load_members()
    name = next(iter(members[0]))
    return float((members[0][name] - start._members[0][name]).mean())


# ------------------------------------------------------------------ the order of things


def test_a_campaign_runs_its_steps_in_order(tmp_path: Path) -> None:
    sites, seen = Sites("c", "a", "b"), []
    state = Campaign(settings(), tmp_path, progress=seen.append).run(sites)
    assert state.done == STEPS
    assert seen == STEPS[:-1]
    assert sites.said(TRAIN)[0] == ("a", 0, 0)
    assert sites.said(TRAIN)[1:4] == [(n, 1, 1) for n in "abc"]
    assert sites.said(SELECT) == [(n, c, 0) for c in (1, 2) for n in "bc"]
    assert weight(tmp_path) == pytest.approx(5, abs=1e-4)  # the igniter's and four rounds


def test_steps_of_training_follow_each_other(tmp_path: Path) -> None:
    sites = Sites("a", "b", "c")
    Campaign(settings(), tmp_path).run(sites)
    rounds = [i for n, k, i in sites.asked if k == TRAIN and n == "b"]
    assert [(i.first_step, i.steps, i.total_steps) for i in rounds] == [
        (first, 5, 20) for first in (0, 5, 10, 15)
    ]
    (ignition,) = [i for _, k, i in sites.asked if k == TRAIN and i.cycle == 0]
    assert (ignition.steps, ignition.total_steps, ignition.labels) == (9, 9, "site")
    assert ignition.training.optimiser.learning_rate == IgniterSettings().learning_rate
    assert {i.labels for i in rounds} == {"corrections"}


def test_what_sites_said_is_kept(tmp_path: Path) -> None:
    state = Campaign(settings(), tmp_path).run(Sites("a", "b", "c"))
    trained = [e for e in state.history if e["action"] == "train"]
    assert [(e["cycle"], e["round"], e["site"]) for e in trained[:4]] == [
        (0, 0, "a"),
        *((1, 1, n) for n in "abc"),
    ]
    assert all(e["bytes_in"] > 0 and e["bytes_out"] > 0 and not e["failure"] for e in trained)
    assert {e["action"] for e in state.history} == {"train", "evaluate", "select", "status"}


def test_personal_copies_are_asked_for_at_the_end_of_a_cycle_alone(tmp_path: Path) -> None:
    federation = settings().federation.model_copy(update={"personal": True})
    sites = Sites("a", "b", "c")
    Campaign(settings(federation=federation), tmp_path).run(sites)
    asked = {(i.cycle, i.round): i.personal_steps for n, k, i in sites.asked if k == EVALUATE}
    assert asked == {(0, 0): 0, (1, 1): 0, (1, 2): 20, (2, 1): 0, (2, 2): 20}


def test_the_coordinator_waits_for_the_clinicians(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    waited = []
    monkeypatch.setattr(module.time, "sleep", waited.append)
    sites = Sites("a", "b", "c")
    sites.pending = 3
    Campaign(settings(), tmp_path).run(sites)
    assert waited == [module.STATUS_POLL_SECONDS] * 2
    assert [n for n, c, _ in sites.said(STATUS) if c == 1] == list("bcbcb")


# ------------------------------------------------------------------ failures and resumption


def fails_once(site: str, kind: str, cycle: int, number: int) -> Callable[[str, str, Any], bool]:
    left = [1]

    def fail(name: str, asked: str, instruction: Any) -> bool:
        here = (name, asked, instruction.cycle, instruction.round) == (site, kind, cycle, number)
        if here and left:
            left.pop()
            return True
        return False

    return fail


@pytest.mark.parametrize(
    ("kind", "cycle", "number", "last"),
    [
        (EVALUATE, 0, 0, "ignite"),
        (SELECT, 1, 0, "evaluate-0"),
        (TRAIN, 1, 1, "corrected-1"),
        (TRAIN, 2, 2, "evaluate-2-1"),
        (EVALUATE, 2, 2, "round-2-2"),
    ],
)
def test_a_failed_step_is_repeated_and_nothing_else(
    tmp_path: Path, kind: str, cycle: int, number: int, last: str
) -> None:
    sites = Sites("a", "b", "c", fail=fails_once("b", kind, cycle, number))
    with pytest.raises(RoundError, match=r"the quorum is 100% \(b: data: no\)"):
        Campaign(settings(), tmp_path).run(sites)
    state = Campaign(settings(), tmp_path).store.load_state("c", fingerprint(settings()))
    assert state.done[-1] == last
    before = len(sites.asked)
    assert Campaign(settings(), tmp_path).run(sites).done == STEPS
    # Discovery, then the step that failed: what was complete is not asked again.
    assert [k for _, k, _ in sites.asked[before : before + 4]][:4] == [DESCRIBE] * 3 + [kind]
    assert weight(tmp_path) == pytest.approx(5, abs=1e-4)


def test_a_site_whose_status_fails_is_asked_again(tmp_path: Path) -> None:
    sites = Sites("a", "b", "c", fail=fails_once("b", STATUS, 1, 0))
    assert Campaign(settings(), tmp_path).run(sites).done == STEPS


def test_a_site_that_failed_is_noted_where_the_quorum_holds(tmp_path: Path) -> None:
    federation = settings().federation.model_copy(update={"quorum": 0.5})
    sites = Sites("a", "b", "c", fail=lambda n, k, i: n == "b" and k == TRAIN)
    state = Campaign(settings(federation=federation), tmp_path).run(sites)
    failed = [e for e in state.history if e["failure"]]
    assert {(e["site"], e["failure"]) for e in failed} == {("b", "data: no")}
    assert len(failed) == 4


def test_a_finished_campaign_asks_nobody(tmp_path: Path) -> None:
    Campaign(settings(), tmp_path).run(Sites("a", "b", "c"))
    again = Sites("a", "b", "c")
    Campaign(settings(), tmp_path).run(again)
    assert again.asked == []


def test_another_campaign_s_folder_is_refused(tmp_path: Path) -> None:
    Campaign(settings(), tmp_path).run(Sites("a", "b", "c"))
    with pytest.raises(RunFolderError, match="with other settings"):
        Campaign(settings(seed=2), tmp_path).run(Sites("a", "b", "c"))


def test_the_fingerprint_is_of_what_decides_the_result() -> None:
    assert fingerprint(settings()) == fingerprint(settings(initial_model=Path("/elsewhere")))
    others = [
        settings(seed=2),
        settings(campaign="d"),
        settings(training_sites=("a",)),
        settings(federation=FederationSettings()),
    ]
    assert len({fingerprint(s) for s in [settings(), *others]}) == 5


# ------------------------------------------------------------------ who counts how


@pytest.mark.parametrize(
    ("federation", "metrics", "expected"),
    [
        ({}, {"examples": 7, "corrected_patches": 3}, 1),
        ({}, {"examples": 0, "corrected_patches": 3}, 0),
        ({}, {}, 0),
        ({"weighting": "examples"}, {"examples": 7, "corrected_patches": 3}, 7),
        ({"central_weight": 2.0}, {"examples": 7}, 2),
        ({"central_weight": 2.0}, {"examples": 7, "corrected_patches": 3}, 1),
        ({"central_weight": 2.0, "weighting": "examples"}, {"examples": 7}, 14),
    ],
)
def test_weights(tmp_path: Path, federation, metrics, expected: float) -> None:
    campaign = Campaign(settings(federation=FederationSettings(**federation)), tmp_path)
    assert campaign._weigh(Reply("a", metrics, (), 0)) == expected
