"""What happened round by round: loss, Dice where it was evaluated, and bytes on the wire."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from simulation.report.figures import Drawing
from simulation.report.figures_data import Study
from simulation.report.figures_style import (
    HALF,
    INK,
    MUTED,
    PALETTE,
    WIDE,
    ArmStyle,
    label_ends,
    new_figure,
    shorten,
)
from simulation.report.runfolder import Table

MEGABYTE = 1e6


def learning_curve(study: Study, styles: Mapping[str, ArmStyle]) -> Drawing | None:
    """Training loss and evaluated Dice by round, at the largest budget."""
    if study.rounds is None:
        return None
    rounds = study.rounds.where(budget=study.top)
    arms = [arm for arm in study.arms if len(rounds.where(arm=arm))]
    if not arms:
        return None
    measures = {"loss": "training loss", "dice_global": "Dice"}
    shown = [name for name in measures if np.isfinite(rounds[name]).any()]
    if not shown:
        return None
    figure = new_figure(WIDE if len(shown) > 1 else HALF[0], HALF[1] * 0.85)
    grid = figure.subplots(1, len(shown), squeeze=False)
    rows: list[tuple[Any, ...]] = []
    for axes, measure in zip(grid[0], shown, strict=True):
        ends = []
        for arm in arms:
            x, y = _by_round(rounds.where(arm=arm), measure)
            if not len(x):
                continue
            style = styles[arm]
            axes.plot(x, y, color=style.colour, marker=style.marker, ms=4, lw=1.5)
            ends.append((float(x[-1]), float(y[-1]), style))
            rows += [(arm, measure, *pair) for pair in zip(x.tolist(), y.tolist(), strict=True)]
        _finish(axes, measures[measure], ends)
    losses = {arm: _by_round(rounds.where(arm=arm), "loss")[1] for arm in arms}
    falling = [arm for arm, y in losses.items() if len(y) > 1 and y[-1] < y[0]]
    message = f"The training loss ends below its start for {len(falling)} of {len(arms)} methods."
    return Drawing(
        "learning_curve",
        "Learning by round",
        message,
        f"Mean over seeds, draws and sites with {study.top} patches per site; the loss is the "
        "sites' own on their training batches, Dice stands where a round was evaluated. Losses "
        "of different methods are over different patches and do not rank them.",
        figure,
        ("arm", "measure", "round", "mean"),
        rows,
        wide=len(shown) > 1,
    )


def bytes_per_round(study: Study) -> Drawing | None:
    """Mean bytes each site received and sent in a training round."""
    if study.rounds is None:
        return None
    # The igniter and the bounds train at one place, and round 0 only evaluates and selects.
    federated = np.isin(study.rounds["arm"], study.arms) & (study.rounds["round"] > 0)
    rounds = study.rounds.take(federated)
    if not len(rounds):
        return None
    sites = rounds.distinct("site")
    figure = new_figure(HALF[0], 1.1 + 0.42 * max(len(sites), 2))
    axes = figure.subplots()
    rows = []
    for place, site in enumerate(sites):
        own = rounds.where(site=site)
        # Counted by the coordinator: what comes in there is what the site sent.
        sent = float(own["bytes_in"].mean()) / MEGABYTE
        received = float(own["bytes_out"].mean()) / MEGABYTE
        axes.barh(place - 0.18, received, 0.3, color=PALETTE[0])
        axes.barh(place + 0.18, sent, 0.3, color=PALETTE[1])
        rows.append((site, received * MEGABYTE, sent * MEGABYTE, len(own)))
        for y, value in ((place - 0.18, received), (place + 0.18, sent)):
            axes.text(value, y, f" {value:.3g}", va="center", fontsize=8, color=INK)
    axes.set_yticks(range(len(sites)), [shorten(site) for site in sites])
    axes.set_ylim(len(sites) - 0.5, -0.5)
    axes.margins(x=0.12)
    axes.grid(axis="y", visible=False)
    axes.set_xlabel("MB per round")
    axes.set_title(
        "to the site (upper bar) and from the site (lower bar)", color=MUTED, fontsize=8.5
    )
    total = sum(row[1] + row[2] for row in rows) / MEGABYTE
    return Drawing(
        "bytes_per_round",
        "Bytes per site and round",
        f"A round moves {total:.3g} MB in all between the coordinator and {len(sites)} "
        f"{'site' if len(sites) == 1 else 'sites'}, both directions together.",
        "Mean over training rounds, seeds and methods; 1 MB is 10⁶ bytes. Model weights and scalar "
        "metrics only: no image, mask or patch travels.",
        figure,
        ("site", "bytes_to_site", "bytes_from_site", "rounds"),
        rows,
    )


def _by_round(rounds: Table, measure: str) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Mean by round; the rounds of later cycles follow those of earlier ones."""
    rounds = rounds.take(np.isfinite(rounds[measure]))
    if not len(rounds):
        return np.empty(0, np.int64), np.empty(0)
    # The start is written as round 0, in cycle 0 or 1.
    number = np.maximum(rounds["cycle"] - 1, 0) * rounds["round"].max() + rounds["round"]
    x, place = np.unique(number, return_inverse=True)
    return x, np.bincount(place, weights=rounds[measure]) / np.bincount(place)


def _finish(axes: Axes, label: str, ends: list[tuple[float, float, ArmStyle]]) -> None:
    axes.set_xlabel("round")
    axes.set_ylabel(label)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.set_xlim(right=axes.get_xlim()[1])
    label_ends(axes, ends)
