"""Dot plots in panels: one row per arm, a mean with its interval, and a point per seed."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from simulation.report.figures_data import Values, mean_of, numbers
from simulation.report.figures_style import WIDE, ArmStyle, new_figure, shorten

HEADER = ("panel", "arm", "seed", "value", "low", "high")
"""``seed`` is blank in the row of the mean, which alone has an interval."""

ROW_INCHES = 0.22
MOST_COLUMNS = 5

Row = tuple[str, str, str, float, float, float]


@dataclass(frozen=True)
class Panel:
    """One set of axes: arm -> values by seed and center."""

    title: str
    values: Mapping[str, Values]
    xlabel: str
    shared: bool = True
    """Whether the panel has the x range of the other shared ones."""


def dot_panels(
    panels: Sequence[Panel], styles: Mapping[str, ArmStyle], *, width: float = WIDE
) -> tuple[Figure, list[Row]]:
    """Draw the panels in a grid; returns the figure and the rows of its CSV."""
    arms = [arm for arm in styles if any(panel.values.get(arm) for panel in panels)]
    columns = min(len(panels), MOST_COLUMNS if width >= WIDE else 2)
    # Even rows: six panels look better as 3 + 3 than as 5 + 1.
    lines = math.ceil(len(panels) / columns)
    columns = math.ceil(len(panels) / lines)
    figure = new_figure(width, lines * (0.85 + ROW_INCHES * max(len(arms), 3)))
    grid = figure.subplots(lines, columns, sharey=True, squeeze=False)
    shared: list[Axes] = []
    rows: list[Row] = []
    for axes, panel in zip(grid.flat, panels, strict=False):
        rows += _draw(axes, panel, arms, styles)
        if panel.shared:
            shared.append(axes)
    for axes in list(grid.flat)[len(panels) :]:
        axes.set_visible(False)
    if shared:
        low = min(axes.get_xlim()[0] for axes in shared)
        high = max(axes.get_xlim()[1] for axes in shared)
        for axes in shared:
            # A panel's own margin can vanish in the joint range and cut its outermost marker.
            axes.set_xlim(low - 0.03 * (high - low), high + 0.03 * (high - low))
    for axes in grid[:, 0]:
        axes.set_yticks(range(len(arms)), [shorten(styles[arm].label) for arm in arms])
        axes.set_ylim(len(arms) - 0.4, -0.6)
    return figure, rows


def _draw(
    axes: Axes, panel: Panel, arms: Sequence[str], styles: Mapping[str, ArmStyle]
) -> list[Row]:
    rows: list[Row] = []
    for place, arm in enumerate(arms):
        values = panel.values.get(arm)
        if not values:
            continue
        style = styles[arm]
        found = mean_of(values)
        mean, low, high = numbers(found)
        if len(values) > 1:
            # Seeds above the mean's line, so that neither hides the other.
            heights = [place - 0.22] * len(found.values)
            axes.plot(found.values, heights, "o", ms=2.6, color=style.colour, alpha=0.55)
        axes.plot([low, high], [place + 0.1] * 2, color=style.colour, lw=1.6)
        marker = "s" if style.marker == "_" else style.marker
        axes.plot([mean], [place + 0.1], marker=marker, ms=5.5, color=style.colour)
        for seed, value in zip(sorted(values), found.values, strict=True):
            rows.append((panel.title, arm, str(seed), value, math.nan, math.nan))
        rows.append((panel.title, arm, "", mean, low, high))
    axes.set_title(shorten(panel.title, 30))
    axes.set_xlabel(panel.xlabel)
    axes.yaxis.grid(visible=True, linewidth=0.5)
    axes.tick_params(axis="y", length=0)
    axes.locator_params(axis="x", nbins=5)
    axes.spines["left"].set_visible(False)
    return rows
