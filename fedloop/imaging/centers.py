"""Which case belongs to which center, and the sentence that tells a reader how that came about."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from fedloop.errors import DataError
from fedloop.imaging import camelyon
from fedloop.imaging.layouts import Layout
from fedloop.imaging.tables import CenterRow
from fedloop.settings import DataSettings

OTHER = "other"


@dataclass(frozen=True)
class Assignment:
    """Case ids by center, both sorted, and the rule as a plain sentence."""

    centers: dict[str, tuple[str, ...]]
    rule: str


def assign(
    layout: Layout, rows: Mapping[str, CenterRow] | None, root: Path, data: DataSettings
) -> Assignment:
    """Assign every case to a center, then apply the data settings that regroup centers.

    Raises:
        DataError: the table and the folders contradict each other, or virtual sites are asked of a
            set that has several centers or too few cases.
    """
    by_case, rule = _first(layout, rows, root)
    rules = [rule]
    if data.virtual_sites:
        by_case, rule = _virtual(by_case, data.virtual_sites, root)
        rules.append(rule)
    grouped = _grouped(by_case)
    small = [name for name, cases in grouped.items() if len(cases) < data.min_cases_per_center]
    if small:
        by_case = {case: OTHER if center in small else center for case, center in by_case.items()}
        grouped = _grouped(by_case)
        rules.append(
            f"Centers with fewer than {data.min_cases_per_center} cases ({', '.join(small)}) "
            f"are joined as `{OTHER}`."
        )
    if limit := data.max_cases_per_center:
        grouped = {
            name: tuple(sorted(sorted(cases, key=_shuffled)[:limit]))
            for name, cases in grouped.items()
        }
        rules.append(f"At most {limit} cases per center are used, chosen by a hash of their names.")
    return Assignment(grouped, " ".join(rules))


def _first(
    layout: Layout, rows: Mapping[str, CenterRow] | None, root: Path
) -> tuple[dict[str, str], str]:
    case_ids = [item.case_id for item in layout.found]
    if rows is not None:
        _require_agreement(layout, rows, root)
        count = len({row.center for row in rows.values()})
        return (
            {case: rows[case].center for case in case_ids},
            f"{_count(count)} as centers.csv lists them.",
        )
    if layout.folders:
        return (
            {item.case_id: item.folder for item in layout.found},
            f"{_count(len(layout.folders))} by the names of their folders.",
        )
    if (named := camelyon.centers_by_name(case_ids, root)) is not None:
        return named, camelyon.RULE
    name = root.absolute().name
    return dict.fromkeys(case_ids, name), f"One center, named after the folder `{name}`."


def _require_agreement(layout: Layout, rows: Mapping[str, CenterRow], root: Path) -> None:
    table = root / "centers.csv"
    if layout.folders:
        for case, row in rows.items():
            if row.center not in layout.folders:
                raise DataError(
                    f"{table} line {row.line}: unknown center {row.center!r} of case {case}: "
                    f"there is no folder {root / row.center}; found {', '.join(layout.folders)}"
                )
    images = {item.case_id: item for item in layout.found}
    for case, row in rows.items():
        if case not in images:
            raise DataError(
                f"{table} line {row.line}: case {case} has no image under {root}: add the image "
                "or remove the row"
            )
    for case, item in images.items():
        if case not in rows:
            raise DataError(f"{item.image} is not in {table}: add a row for case {case}")
        if item.folder and item.folder != rows[case].center:
            raise DataError(
                f"{table} line {rows[case].line}: case {case} is of center {rows[case].center!r}, "
                f"but lies in folder {item.folder!r}: correct one of them"
            )


def _virtual(by_case: dict[str, str], sites: int, root: Path) -> tuple[dict[str, str], str]:
    centers = sorted(set(by_case.values()))
    if len(centers) > 1:
        raise DataError(
            f"{root} has {len(centers)} real centers ({', '.join(centers[:5])}): "
            "data.virtual_sites is for sets of one center; set it to 0"
        )
    if sites > len(by_case):
        raise DataError(
            f"{root} has {len(by_case)} cases for {sites} virtual sites: lower data.virtual_sites"
        )
    dealt = {case: f"site_{i % sites + 1}" for i, case in enumerate(sorted(by_case))}
    return dealt, (
        f"Its {len(by_case)} cases are dealt in sorted order to {sites} virtual sites: "
        "these are no real hospitals."
    )


def _grouped(by_case: Mapping[str, str]) -> dict[str, tuple[str, ...]]:
    groups: defaultdict[str, list[str]] = defaultdict(list)
    for case in sorted(by_case):
        groups[by_case[case]].append(case)
    return {name: tuple(groups[name]) for name in sorted(groups)}


def _shuffled(case_id: str) -> bytes:
    return hashlib.sha256(case_id.encode()).digest()


def _count(centers: int) -> str:
    return "One center" if centers == 1 else f"{centers} centers"
