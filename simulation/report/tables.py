"""The tables of the report, as plain cells that the template escapes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from simulation.report.figures_data import Study, mean_of
from simulation.report.runfolder import BASELINE
from simulation.report.statistics import Comparison, verdict
from simulation.report.text import PRIMARY, interval

BLANK = "–"


@dataclass(frozen=True)
class HtmlTable:
    """A table: the first column heads its row, the others are numbers unless in ``words``."""

    title: str
    note: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    words: frozenset[int] = frozenset()


def result_tables(study: Study, compared: Sequence[tuple[int, Comparison]]) -> list[HtmlTable]:
    """Dice by arm and budget, paired differences, per center, further outcomes."""
    tables = [dice_table(study), *difference_tables(compared), center_table(study)]
    further = outcome_table(study)
    return [table for table in (*tables, further) if table.rows and len(table.header) > 1]


def dice_table(study: Study) -> HtmlTable:
    """Global Dice, arms by budgets, between baseline and bounds."""
    rows = []
    for name, budget in _levels(study).items():
        # A bound that takes corrections (the oracle) has a value of its own at each budget.
        plans = [found if budget else 0 for found in study.budgets]
        rows.append([_name(name), *[_cell(study, PRIMARY, name, found) for found in plans]])
    arms = [[arm, *[_cell(study, PRIMARY, arm, b) for b in study.budgets]] for arm in study.arms]
    header = ["method", *[f"{budget} patches" for budget in study.budgets]]
    note = f"Global Dice, mean over {study.center_words}"
    note += ", with 95 % intervals." if len(study.seeds) > 1 else "; one seed, so no intervals."
    place = 1 if rows and rows[0][0] == BASELINE else 0
    return HtmlTable("Dice by method and budget", note, header, rows[:place] + arms + rows[place:])


def difference_tables(compared: Sequence[tuple[int, Comparison]]) -> list[HtmlTable]:
    """Paired differences against each reference that was run."""
    tables = []
    for reference in dict.fromkeys(c.reference for _, c in compared):
        rows = []
        for budget, found in compared:
            if found.reference != reference:
                continue
            change = _signed(found)
            unpaired = f" ({len(found.missing)} unpaired left out)" if found.missing else ""
            p = [_p(found.p_value), _p(found.p_holm)]
            rows.append([found.arm, str(budget), change, *p, verdict(found) + unpaired])
        note = "Global Dice, paired by seed and center; p after Holm's correction over all "
        note += f"{len(compared)} comparisons of this section."
        header = ["method", "patches", "difference [95 %]", "p", "p (Holm)", "verdict"]
        tables.append(HtmlTable(f"Against {reference}", note, header, rows, frozenset({5})))
    return tables


def center_table(study: Study) -> HtmlTable:
    """Global Dice per center at the largest budget."""
    plans = {BASELINE: 0} | dict.fromkeys(study.arms, study.top) | study.bounds
    rows = [
        [_name(arm), *[_cell(study, PRIMARY, arm, budget, center) for center in study.centers]]
        for arm, budget in plans.items()
        if study.has(PRIMARY, arm, budget)
    ]
    igniter = study.record.igniter_site
    names = [f"{name} (igniter)" if name == igniter else name for name in study.centers]
    note = f"Global Dice with {study.top} patches per site."
    return HtmlTable("Dice per center", note, ["method", *names], rows)


def outcome_table(study: Study) -> HtmlTable:
    """The other outcomes at the largest budget; per-case ones as means over all test cases."""
    site = {"dice_case_mean": "mean case Dice", "dice_personal": "own copy"}
    case = {"precision": "precision", "recall": "recall", "fp_share": "false-positive share"}
    plans = {BASELINE: 0} | dict.fromkeys(study.arms, study.top) | study.bounds
    columns: dict[str, list[str]] = {}
    for metric, label in site.items():
        columns[label] = [_cell(study, metric, arm, budget) for arm, budget in plans.items()]
    for metric, label in case.items():
        found = [study.case_values(metric, arm, budget, None) for arm, budget in plans.items()]
        columns[label] = [interval(mean_of(values)) if values else BLANK for values in found]
    columns = {label: cells for label, cells in columns.items() if set(cells) != {BLANK}}
    rows = [[_name(arm), *cells] for arm, *cells in zip(plans, *columns.values(), strict=True)]
    note = f"With {study.top} patches per site; definitions at the end of the report."
    rows = [row for row in rows if set(row[1:]) != {BLANK}]
    return HtmlTable("Further outcomes", note, ["method", *columns], rows)


def case_table(study: Study) -> HtmlTable:
    """How many cases each center has."""
    rows = [
        [name, str(counts.labelled), str(counts.pool), str(counts.test)]
        for name, counts in study.record.centers.items()
    ]
    header = ["center", "labelled", "pool", "test"]
    return HtmlTable("Centers and cases", study.record.center_rule, header, rows)


def _levels(study: Study) -> dict[str, int]:
    plans = {BASELINE: 0} | study.bounds
    return {name: budget for name, budget in plans.items() if study.has(PRIMARY, name, budget)}


def _cell(study: Study, metric: str, arm: str, budget: int, center: str | None = None) -> str:
    values = study.values(metric, arm, budget, center)
    return interval(mean_of(values)) if values else BLANK


def _name(arm: str) -> str:
    return arm.replace("_", " ") if arm in ("site_alone",) else arm


def _signed(found: Comparison) -> str:
    difference = found.difference
    text = f"{difference.mean:+.3f}"
    if difference.low is not None and difference.high is not None:
        text += f" [{difference.low:+.3f}, {difference.high:+.3f}]"
    return text.replace("-", "−")


def _p(value: float | None) -> str:
    if value is None:
        return BLANK
    return "< 0.001" if value < 0.001 else f"{value:.3f}"
