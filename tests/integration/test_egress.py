"""What may not leave a site does not, and what should not arrive is refused by site and key."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import (
    Array,
    ArrayRecord,
    ConfigRecord,
    Context,
    Error,
    Message,
    MetricRecord,
    RecordDict,
)
from flwr.clientapp import ClientApp

import client.app as site_module
from client.app import ERROR_CODE, app
from client.site import LOG_FILE
from fedloop.errors import RoundError
from fedloop.records import (
    EVALUATE,
    SELECT,
    TRAIN,
    DescribeInstruction,
    EvaluateInstruction,
    encode_instruction,
)
from fedloop.settings import StrategySettings
from simulation.engines.inprocess import InProcessGrid, run_campaign
from tests.integration import tiny
from tests.integration.conftest import Make
from tests.integration.tiny import Tiny

HOSTILE = "north"
PATIENT = "Jane Q. Doe, born 1950-04-01"

Tamper = Callable[[RecordDict], None]


def hostile_app(kind: str, tamper: Tamper, *, in_round: int | None = None) -> ClientApp:
    """The honest ClientApp, but what site ``north`` answers to ``kind`` is tampered with after
    its egress guard; ``in_round`` only then."""
    hostile = ClientApp()

    def answer(message: Message, context: Context) -> Message:
        reply = app(message, context)
        name = Path(str(context.node_config["site-folder"])).name
        asked = json.loads(str(message.content.config_records["instruction"]["body"]))
        if name != HOSTILE or message.metadata.message_type != kind:
            return reply
        if in_round is not None and asked["round"] != in_round:
            return reply
        tamper(reply.content)
        return reply

    hostile.train()(answer)
    hostile.evaluate()(answer)
    for action in ("select", "status", "describe"):
        hostile.query(action)(answer)
    return hostile


# --------------------------------------------------------------------------- ways to misbehave


def first_array(content: RecordDict) -> tuple[str, Array]:
    record = content.array_records["member.1"]
    name = min(record)
    return name, record[name]


def swap(content: RecordDict, change: Callable[[np.ndarray], np.ndarray]) -> None:
    name, array = first_array(content)
    content.array_records["member.1"][name] = Array(change(array.numpy()))


def extra_metric(content: RecordDict) -> None:
    content.metric_records["metrics"]["patients"] = 12


def metric_list(content: RecordDict) -> None:
    content.metric_records["metrics"]["loss"] = [0.5, 0.25, 0.125]


def infinite_metric(content: RecordDict) -> None:
    content.metric_records["metrics"]["examples"] = float("inf")


def no_examples(content: RecordDict) -> None:
    content.metric_records["metrics"]["examples"] = 0.0


def extra_array(content: RecordDict) -> None:
    content.array_records["member.1"]["thumbnail"] = Array(np.zeros((8, 8), np.uint8))


def missing_array(content: RecordDict) -> None:
    name, _ = first_array(content)
    del content.array_records["member.1"][name]


def extra_member(content: RecordDict) -> None:
    content["member.2"] = ArrayRecord({"w": Array(np.zeros(3, np.float32))})


def missing_member(content: RecordDict) -> None:
    del content["member.1"]


def wrong_shape(content: RecordDict) -> None:
    swap(content, lambda values: values[None])


def double_precision(content: RecordDict) -> None:
    swap(content, lambda values: values.astype(np.float64))


def lying_header(content: RecordDict) -> None:
    """The record says what is expected; the bytes hold something else."""
    name, array = first_array(content)
    other = Array(np.zeros(1000, np.float32))
    content.array_records["member.1"][name] = replace_data(array, other.data)


def trailing_payload(content: RecordDict) -> None:
    name, array = first_array(content)
    content.array_records["member.1"][name] = replace_data(array, array.data + b"x" * 1_000_000)


def replace_data(array: Array, data: bytes) -> Array:
    return Array(array.dtype, tuple(array.shape), array.stype, data)


def pickled(content: RecordDict) -> None:
    name, array = first_array(content)
    content.array_records["member.1"][name] = replace_data(array, b"\x80\x04N.")


def other_format(content: RecordDict) -> None:
    name, array = first_array(content)
    content.array_records["member.1"][name] = Array(
        array.dtype, tuple(array.shape), "torch", array.data
    )


def not_a_number(content: RecordDict) -> None:
    swap(content, lambda values: np.full_like(values, np.nan))


def exploded(content: RecordDict) -> None:
    swap(content, lambda values: values + np.float32(1e6))


def extra_record(content: RecordDict) -> None:
    content["notes"] = ConfigRecord({"text": PATIENT})


def site_string(content: RecordDict) -> None:
    content.config_records["site"]["remark"] = PATIENT


def other_site(content: RecordDict) -> None:
    content.config_records["site"]["site"] = "south"


def other_schema(content: RecordDict) -> None:
    content.config_records["site"]["schema"] = 99


def no_site(content: RecordDict) -> None:
    del content["site"]


def metrics_as_config(content: RecordDict) -> None:
    content["metrics"] = ConfigRecord({"examples": 2.0})


MISDEEDS = [
    (TRAIN, extra_metric, "metric 'patients'"),
    (TRAIN, metric_list, "metric 'loss'"),
    (TRAIN, infinite_metric, "metric 'examples'"),
    (TRAIN, no_examples, "counts zero examples"),
    (TRAIN, extra_array, "array 'thumbnail' in 'member.1'"),
    (TRAIN, missing_array, "is missing from 'member.1'"),
    (TRAIN, extra_member, "record 'member.2'"),
    (TRAIN, missing_member, "record 'member.1' is missing"),
    (TRAIN, wrong_shape, "in 'member.1' has shape (1, "),
    (TRAIN, double_precision, "in 'member.1' has shape"),
    (TRAIN, lying_header, "in 'member.1' has shape (1000,)"),
    (TRAIN, trailing_payload, "in 'member.1' carries extra bytes"),
    (TRAIN, pickled, "in 'member.1' cannot be read"),
    (TRAIN, other_format, "in 'member.1' has serialisation type 'torch'"),
    (TRAIN, not_a_number, "of member 1 holds NaN"),
    (TRAIN, exploded, "the update of member 1 is "),
    (TRAIN, extra_record, "record 'notes'"),
    (TRAIN, site_string, "'site' record"),
    (TRAIN, other_site, "key 'site' says it is 'south'"),
    (TRAIN, other_schema, "schema version 99"),
    (TRAIN, no_site, "'site' record"),
    (TRAIN, metrics_as_config, "record 'metrics' is not a metric record"),
    (EVALUATE, extra_metric, "metric 'patients'"),
    (EVALUATE, extra_member, "record 'member.2'"),
    (EVALUATE, other_site, "key 'site' says it is 'south'"),
    (SELECT, extra_metric, "metric 'patients'"),
    (SELECT, extra_record, "record 'notes'"),
]


@pytest.mark.parametrize(
    ("kind", "tamper", "key"), MISDEEDS, ids=[f"{k}-{t.__name__}" for k, t, _ in MISDEEDS]
)
def test_coordinator_refuses_by_site_and_key(
    make: Make, kind: str, tamper: Tamper, key: str
) -> None:
    campaign = make()
    with pytest.raises(RoundError) as caught:
        run_campaign(campaign.folder, campaign.sites, client_app=hostile_app(kind, tamper))
    text = str(caught.value)
    assert f"site {HOSTILE!r}" in text
    assert key in text
    assert PATIENT not in text
    assert "2 of 3" in text or "1 of 2" in text


@pytest.mark.parametrize(
    "tamper", [extra_metric, double_precision, trailing_payload, not_a_number, no_examples]
)
def test_the_round_goes_on_without_the_site(
    make: Make, uninterrupted: Callable[..., Tiny], tamper: Tamper
) -> None:
    campaign = make(quorum=0.6)
    run_campaign(campaign.folder, campaign.sites, client_app=hostile_app(TRAIN, tamper, in_round=1))
    entries = json.loads((campaign.folder / "state.json").read_text(encoding="utf-8"))["history"]
    rounds = [e for e in entries if e["action"] == "train" and e["round"]]
    failed = [(e["round"], e["site"]) for e in rounds if e["failure"]]
    assert failed == [(1, HOSTILE)]
    assert f"site {HOSTILE!r}" in next(e["failure"] for e in rounds if e["failure"])
    assert [e["site"] for e in rounds if e["round"] == 1] == list(tiny.SITES)
    assert "examples" not in next(e for e in rounds if e["failure"])
    assert tiny.weights(campaign) != tiny.weights(uninterrupted(quorum=0.6))


def test_refused_update_leaves_no_trace_in_the_weights(make: Make) -> None:
    """The average without a site is the same, whatever that site tried."""
    outcomes = []
    for name, tamper in (("a", not_a_number), ("b", exploded), ("c", extra_array)):
        campaign = make(name, quorum=0.6)
        run_campaign(
            campaign.folder, campaign.sites, client_app=hostile_app(TRAIN, tamper, in_round=2)
        )
        outcomes.append(tiny.weights(campaign))
    assert outcomes[0] == outcomes[1] == outcomes[2]


def test_below_the_quorum_nothing_of_the_round_is_kept(make: Make) -> None:
    campaign = make()
    with pytest.raises(RoundError, match="cycle 1, round 2: 2 of 3 sites"):
        run_campaign(
            campaign.folder,
            campaign.sites,
            client_app=hostile_app(TRAIN, extra_metric, in_round=2),
        )
    state = json.loads((campaign.folder / "state.json").read_text(encoding="utf-8"))
    assert state["done"][-1] == "round-1-1"
    assert state["checkpoint"] == "cycle-01_round-001"


def test_two_nodes_with_one_name(make: Make) -> None:
    campaign = make()
    twins = {"central": campaign.sites["central"], "north": campaign.sites["north"]}
    twins["again"] = campaign.sites["north"]
    with pytest.raises(RoundError, match="two nodes say they are site 'north'"):
        run_campaign(campaign.folder, twins)


# --------------------------------------------------------------------------- the guard at the site


def ask_north(campaign: Tiny, kind: str, content: RecordDict) -> Message:
    grid = InProcessGrid({HOSTILE: campaign.sites[HOSTILE]})
    (node,) = grid.get_node_ids()
    (reply,) = grid.send_and_receive([Message(content, node, kind)])
    return reply


def describe() -> RecordDict:
    return encode_instruction(DescribeInstruction(campaign=tiny.CAMPAIGN, seed=7))


def reason_of(reply: Message) -> str:
    """The reason of an error reply that holds nothing else."""
    assert reply.has_error()
    assert not reply.has_content()
    error: Error = reply.error
    assert error.code == ERROR_CODE
    assert error.reason is not None
    return error.reason


def patch_describe(
    monkeypatch: pytest.MonkeyPatch, handler: Callable[..., tuple[Any, Any]]
) -> None:
    monkeypatch.setattr(site_module, "_handle_describe", handler)


def test_guard_blocks_an_extra_metric(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    patch_describe(monkeypatch, lambda *_: ({"labelled_cases": 0, "patients": 12}, ()))
    reply = ask_north(make(), "query.describe", describe())
    assert reason_of(reply) == (
        "egress: site 'north': metric 'patients' is not on the allow-list of 'query.describe'"
    )


def test_guard_blocks_arrays_where_none_may_be(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    arrays = [{"thumbnail": np.zeros((8, 8), np.uint8)}]
    patch_describe(monkeypatch, lambda *_: ({"labelled_cases": 0}, arrays))
    reply = ask_north(make(), "query.describe", describe())
    assert reason_of(reply) == (
        "egress: site 'north': record 'member.0' is not in the wire schema of 'query.describe'"
    )


def test_guard_blocks_local_arrays_of_fedbn(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """Normalisation layers may not leave a site under FedBN, whatever the training code returns."""
    campaign = make(strategy="fedbn")
    honest = site_module._handle_train

    def leaky(site: Any, instruction: Any, members: Any) -> Any:
        shared = instruction.model_copy(update={"strategy": StrategySettings(name="fedavg")})
        return honest(site, shared, members)

    monkeypatch.setattr(site_module, "_handle_train", leaky)
    with pytest.raises(RoundError) as caught:
        run_campaign(campaign.folder, campaign.sites)
    assert "cycle 1, round 1: 0 of 3 sites" in str(caught.value)
    assert "egress: site 'north': array '" in str(caught.value)
    assert "in 'member.0' is not in the shared partition" in str(caught.value)


def test_key_that_names_a_patient_is_cut_and_cleaned(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An offending key may be data; what leaves of it is bounded in length and alphabet."""
    key = "<b>\n" + "é" * 500
    patch_describe(monkeypatch, lambda *_: ({key: 1.0}, ()))
    reason = reason_of(ask_north(make(), "query.describe", describe()))
    assert len(reason) <= 160
    assert not set(reason) & set("<>\né\\")


class TestExceptionTextStaysAtTheSite:
    @pytest.mark.parametrize(
        ("error", "code"),
        [
            (ValueError(f"case of {PATIENT} is unreadable"), "internal"),
            (FileNotFoundError(2, "No such file", f"/data/{PATIENT}.svs"), "internal"),
            (UnicodeError(PATIENT + " \udcff"), "internal"),
            (ExceptionGroup(PATIENT, [KeyError(PATIENT)]), "internal"),
            (MemoryError(PATIENT), "internal"),
        ],
        ids=lambda value: type(value).__name__,
    )
    def test_in_the_reply(
        self, make: Make, monkeypatch: pytest.MonkeyPatch, error: Exception, code: str
    ) -> None:
        campaign = make()

        def handler(*_: object) -> Any:
            raise error

        patch_describe(monkeypatch, handler)
        reply = ask_north(campaign, "query.describe", describe())
        assert reason_of(reply) == (
            f"{code}: site 'north' could not carry out the request; details are in its own log"
        )
        assert PATIENT in (campaign.sites[HOSTILE] / LOG_FILE).read_text(encoding="utf-8")

    def test_at_the_coordinator(
        self, make: Make, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        campaign = make()

        def handler(site: Any, *_: object) -> Any:
            raise ValueError(f"{site.name}: case of {PATIENT} is unreadable")

        monkeypatch.setattr(site_module, "_handle_select", handler)
        with pytest.raises(RoundError) as caught:
            run_campaign(campaign.folder, campaign.sites)
        assert "internal: site 'north' could not carry out the request" in str(caught.value)
        error: BaseException | None = caught.value
        while error is not None:
            assert PATIENT not in str(error)
            error = error.__cause__ or error.__context__
        assert PATIENT not in caplog.text
        assert PATIENT not in (campaign.folder / "state.json").read_text(encoding="utf-8")
        for name in tiny.ANNOTATING:
            assert PATIENT in (campaign.sites[name] / LOG_FILE).read_text(encoding="utf-8")

    def test_error_that_cannot_be_written(
        self, make: Make, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        campaign = make()

        class UnprintableError(Exception):
            def __str__(self) -> str:
                raise ValueError(PATIENT)

        def handler(*_: object) -> Any:
            raise UnprintableError

        patch_describe(monkeypatch, handler)
        reason = reason_of(ask_north(campaign, "query.describe", describe()))
        assert reason.startswith("internal: site 'north'")

    def test_log_that_cannot_be_written(
        self, make: Make, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        campaign = make()
        (campaign.sites[HOSTILE] / LOG_FILE).mkdir()

        def handler(*_: object) -> Any:
            raise ValueError(PATIENT)

        patch_describe(monkeypatch, handler)
        reason = reason_of(ask_north(campaign, "query.describe", describe()))
        assert reason.startswith("internal: site 'north'")
        assert "the site's log cannot be written" in caplog.text

    def test_broken_site_file(self, make: Make) -> None:
        campaign = make()
        folder = campaign.sites[HOSTILE]
        (folder / "site.yaml").write_text(f"name: north\npatient: {PATIENT}\n", encoding="utf-8")
        reply = ask_north(campaign, "query.describe", describe())
        assert reason_of(reply) == (
            "settings: site 'unknown' could not carry out the request; details are in its own log"
        )
        assert "unknown key 'patient'" in (folder / LOG_FILE).read_text(encoding="utf-8")

    def test_missing_site_folder(self, make: Make) -> None:
        campaign = make()
        grid = InProcessGrid({HOSTILE: campaign.sites[HOSTILE]})
        (node,) = grid.get_node_ids()
        grid._contexts[node].node_config.clear()
        (reply,) = grid.send_and_receive([Message(describe(), node, "query.describe")])
        assert reason_of(reply).startswith("settings: site ")


class TestSiteRefusesBadInstructions:
    @pytest.mark.parametrize(
        ("content", "text"),
        [
            (RecordDict(), "wire: message without an instruction record"),
            (
                RecordDict({"instruction": ConfigRecord({"schema": 2, "body": "{}"})}),
                "wire: instruction: schema version 2, this site speaks 1",
            ),
            (
                RecordDict({"instruction": ConfigRecord({"schema": 1, "body": '{"seed": 1}'})}),
                "wire: instruction: key 'campaign': Field required",
            ),
            (
                RecordDict(
                    {
                        "instruction": ConfigRecord(
                            {"schema": 1, "body": '{"campaign": "../../etc", "seed": 1}'}
                        )
                    }
                ),
                "wire: instruction: key 'campaign'",
            ),
            (
                {**describe(), "shell": MetricRecord({"x": 1})},
                "wire: message: unknown record 'shell'",
            ),
        ],
        ids=["empty", "schema", "missing", "path", "record"],
    )
    def test_by_key(self, make: Make, content: Any, text: str) -> None:
        reply = ask_north(make(), "query.describe", RecordDict(dict(content)))
        assert reason_of(reply).startswith(text)

    def test_weights_of_another_network(self, make: Make) -> None:
        spec = tiny.campaign_settings().spec
        instruction = EvaluateInstruction(campaign=tiny.CAMPAIGN, seed=7, spec=spec)
        members = [{"w": np.zeros(3, np.float32)}] * 2
        reply = ask_north(make(), EVALUATE, encode_instruction(instruction, members))
        assert reason_of(reply).startswith("model: site 'north' could not")
