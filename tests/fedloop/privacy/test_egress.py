"""The guard lets exactly the expected reply out, and an error says nothing it should not."""

from __future__ import annotations

import copy
import string
from collections.abc import Callable

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from hypothesis import given
from hypothesis import strategies as st

from fedloop.errors import DataError, EgressError, FedloopError, SettingsError, WireError
from fedloop.privacy.egress import MAX_REASON, check_outgoing, safe_reason
from fedloop.records import METRICS, TRAIN, Arrays, array_schema, encode_reply

MEMBERS: list[Arrays] = [
    {"conv.weight": np.ones((2, 3), np.float32), "norm.bias": np.zeros(2, np.float16)},
    {"conv.weight": np.zeros((2, 3), np.float32), "norm.bias": np.ones(2, np.float16)},
]
EXPECTED = [array_schema(member) for member in MEMBERS]

Change = Callable[[RecordDict], None]


def allowed() -> RecordDict:
    return encode_reply("A", {"examples": 4, "loss": 0.25}, MEMBERS)


def check(content: RecordDict, kind: str = TRAIN) -> None:
    check_outgoing(content, kind=kind, expected=EXPECTED, site="A")


# ------------------------------------------------------------------ one difference

RECORDS = st.sampled_from(
    [
        ConfigRecord({"a": 1}),
        ConfigRecord(),
        MetricRecord({"loss": 1.0}),
        MetricRecord(),
        ArrayRecord({"a": Array(np.zeros(1, np.float32))}),
        ArrayRecord(),
    ]
)
NAMES = st.text(min_size=1, max_size=12)


@st.composite
def another_record(draw: st.DrawFn) -> Change:
    name = draw(NAMES.filter(lambda n: n not in ("site", "metrics", "member.0", "member.1")))
    record = draw(RECORDS)
    return lambda content: content.update({name: record})


@st.composite
def missing_record(draw: st.DrawFn) -> Change:
    name = draw(st.sampled_from(["site", "metrics", "member.0", "member.1"]))
    return lambda content: content.pop(name) and None


@st.composite
def record_of_another_kind(draw: st.DrawFn) -> Change:
    name = draw(st.sampled_from(["site", "metrics", "member.0", "member.1"]))
    record = draw(RECORDS)

    def change(content: RecordDict) -> None:
        # An empty metric record is allowed: a site may have no numbers to tell.
        if name == "metrics" and isinstance(record, MetricRecord):
            content[name] = ConfigRecord()
        else:
            content[name] = record

    return change


@st.composite
def site_key(draw: st.DrawFn) -> Change:
    name = draw(NAMES.filter(lambda n: n not in ("schema", "site")))
    value = draw(st.integers(0, 9) | st.text(max_size=5) | st.binary(max_size=5))
    return lambda content: content["site"].update({name: value})


@st.composite
def metric(draw: st.DrawFn) -> Change:
    known = sorted(METRICS[TRAIN])
    if draw(st.booleans()):
        name = draw(NAMES | st.sampled_from(sorted(set().union(*METRICS.values()))))
        name = f"{name}?" if name in known else name
        return lambda content: content["metrics"].update({name: 1.0})
    value = draw(
        st.lists(st.floats(allow_nan=False), min_size=1, max_size=3)
        | st.sampled_from([float("nan"), float("inf"), float("-inf"), 1e300])
    )
    name = draw(st.sampled_from(known))
    return lambda content: content["metrics"].update({name: value})


@st.composite
def array(draw: st.DrawFn) -> Change:
    member = f"member.{draw(st.integers(0, 1))}"
    own = sorted(MEMBERS[0])
    how = draw(st.sampled_from(["added", "missing", "shape", "dtype", "claim", "tail", "stype"]))
    name = draw(st.sampled_from(own))
    other = draw(NAMES.filter(lambda n: n not in own))

    def change(content: RecordDict) -> None:
        arrays = dict(content[member])
        old = arrays[name]
        values = old.numpy()
        match how:
            case "added":
                arrays[other] = old
            case "missing":
                del arrays[name]
            case "shape":
                arrays[name] = Array(values[None])
            case "dtype":
                arrays[name] = Array(values.astype(np.float64))
            case "claim":
                arrays[name] = Array(old.dtype, (*old.shape, 1), old.stype, old.data)
            case "tail":
                arrays[name] = Array(old.dtype, old.shape, old.stype, old.data + b"x" * 2000)
            case "stype":
                arrays[name] = Array(old.dtype, old.shape, "pickle", old.data)
        content[member] = ArrayRecord(arrays)

    return change


@given(
    another_record() | missing_record() | record_of_another_kind() | site_key() | metric() | array()
)
def test_whatever_differs_in_one_place_is_refused(change: Change) -> None:
    check(allowed())
    content = copy.deepcopy(allowed())
    change(content)
    with pytest.raises(EgressError, match=r"^site 'A': "):
        check(content)


@given(st.dictionaries(st.sampled_from(sorted(METRICS[TRAIN])), st.floats(-1e9, 1e9), max_size=4))
def test_the_values_themselves_are_free(metrics: dict[str, float]) -> None:
    check(encode_reply("any name", metrics, MEMBERS[::-1]))


def test_arrays_leave_only_where_they_are_expected() -> None:
    with pytest.raises(EgressError, match=r"record 'member\.0' is not in the wire schema"):
        check_outgoing(encode_reply("A", {}, MEMBERS), kind=TRAIN, expected=[], site="A")


def test_metrics_of_another_message_type_are_refused() -> None:
    with pytest.raises(EgressError, match="metric 'examples' is not on the allow-list"):
        check(allowed(), kind="evaluate")


def test_an_egress_error_keeps_its_cause() -> None:
    with pytest.raises(EgressError) as caught:
        check(encode_reply("A", {"secret": 1}, MEMBERS))
    assert isinstance(caught.value.__cause__, WireError)


# ------------------------------------------------------------------ error replies

ALPHABET = frozenset(string.ascii_letters + string.digits + " _.,:;'()[]=/-?")
ERRORS = (ValueError, OSError, KeyError, FedloopError, DataError, SettingsError, RuntimeError)


@given(st.text(max_size=400), st.sampled_from([WireError, EgressError]))
def test_a_wire_error_is_bounded_in_length_and_alphabet(text: str, kind: type[WireError]) -> None:
    reason = safe_reason(kind(text), "A")
    assert reason.startswith(f"{kind.code}: ")
    assert len(reason) <= MAX_REASON
    assert set(reason) <= ALPHABET


@given(st.sampled_from(ERRORS), st.text(max_size=300))
def test_no_other_error_says_a_word_of_its_own(kind: type[Exception], text: str) -> None:
    reason = safe_reason(kind(text), "A")
    assert reason == safe_reason(kind("another text"), "A")
    code = kind.code if issubclass(kind, FedloopError) else "internal"
    assert reason == (
        f"{code}: site 'A' could not carry out the request; details are in its own log"
    )


@given(st.text(max_size=300))
def test_a_site_s_name_cannot_break_the_bounds(name: str) -> None:
    reason = safe_reason(ValueError("patient 7"), name)
    assert len(reason) <= MAX_REASON
    assert set(reason) <= ALPHABET
    assert "patient" not in reason or "patient" in name
