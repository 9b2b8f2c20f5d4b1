"""The site as a Flower ClientApp; the same on every engine.

``app`` finds its site in the node config (``site-folder``). An engine whose node config cannot
carry it builds its own with :func:`make_app`. Every reply, errors included, passes the egress
guard; an exception's text stays in the site's log.
"""

from __future__ import annotations

import logging
import traceback
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TypeVar

import torch
from flwr.app import Context, Error, Message
from flwr.clientapp import ClientApp

from client.evaluation import evaluate
from client.networks import norm_arrays
from client.selection import select
from client.site import LOG_FILE, Site, open_site
from client.training import train
from fedloop.errors import SettingsError
from fedloop.models.device import choose_device
from fedloop.privacy.egress import check_outgoing, safe_reason
from fedloop.records import (
    DESCRIBE,
    EVALUATE,
    SELECT,
    STATUS,
    TRAIN,
    Arrays,
    ArraySchema,
    DescribeInstruction,
    EvaluateInstruction,
    SelectInstruction,
    StatusInstruction,
    Step,
    TrainInstruction,
    array_schema,
    decode_instruction,
    encode_reply,
)
from strategies.registry import build_strategy

log = logging.getLogger(__name__)

SITE_FOLDER_KEY = "site-folder"
MAX_LOGGED, MAX_SUMMARY = 20_000, 1_000
ERROR_CODE = 2
"""Flower's code for "the ClientApp raised": what a coordinator's tools expect of a site error."""

I = TypeVar("I", bound=Step)  # noqa: E741 - a type variable for instructions
Result = tuple[Mapping[str, float], Sequence[Arrays]]
Handler = Callable[[Site, I, tuple[Arrays, ...]], Result]


def make_app(find_folder: Callable[[Context], Path] | None = None) -> ClientApp:
    """A ClientApp whose site folder is found by ``find_folder`` (none: from the node config)."""
    find = find_folder or _folder_of
    app = ClientApp()

    @app.train()
    def _train(message: Message, context: Context) -> Message:
        return _answer(message, partial(find, context), TRAIN, TrainInstruction, _handle_train)

    @app.evaluate()
    def _evaluate(message: Message, context: Context) -> Message:
        return _answer(
            message, partial(find, context), EVALUATE, EvaluateInstruction, _handle_evaluate
        )

    @app.query("select")
    def _select(message: Message, context: Context) -> Message:
        return _answer(message, partial(find, context), SELECT, SelectInstruction, _handle_select)

    @app.query("status")
    def _status(message: Message, context: Context) -> Message:
        return _answer(message, partial(find, context), STATUS, StatusInstruction, _handle_status)

    @app.query("describe")
    def _describe(message: Message, context: Context) -> Message:
        return _answer(
            message, partial(find, context), DESCRIBE, DescribeInstruction, _handle_describe
        )

    return app


def _answer(
    message: Message,
    find_folder: Callable[[], Path],
    kind: str,
    instruction_type: type[I],
    handler: Handler[I],
) -> Message:
    """Find the site, decode, act, guard, encode; whatever goes wrong leaves as a code."""
    folder, name = None, "unknown"
    try:
        folder = find_folder()
        site = open_site(folder)
        name = site.name
        if site.settings.threads:
            torch.set_num_threads(site.settings.threads)
        instruction, members = decode_instruction(instruction_type, message.content)
        metrics, arrays = handler(site, instruction, members)
        content = encode_reply(site.name, metrics, arrays)
        expected = _expected(site, instruction, members)
        check_outgoing(content, kind=kind, expected=expected, site=site.name)
        return Message(content, reply_to=message)
    except Exception as error:  # the boundary: nothing of an exception may leave unchecked
        _log_locally(folder, kind, error)
        return Message(Error(code=ERROR_CODE, reason=safe_reason(error, name)), reply_to=message)


def _expected(site: Site, instruction: Step, members: Sequence[Arrays]) -> Sequence[ArraySchema]:
    """The shared partition of the model that came in; no arrays in any other reply."""
    if not isinstance(instruction, TrainInstruction):
        return ()
    strategy = build_strategy(instruction.strategy)
    norms = norm_arrays(instruction.spec, choose_device(site.settings.device))
    return [array_schema(a, lambda n: not strategy.is_local(n, norms)) for a in members]


def _handle_train(site: Site, instruction: TrainInstruction, members: tuple[Arrays, ...]) -> Result:
    answer = train(site, instruction, members)
    return answer.metrics, answer.members


def _handle_evaluate(
    site: Site, instruction: EvaluateInstruction, members: tuple[Arrays, ...]
) -> Result:
    return evaluate(site, instruction, members), ()


def _handle_select(
    site: Site, instruction: SelectInstruction, members: tuple[Arrays, ...]
) -> Result:
    return select(site, instruction, members), ()


def _handle_status(
    site: Site, instruction: StatusInstruction, members: tuple[Arrays, ...]
) -> Result:
    del members
    counts = site.store.counts(instruction.campaign, instruction.cycle)
    metrics = {
        "selected_patches": counts.selected,
        "corrected_patches": counts.corrected,
        "corrected_px": counts.corrected_px,
        "active_seconds": counts.seconds,
    }
    return metrics, ()


def _handle_describe(
    site: Site, instruction: DescribeInstruction, members: tuple[Arrays, ...]
) -> Result:
    del instruction, members
    settings = site.settings
    metrics = {
        "labelled_cases": len(settings.labelled),
        "pool_cases": len(settings.pool),
        "test_cases": len(settings.test),
    }
    return metrics, ()


def _log_locally(folder: Path | None, kind: str, error: Exception) -> None:
    """Details for the hospital's IT, in the site's own folder."""
    if folder is None:
        log.error("%s failed before the site's folder was known", kind, exc_info=error)
        return
    stamp = datetime.now(UTC).isoformat(timespec="seconds")
    try:
        # Indented and without control characters, so that no text of others looks like a line of
        # this log; cut, so that it cannot fill the disk.
        trace = "".join(traceback.format_exception(error))[-MAX_LOGGED:]
        text = "".join(f"    {_printable(line)}\n" for line in trace.splitlines())
        summary = _printable(" ".join(str(error).split()) or type(error).__name__)[:MAX_SUMMARY]
        # File names that are no UTF-8 reach Python as lone surrogates.
        with (folder / LOG_FILE).open("a", encoding="utf-8", errors="backslashreplace") as stream:
            stream.write(f"{stamp} {kind} failed\n{text}ERROR {summary}\n")
    except Exception:  # a failure here would leave in Flower's words: with its text
        log.exception("the site's log cannot be written")


def _printable(text: str) -> str:
    return "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in text)


def _folder_of(context: Context) -> Path:
    value = context.node_config.get(SITE_FOLDER_KEY)
    if not value:
        raise SettingsError(f"node config: key {SITE_FOLDER_KEY!r} must name the site's folder")
    return Path(str(value))


app = make_app()
