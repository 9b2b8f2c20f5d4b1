"""Whatever stands in a file or behind ``--set``: a model, or one line that says what is wrong."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st
from pydantic import Field

from fedloop.configuration import (
    MAX_DEPTH,
    load,
    parse_override,
    parse_yaml,
    read_yaml,
    save,
    suggest,
)
from fedloop.errors import SettingsError
from fedloop.settings import CampaignSettings, ExperimentSettings, Settings, TrainingSettings


@pytest.fixture
def write(tmp_path: Path):
    def write(text: str) -> Path:
        path = tmp_path / "file.yaml"
        path.write_text(text, encoding="utf-8")
        return path

    return write


def fails(path: Path | None = None, **options: Any) -> str:
    with pytest.raises(SettingsError) as caught:
        load(ExperimentSettings, path, **options)
    text = str(caught.value)
    assert "\n" not in text
    return text


# ------------------------------------------------------------------ what an error names


def test_an_unknown_key_names_file_key_value_nearest_and_allowed(write) -> None:
    path = write("training:\n  optimiser:\n    learning_rat: 3")
    text = fails(path)
    assert text.startswith(f"{path}: unknown key 'training.optimiser.learning_rat' (found 3); ")
    assert "did you mean 'learning_rate'?" in text
    assert "allowed keys: learning_rate, momentum, name, weight_decay" in text


def test_an_unknown_key_inside_a_list_names_its_place(write) -> None:
    text = fails(write("arms: [{name: a, strategy: uga}, {name: b, strategi: uga}]"))
    assert "unknown key 'arms.1.strategi' (found 'uga'); did you mean 'strategy'?" in text
    assert "(and 1 more)" in text  # `strategy` is missing too


def test_a_wrong_choice_names_the_allowed_ones_and_the_nearest(write) -> None:
    path = write("federation: {weighting: uniformly}")
    assert fails(path) == (
        f"{path}: key 'federation.weighting': found 'uniformly', allowed: 'uniform' or 'examples'; "
        "did you mean 'uniform'?"
    )


@pytest.mark.parametrize(
    ("text", "key", "found", "allowed"),
    [
        ("federation: {rounds: 0}", "federation.rounds", "0", "greater than or equal to 1"),
        ("federation: {quorum: 1.5}", "federation.quorum", "1.5", "less than or equal to 1"),
        ("federation: {rounds: many}", "federation.rounds", "'many'", "valid integer"),
        ("imaging: {patch_size: [64, 0]}", "imaging.patch_size.1", "0", "greater than or equal"),
        ("seeds: [-1]", "seeds.0", "-1", "greater than or equal to 0"),
        ("seeds: []", "seeds", "[]", "at least 1"),
        ("data: 3", "data", "3", "DataSettings"),
    ],
)
def test_a_value_out_of_range_names_key_value_and_range(
    write, text: str, key: str, found: str, allowed: str
) -> None:
    message = fails(write(text))
    assert f"key {key!r}: found {found}, " in message
    assert allowed in message


def test_a_rule_between_keys_names_where_it_was_broken(write) -> None:
    assert "key 'data': Value error" not in fails(write("data: {root: x, synthetic: {}}"))
    assert "key 'data': give either `root` or `synthetic`" in fails(
        write("data: {root: x, synthetic: {}}")
    )


def test_a_long_value_is_shortened(write) -> None:
    assert len(fails(write(f"nmae: {'x' * 5000}"))) < 500
    assert len(fails(write(f"device: {'x' * 5000}"))) < 500


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"budgets": [5, 5]}, "budgets must differ, found [5, 5]"),
        ({"seeds": [1, 1]}, "seeds must differ, found [1, 1]"),
        ({"arms": [{"name": "pooled", "strategy": "uga"}]}, "arm name 'pooled' is reserved"),
        (
            {"arms": [{"name": n, "strategy": "oracle_error"} for n in "ab"]},
            "at most one arm may use the strategy 'oracle_error'",
        ),
        ({"arms": [{"name": "a", "strategy": "uga"}] * 2}, "arm names must differ"),
    ],
)
def test_names_that_would_share_a_folder_are_refused(changes: dict[str, Any], text: str) -> None:
    assert text in fails(changes=changes)


# ------------------------------------------------------------------ which source is to blame


def test_an_error_of_the_file_is_not_blamed_on_an_override(write) -> None:
    path = write("nmae: x")
    assert fails(path, overrides=["federation.rounds=2"]).startswith(f"{path}: unknown key")


def test_an_error_of_an_override_names_that_override(write) -> None:
    path = write("federation: {rounds: 3}")
    text = fails(path, overrides=["federation.cycles=2", "federation.rounds=0", "name=ok"])
    assert text.startswith("--set federation.rounds=0: key 'federation.rounds': found 0, ")


def test_overrides_that_only_fit_together_may_come_in_any_order(write) -> None:
    path = write("data: {synthetic: {}}")
    for overrides in (["data.root=x", "data.synthetic=null"], ["data.synthetic=~", "data.root=x"]):
        assert load(ExperimentSettings, path, overrides=overrides).data.root == Path("x")
    text = fails(path, overrides=["data.root=x", "name=ok"])
    assert text.startswith("--set data.root=x: key 'data': give either")


def test_a_missing_required_key_is_the_files(write) -> None:
    path = write("seed: 1")
    with pytest.raises(SettingsError) as caught:
        load(CampaignSettings, path, overrides=["campaign=x"])
    assert str(caught.value).startswith(f"{path}: key 'spec' is required")


# ------------------------------------------------------------------ files


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b"\xff\xfe\x00", "cannot be read: 'utf-8' codec"),
        (b"- 1\n- 2", "expected a mapping of keys, found list"),
        (b"just text", "expected a mapping of keys, found str"),
        (b"seeds: [1, 2", "not valid YAML"),
        (b"name: a\nname: b", "key 'name' appears twice"),
        (b"training: {amp: true, amp: false}", "key 'amp' appears twice"),
        (b"training: &x {amp: true}\nimaging: {x: *y}", "undefined alias"),
        (b"name: !!python/object/apply:os.system [x]", "not valid YAML"),
        (b"name: 2001-99-99", "not valid YAML: impossible value (month must be in 1..12)"),
        (b"name: 2001-01-01", "a date; put it in quotes if text is meant"),
        (b"name: !!timestamp x", "not valid YAML: impossible value"),
        (b"name: !!bool x", "not valid YAML: impossible value"),
        (b"name: !!float", "not valid YAML: impossible value"),
        (b"seeds: 0x_", "not valid YAML: impossible value"),
        (b"seeds: " + b"9" * 5000, "not valid YAML: impossible value"),
        (b"seeds: [0x" + b"f" * 5000 + b"]", "key 'seeds.0': found 0xfff"),
        (b"training: {optimiser: {learning_rate: .nan}}", "numbers must be finite"),
        (b"imaging: {mpp: .inf}", "key 'imaging.mpp': found inf, numbers must be finite"),
        (b"1: 2", "key '(top level)': found the key 1, keys must be text"),
        (b"model: {parameters: {on: 1}}", "found the key True, keys must be text"),
        (b'title: "\\ud800"', "which is not text"),
        (b'data: {root: "a\\0b"}', "key 'data.root': found 'a\\x00b', which is not text"),
        (b"[" * 3000, "nested too deeply"),
        (b"a: &x\n  b: *x", "nested too deeply"),
        (b"quick: []", "key 'quick' must be a mapping, found []"),
        (b"quick: 0", "key 'quick' must be a mapping, found 0"),
    ],
)
def test_a_file_that_cannot_be_settings(tmp_path: Path, content: bytes, text: str) -> None:
    path = tmp_path / "file.yaml"
    path.write_bytes(content)
    message = fails(path)
    assert message.startswith(f"{path}: ")
    assert text in message
    assert len(message) < 600


def test_a_missing_file_and_a_folder(tmp_path: Path) -> None:
    assert fails(tmp_path / "no.yaml") == f"{tmp_path / 'no.yaml'}: no such configuration file"
    assert fails(tmp_path).startswith(f"{tmp_path}: cannot be read: ")


def test_aliases_cannot_multiply_a_short_file(write) -> None:
    lines = ["a0: &a0 [" + "x," * 10 + "]"]
    lines += [f"a{i}: &a{i} [" + f"*a{i - 1}," * 10 + "]" for i in range(1, 12)]
    start = time.monotonic()
    assert "more than 100000 values" in fails(write("\n".join(lines)))
    assert time.monotonic() - start < 2


def test_an_empty_file_is_the_defaults(write) -> None:
    assert load(ExperimentSettings, write("# nothing\n")) == ExperimentSettings()
    assert read_yaml(write("")) == {}


# ------------------------------------------------------------------ layers


def test_precedence_file_quick_changes_overrides(write) -> None:
    path = write(
        "name: file\ntitle: file\nworkers: 1\nbound_steps: 1\nquick: {title: quick, "
        "workers: 2, bound_steps: 2}"
    )
    changes = {"workers": 3, "bound_steps": 3}
    plain = load(ExperimentSettings, path)
    full = load(ExperimentSettings, path, quick=True, changes=changes, overrides=["bound_steps=4"])
    assert (plain.name, plain.title, plain.workers, plain.reduced) == ("file", "file", 1, False)
    assert (full.name, full.title, full.workers, full.bound_steps, full.reduced) == (
        "file",
        "quick",
        3,
        4,
        True,
    )


def test_layers_merge_mappings_and_replace_lists(write) -> None:
    path = write(
        "training: {amp: false, batch_size: 4}\nbudgets: [1, 2, 3]\n"
        "quick: {training: {batch_size: 8}, budgets: [7]}"
    )
    quick = load(ExperimentSettings, path, quick=True)
    assert (quick.training.amp, quick.training.batch_size, quick.budgets) == (False, 8, (7,))


def test_the_last_of_two_overrides_wins() -> None:
    assert load(ExperimentSettings, overrides=["workers=1", "workers=2"]).workers == 2


def test_a_wrong_quick_section_is_refused_even_if_unused(write) -> None:
    path = write("name: ok\nquick: {budgts: [1]}")
    text = fails(path)
    assert text.startswith(f"{path} (quick section): unknown key 'budgts'")
    assert "did you mean 'budgets'?" in text
    # ... and an error of the main part is not blamed on it.
    assert fails(write("nmae: x\nquick: {seeds: [1]}")).startswith(f"{path}: unknown key 'nmae'")


def test_quick_without_a_quick_section_marks_the_run_reduced(write) -> None:
    assert load(ExperimentSettings, write("name: x"), quick=True).reduced


def test_caller_s_changes_are_not_written_to(write) -> None:
    changes = {"training": {"amp": False}}
    load(ExperimentSettings, changes=changes, overrides=["training.batch_size=3"])
    assert changes == {"training": {"amp": False}}


# ------------------------------------------------------------------ overrides


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a.b=3", ("a.b", 3)),
        (" a.b =true", ("a.b", True)),
        ("a=[1, 2]", ("a", [1, 2])),
        ("a=", ("a", None)),
        ("a=b=c", ("a", "b=c")),
        ("a={b: 1}", ("a", {"b": 1})),
    ],
)
def test_overrides_are_read_as_yaml(text: str, expected: tuple[str, Any]) -> None:
    assert parse_override(text) == expected


@pytest.mark.parametrize(
    "text", ["", "a", "=3", "a..b=1", ".a=1", "a.=1", ".".join("a" * 99) + "=1"]
)
def test_an_override_without_key_or_value(text: str) -> None:
    with pytest.raises(SettingsError, match=r"^--set .*expected KEY=VALUE"):
        parse_override(text)


@pytest.mark.parametrize("value", ["[1", "{a: 1, a: 2}", ".nan", "2001-01-01", "\x00"])
def test_an_override_whose_value_is_no_plain_yaml(value: str) -> None:
    assert fails(overrides=[f"title={value}"]).startswith("--set title=")


def test_an_override_cannot_open_the_quick_section() -> None:
    assert "unknown key 'quick'" in fails(overrides=["quick.workers=1"])


# ------------------------------------------------------------------ save


@pytest.mark.parametrize(
    "name",
    sorted(p.stem for p in (Path(__file__).parents[2] / "configs" / "experiments").glob("*.yaml")),
)
@pytest.mark.parametrize("quick", [False, True])
def test_every_shipped_experiment_loads_and_survives_a_round_trip(
    tmp_path: Path, name: str, quick: bool
) -> None:
    folder = Path(__file__).parents[2] / "configs" / "experiments"
    settings = load(ExperimentSettings, folder / f"{name}.yaml", quick=quick)
    save(settings, tmp_path / "copy.yaml")
    assert load(ExperimentSettings, tmp_path / "copy.yaml") == settings
    assert [p.name for p in tmp_path.iterdir()] == ["copy.yaml"]


PLAIN = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text("abc.: \n", max_size=4), inner, max_size=3)
    ),
    max_leaves=8,
)


class Free(Settings):
    parameters: dict[str, Any] = Field(default_factory=dict)


@example(parameters={"a": "\x85", "b": "x\u2028y", "c": "Zürich \ufeff"})
@given(parameters=st.dictionaries(st.text("ab ", max_size=3), PLAIN, max_size=3))
def test_whatever_is_saved_loads_again(tmp_path_factory, parameters: dict[str, Any]) -> None:
    path = tmp_path_factory.getbasetemp() / "saved.yaml"
    save(Free(parameters=parameters), path)
    assert load(Free, path) == Free(parameters=parameters)


# ------------------------------------------------------------------ nothing but SettingsError

WORDS = (
    "training federation rounds data synthetic seeds arms name model parameters quick : :: - ? ! "
    "!!int !!binary !!set !!timestamp !!float !!omap !!python/tuple & * &a *a <<: | > % @ ` [ ] "
    "{ } , # ' \" \\ ~ null true .nan .inf -.inf 0x_ 0o8 1_0 1:2:3 2001-01-01 1e999 "
    '999999999999999999999 2001-13-45T99:99 --- ... \\ud800 "\\ud800" "\\x00" ÿ \u2028 \ufeff on'
)
FRAGMENTS = st.sampled_from(WORDS.split(" "))
SOUP = st.lists(
    FRAGMENTS | st.text(max_size=4) | st.sampled_from([" ", "\n", "\n  ", "\t", ": "]), max_size=25
).map("".join)
TREES = st.recursive(
    PLAIN,
    lambda inner: st.dictionaries(
        st.sampled_from(
            [*ExperimentSettings.model_fields, *TrainingSettings.model_fields, "quick"]
        ),
        inner,
        max_size=4,
    ),
    max_leaves=12,
).map(lambda tree: yaml.safe_dump(tree, allow_unicode=True))


@given(text=SOUP | st.text(max_size=30) | TREES, quick=st.booleans())
def test_any_text_is_a_model_or_a_settings_error(tmp_path_factory, text: str, quick: bool) -> None:
    path = tmp_path_factory.getbasetemp() / "any.yaml"
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    try:
        settings = load(ExperimentSettings, path, quick=quick)
    except SettingsError as error:
        message = str(error)
    else:
        save(settings, path)
        assert load(ExperimentSettings, path) == settings
        return
    assert message.startswith(str(path))
    assert "\n" not in message


@given(
    override=st.text(max_size=20)
    | st.tuples(
        st.sampled_from(["name", "training", "model.parameters.x", "arms.0", "a.b", "data.root"]),
        SOUP,
    ).map("=".join)
)
def test_any_override_is_a_model_or_a_settings_error(override: str) -> None:
    try:
        load(ExperimentSettings, overrides=[override])
    except SettingsError as error:
        message = str(error)
    else:
        return
    assert message.startswith("--set ")
    assert "\n" not in message


@given(st.integers(MAX_DEPTH - 3, MAX_DEPTH + 3))
def test_depth_is_bounded(depth: int) -> None:
    text = "[" * depth + "]" * depth
    if depth <= MAX_DEPTH + 1:
        assert isinstance(parse_yaml(text), list)
    else:
        with pytest.raises(ValueError, match="nested too deeply"):
            parse_yaml(text)


# ------------------------------------------------------------------ suggestions


def test_suggestions_name_the_nearest_and_a_bounded_list() -> None:
    assert suggest("fedvag", ["fedavg", "fedbn"]) == "; did you mean 'fedavg'? known: fedavg, fedbn"
    assert suggest("zzz", [str(i) for i in range(50)]).count(",") == 19
