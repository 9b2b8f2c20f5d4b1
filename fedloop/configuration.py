"""Reads settings from YAML and ``--set``, and says precisely what is wrong with them."""

from __future__ import annotations

import difflib
import math
import os
import types
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from fedloop.errors import SettingsError

Model = TypeVar("Model", bound=BaseModel)

ALLOWED_SHOWN = 20
"""At most this many allowed values are listed in an error."""

MAX_DEPTH = 32
MAX_VALUES = 100_000
"""A configuration beyond these is a mistake or an attack (aliases can multiply a short file)."""

UNICODE_LINE_BREAKS = ("\x85", "\u2028", "\u2029")

Layer = tuple[str, Mapping[str, Any]]
"""Where some settings come from, and the settings."""


def load(
    model: type[Model],
    path: Path | None = None,
    *,
    overrides: Sequence[str] = (),
    quick: bool = False,
    changes: Mapping[str, Any] | None = None,
) -> Model:
    """Build ``model`` from its defaults, a YAML file, ``a.b=value`` overrides and ``changes``.

    A file may hold a ``quick:`` section: deviations laid over the rest when ``quick`` is asked for.
    Later sources win: file, quick section, ``changes``, overrides.

    Raises:
        SettingsError: naming the file or ``--set``, the key, the value found, what is allowed and
            the nearest key where one was mistyped.
    """
    source = str(path) if path else "defaults"
    tree = read_yaml(path) if path else {}
    quick_tree = tree.pop("quick", None)
    layers: list[Layer] = [(source, tree)]
    if quick_tree is not None:
        if not isinstance(quick_tree, dict):
            raise SettingsError(f"{source}: key 'quick' must be a mapping, found {quick_tree!r}")
        # Checked even when not asked for: a mistyped quick section must not wait for its first use.
        section: Layer = (f"{source} (quick section)", quick_tree)
        _validate(model, [*layers, section])
        layers += [section] if quick else []
    if quick:
        layers.append(("--quick", {"reduced": True}))
    if changes:
        layers.append((source, changes))
    for override in overrides:
        key, value = parse_override(override)
        patch = value
        for part in reversed(key.split(".")):
            patch = {part: patch}
        layers.append((f"--set {_one_line(override)}", patch))
    return _validate(model, layers)


def read_yaml(path: Path) -> dict[str, Any]:
    """Read one YAML mapping.

    Raises:
        SettingsError: missing, unreadable, not YAML, a repeated key, not a mapping, or a value
            that is neither text, a finite number, true, false, null, a list nor a mapping.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise SettingsError(f"{path}: no such configuration file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path}: cannot be read: {error}") from None
    try:
        tree = parse_yaml(text)
    except ValueError as error:
        raise SettingsError(f"{path}: {error}") from None
    if tree is None:
        return {}
    if not isinstance(tree, dict):
        raise SettingsError(f"{path}: expected a mapping of keys, found {type(tree).__name__}")
    return tree


def parse_override(text: str) -> tuple[str, Any]:
    """Split ``a.b=value``; the value is read as YAML (``true``, ``3``, ``[1, 2]``, ``text``).

    Raises:
        SettingsError: no key, no ``=``, or a value that is not plain YAML.
    """
    key, sign, value = text.partition("=")
    parts = key.strip().split(".")
    if not sign or not all(parts) or len(parts) > MAX_DEPTH:
        raise SettingsError(
            f"--set {_one_line(text)}: expected KEY=VALUE with a dotted key, such as a.b=3"
        )
    try:
        return ".".join(parts), parse_yaml(value)
    except ValueError as error:
        raise SettingsError(f"--set {_one_line(text)}: {error}") from None


def save(settings: BaseModel, path: Path) -> None:
    """Write the resolved settings, defaults included, as YAML (replaced atomically)."""
    tree = settings.model_dump(mode="json")
    text = yaml.safe_dump(tree, sort_keys=False, allow_unicode=True)
    if any(mark in text for mark in UNICODE_LINE_BREAKS):
        # PyYAML writes them as they are, and reads them back as a blank.
        text = yaml.safe_dump(tree, sort_keys=False, allow_unicode=False)
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)


def parse_yaml(text: str) -> Any:
    """Read YAML as plain data: what JSON can hold, in mappings with text keys.

    Raises:
        ValueError: in one line, what is wrong and where.
    """
    try:
        tree = yaml.load(text, Loader=_UniqueKeyLoader)  # noqa: S506 - a SafeLoader
    except yaml.YAMLError as error:
        raise ValueError(f"not valid YAML: {_one_line(str(error))}") from None
    except RecursionError:
        raise ValueError("not valid YAML: nested too deeply") from None
    except (ValueError, TypeError, LookupError, AttributeError, ArithmeticError) as error:
        # PyYAML's constructors fail so on impossible values, such as the date 2001-99-99.
        raise ValueError(f"not valid YAML: impossible value ({_one_line(str(error))})") from None
    _require_plain(tree, "(top level)", 0, {})
    return tree


def _require_plain(node: object, key: str, depth: int, sizes: dict[int, int]) -> int:
    """Refuse what settings cannot hold or a file cannot hold again; returns the number of values.

    ``sizes`` remembers containers by identity, so that nested aliases cost nothing.
    """
    if depth > MAX_DEPTH:
        raise ValueError(f"key {key!r}: nested too deeply")
    match node:
        case None | bool():
            return 1
        case str():
            if "\0" in node or any("\ud800" <= c <= "\udfff" for c in node):
                raise ValueError(f"key {key!r}: found {_shown(node)}, which is not text")
            return 1
        case int():
            if not -(2**63) <= node < 2**63:
                # Not in decimal: Python refuses to write very long numbers.
                raise ValueError(f"key {key!r}: found {node:#x}"[:80] + ", more than 64 bits")
            return 1
        case float():
            if not math.isfinite(node):
                raise ValueError(f"key {key!r}: found {node}, numbers must be finite")
            return 1
        case list() | dict():
            return _require_plain_inside(node, key, depth, sizes)
        case _:
            raise ValueError(
                f"key {key!r}: found {_shown(node)}, a {type(node).__name__}; "
                "put it in quotes if text is meant"
            )


def _require_plain_inside(
    node: list[Any] | dict[Any, Any], key: str, depth: int, sizes: dict[int, int]
) -> int:
    if id(node) in sizes:
        return sizes[id(node)]
    place = "" if depth == 0 else f"{key}."
    size = 1
    for name, value in node.items() if isinstance(node, dict) else enumerate(node):
        if isinstance(node, dict) and not isinstance(name, str):
            raise ValueError(f"key {key!r}: found the key {_shown(name)}, keys must be text")
        if isinstance(name, str):
            _require_plain(name, key, depth, sizes)
        size += _require_plain(value, f"{place}{name}", depth + 1, sizes)
    if size > MAX_VALUES:
        raise ValueError(f"key {key!r}: more than {MAX_VALUES} values")
    sizes[id(node)] = size
    return size


class _UniqueKeyLoader(yaml.SafeLoader):
    """YAML 1.1 lets the second of two equal keys win silently; here it is an error."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if isinstance(key, str | int | float | bool):
                if key in seen:
                    raise yaml.constructor.ConstructorError(
                        None, None, f"key {key!r} appears twice", key_node.start_mark
                    )
                seen.add(key)
        return super().construct_mapping(node, deep)


def _merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Deep-merge mappings; anything else is replaced."""
    result = dict(base)
    for key, value in over.items():
        old = result.get(key)
        both = isinstance(old, Mapping) and isinstance(value, Mapping)
        result[key] = _merge(old, value) if both else value  # type: ignore[arg-type]
    return result


def _validate(model: type[Model], layers: Sequence[Layer]) -> Model:
    """Build the model from all layers; an error names the layer that brought it in."""
    tree: Mapping[str, Any] = {}
    for _, layer in layers:
        tree = _merge(tree, layer)
    try:
        return model.model_validate(tree)
    except ValidationError as error:
        # A mistyped key first: that the right one is missing follows from it.
        first = min(error.errors(), key=lambda found: found["type"] != "extra_forbidden")
        more = len(error.errors()) - 1
        text = f"{_culprit(model, layers, first)}: {_describe(model, first)}"
        raise SettingsError(text + (f" (and {more} more)" if more else "")) from None


def _culprit(model: type[BaseModel], layers: Sequence[Layer], wanted: Any) -> str:
    """Source of the first layer with which the error appears and stays."""

    def same(error: Any) -> bool:
        if any(error[key] != wanted[key] for key in ("type", "loc", "msg")):
            return False
        # A whole section is the input of rules between its keys: other keys may come later.
        return isinstance(wanted["input"], Mapping) or repr(error["input"]) == repr(wanted["input"])

    tree: Mapping[str, Any] = {}
    for source, layer in layers:
        tree = _merge(tree, layer)
        try:
            model.model_validate(tree)
        except ValidationError as error:
            if any(same(found) for found in error.errors()):
                return source
    return layers[-1][0]


def _describe(model: type[BaseModel], error: Any) -> str:
    """One line for one pydantic error: key, value found, what is allowed."""
    location = [part for part in error["loc"] if part != "function-after"]
    key = ".".join(str(part) for part in location) or "(top level)"
    found = error.get("input")
    match error["type"]:
        case "extra_forbidden":
            parent = _model_at(model, location[:-1])
            known = sorted(parent.model_fields) if parent else []
            near = difflib.get_close_matches(str(location[-1]), known, n=1)
            hint = f"did you mean {near[0]!r}? " if near else ""
            return (
                f"unknown key {key!r} (found {_shown(found)}); {hint}allowed keys: "
                f"{', '.join(known)}"
            )
        case "literal_error":
            allowed = error["ctx"]["expected"]
            near = difflib.get_close_matches(
                str(found), [a.strip("' ") for a in allowed.replace(" or ", ",").split(",")], n=1
            )
            hint = f"; did you mean {near[0]!r}?" if near else ""
            return f"key {key!r}: found {_shown(found)}, allowed: {allowed}{hint}"
        case "missing":
            return f"key {key!r} is required"
        case "value_error":
            return f"key {key!r}: {error['ctx']['error']}"
        case _:
            return f"key {key!r}: found {_shown(found)}, {_lower_first(error['msg'])}"


def _shown(found: object) -> str:
    text = repr(found)
    return text if len(text) <= 80 else text[:77] + "..."


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _lower_first(text: str) -> str:
    return text[:1].lower() + text[1:]


def _model_at(model: type[BaseModel], location: Sequence[int | str]) -> type[BaseModel] | None:
    """Follow field names (and list indices) down to the settings class at ``location``."""
    current: type[BaseModel] | None = model
    for part in location:
        if current is None:
            return None
        if isinstance(part, int):
            continue
        field = current.model_fields.get(part)
        current = _settings_class(field.annotation) if field else None
    return current


def _settings_class(annotation: Any) -> type[BaseModel] | None:
    """The settings class inside ``X``, ``X | None`` or ``tuple[X, ...]``."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    if typing.get_origin(annotation) in (tuple, list, typing.Union, types.UnionType):
        for argument in typing.get_args(annotation):
            if found := _settings_class(argument):
                return found
    return None


def suggest(name: str, known: Sequence[str]) -> str:
    """``"; did you mean 'x'? known: ..."`` for an error about a mistyped registry name."""
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    return f"{hint or ';'} known: {', '.join(list(known)[:ALLOWED_SHOWN])}"
