"""Dice against what it cost: corrected patches, and the clinician's modelled minutes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from simulation.report.figures import Drawing
from simulation.report.figures_data import Study, interval_words, numbers
from simulation.report.figures_style import HALF, ArmStyle, label_ends, new_figure
from simulation.report.runfolder import BASELINE
from simulation.report.statistics import Estimate

HEADER = ("arm", "budget", "x", "dice", "low", "high", "seeds")

MOST_LINEAR = 8
"""Budgets spanning more than this factor are drawn evenly spaced, or the small ones would touch."""

PRIMARY = "dice_global"


@dataclass(frozen=True)
class _Point:
    budget: int
    x: float
    dice: Estimate


def dice_budget(study: Study, styles: Mapping[str, ArmStyle]) -> Drawing:
    """Global Dice (mean over centers) against corrected patches per site."""
    budgets = study.budgets
    even = max(budgets) / min(budgets) > MOST_LINEAR
    place = {b: float(i + 1 if even else b) for i, b in enumerate(budgets)} | {0: 0.0}
    curves = {
        arm: [
            _Point(b, place[b], study.estimate(PRIMARY, arm, b))
            for b in budgets
            if study.has(PRIMARY, arm, b)
        ]
        for arm in _curved(study)
    }
    figure = new_figure(*HALF)
    axes = figure.subplots()
    axes.set_xticks([0, *[place[b] for b in budgets]], ["0", *[str(b) for b in budgets]])
    axes.set_xlabel("corrected patches per site" + (" (evenly spaced)" if even else ""))
    rows = _draw(axes, study, curves, styles, dodge=0.028 * max(place.values()))
    return Drawing(
        name="dice_budget",
        title="Dice against corrected patches",
        message=_message(study, curves),
        caption=f"Global Dice, mean over {study.center_words}. {interval_words(study)}"
        + _start_words(study, curves),
        figure=figure,
        header=HEADER,
        rows=rows,
    )


def dice_minutes(study: Study, styles: Mapping[str, ArmStyle]) -> Drawing | None:
    """The same Dice against modelled minutes per site; None where no minutes were recorded."""
    curves: dict[str, list[_Point]] = {}
    for arm in _curved(study):
        for budget in study.budgets:
            if study.has(PRIMARY, arm, budget) and study.has("minutes", arm, budget):
                minutes = study.estimate("minutes", arm, budget).mean
                point = _Point(budget, minutes, study.estimate(PRIMARY, arm, budget))
                curves.setdefault(arm, []).append(point)
    if not curves:
        return None
    figure = new_figure(*HALF)
    axes = figure.subplots()
    axes.set_xlabel("clinician's minutes per site (modelled)")
    rows = _draw(axes, study, curves, styles, dodge=0.0)
    costs = {arm: points[-1].x for arm, points in curves.items() if arm in study.arms}
    if not costs:
        return None
    dearest, cheapest = max(costs, key=costs.__getitem__), min(costs, key=costs.__getitem__)
    clinician = study.settings.clinician
    message = (
        f"At the largest budget the dearest method is {dearest} ({costs[dearest]:.1f} min per site)"
        f" and the cheapest {cheapest} ({costs[cheapest]:.1f} min)."
    )
    caption = (
        f"One marker per budget ({', '.join(map(str, study.budgets))} patches). Modelled time: "
        f"{clinician.seconds_per_patch:g} s per patch and {clinician.seconds_per_1000_px:g} s per "
        "1\u202f000 corrected pixels; methods that pick larger lesions pay for them here."
    )
    return Drawing(
        "dice_minutes",
        "Dice against the clinician's time",
        message,
        caption,
        figure,
        HEADER,
        rows,
    )


def _draw(
    axes: Axes,
    study: Study,
    curves: Mapping[str, Sequence[_Point]],
    styles: Mapping[str, ArmStyle],
    dodge: float,
) -> list[tuple[Any, ...]]:
    """Curves from the shared baseline, bounds as lines, names at the right; returns the CSV."""
    start = study.estimate(PRIMARY, BASELINE, 0) if study.has(PRIMARY, BASELINE, 0) else None
    rows: list[tuple[Any, ...]] = []
    ends: list[tuple[float, float, ArmStyle]] = []
    shifts = np.linspace(-1, 1, len(curves)) * dodge if len(curves) > 1 else [0.0] * len(curves)
    for (arm, points), shift in zip(curves.items(), shifts, strict=True):
        if not points:
            continue
        style = styles[arm]
        x = [point.x + float(shift) for point in points]
        y = [point.dice.mean for point in points]
        if start:
            axes.plot([0, x[0]], [start.mean, y[0]], color=style.colour, lw=1, alpha=0.45)
        marker, line = ("s", "--") if arm in study.bounds else (style.marker, "-")
        axes.plot(x, y, color=style.colour, lw=1.8, marker=marker, ls=line, ms=5.5, zorder=3)
        for at, point in zip(x, points, strict=True):
            axes.plot([at, at], numbers(point.dice)[1:], color=style.colour, lw=1.3, alpha=0.7)
            rows.append((arm, point.budget, point.x, *numbers(point.dice), point.dice.seeds))
        ends.append((x[-1], y[-1], style))
    for name, estimate in _levels(study, start).items():
        axes.axhline(estimate.mean, color=styles[name].colour, ls=styles[name].line, lw=1.1)
        rows.append((name, 0, 0.0, *numbers(estimate), estimate.seeds))
    axes.set_ylabel("Dice")
    axes.set_xlim(right=axes.get_xlim()[1])
    right = axes.get_xlim()[1]
    levels = [(right, e.mean, styles[name]) for name, e in _levels(study, start).items()]
    label_ends(axes, [*ends, *levels])
    return rows


def _levels(study: Study, start: Estimate | None) -> dict[str, Estimate]:
    """The baseline and the bounds: what an arm's curve lies between."""
    levels = {BASELINE: start} if start else {}
    for bound, budget in study.bounds.items():
        if budget == 0 and study.has(PRIMARY, bound, 0):
            levels[bound] = study.estimate(PRIMARY, bound, 0)
    return levels


def _curved(study: Study) -> list[str]:
    """The arms, and the bounds that take corrections too (the oracle)."""
    return [*study.arms, *(name for name, budget in study.bounds.items() if budget)]


def _start_words(study: Study, curves: Mapping[str, Sequence[_Point]]) -> str:
    bounds = [name.replace("_", " ") for name, budget in study.bounds.items() if not budget]
    lines = f" Horizontal lines: {', '.join(['baseline', *bounds])}." if curves else ""
    return lines + " Markers are moved sideways a little so that intervals do not hide each other."


def _message(study: Study, curves: Mapping[str, Sequence[_Point]]) -> str:
    last = {arm: points[-1] for arm, points in curves.items() if points and arm in study.arms}
    if not last:
        return "No arm has a Dice at any budget yet."
    order = sorted(last, key=lambda arm: -last[arm].dice.mean)
    best, worst = order[0], order[-1]
    text = f"With {last[best].budget} patches per site, {best} has the highest mean Dice "
    text += f"({last[best].dice.mean:.3f})"
    if worst != best:
        text += f" and {worst} the lowest ({last[worst].dice.mean:.3f})"
    if study.has(PRIMARY, BASELINE, 0):
        text += f"; uncorrected, the model has {study.estimate(PRIMARY, BASELINE, 0).mean:.3f}"
    return text + (". One seed: no ranking." if len(study.seeds) == 1 else ".")
