"""One exchange with the sites: who is there, ask, listen in a fixed order, average.

Replies are pulled site by site in the order of their names. That order makes the sum of weights the
same on every engine, and keeps only one update at a time in the coordinator's memory: the others
wait in the SuperLink's store.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from flwr.app import Message
from flwr.serverapp import Grid

from fedloop.errors import RoundError, WireError
from fedloop.privacy.egress import plain
from fedloop.records import (
    DESCRIBE,
    TRAIN,
    Arrays,
    ArraySchema,
    DescribeInstruction,
    Reply,
    Step,
    TrainInstruction,
    array_schema,
    decode_reply,
    encode_instruction,
    payload_bytes,
)
from strategies.base import RunningAverage, Strategy

log = logging.getLogger(__name__)

POLL_SECONDS = 0.3
MAX_REASON = 300
DESCRIBE_ATTEMPTS = 3
GRACE_SECONDS = 10.0
"""So long a late site is waited for although every connected node has failed or answered."""
MAX_RELATIVE_UPDATE = 100.0
"""An update whose distance from the global weights exceeds this many of their norms is absurd."""


@dataclass(frozen=True)
class SiteNode:
    """A site and the Flower node it runs on."""

    name: str
    node_id: int


@dataclass(frozen=True)
class Answer:
    """What came back from one site; exactly one of ``reply`` and ``failure`` is set."""

    site: str
    reply: Reply | None
    failure: str | None
    bytes_in: int = 0
    bytes_out: int = 0


@dataclass
class RoundResult:
    """The members after a round, and how each site counted."""

    members: list[Arrays]
    states: list[Arrays]
    answers: list[Answer] = field(default_factory=list)


def discover(
    grid: Grid, step: DescribeInstruction, *, expected: Sequence[str], timeout: float
) -> dict[str, SiteNode]:
    """Ask every connected node which site it is, until all ``expected`` sites have answered.

    All must be there at the start, whatever the quorum: it counts the sites of a round. A node
    whose answer fails is asked again, at most :data:`DESCRIBE_ATTEMPTS` times.

    Raises:
        RoundError: sites are missing when the time is up, or earlier when as many nodes as sites
            are connected and the missing ones keep failing; or two nodes claim the same name.
    """
    started = time.monotonic()
    deadline = started + timeout
    found: dict[str, SiteNode] = {}
    known: set[int] = set()
    failures: dict[int, list[str]] = {}
    while True:
        connected = sorted(grid.get_node_ids())
        failed = {n for n, texts in failures.items() if len(texts) >= DESCRIBE_ATTEMPTS}
        fresh = [SiteNode(f"node {n}", n) for n in connected if n not in known | failed]
        left = max(0.0, deadline - time.monotonic())
        for node, answer in ask(grid, DESCRIBE, fresh, step, expected=(), timeout=left):
            if answer.reply is None:
                failures.setdefault(node.node_id, []).append(str(answer.failure))
                continue
            known.add(node.node_id)
            name = answer.reply.site
            if name not in expected:
                log.warning("a node that this campaign does not ask says it is %r", name)
                continue
            if name in found:
                raise RoundError(f"two nodes say they are site {name!r}; names must be unique")
            found[name] = SiteNode(name, node.node_id)
        missing = sorted(set(expected) - set(found))
        if not missing:
            return found
        settled = len(connected) >= len(expected) and known | failed >= set(connected)
        hopeless = settled and time.monotonic() >= started + GRACE_SECONDS
        if hopeless or time.monotonic() >= deadline:
            said = "; ".join(texts[-1] for _, texts in sorted(failures.items()))
            raise RoundError(
                f"site {missing[0]!r} is not connected ({len(missing)} of {len(expected)} missing)"
                + (f": {said}" if said else f" after {timeout:.0f} s")
                + "; start or mend its client and resume"
            )
        time.sleep(POLL_SECONDS)


def ask(
    grid: Grid,
    kind: str,
    nodes: Sequence[SiteNode],
    instruction: Step,
    *,
    members: Sequence[Arrays] = (),
    expected: Sequence[ArraySchema] = (),
    timeout: float,
) -> Iterator[tuple[SiteNode, Answer]]:
    """Send one instruction to several sites and yield their checked answers, by site name."""
    ordered = sorted(nodes, key=lambda node: node.name)
    content = encode_instruction(instruction, members)
    bytes_out = payload_bytes(content)
    messages = [
        Message(content, node.node_id, kind, ttl=timeout + 60.0, group_id=str(instruction.round))
        for node in ordered
    ]
    ids = list(grid.push_messages(messages))
    deadline = time.monotonic() + timeout
    for node, message_id in zip(ordered, ids, strict=True):
        if not message_id:
            yield node, Answer(node.name, None, "the node is unknown to the SuperLink")
            continue
        reply = _pull(grid, node, message_id, deadline)
        yield node, _read(node, reply, kind, expected, bytes_out)


def _pull(grid: Grid, node: SiteNode, message_id: str, deadline: float) -> Message | None:
    """Wait for one reply. A reply is only asked for while its node is online: the SuperLink
    answers for a node that is away with an error and then drops the node's real reply."""
    while True:
        if node.node_id in set(grid.get_node_ids()):
            for reply in grid.pull_messages([message_id]):
                return reply
        if time.monotonic() >= deadline:
            return None
        time.sleep(POLL_SECONDS)


def _read(
    node: SiteNode,
    message: Message | None,
    kind: str,
    expected: Sequence[ArraySchema],
    bytes_out: int,
) -> Answer:
    if message is None:
        return Answer(node.name, None, "no answer before the deadline", bytes_out=bytes_out)
    if message.has_error():
        # The site chose the text; the coordinator's terminal and log choose what they show of it.
        reason = plain(message.error.reason or f"error code {message.error.code}", MAX_REASON)
        return Answer(node.name, None, reason, bytes_out=bytes_out)
    bytes_in = payload_bytes(message.content)
    try:
        reply = decode_reply(message, kind=kind, expected=expected)
        if kind != DESCRIBE and reply.site != node.name:
            raise WireError(f"site {node.name!r}: key 'site' says it is {reply.site!r}")
    except WireError as error:
        text = plain(str(error), MAX_REASON)
        text = text if repr(node.name) in text else f"site {node.name!r}: {text}"
        return Answer(node.name, None, text, bytes_in, bytes_out)
    except Exception as error:  # a reply nobody foresaw costs its site the round, not the campaign
        log.exception("the reply of site %s cannot be decoded", node.name)
        text = f"site {node.name!r}: its reply cannot be decoded ({type(error).__name__})"
        return Answer(node.name, None, text, bytes_in, bytes_out)
    return Answer(node.name, reply, None, bytes_in, bytes_out)


def train_round(
    grid: Grid,
    nodes: Sequence[SiteNode],
    instruction: TrainInstruction,
    members: Sequence[Arrays],
    strategies: Sequence[Strategy[Any]],
    states: Sequence[Arrays],
    *,
    norm_arrays: frozenset[str],
    weigh: Callable[[Reply], float],
    quorum: float,
    timeout: float,
) -> RoundResult:
    """One federated round over all ensemble members; one message per site carries them all.

    Raises:
        RoundError: fewer sites than the quorum gave a usable update; names each and its reason.
    """
    shared = [_shared_schema(a, s, norm_arrays) for a, s in zip(members, strategies, strict=True)]
    averages = [RunningAverage() for _ in members]
    result = RoundResult(members=[], states=[])
    for _, answer in ask(
        grid, TRAIN, nodes, instruction, members=members, expected=shared, timeout=timeout
    ):
        checked = _accept(answer, members, weigh)
        if checked.reply is not None:
            weight = weigh(checked.reply)
            for average, arrays in zip(averages, checked.reply.members, strict=True):
                average.add(arrays, weight)
            # The update is folded in: keep the numbers, release the arrays.
            reply = Reply(checked.site, checked.reply.metrics, (), checked.reply.size_bytes)
            checked = Answer(checked.site, reply, None, checked.bytes_in, checked.bytes_out)
        result.answers.append(checked)
    require_quorum(
        result.answers, quorum, what=f"cycle {instruction.cycle}, round {instruction.round}"
    )
    for current, strategy, state, average in zip(
        members, strategies, states, averages, strict=True
    ):
        updated, kept = strategy.apply(dict(current), average.mean(), dict(state))
        result.members.append(updated)
        result.states.append(kept)
    return result


def require_quorum(answers: Sequence[Answer], quorum: float, *, what: str) -> None:
    """Raises: RoundError: fewer usable answers than the quorum, or none at all."""
    good = sum(answer.reply is not None for answer in answers)
    for answer in answers:
        if answer.failure is not None:
            log.warning("%s: site %s is left out: %s", what, answer.site, answer.failure)
    if good and good >= quorum * len(answers) - 1e-9:
        return
    reasons = "; ".join(f"{a.site}: {a.failure}" for a in answers if a.failure is not None)
    raise RoundError(
        f"{what}: {good} of {len(answers)} sites gave a usable answer, "
        f"the quorum is {quorum:.0%} ({reasons})"
    )


def _shared_schema(
    arrays: Arrays, strategy: Strategy[Any], norm_arrays: frozenset[str]
) -> ArraySchema:
    return array_schema(arrays, lambda name: not strategy.is_local(name, norm_arrays))


def _accept(answer: Answer, members: Sequence[Arrays], weigh: Callable[[Reply], float]) -> Answer:
    """Turn an update that would spoil the average into a failure of that site."""
    if answer.reply is None:
        return answer
    problem = None
    if not weigh(answer.reply) > 0:
        problem = "its update counts zero examples"
    for k, (arrays, current) in enumerate(zip(answer.reply.members, members, strict=True)):
        problem = problem or _spoiled(arrays, current, k)
    if problem is None:
        return answer
    text = f"site {answer.site!r}: {problem}"
    return Answer(answer.site, None, text, answer.bytes_in, answer.bytes_out)


def _spoiled(arrays: Arrays, current: Mapping[str, Any], member: int) -> str | None:
    distance = norm = 0.0
    for name, values in arrays.items():
        if not np.isfinite(values).all():
            return f"array {name!r} of member {member} holds NaN or infinite values"
        if name.endswith("running_var") and (values < 0).any():
            return f"array {name!r} of member {member} holds negative variances"
        old = current[name].astype(np.float64)
        # Plain sums: a threaded BLAS product of such short vectors costs far more than it saves.
        distance += float(np.square(values - old).sum())
        norm += float(np.square(old).sum())
    if distance > (MAX_RELATIVE_UPDATE**2) * max(norm, 1.0):
        ratio = (distance / max(norm, 1.0)) ** 0.5
        return f"the update of member {member} is {ratio:.0f} times the weights' norm"
    return None
