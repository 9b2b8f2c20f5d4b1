"""Reads settings from YAML and ``--set``, and says precisely what is wrong with them."""

from __future__ import annotations

import difflib
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
    quick_tree = tree.pop("quick", None) or {}
    if not isinstance(quick_tree, dict):
        raise SettingsError(f"{source}: key 'quick' must be a mapping, found {quick_tree!r}")
    if quick_tree:
        # Checked even when not asked for: a mistyped quick section must not wait for its first use.
        _validate(model, _merge(tree, quick_tree), f"{source} (quick section)")
    if quick:
        tree = _merge(_merge(tree, quick_tree), {"reduced": True})
    if changes:
        tree = _merge(tree, changes)
    for override in overrides:
        key, value = parse_override(override)
        patch: dict[str, Any] = {}
        node = patch
        *parents, last = key.split(".")
        for parent in parents:
            node = node.setdefault(parent, {})
        node[last] = value
        _validate(model, _merge(tree, patch), f"--set {override}")
        tree = _merge(tree, patch)
    return _validate(model, tree, source)


def read_yaml(path: Path) -> dict[str, Any]:
    """Read one YAML mapping.

    Raises:
        SettingsError: missing, unreadable, not YAML, a repeated key, or not a mapping.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise SettingsError(f"{path}: no such configuration file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path}: cannot be read: {error}") from None
    try:
        tree = yaml.load(text, Loader=_UniqueKeyLoader)  # noqa: S506 - a SafeLoader
    except yaml.YAMLError as error:
        place = " ".join(str(error).split())
        raise SettingsError(f"{path}: not valid YAML: {place}") from None
    if tree is None:
        return {}
    if not isinstance(tree, dict):
        raise SettingsError(f"{path}: expected a mapping of keys, found {type(tree).__name__}")
    return tree


def parse_override(text: str) -> tuple[str, Any]:
    """Split ``a.b=value``; the value is read as YAML (``true``, ``3``, ``[1, 2]``, ``text``)."""
    key, sign, value = text.partition("=")
    if not sign or not all(part for part in key.strip().split(".")):
        raise SettingsError(f"--set {text}: expected KEY=VALUE with a dotted key, such as a.b=3")
    try:
        return key.strip(), yaml.load(value, Loader=_UniqueKeyLoader)  # noqa: S506
    except yaml.YAMLError:
        raise SettingsError(f"--set {text}: the value is not valid YAML") from None


def save(settings: BaseModel, path: Path) -> None:
    """Write the resolved settings, defaults included, as YAML (replaced atomically)."""
    text = yaml.safe_dump(settings.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)


class _UniqueKeyLoader(yaml.SafeLoader):
    """YAML 1.1 lets the second of two equal keys win silently; here it is an error."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)  # type: ignore[no-untyped-call]
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


def _validate(model: type[Model], tree: Mapping[str, Any], source: str) -> Model:
    try:
        return model.model_validate(tree)
    except ValidationError as error:
        first = error.errors()[0]
        more = len(error.errors()) - 1
        text = f"{source}: {_describe(model, first)}"
        raise SettingsError(text + (f" (and {more} more)" if more else "")) from None


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
            return f"unknown key {key!r} (found {found!r}); {hint}allowed keys: {', '.join(known)}"
        case "literal_error":
            allowed = error["ctx"]["expected"]
            near = difflib.get_close_matches(
                str(found), [a.strip("' ") for a in allowed.replace(" or ", ",").split(",")], n=1
            )
            hint = f"; did you mean {near[0]!r}?" if near else ""
            return f"key {key!r}: found {found!r}, allowed: {allowed}{hint}"
        case "value_error":
            return f"key {key!r}: {error['ctx']['error']}"
        case _:
            shown = repr(found)
            shown = shown if len(shown) <= 80 else shown[:77] + "..."
            return f"key {key!r}: found {shown}, {_lower_first(error['msg'])}"


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
    return f"{hint} known: {', '.join(list(known)[:ALLOWED_SHOWN])}"
