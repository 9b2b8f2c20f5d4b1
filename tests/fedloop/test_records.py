"""What is on the wire comes back exactly; everything else is refused by name."""

from __future__ import annotations

import io
import json
import math
import zipfile
from collections.abc import Callable

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.supercore.task_identity import TaskIdentity
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from fedloop.errors import WireError
from fedloop.records import (
    DESCRIBE,
    MAX_METRIC,
    METRICS,
    SCHEMA,
    TRAIN,
    Arrays,
    DescribeInstruction,
    EvaluateInstruction,
    Reply,
    SelectInstruction,
    StatusInstruction,
    Step,
    TrainInstruction,
    array_schema,
    decode_instruction,
    decode_reply,
    encode_instruction,
    encode_reply,
    payload_bytes,
)
from fedloop.settings import (
    ImagingSettings,
    ModelSettings,
    ModelSpec,
    SelectionSettings,
    StrategySettings,
    TrainingSettings,
)

WHERE = {"campaign": "c1", "seed": 3, "cycle": 2, "round": 1}
SPEC = ModelSpec(
    model=ModelSettings(parameters={"channels": [4, 8], "strides": [2]}, members=2),
    imaging=ImagingSettings(patch_size=(8, 8), mpp=0.5),
    classes=("background", "tumour"),
)
INSTRUCTIONS: tuple[Step, ...] = (
    TrainInstruction(
        **WHERE,
        spec=SPEC,
        training=TrainingSettings(),
        strategy=StrategySettings(name="fedprox", parameters={"mu": 0.5}),
        steps=5,
        total_steps=20,
    ),
    SelectInstruction(**WHERE, spec=SPEC, selection=SelectionSettings()),
    EvaluateInstruction(**WHERE, spec=SPEC, training=TrainingSettings()),
    StatusInstruction(**WHERE),
    DescribeInstruction(**WHERE),
)
ARRAYS: Arrays = {"w": np.arange(6, dtype=np.float32).reshape(2, 3), "n": np.array(3, np.int64)}

NAMES = st.text(min_size=1, max_size=12)
VALUES = st.sampled_from([np.float32, np.float16, np.int64]).flatmap(
    lambda dtype: hnp.arrays(
        dtype, hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=3)
    )
)
MEMBERS = st.lists(st.dictionaries(NAMES, VALUES, max_size=3), max_size=3)


@pytest.fixture(autouse=True, scope="module")
def inside_a_task() -> None:
    """Flower builds messages only inside a task."""
    TaskIdentity.task_id = TaskIdentity.run_id = TaskIdentity.node_id = 1


def reply_of(content: RecordDict) -> Message:
    return Message(content, 5, TRAIN)


def decode(content: RecordDict, schema: Arrays | None = None, kind: str = TRAIN) -> Reply:
    expected = [] if schema is None else [array_schema(schema)]
    return decode_reply(reply_of(content), kind=kind, expected=expected)


def refuses(content: RecordDict, schema: Arrays | None = None, kind: str = TRAIN) -> str:
    with pytest.raises(WireError) as caught:
        decode(content, schema, kind)
    return str(caught.value)


def good() -> RecordDict:
    return encode_reply("A", {"examples": 3, "loss": 0.5}, [ARRAYS])


def same(a: Arrays, b: Arrays) -> bool:
    """Equal names in equal order, dtypes, shapes and bits (NaN payloads and -0 included)."""
    return list(a) == list(b) and all(
        (a[n].dtype, a[n].shape, a[n].tobytes()) == (b[n].dtype, b[n].shape, b[n].tobytes())
        for n in a
    )


# ------------------------------------------------------------------ round trips


@pytest.mark.parametrize("instruction", INSTRUCTIONS, ids=lambda i: type(i).__name__)
def test_instructions_survive(instruction: Step) -> None:
    content = encode_instruction(instruction, [ARRAYS, ARRAYS])
    decoded, members = decode_instruction(type(instruction), content)
    assert decoded == instruction
    assert len(members) == 2
    assert same(members[1], ARRAYS)


@given(MEMBERS)
def test_arrays_survive_bit_by_bit(members: list[Arrays]) -> None:
    _, received = decode_instruction(
        StatusInstruction, encode_instruction(StatusInstruction(**WHERE), members)
    )
    assert len(received) == len(members)
    assert all(same(a, b) for a, b in zip(received, members, strict=True))
    content = encode_reply("A", {"loss": 1.0}, members)
    reply = decode_reply(
        reply_of(content), kind=TRAIN, expected=[array_schema(member) for member in members]
    )
    assert all(same(a, b) for a, b in zip(reply.members, members, strict=True))
    assert (
        reply.size_bytes
        == payload_bytes(content)
        >= sum(a.nbytes for m in members for a in m.values())
    )


def test_views_and_foreign_memory_orders_survive() -> None:
    array = np.arange(24, dtype=np.float32).reshape(2, 3, 4)[:, ::-1].T
    content = encode_reply("A", {}, [{"a": array}])
    assert np.array_equal(decode(content, {"a": array}).members[0]["a"], array)


@given(
    st.dictionaries(
        st.sampled_from(sorted(METRICS[TRAIN])),
        st.integers(0, 10**9) | st.floats(-1e9, 1e9),
        max_size=4,
    )
)
def test_metrics_survive(metrics: dict[str, float]) -> None:
    reply = decode(encode_reply("Zürich", metrics))
    assert (reply.site, dict(reply.metrics)) == ("Zürich", metrics)


# ------------------------------------------------------------------ replies that are refused


def changed(change: Callable[[RecordDict], object]) -> RecordDict:
    content = good()
    change(content)
    return content


def _put(content: RecordDict, name: str, array: Array) -> None:
    record = dict(content["member.0"])
    record[name] = array
    content["member.0"] = ArrayRecord(record)


def _drop(content: RecordDict, name: str) -> None:
    content["member.0"] = ArrayRecord({n: a for n, a in content["member.0"].items() if n != name})


def _claims(shape: tuple[int, ...] | None = None, dtype: str | None = None) -> Array:
    """An array whose record says something else than its bytes."""
    array = Array(ARRAYS["w"])
    return Array(dtype or array.dtype, shape or array.shape, array.stype, array.data)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda c: c.update(extra=ConfigRecord({"a": 1})), "record 'extra' is not in the wire"),
        (lambda c: c.update({"member.1": ArrayRecord({})}), "record 'member.1' is not in"),
        (lambda c: c.pop("member.0"), "record 'member.0' is missing"),
        (lambda c: c.pop("metrics"), "record 'metrics' is missing"),
        (lambda c: c.update(metrics=ConfigRecord({})), "'metrics' is not a metric record"),
        (lambda c: c["metrics"].update(patients=3), "metric 'patients' is not on the allow-list"),
        (lambda c: c["metrics"].update(dice_global=0.5), "metric 'dice_global' is not on"),
        (lambda c: c["metrics"].update(loss=[0.1, 0.2]), "metric 'loss' must be one number"),
        (lambda c: c["metrics"].update(loss=math.nan), "metric 'loss' must be a finite number"),
        (lambda c: c["metrics"].update(examples=math.inf), "metric 'examples' must be a finite"),
        (lambda c: c["metrics"].update(examples=10 * MAX_METRIC), "'examples' must be a finite"),
        (lambda c: c.update({"member.0": ConfigRecord({})}), "'member.0' is not an array record"),
        (lambda c: _put(c, "image", Array(np.zeros(3))), "array 'image' in 'member.0' is not in"),
        (lambda c: _drop(c, "w"), "array 'w' is missing from 'member.0'"),
        (lambda c: _put(c, "w", Array(np.zeros((3, 2), np.float32))), "has shape (3, 2)"),
        (lambda c: _put(c, "w", Array(np.zeros((2, 3)))), "and dtype float64"),
        (lambda c: _put(c, "w", _claims(shape=(3, 2))), "array 'w' in 'member.0' has shape"),
        (lambda c: _put(c, "w", _claims(dtype="float16")), "array 'w' in 'member.0' has shape"),
        (
            lambda c: _put(c, "w", Array("float32", (2, 3), "torch.Tensor", b"x")),
            "serialisation type 'torch.Tensor'",
        ),
    ],
)
def test_a_reply_that_breaks_the_schema_names_site_and_key(
    change: Callable[[RecordDict], object], text: str
) -> None:
    message = refuses(changed(change), ARRAYS)
    assert text in message
    assert message.startswith("site 'A'")


@pytest.mark.parametrize(
    ("record", "text"),
    [
        (ConfigRecord({"schema": SCHEMA + 1, "site": "A"}), "site 'A': schema version 2"),
        (ConfigRecord({"schema": SCHEMA}), "without a valid 'site' record"),
        (ConfigRecord({"schema": SCHEMA, "site": "A", "x": 1}), "without a valid 'site' record"),
        (ConfigRecord({"schema": SCHEMA, "site": "A" * 129}), "at most 128 characters"),
        (ConfigRecord({"schema": SCHEMA, "site": 7}), "key 'site' must be a name"),
        (MetricRecord({"schema": 1}), "without a valid 'site' record"),
    ],
)
def test_a_site_record_that_breaks_the_schema(record: ConfigRecord, text: str) -> None:
    assert text in refuses(changed(lambda c: c.update(site=record)), ARRAYS)


def test_booleans_are_no_metrics() -> None:
    content = good()
    # Flower's own record refuses a bool; a hostile site does not use it.
    content["metrics"]._data["loss"] = True
    assert "metric 'loss' must be one number" in refuses(content, ARRAYS)


def test_arrays_where_none_may_be() -> None:
    content = encode_reply("A", {"pool_cases": 3}, [ARRAYS])
    assert "record 'member.0' is not in the wire schema" in refuses(content, kind=DESCRIBE)


def test_an_unknown_message_type() -> None:
    assert "unknown message type 'query.dump'" in refuses(good(), ARRAYS, kind="query.dump")


def _npz() -> bytes:
    stream = io.BytesIO()
    np.savez(stream, w=np.zeros((2, 3), np.float32))
    return stream.getvalue()


def _npy(header: str, data: bytes = b"") -> bytes:
    text = header.encode().ljust(118) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + data


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x93NUMPY",
        b"not an array",
        _npz(),
        zipfile.ZIP_DEFLATED.to_bytes(4, "big"),
        b"PK\x03\x04broken",
        b"\x80\x04\x95pickle",
        _npy("{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3)}", b"\0" * 5),
        _npy("{'descr': '<f4', 'fortran_order': False, 'shape': (99999999999999,)}"),
        _npy("{'descr': '<f4', 'fortran_order': False, 'shape': (-3, 2)}"),
        _npy("{'descr': '|O', 'fortran_order': False, 'shape': (2, 3)}", b"\x80\x04N."),
        _npy("(" * 100),
        _npy("{'descr': (,"),
        _npy("{'''"),
        _npy("1"),
        _npy("{'descr': (), 'fortran_order': False, 'shape': (2, 3)}"),
        _npy("{'descr': [('a', ())], 'fortran_order': False, 'shape': (2, 3)}"),
    ],
)
def test_malformed_array_bytes_are_a_wire_error(data: bytes) -> None:
    content = changed(lambda c: _put(c, "w", Array("float32", (2, 3), "numpy.ndarray", data)))
    assert "array 'w' in 'member.0' cannot be read as a NumPy array" in refuses(content, ARRAYS)


@given(st.data())
def test_damaged_array_bytes_never_crash(data: st.DataObject) -> None:
    raw = bytearray(Array(ARRAYS["w"]).data)
    for _ in range(data.draw(st.integers(1, 4))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    raw = raw[: data.draw(st.integers(0, len(raw)))]
    content = changed(lambda c: _put(c, "w", Array("float32", (2, 3), "numpy.ndarray", bytes(raw))))
    try:
        reply = decode(content, ARRAYS)
    except WireError:
        return
    assert reply.members[0]["w"].shape == (2, 3)
    assert reply.members[0]["w"].dtype == np.float32


def test_bytes_behind_an_array_are_refused() -> None:
    array = Array(ARRAYS["w"])
    smuggled = Array(array.dtype, array.shape, array.stype, array.data + b"s" * 4096)
    assert "array 'w' in 'member.0' carries extra bytes" in refuses(
        changed(lambda c: _put(c, "w", smuggled)), ARRAYS
    )


# ------------------------------------------------------------------ instructions that are refused


def instruct(**body: object) -> RecordDict:
    tree = {**DescribeInstruction(**WHERE).model_dump(mode="json"), **body}
    return RecordDict({"instruction": ConfigRecord({"schema": SCHEMA, "body": json.dumps(tree)})})


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (RecordDict(), "without an instruction record"),
        (RecordDict({"instruction": MetricRecord({"a": 1})}), "without an instruction record"),
        (RecordDict({"instruction": ConfigRecord({"schema": 1})}), "key 'body' must be a text"),
        (
            RecordDict({"instruction": ConfigRecord({"schema": 1, "body": b"{}"})}),
            "key 'body' must be a text",
        ),
        (
            RecordDict({"instruction": ConfigRecord({"schema": 2, "body": "{}"})}),
            "schema version 2, this site speaks 1",
        ),
        (RecordDict({"instruction": ConfigRecord({"body": "{}"})}), "schema version None"),
        (
            RecordDict({"instruction": ConfigRecord({"schema": 1, "body": "{}", "x": 1})}),
            "unknown key 'x'",
        ),
        (
            RecordDict({"instruction": ConfigRecord({"schema": 1, "body": "{"})}),
            "instruction: key '': Invalid JSON",
        ),
        (instruct(code="print(1)"), "key 'code': Extra inputs are not permitted"),
        (instruct(cycle=-1), "key 'cycle'"),
        (instruct(campaign="../../etc"), "key 'campaign'"),
        (instruct(campaign="a/b"), "key 'campaign'"),
        (instruct(campaign="a\n"), "key 'campaign'"),
        (instruct(campaign=""), "key 'campaign'"),
        (instruct(campaign="a" * 200), "key 'campaign'"),
    ],
)
def test_an_instruction_that_breaks_the_schema(content: RecordDict, text: str) -> None:
    with pytest.raises(WireError) as caught:
        decode_instruction(DescribeInstruction, content)
    assert text in str(caught.value)


@pytest.mark.parametrize(
    "names",
    [
        ["x"],
        ["member.00"],
        ["member.1"],
        ["member.0", "member.2"],
        ["member.٠"],
        ["member.0\n"],
        ["member.-1"],
        ["member.1000"],
        ["Member.0"],
    ],
)
def test_member_records_are_numbered_in_one_way(names: list[str]) -> None:
    content = instruct()
    for name in names:
        content[name] = ArrayRecord({})
    with pytest.raises(WireError):
        decode_instruction(DescribeInstruction, content)


def test_a_member_that_holds_no_arrays() -> None:
    content = instruct()
    content["member.0"] = ConfigRecord({"a": 1})
    with pytest.raises(WireError, match=r"'member\.0' is not an array record"):
        decode_instruction(DescribeInstruction, content)


@given(st.text(max_size=30) | st.sampled_from(["null", "[]", "1", '{"campaign": 1}', "NaN"]))
def test_any_body_is_an_instruction_or_a_wire_error(body: str) -> None:
    content = RecordDict({"instruction": ConfigRecord({"schema": SCHEMA, "body": body})})
    with pytest.raises(WireError):
        decode_instruction(DescribeInstruction, content)
