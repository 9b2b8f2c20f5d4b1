"""Builds the report: groups the runs that belong together, draws, and writes one HTML file."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import partial
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from fedloop.errors import RunFolderError
from fedloop.settings import ExperimentSettings
from simulation.report import figures_budget, figures_centers, figures_learning, figures_selection
from simulation.report.figures import Drawing, save_drawing
from simulation.report.figures_data import Study, last_cycle
from simulation.report.figures_style import ArmStyle, arm_styles, style_context
from simulation.report.figures_uncertainty import uncertainty_dice
from simulation.report.pictures import picture_strips
from simulation.report.runfolder import BASELINE, BOUNDS, COLUMNS, RunFolder, Table, read_run
from simulation.report.tables import case_table, result_tables
from simulation.report.text import (
    DEFINITIONS,
    all_settings,
    comparisons,
    data_words,
    deviations,
    summary,
)

LABELS = frozenset({"name", "title", "workers", "seeds", "arms"})
"""Settings in which runs of one study can differ: names, how it was run, and what is merged."""


def build_report(runs: Sequence[Path], out: Path) -> Path:
    """Write ``out/report.html`` with its figures (``out/figures``) from one or several run folders.

    Runs whose settings agree but for seeds and arms are merged; others have sections of their own.
    With several runs, ``out/metrics.csv`` holds the metrics of all, with a column ``run``.

    Raises:
        RunFolderError: a run folder is missing or malformed, two hold the same arm and seed, or
            ``out`` is one of several run folders (its metrics would be overwritten).
    """
    if not runs:
        raise RunFolderError("no run folder given; a report needs at least one")
    if len(runs) > 1 and out.resolve() in [run.resolve() for run in runs]:
        raise RunFolderError(f"{out}: is one of the runs; write the report elsewhere")
    folders = [read_run(run) for run in runs]
    studies = group(folders)
    out.mkdir(parents=True, exist_ok=True)
    if len(folders) > 1:
        _write_metrics(folders, out / "metrics.csv")
    styles = arm_styles((arm.name, arm.strategy) for s in studies for arm in s.settings.arms)
    sections = []
    for study in studies:
        prefix = f"{study.name}_" if len(studies) > 1 else ""
        sections.append(_section(study, styles, out / "figures", prefix))
    page = _render(studies, sections)
    path = out / "report.html"
    path.write_text(page, encoding="utf-8")
    return path


# --------------------------------------------------------------------------- grouping


def group(folders: Sequence[RunFolder]) -> list[Study]:
    """Merge the runs whose settings agree but for seeds and arms.

    Raises:
        RunFolderError: two runs of a group hold results of the same arm and seed.
    """
    groups: list[list[RunFolder]] = []
    for folder in folders:
        home = next((g for g in groups if all(_agree(folder, other) for other in g)), None)
        if home is None:
            groups.append([folder])
        else:
            home.append(folder)
    return [_merge(f"section{number}", members) for number, members in enumerate(groups, 1)]


def _agree(one: RunFolder, other: RunFolder) -> bool:
    if one.settings.model_dump(exclude=set(LABELS)) != other.settings.model_dump(
        exclude=set(LABELS)
    ):
        return False
    known = {arm.name: arm for arm in one.settings.arms}
    return all(known.get(arm.name, arm) == arm for arm in other.settings.arms)


def _merge(name: str, members: Sequence[RunFolder]) -> Study:
    holder: dict[tuple[str, int], RunFolder] = {}
    notes = [note for folder in members for note in folder.record.notes]
    for folder in members:
        for pair in sorted(_pairs(folder.metrics)):
            first = holder.setdefault(pair, folder)
            if first is folder:
                continue
            if pair[0] not in (BASELINE, *BOUNDS):
                text = f"arm {pair[0]!r}, seed {pair[1]} is also in {first.folder}"
                raise RunFolderError(f"{folder.folder}: {text}; leave out one of the two")
            if not _same(first.metrics, folder.metrics, pair):
                notes.append(
                    f"{pair[0]} of seed {pair[1]} differs between {first.folder.name} and "
                    f"{folder.folder.name}; the first is shown, and arms of the two are not "
                    "compared from one start."
                )
    own = [[pair for pair, owner in holder.items() if owner is folder] for folder in members]
    arms = {arm.name: arm for folder in members for arm in folder.settings.arms}
    seeds = tuple(dict.fromkeys(s for folder in members for s in folder.settings.seeds))
    settings = members[0].settings.model_copy(update={"arms": tuple(arms.values()), "seeds": seeds})
    metrics = Table.join([_keep(m.metrics, o) for m, o in zip(members, own, strict=True)])
    optional = {
        table: Table.join([found for m in members if (found := getattr(m, table)) is not None])
        if any(getattr(m, table) is not None for m in members)
        else None
        for table in ("rounds", "selections")
    }
    pictures = tuple(picture for folder in members for picture in folder.pictures)
    return Study(
        name=name,
        runs=tuple(members),
        settings=settings,
        metrics=last_cycle(metrics),
        patches=_patches(members),
        pictures=pictures,
        notes=tuple(dict.fromkeys(notes)),
        **optional,
    )


def _pairs(metrics: Table) -> set[tuple[str, int]]:
    return set(zip(metrics["arm"].tolist(), metrics["seed"].tolist(), strict=True))


def _keep(metrics: Table, pairs: Iterable[tuple[str, int]]) -> Table:
    wanted = set(pairs)
    keys = zip(metrics["arm"].tolist(), metrics["seed"].tolist(), strict=True)
    return metrics.take(np.array([key in wanted for key in keys], dtype=bool))


def _same(one: Table, other: Table, pair: tuple[str, int]) -> bool:
    first, second = (t.where(arm=pair[0], seed=pair[1], metric="dice_global") for t in (one, other))
    return len(first) == len(second) and bool(
        np.allclose(first["value"], second["value"], atol=1e-6, equal_nan=True)
    )


def _patches(members: Sequence[RunFolder]) -> Table | None:
    """The igniter's patches, once per seed: runs of one seed share them."""
    kept: list[Table] = []
    seen: set[int] = set()
    for folder in members:
        if folder.patches is not None:
            fresh = ~np.isin(folder.patches["seed"], list(seen))
            kept.append(folder.patches.take(fresh))
            seen |= set(folder.patches["seed"].tolist())
    return Table.join(kept) if kept else None


def differing(studies: Sequence[Study]) -> list[tuple[str, list[str]]]:
    """Settings that differ between sections: key and one value per section."""
    if len(studies) < 2:
        return []
    flat = [dict(all_settings(study.settings)) for study in studies]
    keys = [k for k in dict.fromkeys(k for f in flat for k in f) if k not in LABELS]
    rows = [(key, [f.get(key, "–") for f in flat]) for key in keys]
    return [(key, values) for key, values in rows if len(set(values)) > 1]


# --------------------------------------------------------------------------- the page


def draw(study: Study, styles: dict[str, ArmStyle]) -> list[Drawing]:
    """All figures of a study, in the order of the page."""
    with style_context():
        found = [
            figures_budget.dice_budget(study, styles),
            figures_budget.dice_minutes(study, styles),
            figures_centers.dice_centers(study, styles),
            figures_centers.dice_categories(study, styles),
            figures_centers.dice_classes(study, styles),
            figures_learning.learning_curve(study, styles),
            uncertainty_dice(study),
            figures_selection.selection_composition(study, styles),
            *picture_strips(study),
            figures_learning.bytes_per_round(study),
            figures_selection.minutes_per_site(study, styles),
        ]
    return [drawing for drawing in found if drawing is not None]


def _section(
    study: Study, styles: dict[str, ArmStyle], folder: Path, prefix: str
) -> dict[str, Any]:
    compared = comparisons(study)
    drawings = [replace(d, name=prefix + d.name) for d in draw(study, styles)]
    missing = [name for name in ("rounds", "patches", "selections") if getattr(study, name) is None]
    return {
        "study": study,
        "summary": summary(study, compared),
        "figures": [(d, Markup(save_drawing(d, folder))) for d in drawings],  # noqa: S704 - drawn here
        "tables": result_tables(study, compared),
        "cases": case_table(study),
        "missing": missing,
        "deviations": deviations(study.settings),
        "settings": all_settings(study.settings),
    }


def _render(studies: Sequence[Study], sections: Sequence[dict[str, Any]]) -> str:
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    files = resources.files("simulation.report")
    template = environment.from_string(files.joinpath("report.html.j2").read_text("utf-8"))
    css = files.joinpath("report.css").read_text("utf-8")
    return template.render(
        title=_title(studies[0].settings),
        css=Markup(css),  # noqa: S704 - a file of this package
        sections=sections,
        differing=differing(studies),
        reduced=any(study.settings.reduced for study in studies),
        unfinished=[r.folder.name for s in studies for r in s.runs if not r.record.finished],
        definitions=DEFINITIONS,
        data_words=data_words,
        duration=_duration,
        several=len(studies) > 1,
    )


def _title(settings: ExperimentSettings) -> str:
    return settings.title or settings.name


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


def _write_metrics(folders: Sequence[RunFolder], path: Path) -> None:
    names = COLUMNS["metrics.csv"].split()
    with path.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(["run", *names])
        for folder in folders:
            columns = [folder.metrics[name].tolist() for name in names]
            blank = partial(_blank, folder.folder.name)
            writer.writerows(map(blank, zip(*columns, strict=True)))


def _blank(run: str, row: tuple[Any, ...]) -> tuple[Any, ...]:
    """Undefined values are blank, as they were read."""
    value = row[-1]
    return run, *row[:-1], "" if value != value else value
