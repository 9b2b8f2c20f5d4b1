"""What each method chose, and what it asked of the clinician."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from simulation.report.figures import Drawing
from simulation.report.figures_data import Study, Values, mean_of
from simulation.report.figures_dots import HEADER, Panel, dot_panels
from simulation.report.figures_style import HALF, WIDE, ArmStyle
from simulation.report.runfolder import Table
from simulation.report.statistics import average_draws


def selection_composition(study: Study, styles: Mapping[str, ArmStyle]) -> Drawing | None:
    """Share of chosen patches that hold foreground, and the corrected area, by arm and budget."""
    if study.selections is None or not len(study.selections):
        return None
    panels = []
    for budget in study.budgets:
        chosen = study.selections.where(budget=budget)
        values = _per_arm(study, chosen, 100.0 * (chosen["foreground_px"] > 0))
        if values:
            panels.append(Panel(f"{budget} patches per site", values, "% that hold foreground"))
    if not panels:
        return None
    chosen = study.selections.where(budget=study.top)
    area = _per_arm(study, chosen, chosen["corrected_px"])
    title = f"area, {study.top} patches"
    panels.append(Panel(title, area, "corrected px per patch", shared=False))
    figure, rows = dot_panels(panels, styles, width=WIDE)
    share = {arm: mean_of(values).mean for arm, values in panels[-2].values.items()}
    best, worst = max(share, key=share.__getitem__), min(share, key=share.__getitem__)
    return Drawing(
        "selection_composition",
        "What was chosen",
        f"Of the patches {best} chose, {share[best]:.0f} % hold foreground; of those of {worst}, "
        f"{share[worst]:.0f} %.",
        "Foreground by the reference the simulated clinician corrects to; right: voxels changed "
        "per patch, the work a choice asks for.",
        figure,
        HEADER,
        rows,
        wide=True,
    )


def minutes_per_site(study: Study, styles: Mapping[str, ArmStyle]) -> Drawing | None:
    """Modelled minutes per site, by arm and budget."""
    panels = [
        Panel(f"{budget} patches per site", values, "minutes per site")
        for budget in study.budgets
        if (values := {a: v for a in study.arms if (v := study.values("minutes", a, budget))})
    ]
    if not panels:
        return None
    width = HALF[0] if len(panels) <= 2 else WIDE
    figure, rows = dot_panels(panels, styles, width=width)
    cost = {arm: mean_of(values).mean for arm, values in panels[-1].values.items()}
    most, least = max(cost, key=cost.__getitem__), min(cost, key=cost.__getitem__)
    return Drawing(
        "minutes_per_site",
        "Clinician's minutes",
        f"With {study.top} patches per site, {most} asks for {cost[most]:.1f} modelled minutes "
        f"per site and {least} for {cost[least]:.1f}.",
        "Modelled, not measured: see clinician.* in the settings.",
        figure,
        HEADER,
        rows,
        wide=len(panels) > 2,
    )


def _per_arm(study: Study, chosen: Table, numbers: NDArray[np.floating[Any]]) -> dict[str, Values]:
    """Mean of a number over the chosen patches of a center; draws of a random arm are averaged."""
    found: dict[str, Values] = {}
    for arm in study.arms:
        mask = chosen["arm"] == arm
        rows = zip(
            chosen["seed"][mask].tolist(),
            chosen["center"][mask].tolist(),
            numbers[mask].tolist(),
            strict=True,
        )
        if values := average_draws(rows):
            found[arm] = values
    return found
