"""One exchange: a fixed order, a deadline, a quorum, and updates that are left out by name."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
import pytest
from flwr.app import Error, Message, RecordDict
from flwr.serverapp import Grid
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity
from hypothesis import given
from hypothesis import strategies as st

from fedloop.errors import RoundError
from fedloop.records import (
    EVALUATE,
    TRAIN,
    Arrays,
    DescribeInstruction,
    EvaluateInstruction,
    Reply,
    TrainInstruction,
    decode_instruction,
    encode_reply,
)
from fedloop.settings import (
    ImagingSettings,
    ModelSettings,
    ModelSpec,
    StrategySettings,
    TrainingSettings,
)
from server import rounds
from server.rounds import Answer, RoundResult, SiteNode, ask, discover, require_quorum, train_round
from strategies.registry import build_strategy

SPEC = ModelSpec(
    model=ModelSettings(members=2), imaging=ImagingSettings(), classes=("background", "tumour")
)
TRAINING = TrainInstruction(
    campaign="c",
    seed=0,
    cycle=1,
    round=2,
    spec=SPEC,
    training=TrainingSettings(),
    strategy=StrategySettings(),
    steps=1,
    total_steps=1,
)
EVALUATION = EvaluateInstruction(campaign="c", seed=0, spec=SPEC)
DESCRIPTION = DescribeInstruction(campaign="c", seed=0)
CURRENT: list[Arrays] = [
    {"w": np.full((2, 2), k + 1, np.float32), "norm.weight": np.full(2, 7, np.float32)}
    for k in range(2)
]

Site = Callable[[Message], Message]


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> FakeClock:
    """Waiting costs no time here; messages are built as inside a task."""
    TaskIdentity.task_id = TaskIdentity.run_id = TaskIdentity.node_id = 1
    clock = FakeClock()
    monkeypatch.setattr(rounds.time, "monotonic", lambda: clock.now)
    monkeypatch.setattr(rounds.time, "sleep", clock.sleep)
    return clock


@dataclass
class FakeClock:
    now: float = 100.0
    on_sleep: Callable[[], None] = lambda: None

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        self.on_sleep()


@dataclass
class FakeGrid(Grid):
    """Sites by node id; keeps what was pushed and pulled, and who is away."""

    sites: dict[int, Site]
    away: set[int] = field(default_factory=set)
    silent: set[int] = field(default_factory=set)
    pushed: list[Message] = field(default_factory=list)
    pulled: list[int] = field(default_factory=list)

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
        return [n for n in self.sites if n not in self.away]

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        first = len(self.pushed)
        self.pushed += messages
        known = [m.metadata.dst_node_id in self.sites for m in self.pushed[first:]]
        return [str(first + i) if ok else "" for i, ok in enumerate(known)]

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        (message_id,) = message_ids
        message = self.pushed[int(message_id)]
        node = message.metadata.dst_node_id
        assert node not in self.away, "a SuperLink drops the reply of a node that is away"
        self.pulled.append(node)
        if node in self.silent:
            return []
        message.metadata.__dict__["_message_id"] = message_id
        return [self.sites[node](message)]


def trains(
    name: str, by: float = 1.0, examples: float = 1.0, change: Callable | None = None
) -> Site:
    """A site whose update is the received weights plus ``by``."""

    def answer(message: Message) -> Message:
        _, members = decode_instruction(TrainInstruction, message.content)
        updates = [{n: a + np.float32(by) for n, a in arrays.items()} for arrays in members]
        for arrays in updates:
            if change is not None:
                change(arrays)
        metrics = {"examples": examples, "loss": 0.5}
        return Message(encode_reply(name, metrics, updates), reply_to=message)

    return answer


def says(name: str, **metrics: float) -> Site:
    return lambda message: Message(encode_reply(name, metrics), reply_to=message)


def fails(reason: str = "data: no") -> Site:
    return lambda message: Message(Error(code=2, reason=reason), reply_to=message)


def nodes(*names: str) -> list[SiteNode]:
    """Node ids run against the names, so that neither order gives the other by accident."""
    return [SiteNode(name, 50 - i) for i, name in enumerate(names)]


def by_examples(reply: Reply) -> float:
    return reply.metrics["examples"]


def run_round(
    sites: dict[str, Site],
    *,
    quorum: float = 1.0,
    strategy: str = "fedavg",
    weigh: Callable[[Reply], float] = by_examples,
    timeout: float = 10.0,
    grid: FakeGrid | None = None,
) -> RoundResult:
    placed = nodes(*sites)
    grid = grid or FakeGrid({n.node_id: sites[n.name] for n in placed})
    settings = StrategySettings(name=strategy)
    return train_round(
        grid,
        placed,
        TRAINING.model_copy(update={"strategy": settings}),
        CURRENT,
        [build_strategy(settings) for _ in CURRENT],
        [{}, {}],
        norm_arrays=frozenset({"norm.weight"}),
        weigh=weigh,
        quorum=quorum,
        timeout=timeout,
    )


# ------------------------------------------------------------------ asking


def test_sites_are_heard_in_the_order_of_their_names() -> None:
    grid = FakeGrid({50: says("c", cases=1), 49: says("a", cases=2), 48: says("b", cases=3)})
    heard = list(ask(grid, EVALUATE, nodes("c", "a", "b"), EVALUATION, timeout=5))
    assert [node.name for node, _ in heard] == ["a", "b", "c"]
    assert [answer.reply.metrics["cases"] for _, answer in heard if answer.reply] == [2, 3, 1]
    assert grid.pulled == [49, 48, 50]
    assert all(m.metadata.message_type == EVALUATE for m in grid.pushed)
    assert all(answer.bytes_in > 0 and answer.bytes_out > 0 for _, answer in heard)


def test_all_messages_are_sent_before_the_first_answer_is_awaited() -> None:
    seen: list[int] = []
    grid = FakeGrid({})
    grid.sites = {
        50 - i: (lambda m, n=n: seen.append(len(grid.pushed)) or says(n)(m))
        for i, n in enumerate("abc")
    }
    list(ask(grid, EVALUATE, nodes("a", "b", "c"), EVALUATION, timeout=5))
    assert seen == [3, 3, 3]


def test_a_node_that_is_away_is_not_pulled_until_it_is_back(clock: FakeClock) -> None:
    grid = FakeGrid({50: says("a", cases=1)}, away={50})

    def come_back() -> None:
        if clock.now > 102:
            grid.away.clear()

    clock.on_sleep = come_back
    ((_, answer),) = ask(grid, EVALUATE, nodes("a"), EVALUATION, timeout=10)
    assert answer.reply is not None
    assert clock.now > 102
    assert grid.pulled == [50]


def test_the_deadline_is_one_for_all_sites(clock: FakeClock) -> None:
    grid = FakeGrid({50: says("a"), 49: says("b"), 48: says("c", cases=4)}, away={50}, silent={49})
    heard = {
        node.name: answer
        for node, answer in ask(grid, EVALUATE, nodes("a", "b", "c"), EVALUATION, timeout=7)
    }
    assert heard["a"].failure == heard["b"].failure == "no answer before the deadline"
    assert heard["c"].reply is not None  # it answered in time, and is asked although time is up
    assert 107 <= clock.now < 109


def test_an_unknown_node_fails_without_waiting(clock: FakeClock) -> None:
    ((_, answer),) = ask(FakeGrid({}), EVALUATE, nodes("a"), EVALUATION, timeout=60)
    assert answer.failure == "the node is unknown to the SuperLink"
    assert clock.now == 100


def test_a_site_that_says_it_is_another_is_refused() -> None:
    grid = FakeGrid({50: says("b")})
    ((_, answer),) = ask(grid, EVALUATE, nodes("a"), EVALUATION, timeout=5)
    assert answer.reply is None
    assert answer.failure == "site 'a': key 'site' says it is 'b'"


def test_an_error_reply_keeps_its_reason() -> None:
    ((_, answer),) = ask(FakeGrid({50: fails()}), EVALUATE, nodes("a"), EVALUATION, timeout=5)
    assert answer.failure == "data: no"


def test_a_reply_with_too_much_names_the_site_it_came_from() -> None:
    def answer(message: Message) -> Message:
        return Message(RecordDict(), reply_to=message)

    ((_, found),) = ask(FakeGrid({50: answer}), EVALUATE, nodes("a"), EVALUATION, timeout=5)
    assert found.failure == "site 'a': a reply without a valid 'site' record"
    assert found.reply is None


# ------------------------------------------------------------------ discovery


def test_sites_are_found_by_what_they_say() -> None:
    grid = FakeGrid({7: says("b"), 9: says("a"), 11: says("not asked for")})
    found = discover(grid, DESCRIPTION, expected=["a", "b"], timeout=5)
    assert {name: node.node_id for name, node in found.items()}.items() >= {"a": 9, "b": 7}.items()


def test_a_site_may_come_later_and_a_failing_node_is_asked_again(clock: FakeClock) -> None:
    grid = FakeGrid({1: says("a"), 2: says("b"), 3: fails()}, away={2})
    clock.on_sleep = lambda: clock.now > 103 and grid.away.clear()
    found = discover(grid, DESCRIPTION, expected=["a", "b"], timeout=60)
    assert set(found) == {"a", "b"}
    assert sorted(m.metadata.dst_node_id for m in grid.pushed) == [1, 2, 3, 3, 3]


def test_nodes_that_keep_failing_end_the_wait(clock: FakeClock) -> None:
    grid = FakeGrid({1: says("a"), 2: fails()})
    with pytest.raises(RoundError, match=r"site 'b' is not connected \(1 of 2 missing\): \w"):
        discover(grid, DESCRIPTION, expected=["a", "b"], timeout=3600)
    assert clock.now < 115


def test_two_nodes_of_one_name_are_refused() -> None:
    grid = FakeGrid({1: says("a"), 2: says("a")})
    with pytest.raises(RoundError, match="two nodes say they are site 'a'"):
        discover(grid, DESCRIPTION, expected=["a"], timeout=5)


def test_a_missing_site_is_named_when_the_time_is_up(clock: FakeClock) -> None:
    with pytest.raises(RoundError, match=r"site 'b' is not connected \(2 of 3 missing\) after 5 s"):
        discover(FakeGrid({1: says("a")}), DESCRIPTION, expected=["a", "b", "c"], timeout=5)
    assert 105 <= clock.now < 106


# ------------------------------------------------------------------ quorum


@given(st.integers(0, 12), st.integers(0, 12), st.sampled_from([0, 0.3, 1 / 3, 0.5, 2 / 3, 0.9, 1]))
def test_quorum_arithmetic(good: int, bad: int, quorum: float) -> None:
    reply = Reply("a", {}, (), 0)
    answers = [Answer("a", reply, None)] * good + [Answer("b", None, "why")] * bad
    # In exact thirds and halves: 2 of 3 meet a quorum of 2/3.
    enough = good >= 1 and round(good - quorum * (good + bad), 6) >= 0
    if enough:
        require_quorum(answers, quorum, what="x")
    else:
        with pytest.raises(RoundError, match=f"^x: {good} of {good + bad} sites"):
            require_quorum(answers, quorum, what="x")


def test_the_error_names_every_site_that_failed_and_why() -> None:
    with pytest.raises(RoundError) as caught:
        run_round({"a": trains("a"), "b": fails("data: no"), "c": fails("model: no")})
    assert str(caught.value) == (
        "cycle 1, round 2: 1 of 3 sites gave a usable answer, the quorum is 100% "
        "(b: data: no; c: model: no)"
    )


def test_the_round_goes_on_where_the_quorum_holds(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        result = run_round({"a": trains("a", 2), "b": fails()}, quorum=0.5)
    assert result.members[0]["w"].tolist() == [[3, 3], [3, 3]]
    assert [(a.site, a.failure) for a in result.answers] == [("a", None), ("b", "data: no")]
    assert "site b is left out: data: no" in caplog.text


def test_without_a_single_answer_no_quorum_holds() -> None:
    with pytest.raises(RoundError, match="0 of 1 sites"):
        run_round({"a": fails()}, quorum=0.0)


# ------------------------------------------------------------------ the average


def test_members_are_averaged_apart_by_weight() -> None:
    result = run_round({"a": trains("a", 1, examples=1), "b": trains("b", 5, examples=3)})
    assert [m["w"][0, 0] for m in result.members] == [1 + 4, 2 + 4]
    assert [m["w"].dtype for m in result.members] == [np.float32] * 2
    assert CURRENT[0]["w"][0, 0] == 1
    assert all(a.reply is not None and a.reply.members == () for a in result.answers)


def test_weights_are_the_caller_s() -> None:
    result = run_round(
        {"a": trains("a", 1, examples=1), "b": trains("b", 5, examples=3)}, weigh=lambda _: 1.0
    )
    assert result.members[0]["w"][0, 0] == 1 + 3


def test_local_arrays_neither_travel_nor_change() -> None:
    def drop(arrays: Arrays) -> None:
        del arrays["norm.weight"]

    result = run_round({"a": trains("a", 2, change=drop)}, strategy="fedbn")
    assert result.members[0]["norm.weight"].tolist() == [7, 7]
    assert result.members[0]["w"][0, 0] == 3
    with pytest.raises(RoundError, match=r"array 'norm\.weight' in 'member\.0' is not in the shar"):
        run_round({"a": trains("a", 2)}, strategy="fedbn")


def test_server_state_is_kept_per_member() -> None:
    result = run_round({"a": trains("a", 2)}, strategy="fedavgm")
    assert [sorted(state) for state in result.states] == [["v/norm.weight", "v/w"]] * 2


def spoil(value: float) -> Callable[[Arrays], None]:
    def change(arrays: Arrays) -> None:
        arrays["w"][0, 1] = value

    return change


@pytest.mark.parametrize(
    ("site", "text"),
    [
        (trains("b", change=spoil(np.nan)), "array 'w' of member 0 holds NaN or infinite values"),
        (trains("b", change=spoil(-np.inf)), "array 'w' of member 0 holds NaN or infinite values"),
        (trains("b", by=3000), "the update of member 0 is "),
        (trains("b", examples=0), "its update counts zero examples"),
        (trains("b", examples=-1), "its update counts zero examples"),
        (trains("b", examples=np.nan), "metric 'examples' must be a finite number"),
        (trains("b", examples=np.inf), "metric 'examples' must be a finite number"),
    ],
)
def test_an_update_that_would_spoil_the_average_is_left_out_by_name(site: Site, text: str) -> None:
    result = run_round({"a": trains("a", 2), "b": site}, quorum=0.5)
    assert result.members[0]["w"].tolist() == [[3, 3], [3, 3]]
    failure = result.answers[1].failure
    assert failure is not None
    assert failure.startswith("site 'b': ")
    assert text in failure


def test_a_large_but_sane_update_counts() -> None:
    # The norm of member 0: 4 times 1² and 2 times 7².
    norm = (4 + 2 * 49) ** 0.5
    far = rounds.MAX_RELATIVE_UPDATE * norm / 6**0.5
    assert run_round({"a": trains("a", far * 0.98)}).answers[0].failure is None
    with pytest.raises(RoundError, match="the update of member 0 is 102 times the weights' norm"):
        run_round({"a": trains("a", far * 1.02)})


@given(st.lists(st.tuples(st.floats(-5, 5, width=16), st.integers(1, 50)), min_size=1, max_size=5))
def test_a_round_is_the_weighted_mean_of_its_sites(sites: list[tuple[float, int]]) -> None:
    result = run_round({f"s{i}": trains(f"s{i}", by, n) for i, (by, n) in enumerate(sites)})
    mean = np.average([by for by, _ in sites], weights=[n for _, n in sites])
    for k, member in enumerate(result.members):
        np.testing.assert_allclose(member["w"], CURRENT[k]["w"] + mean, rtol=1e-5, atol=1e-5)


def test_the_order_in_which_nodes_are_known_does_not_change_a_bit() -> None:
    rng = np.random.default_rng(0)
    by = {name: float(b) for name, b in zip("abcde", rng.normal(size=5), strict=True)}
    sites = {name: trains(name, b, examples=1 / 3) for name, b in by.items()}
    first = run_round(sites)
    second = run_round(dict(reversed(sites.items())))
    assert np.array_equal(first.members[0]["w"], second.members[0]["w"])
    assert [a.site for a in second.answers] == list("abcde")


def test_an_update_for_too_few_members_is_refused() -> None:
    def answer(message: Message) -> Message:
        return Message(encode_reply("a", {"examples": 1}, [CURRENT[0]]), reply_to=message)

    with pytest.raises(RoundError, match=r"record 'member\.1' is missing"):
        run_round({"a": answer})


def test_what_was_asked_is_in_the_message() -> None:
    grid = FakeGrid({50: trains("a")})
    run_round({"a": trains("a")}, grid=grid, timeout=30)
    (message,) = grid.pushed
    instruction, members = decode_instruction(TrainInstruction, message.content)
    assert (message.metadata.message_type, message.metadata.group_id) == (TRAIN, "2")
    assert instruction == TRAINING
    assert len(members) == 2
    assert message.metadata.ttl >= 30


# ------------------------------------------------------------------ hostile sites


def test_negative_variances_cost_their_site_the_round() -> None:
    current = [{"n.running_var": np.ones(2, np.float32)}]
    update = {"n.running_var": np.array([0.5, -0.1], np.float32)}
    answer = Answer("a", Reply("a", {"examples": 1.0}, (update,), 0), None)
    checked = rounds._accept(answer, current, lambda reply: 1.0)
    assert checked.reply is None
    assert "'n.running_var' of member 0 holds negative variances" in str(checked.failure)


def test_error_texts_are_fit_for_a_terminal() -> None:
    grid = FakeGrid({50: fails("\x1b]0;owned\x07\x1b[2J" + "x" * 10_000)})
    ((_, answer),) = rounds.ask(grid, EVALUATE, nodes("a"), EVALUATION, timeout=5)
    assert answer.failure is not None
    assert answer.failure.isprintable()
    assert len(answer.failure) <= rounds.MAX_REASON


def test_a_node_of_another_name_is_not_asked(clock: FakeClock) -> None:
    grid = FakeGrid({1: says("a"), 2: says("stranger"), 3: says("stranger")})
    found = discover(grid, DESCRIPTION, expected=["a"], timeout=5)
    assert set(found) == {"a"}
