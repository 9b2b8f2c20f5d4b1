"""The wire schema: everything that may travel between coordinator and site, and nothing else.

A message carries

* ``instruction`` (coordinator → site): a config record ``{"schema": int, "body": JSON}``, parsed
  strictly into one of the instruction classes below;
* ``site`` (site → coordinator): a config record ``{"schema": int, "site": name}``;
* ``member.<k>`` (both ways): one array record per ensemble member;
* ``metrics`` (site → coordinator): scalars from :data:`METRICS`.

Unknown records, keys, metrics, array names, shapes or dtypes are refused on both sides: by the
egress guard before a reply leaves a site, by the coordinator before it looks at the content.
"""

from __future__ import annotations

import functools
import io
import json
import math
import re
import tokenize
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from numpy.typing import NDArray
from pydantic import Field, ValidationError

from fedloop.errors import WireError
from fedloop.settings import (
    CampaignName,
    ModelSpec,
    NotNegative,
    Positive,
    SelectionSettings,
    Settings,
    Steps,
    StrategySettings,
    TrainingSettings,
    Turn,
)

SCHEMA = 1
NUMPY_TYPE = "numpy.ndarray"

Arrays = dict[str, NDArray[Any]]
"""One member's named arrays."""

TRAIN = "train"
EVALUATE = "evaluate"
SELECT = "query.select"
STATUS = "query.status"
DESCRIBE = "query.describe"

METRICS: Mapping[str, frozenset[str]] = {
    TRAIN: frozenset({"examples", "steps", "loss", "corrected_patches"}),
    EVALUATE: frozenset(
        {"cases", "dice_global", "dice_case_mean", "dice_personal", "precision", "recall"}
    ),
    SELECT: frozenset({"pool_patches", "selected_patches", "predicted_foreground"}),
    STATUS: frozenset({"selected_patches", "corrected_patches", "corrected_px", "active_seconds"}),
    DESCRIBE: frozenset({"labelled_cases", "pool_cases", "test_cases"}),
}
"""Scalars a site may send, by message type. Adding one is a decision, not a convenience."""

_MEMBER = re.compile(r"member\.(0|[1-9][0-9]{0,2})", re.ASCII)


MAX_METRIC = 1e15
"""Larger than any honest count, far below where sums of floats lose it or overflow."""

_NUMPY_MAGIC = b"\x93NUMPY"
_NUMPY_ERRORS = (
    ValueError,
    TypeError,
    OSError,
    EOFError,
    SyntaxError,  # its header is parsed as a Python literal
    tokenize.TokenError,
    LookupError,  # of a dtype description that is an empty tuple
    RecursionError,
    MemoryError,
    OverflowError,
)

# --------------------------------------------------------------------------- instructions


class Step(Settings):
    """Which moment of which campaign an instruction belongs to.

    The campaign's name becomes a file name at the site, so it can hold no path.
    """

    campaign: CampaignName
    seed: NotNegative
    cycle: Turn = 0
    round: Turn = 0


class TrainInstruction(Step):
    """Train every member for ``steps``; the learning rate follows one cosine over the campaign.

    ``labels``: ``site`` trains on the site's own labels alone (igniter, bounds); ``corrections``
    on the clinicians' corrections, with replay of the site's own labels where it has some.
    """

    spec: ModelSpec
    training: TrainingSettings
    strategy: StrategySettings
    steps: Steps
    first_step: NotNegative = 0
    total_steps: Positive
    labels: Literal["site", "corrections"] = "corrections"


class SelectInstruction(Step):
    """Rank the pool and queue the best patches for the clinician."""

    spec: ModelSpec
    selection: SelectionSettings
    pseudo_label_threshold: float = 0.9
    amp: bool = True


class EvaluateInstruction(Step):
    """Measure the model on the site's held-out cases; ``personal`` also a fine-tuned copy."""

    spec: ModelSpec
    amp: bool = True
    personal_steps: int = Field(default=0, ge=0, le=1_000_000)
    training: TrainingSettings | None = None


class StatusInstruction(Step):
    """How far are the clinicians with this cycle's patches?"""


class DescribeInstruction(Step):
    """Who are you, and how many cases of which role do you hold?"""


I = TypeVar("I", bound=Step)  # noqa: E741 - a type variable for instructions


@dataclass(frozen=True)
class Reply:
    """A site's decoded answer."""

    site: str
    metrics: Mapping[str, float]
    members: tuple[Arrays, ...]
    size_bytes: int


# --------------------------------------------------------------------------- encode, decode


def encode_instruction(instruction: Step, members: Sequence[Arrays] = ()) -> RecordDict:
    """Content of a message to a site."""
    body = json.dumps(instruction.model_dump(mode="json"), separators=(",", ":"), sort_keys=True)
    content = RecordDict({"instruction": ConfigRecord({"schema": SCHEMA, "body": body})})
    _put_members(content, members)
    return content


def decode_instruction(kind: type[I], content: RecordDict) -> tuple[I, tuple[Arrays, ...]]:
    """Parse what came from the coordinator.

    Raises:
        WireError: another schema version, an unknown record or key, a value out of range.
    """
    record = content.get("instruction")
    if not isinstance(record, ConfigRecord):
        raise WireError("message without an instruction record")
    if unknown := sorted(set(record) - {"schema", "body"}):
        raise WireError(f"instruction: unknown key {unknown[0]!r}")
    if not isinstance(record.get("body"), str):
        raise WireError("instruction: key 'body' must be a text")
    if record.get("schema") != SCHEMA:
        raise WireError(
            f"instruction: schema version {record.get('schema')!r}, this site speaks {SCHEMA}; "
            "install the same fedloop version at coordinator and site"
        )
    if unknown := sorted(k for k in content if k != "instruction" and not _MEMBER.fullmatch(k)):
        raise WireError(f"message: unknown record {unknown[0]!r}")
    try:
        instruction = kind.model_validate_json(str(record["body"]))
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise WireError(f"instruction: key {place!r}: {first['msg']}") from None
    return instruction, _take_members(content, "message")


def encode_reply(
    site: str, metrics: Mapping[str, float | int], members: Sequence[Arrays] = ()
) -> RecordDict:
    """Content of a site's answer (checked by the egress guard before it leaves)."""
    content = RecordDict(
        {
            "site": ConfigRecord({"schema": SCHEMA, "site": site}),
            "metrics": MetricRecord(dict(metrics)),
        }
    )
    _put_members(content, members)
    return content


def decode_reply(message: Message, *, kind: str, expected: Sequence[ArraySchema]) -> Reply:
    """Check and parse a site's answer.

    Args:
        kind: message type of the request.
        expected: one array schema per member that must come back; empty where none may.

    Raises:
        WireError: naming the site as far as it is known, and the offending key.
    """
    content = message.content
    record = content.get("site")
    if not isinstance(record, ConfigRecord) or set(record) != {"schema", "site"}:
        raise WireError("a reply without a valid 'site' record")
    site = str(record["site"])
    if record["schema"] != SCHEMA:
        raise WireError(f"site {site!r}: schema version {record['schema']!r}, expected {SCHEMA}")
    check_content(content, kind=kind, expected=expected, who=f"site {site!r}")
    metrics = {name: float(value) for name, value in content["metrics"].items()}  # type: ignore[arg-type]
    return Reply(
        site=site,
        metrics=metrics,
        members=_take_members(content, f"site {site!r}"),
        size_bytes=payload_bytes(content),
    )


# --------------------------------------------------------------------------- the check

ArraySchema = Mapping[str, tuple[tuple[int, ...], str]]
"""Array name → (shape, dtype name)."""


def array_schema(arrays: Arrays, keep: Callable[[str], bool] = lambda _: True) -> ArraySchema:
    """Names, shapes and dtypes of the arrays whose name ``keep`` accepts."""
    return {n: (tuple(a.shape), a.dtype.name) for n, a in arrays.items() if keep(n)}


def check_content(
    content: RecordDict, *, kind: str, expected: Sequence[ArraySchema], who: str
) -> None:
    """Refuse everything in a reply that the wire schema does not list.

    Raises:
        WireError: naming ``who`` and the record, metric or array that is too much, missing or of
            another shape or dtype.
    """
    if kind not in METRICS:
        raise WireError(f"{who}: unknown message type {kind!r}")
    members = {f"member.{k}" for k in range(len(expected))}
    if unknown := sorted(set(content) - members - {"site", "metrics"}):
        raise WireError(f"{who}: record {unknown[0]!r} is not in the wire schema of {kind!r}")
    if missing := sorted((members | {"site", "metrics"}) - set(content)):
        raise WireError(f"{who}: record {missing[0]!r} is missing from its reply to {kind!r}")
    _check_site_record(content["site"], who)
    _check_metrics(content["metrics"], kind, who)
    for k, schema in enumerate(expected):
        _check_arrays(content[f"member.{k}"], schema, f"member.{k}", who)


def _check_site_record(record: object, who: str) -> None:
    if not isinstance(record, ConfigRecord):
        raise WireError(f"{who}: record 'site' is not a config record")
    if unknown := sorted(set(record) - {"schema", "site"}):
        raise WireError(f"{who}: key {unknown[0]!r} in record 'site' is not in the wire schema")
    name = record.get("site")
    if not isinstance(name, str) or len(name) > 128:
        raise WireError(f"{who}: key 'site' must be a name of at most 128 characters")


def _check_metrics(record: object, kind: str, who: str) -> None:
    if not isinstance(record, MetricRecord):
        raise WireError(f"{who}: record 'metrics' is not a metric record")
    for name, value in record.items():
        if name not in METRICS[kind]:
            raise WireError(f"{who}: metric {name!r} is not on the allow-list of {kind!r}")
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise WireError(f"{who}: metric {name!r} must be one number, not a list")
        # An infinite count of examples would make the whole average NaN.
        if not abs(value) <= MAX_METRIC:
            raise WireError(f"{who}: metric {name!r} must be a finite number")


def _check_arrays(record: object, schema: ArraySchema, key: str, who: str) -> None:
    if not isinstance(record, ArrayRecord):
        raise WireError(f"{who}: record {key!r} is not an array record")
    if unknown := sorted(set(record) - set(schema)):
        raise WireError(f"{who}: array {unknown[0]!r} in {key!r} is not in the shared partition")
    if missing := sorted(set(schema) - set(record)):
        raise WireError(f"{who}: array {missing[0]!r} is missing from {key!r}")
    for name, (shape, dtype) in schema.items():
        array = record[name]
        what = f"{who}: array {name!r} in {key!r}"
        header = _canonical_header(shape, dtype)
        size = len(header) + math.prod(shape) * np.dtype(dtype).itemsize
        said = (tuple(array.shape), array.dtype)
        as_said = said == (shape, dtype) and array.stype == NUMPY_TYPE
        if as_said and len(array.data) == size and array.data.startswith(header):
            continue
        # What the bytes are counts, not what the record says about itself.
        inner = _array_values(array, what)
        found = (tuple(inner.shape), inner.dtype.name)
        if found != (shape, dtype) or said != found:
            raise WireError(
                f"{what} has shape {found[0]} and dtype {found[1]}, "
                f"the shared partition has {shape} and {dtype}"
            )
        raise WireError(f"{what} carries extra bytes")


def payload_bytes(content: RecordDict) -> int:
    """Bytes of the arrays plus the text of the small records: what the network carries, about."""
    arrays = sum(
        len(a.data) for r in content.values() if isinstance(r, ArrayRecord) for a in r.values()
    )
    small = sum(
        len(str(dict(r))) for r in content.values() if isinstance(r, ConfigRecord | MetricRecord)
    )
    return arrays + small


# --------------------------------------------------------------------------- arrays


def _put_members(content: RecordDict, members: Sequence[Arrays]) -> None:
    for k, arrays in enumerate(members):
        content[f"member.{k}"] = ArrayRecord(
            {name: Array(np.asarray(values, order="C")) for name, values in arrays.items()}
        )


def _take_members(content: RecordDict, who: str) -> tuple[Arrays, ...]:
    numbers = sorted(int(m.group(1)) for key in content if (m := _MEMBER.fullmatch(key)))
    if numbers != list(range(len(numbers))):
        raise WireError(f"{who}: member records must be numbered from 0, found {numbers}")
    members = []
    for k in numbers:
        record = content[f"member.{k}"]
        if not isinstance(record, ArrayRecord):
            raise WireError(f"{who}: record 'member.{k}' is not an array record")
        members.append(
            {n: _array_values(a, f"{who}: array {n!r} in 'member.{k}'") for n, a in record.items()}
        )
    return tuple(members)


@functools.lru_cache(maxsize=4096)
def _canonical_header(shape: tuple[int, ...], dtype: str) -> bytes:
    """The header NumPy itself writes: a freer one could carry text in its padding."""
    stream = io.BytesIO()
    descr = np.lib.format.dtype_to_descr(np.dtype(dtype))
    np.lib.format.write_array_header_1_0(
        stream, {"descr": descr, "fortran_order": False, "shape": shape}
    )
    return stream.getvalue()


def _array_values(array: Array, what: str) -> NDArray[Any]:
    if array.stype != NUMPY_TYPE:
        raise WireError(f"{what} has serialisation type {array.stype!r}, expected {NUMPY_TYPE!r}")
    # Anything else that NumPy can open (a zip, a pickle) is no array.
    if not array.data.startswith(_NUMPY_MAGIC):
        raise WireError(f"{what} cannot be read as a NumPy array")
    try:
        return array.numpy()
    except _NUMPY_ERRORS as error:
        raise WireError(f"{what} cannot be read as a NumPy array") from error
