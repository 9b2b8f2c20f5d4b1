"""The tables that come with images: ``centers.csv`` and Camelyon17's ``stage_labels.csv``."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from fedloop.errors import DataError
from fedloop.imaging.files import one_line, require_file, stem_of

SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class CenterRow:
    """What ``centers.csv`` says of a case; ``split`` and ``category`` may be ``""``."""

    line: int
    center: str
    split: str = ""
    category: str = ""


def read_centers(path: Path) -> dict[str, CenterRow]:
    """Read ``case,center[,split][,category]``; further columns are left alone.

    Raises:
        DataError: no UTF-8 table, missing columns, empty or repeated cases, an unknown split.
    """
    rows: dict[str, CenterRow] = {}
    for line, row in _rows(path, ("case", "center")):
        case = stem_of(row["case"])
        for column in ("case", "center"):
            if not row[column]:
                raise DataError(f"{path} line {line}: column `{column}` is empty: fill it in")
        if case in rows:
            raise DataError(
                f"{path} line {line}: case {case} stands already in line {rows[case].line}: "
                "keep one row per case"
            )
        split = row.get("split", "").lower()
        if split and split not in SPLITS:
            raise DataError(
                f"{path} line {line}: split {row['split']!r} of case {case} found, allowed are "
                f"{', '.join(SPLITS)} or nothing"
            )
        rows[case] = CenterRow(line, row["center"], split, category_of(row.get("category", "")))
    if not rows:
        raise DataError(f"{path} has a header but no rows: list every case with its center")
    return rows


def read_stages(path: Path) -> dict[str, str]:
    """Read Camelyon17's ``patient,stage`` table as lesion category by slide.

    Its rows of whole patients (``patient_000.zip,pN0``) are no slides and are left out.

    Raises:
        DataError: no UTF-8 table, missing columns, or a slide twice.
    """
    stages: dict[str, str] = {}
    for line, row in _rows(path, ("patient", "stage")):
        if row["patient"].lower().endswith(".zip"):
            continue
        case = stem_of(row["patient"])
        if case in stages:
            raise DataError(f"{path} line {line}: slide {case} stands there twice: keep one row")
        stages[case] = category_of(row["stage"])
    return stages


def category_of(written: str) -> str:
    """Lesion category in fedloop's words: Camelyon16 says ``normal`` for ``negative``."""
    category = written.strip().lower()
    return "negative" if category == "normal" else category


def _rows(path: Path, needed: tuple[str, ...]) -> Iterator[tuple[int, Mapping[str, str]]]:
    """Yield line numbers and stripped rows; a missing cell reads as ``""``."""
    require_file(path)
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            reader = csv.DictReader(stream)
            header = [(name or "").strip().lower() for name in reader.fieldnames or ()]
            if missing := [name for name in needed if name not in header]:
                raise DataError(
                    f"{path} lacks the column(s) {', '.join(missing)}; found "
                    f"{', '.join(header) or 'nothing'}: it must be a comma-separated table with "
                    f"{', '.join(needed)}"
                )
            reader.fieldnames = header
            for row in reader:
                yield reader.line_num, {name: (row[name] or "").strip() for name in header}
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path} is not UTF-8 (byte {error.start}): save the table as UTF-8"
        ) from error
    except (OSError, csv.Error) as error:
        raise DataError(f"{path} cannot be read as a table ({one_line(error)})") from error
