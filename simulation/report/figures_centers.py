"""Dice per center, per lesion category and per class, at the largest budget."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from simulation.report.figures import Drawing
from simulation.report.figures_data import Study, Values, mean_of
from simulation.report.figures_dots import HEADER, Panel, dot_panels
from simulation.report.figures_style import ArmStyle
from simulation.report.runfolder import BASELINE

EMPTY = "negative"
"""The category whose cases hold no lesion: Dice is 1 or 0 there, so false positives are shown."""


def dice_centers(study: Study, styles: Mapping[str, ArmStyle]) -> Drawing:
    """Global Dice of each arm at each center."""
    igniter = study.record.igniter_site
    panels = []
    for center in study.centers:
        values = _per_arm(study, lambda a, b, c=center: study.values("dice_global", a, b, c))  # type: ignore[misc]
        title = f"{center} (igniter)" if center == igniter else center
        panels.append(Panel(title, values, "Dice"))
    figure, rows = dot_panels(panels, styles)
    return Drawing(
        "dice_centers",
        "Dice per center",
        _center_message(study),
        f"Global Dice with {study.top} patches per site; baseline and bounds as references."
        f"{_points(study)}",
        figure,
        HEADER,
        rows,
        wide=True,
    )


def dice_categories(study: Study, styles: Mapping[str, ArmStyle]) -> Drawing | None:
    """Per-case Dice by lesion category; None where cases carry no category."""
    panels = []
    for category in study.categories:
        metric = "fp_share" if category == EMPTY else "dice"
        values = _per_arm(
            study,
            lambda arm, budget, m=metric, c=category: study.case_values(m, arm, budget, c),  # type: ignore[misc]
        )
        if values:
            label = "false-positive share of tissue" if category == EMPTY else "Dice per case"
            panels.append(Panel(category, values, label, shared=category != EMPTY))
    if not panels:
        return None
    figure, rows = dot_panels(panels, styles)
    caption = f"Mean over the test cases of a category, {study.top} patches per site."
    if EMPTY in study.categories:
        caption += (
            " Negative cases hold no lesion, so their Dice is 1 or 0 by definition; shown is the "
            "share of tissue wrongly marked (lower is better), on a scale of its own."
        )
    return Drawing(
        "dice_categories",
        "Dice per lesion category",
        _best_per_panel([panel for panel in panels if panel.shared], study),
        caption,
        figure,
        HEADER,
        rows,
        wide=True,
    )


def dice_classes(study: Study, styles: Mapping[str, ArmStyle]) -> Drawing | None:
    """Per-case Dice of each foreground class; None where there is only one."""
    if len(study.classes) < 2:
        return None
    panels = []
    for name in study.classes:
        values = _per_arm(
            study,
            lambda arm, budget, n=name: study.case_values(f"dice_{n}", arm, budget, None),  # type: ignore[misc]
        )
        if values:
            panels.append(Panel(name, values, "Dice per case"))
    if not panels:
        return None
    figure, rows = dot_panels(panels, styles)
    return Drawing(
        "dice_classes",
        "Dice per class",
        _best_per_panel(panels, study),
        f"Mean over all test cases, {study.top} patches per site.",
        figure,
        HEADER,
        rows,
        wide=True,
    )


def _points(study: Study) -> str:
    if len(study.seeds) == 1:
        return " One seed: one point, no interval."
    return " Small points: one per seed; large marker and bar: their mean and 95 % interval."


def _per_arm(study: Study, of: Callable[[str, int], Values]) -> dict[str, Values]:
    """Values at the largest budget of every arm, with baseline and bounds at theirs."""
    plans = dict.fromkeys(study.arms, study.top) | {BASELINE: 0} | study.bounds
    found = {arm: of(arm, budget) for arm, budget in plans.items()}
    return {arm: values for arm, values in found.items() if values}


def _center_message(study: Study) -> str:
    gains: dict[str, dict[str, float]] = {}
    for center in study.centers:
        if not _has_center(study, BASELINE, 0, center):
            continue
        start = study.estimate("dice_global", BASELINE, 0, center).mean
        gains[center] = {
            arm: study.estimate("dice_global", arm, study.top, center).mean - start
            for arm in study.arms
            if _has_center(study, arm, study.top, center)
        }
    gains = {center: of for center, of in gains.items() if of}
    if not gains:
        return "No center can be compared with the uncorrected model."
    mean = {center: float(np.mean(list(of.values()))) for center, of in gains.items()}
    best, worst = max(mean, key=mean.__getitem__), min(mean, key=mean.__getitem__)
    text = f"Averaged over the methods, Dice changes by {mean[best]:+.3f} at {best}"
    text += (
        f" (the best) and by {mean[worst]:+.3f} at {worst} (the worst)." if worst != best else "."
    )
    text = text.replace("by -", "by −")
    if losers := [center for center, of in gains.items() if min(of.values()) < 0]:
        text += f" At least one method ends below the uncorrected model at: {', '.join(losers)}."
    return text


def _has_center(study: Study, arm: str, budget: int, center: str) -> bool:
    return bool(study.values("dice_global", arm, budget, center))


def _best_per_panel(panels: list[Panel], study: Study) -> str:
    parts = []
    for panel in panels:
        means = {arm: mean_of(v).mean for arm, v in panel.values.items() if arm in study.arms}
        if means:
            best = max(means, key=means.__getitem__)
            parts.append(f"{panel.title}: {best} ({means[best]:.3f})")
    return f"Highest mean with {study.top} patches per site: " + ", ".join(parts) + "."
