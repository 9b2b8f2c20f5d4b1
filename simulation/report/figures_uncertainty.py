"""Does uncertainty find what is wrong? UGA of the igniter's pool patches against Dice and error."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.ticker import FuncFormatter, NullFormatter
from numpy.typing import NDArray

from simulation.report.figures import Drawing
from simulation.report.figures_data import Study
from simulation.report.figures_style import HALF, INK, WIDE, new_figure
from simulation.report.runfolder import Table
from simulation.report.statistics import CorrelationTable, spearman

RAMP = LinearSegmentedColormap.from_list("doubt", ["#e9e4f7", "#a493dc", "#5b3fb0", "#2a1266"])
"""One hue, light to dark: used for uncertainty and counts, never for a class."""

BINS = 10
PER_BIN = 15
FEW = 10
"""Below this many patches no correlation is worth drawing."""

RESAMPLES = 300


def uncertainty_dice(study: Study) -> Drawing | None:
    """UGA against Dice where prediction and reference overlap, and against wrong pixels in all."""
    if study.patches is None:
        return None
    patches = study.patches
    defined = patches.take(np.isfinite(patches["dice"]))
    overlap = defined.take(defined["dice"] > 0)
    if len(overlap) < FEW:
        return None
    both, only = _correlate(defined, "dice"), _correlate(overlap, "dice")
    scored = patches.take(np.isfinite(patches["error_px"]))
    error = _correlate(scored, "error_px") if len(scored) >= FEW else None
    figure = new_figure(WIDE if error else HALF[0], HALF[1])
    grid = figure.subplots(1, 2 if error else 1, squeeze=False)[0]
    rows = _draw(grid[0], overlap, "dice", linear=True)
    grid[0].set(xlabel="uncertainty (UGA)", ylabel="Dice of the patch", ylim=(0, 1.02))
    grid[0].set_title(f"prediction meets reference: {_rho(only)}")
    if error:
        rows += _draw(grid[1], scored, "error_px", linear=False)
        grid[1].set(xlabel="uncertainty (UGA)", ylabel="wrong pixels + 1")
        # Plain numbers: mathematics is switched off, because names come from users' files.
        grid[1].yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
        grid[1].set_title(f"all patches: {_rho(error)}")
    return Drawing(
        "uncertainty_dice",
        "Uncertainty against patch quality",
        _message(only, error),
        _caption(patches, defined, both),
        figure,
        ("panel", "uga_mean", "mean", "patches"),
        rows,
        wide=error is not None,
    )


def _correlate(patches: Table, outcome: str) -> CorrelationTable:
    return spearman(
        patches["uga"],
        patches[outcome],
        seed=patches["seed"].tolist(),
        center=patches["center"].tolist(),
        case=patches["case"].tolist(),
        resamples=RESAMPLES,
    )


def _draw(axes: Axes, patches: Table, outcome: str, *, linear: bool) -> list[tuple[Any, ...]]:
    x, y = patches["uga"], patches[outcome] if linear else patches[outcome] + 1
    # The far tail of the uncertainty would squeeze the other 99 % of patches to the left.
    right = float(np.quantile(x, 0.995)) or 1.0
    shown = x <= right
    axes.hexbin(
        x[shown],
        y[shown],
        gridsize=(34, 20),
        cmap=RAMP,
        bins="log",
        mincnt=1,
        linewidths=0.1,
        yscale="linear" if linear else "log",
    )
    if not linear:
        # Figures do not parse TeX (names may hold a dollar), so log ticks are written plainly.
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
        axes.yaxis.set_minor_formatter(NullFormatter())
    rows = []
    for members in _quantile_bins(x):
        middle = float(x[members].mean())
        mean = float(patches[outcome][members].mean())
        rows.append((outcome, middle, mean, int(members.sum())))
    inside = [row for row in rows if row[1] <= right]
    height = [row[2] if linear else row[2] + 1 for row in inside]
    axes.plot([row[1] for row in inside], height, "o-", color="#d55e00", ms=4.5, lw=1.6)
    axes.set_facecolor("none")
    axes.title.set_color(INK)
    return rows


def _quantile_bins(x: NDArray[np.float64]) -> list[NDArray[np.bool_]]:
    """Bins with equally many patches; fewer where values repeat."""
    bins = int(np.clip(len(x) // PER_BIN, 2, BINS))
    edges = np.unique(np.quantile(x, np.linspace(0, 1, bins + 1)))
    place = np.clip(np.searchsorted(edges, x, side="right") - 1, 0, max(len(edges) - 2, 0))
    return [place == index for index in np.unique(place)]


def _rho(table: CorrelationTable) -> str:
    return table.overall.describe()


def _message(only: CorrelationTable, error: CorrelationTable | None) -> str:
    rho = only.overall.rho
    if rho is None:
        text = "One of the two is constant: no relation between uncertainty and Dice can be given."
    else:
        strength = "strongly" if abs(rho) >= 0.6 else "moderately" if abs(rho) >= 0.3 else "weakly"
        sense = "lower" if rho < 0 else "higher"
        text = (
            f"Where prediction and reference meet, uncertain patches have {strength} {sense} "
            f"Dice (Spearman {rho:+.2f})"
        )
        text = text.replace("-", "−")
        if (low := only.overall.low) is not None and (high := only.overall.high) is not None:
            text += ", with an interval around zero." if low <= 0 <= high else "."
        else:
            text += "."
    if error and error.overall.rho is not None:
        rho_error = f"{error.overall.rho:+.2f}".replace("-", "−")
        text += f" Over all patches its correlation with the number of wrong pixels is {rho_error}."
    return text


def _caption(patches: Table, defined: Table, both: CorrelationTable) -> str:
    missed = defined.take(defined["dice"] == 0)
    predicted = int((missed["foreground"] > 0).sum())
    by_center = ", ".join(f"{name} {_short(c.rho)}" for name, c in both.by_center.items())
    text = (
        f"The igniter's predictions on the pools of {_pools(patches)}. Darker: more patches "
        "(log scale); line: means of equally full bins. Of "
        f"{len(patches):,} patches, {len(patches) - len(defined):,} have foreground in neither "
        "prediction nor reference, where Dice is undefined; in "
        f"{len(missed):,} Dice is 0, of which {predicted:,} hold predicted foreground that meets "
        "no reference (mostly false positives only). Dice is blind to how large those are, so they "
        "are left out on the left and counted by their wrong pixels on the right. "
        f"With them, {_rho(both)}"
    )
    return text + (f"; by center: {by_center}." if len(both.by_center) > 1 else ".")


def _pools(patches: Table) -> str:
    centers = patches.distinct("center")
    return str(centers[0]) if len(centers) == 1 else f"{len(centers)} centers"


def _short(rho: float | None) -> str:
    return "undefined" if rho is None else f"{rho:+.2f}".replace("-", "−")
