"""The marker of a finished data set: what it was made from, and its files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from fedloop.errors import DataError
from fedloop.settings import SyntheticCamelyonSettings

GENERATOR_VERSION = 1
"""To be raised whenever the same settings and seed would give other files."""

MARKER = "dataset.json"


def identity(settings: SyntheticCamelyonSettings, seed: int) -> dict[str, Any]:
    """Return what tells one data set from another, as it reads back from JSON."""
    return {
        "generator": "fedloop simulation.synthetic",
        "version": GENERATOR_VERSION,
        "seed": seed,
        "settings": settings.model_dump(mode="json"),
    }


def read_marker(folder: Path) -> dict[str, Any]:
    """Return the folder's marker; ``files`` in it maps names to sizes in bytes.

    Raises:
        DataError: the marker cannot be read or is of another program.
    """
    path = folder / MARKER
    try:
        marker = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read; remove it to have the folder checked") from error
    if not isinstance(marker, dict) or not isinstance(marker.get("files"), dict):
        raise DataError(f"{path} is not a marker of fedloop; use another folder")
    return marker


def refuse_others(folder: Path, marker: dict[str, Any], asked: dict[str, Any]) -> None:
    """Check that the folder's data set is the one asked for.

    Raises:
        DataError: it is not; each difference is named.
    """
    there = {**marker, **_settings_of(marker)}
    wanted = {**asked, **_settings_of(asked)}
    keys = sorted({*there, *wanted} - {"files", "settings"})
    if differences := [
        f"{key} is {there.get(key)!r} there, {wanted.get(key)!r} asked"
        for key in keys
        if there.get(key) != wanted.get(key)
    ]:
        raise DataError(
            f"{folder} holds another synthetic data set ({'; '.join(differences)}); "
            "use another folder or remove it"
        )


def _settings_of(marker: dict[str, Any]) -> dict[str, Any]:
    settings = marker.get("settings")
    return settings if isinstance(settings, dict) else {}
