"""Reads what the simulator left in a run folder, and names file, line and column of what is wrong.

RUN/settings.yaml  run.json  metrics.csv                     required
RUN/rounds.csv  patches.csv  selections.csv  pictures/       optional: their figures are left out
"""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from fedloop.configuration import load
from fedloop.errors import RunFolderError, SettingsError
from fedloop.settings import ExperimentSettings

BASELINE = "baseline"
BOUNDS = ("site_alone", "pooled", "oracle")

COLUMNS = {
    "metrics.csv": "arm seed center case category cycle budget metric value",
    "rounds.csv": (
        "arm seed draw budget cycle round site loss examples bytes_in bytes_out dice_global"
    ),
    "patches.csv": (
        "seed center case cell uga entropy mutual_information anchor foreground dice error_px"
    ),
    "selections.csv": (
        "arm seed draw budget cycle center case cell order score reason corrected_px foreground_px"
    ),
}
"""The columns of each file; more are allowed and passed over."""

TEXT = frozenset({"arm", "center", "site", "case", "category", "cell", "metric", "reason"})
WHOLE = frozenset({"seed", "draw", "budget", "cycle", "round", "order"})
UNDEFINED = frozenset({"value", "loss", "dice", "dice_global", "error_px", "score"})
"""How cells are read; all others are finite numbers. ``UNDEFINED`` ones can be blank (NaN)."""


@dataclass(frozen=True)
class Table:
    """Columns of equal length, by name; blank numbers are NaN."""

    columns: Mapping[str, NDArray[Any]]

    def __len__(self) -> int:
        return len(next(iter(self.columns.values())))

    def __getitem__(self, name: str) -> NDArray[Any]:
        return self.columns[name]

    def take(self, mask: NDArray[np.bool_]) -> Table:
        return Table({name: column[mask] for name, column in self.columns.items()})

    def where(self, **equal: str | int) -> Table:
        """Rows in which each named column equals the given value."""
        mask = np.ones(len(self), dtype=bool)
        for name, value in equal.items():
            mask &= self.columns[name] == value
        return self.take(mask)

    def distinct(self, name: str) -> list[Any]:
        """Sorted distinct values of a column, as plain Python values."""
        return sorted(set(self.columns[name].tolist()))

    @staticmethod
    def join(tables: Sequence[Table]) -> Table:
        names = tables[0].columns
        return Table({name: np.concatenate([table[name] for table in tables]) for name in names})


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class Machine(_Record):
    cpu: str
    cores: int
    device: str
    memory_gib: float


class CenterCounts(_Record):
    labelled: int
    pool: int
    test: int


class RunRecord(_Record):
    """run.json: how the run was made."""

    command: str
    versions: dict[str, str]
    machine: Machine
    started: str
    seconds: float
    peak_memory_mib: float
    igniter_site: str
    center_rule: str
    notes: tuple[str, ...] = ()
    centers: dict[str, CenterCounts]
    finished: bool


class Picture(_Record):
    """One line of pictures.json; ``file`` lies in ``folder``."""

    seed: int
    arm: str
    budget: int
    center: str
    case: str
    rank: Literal["best", "median", "worst"]
    dice_before: float
    dice_after: float
    file: str
    folder: Path = Path()


@dataclass(frozen=True)
class RunFolder:
    """One run as read; tables that were not written are None."""

    folder: Path
    settings: ExperimentSettings
    record: RunRecord
    metrics: Table
    rounds: Table | None
    patches: Table | None
    selections: Table | None
    pictures: tuple[Picture, ...]


def read_run(folder: Path) -> RunFolder:
    """Read and check a run folder.

    Raises:
        RunFolderError: no such folder, or a file that is missing or malformed (named, with line
            and column or key).
    """
    if not folder.is_dir():
        raise RunFolderError(f"{folder}: no such run folder")
    for name in ("settings.yaml", "run.json", "metrics.csv"):
        if not (folder / name).is_file():
            raise RunFolderError(f"{folder}: no {name}; is this a folder of `fedloop simulate`?")
    try:
        settings = load(ExperimentSettings, folder / "settings.yaml")
    except SettingsError as error:
        raise RunFolderError(str(error)) from None
    arms = {arm.name for arm in settings.arms} | {BASELINE, *BOUNDS}
    optional = {
        name: read_table(folder / f"{name}.csv", arms)
        if (folder / f"{name}.csv").exists()
        else None
        for name in ("rounds", "patches", "selections")
    }
    metrics = read_table(folder / "metrics.csv", arms)
    if not len(metrics):
        raise RunFolderError(f"{folder / 'metrics.csv'}: holds no rows; did the run finish a seed?")
    record: RunRecord = _read_json(folder / "run.json", TypeAdapter(RunRecord))
    pictures = _read_pictures(folder / "pictures")
    return RunFolder(folder, settings, record, metrics, **optional, pictures=pictures)


def read_table(path: Path, arms: Collection[str]) -> Table:
    """Read one of the CSV files named in ``COLUMNS``; an ``arm`` must be one of ``arms``.

    Raises:
        RunFolderError: with file, line and column.
    """
    names = COLUMNS[path.name].split()
    try:
        with path.open(encoding="utf-8", newline="") as stream:
            reader = csv.reader(stream, strict=True)
            header = next(reader, [])
            if lacking := [name for name in names if name not in header]:
                found = ", ".join(header) or "an empty file"
                raise RunFolderError(f"{path}: line 1: no column {lacking[0]!r} (found: {found})")
            places = {name: header.index(name) for name in names}
            cells: dict[str, list[str | float]] = {name: [] for name in names}
            for row in reader:
                where = f"{path}: line {reader.line_num}"
                if len(row) != len(header):
                    raise RunFolderError(f"{where}: {len(row)} cells, {len(header)} expected")
                for name in names:
                    cells[name].append(_cell(row[places[name]], name, where))
                if "arm" in cells and cells["arm"][-1] not in arms:
                    known = ", ".join(sorted(arms))
                    found = repr(cells["arm"][-1])
                    raise RunFolderError(f"{where}, column 'arm': {found} is none of: {known}")
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise RunFolderError(f"{path}: cannot be read: {error}") from None
    return Table({name: np.array(column, dtype=_dtype(name)) for name, column in cells.items()})


def _dtype(column: str) -> type[Any]:
    return object if column in TEXT else np.int64 if column in WHOLE else np.float64


def _cell(text: str, column: str, where: str) -> str | float:
    if column in TEXT:
        return text
    if column in UNDEFINED and text in ("", "nan"):
        return math.nan
    try:
        value = int(text) if column in WHOLE else float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        wanted = "a whole number" if column in WHOLE else "a finite number"
        raise RunFolderError(f"{where}, column {column!r}: found {text!r}, expected {wanted}")
    return value


def _read_json(path: Path, adapter: TypeAdapter[Any]) -> Any:
    try:
        return adapter.validate_python(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, UnicodeDecodeError) as error:
        raise RunFolderError(f"{path}: cannot be read: {error}") from None
    except json.JSONDecodeError as error:
        at = f"line {error.lineno}, column {error.colno}"
        raise RunFolderError(f"{path}: {at}: not valid JSON: {error.msg}") from None
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"]) or "(top level)"
        raise RunFolderError(f"{path}: key {key!r}: {first['msg']}") from None


def _read_pictures(folder: Path) -> tuple[Picture, ...]:
    path = folder / "pictures.json"
    if not path.exists():
        return ()
    listed: list[Picture] = _read_json(path, TypeAdapter(list[Picture]))
    for picture in listed:
        # The list is a user's file: it must not lead the report to images elsewhere on the disk.
        if Path(picture.file).name != picture.file:
            raise RunFolderError(f"{path}: file {picture.file!r} does not lie beside the list")
        if not (folder / picture.file).is_file():
            raise RunFolderError(f"{path}: file {picture.file!r} is missing")
    return tuple(picture.model_copy(update={"folder": folder}) for picture in listed)
