"""One look for all figures: colours per arm, ink that follows the page's theme, label placement."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from simulation.report.runfolder import BASELINE, BOUNDS

INK = "#1f2329"
MUTED = "#5b6470"
GRID = "#dfe3e8"
PAPER = "#fefefe"
"""Colours no figure uses for data, so that the page can swap them for its theme's."""

RANDOM = "#868d96"
FG_RANDOM = "#e69f00"
PALETTE = (
    *("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9"),
    *("#5a4fcf", "#882255", "#8c8c2a", "#44aa99", "#b9543f"),
)
"""Okabe-Ito first, then Tol's muted colours; each arm has its own marker besides."""

THEMED = {
    INK: "--ink",
    MUTED: "--muted",
    GRID: "--line",
    PAPER: "--paper",
    **{colour: f"--data-{i}" for i, colour in enumerate((RANDOM, FG_RANDOM, *PALETTE))},
}
"""Colour in a figure -> custom property of report.css that replaces it in the page."""

MARKERS = "osD^vPX<>phd"

HALF = (5.9, 4.0)
"""Inches of a figure that takes half of the page's width; text is 1:1 at 1280 px."""
WIDE = 12.1


@dataclass(frozen=True)
class ArmStyle:
    """How an arm looks in every figure."""

    label: str
    colour: str
    marker: str
    line: str = "-"


def arm_styles(arms: Iterable[tuple[str, str]]) -> dict[str, ArmStyle]:
    """Styles for ``(name, strategy)`` pairs in order, plus those of the baseline and the bounds."""
    styles: dict[str, ArmStyle] = {}
    taken = 0
    for name, strategy in arms:
        if name in styles:
            continue
        fixed = {"random": RANDOM, "foreground_random": FG_RANDOM}.get(strategy)
        if fixed is None or fixed in {style.colour for style in styles.values()}:
            fixed = PALETTE[taken % len(PALETTE)]
            taken += 1
        styles[name] = ArmStyle(name, fixed, MARKERS[len(styles) % len(MARKERS)])
    styles[BASELINE] = ArmStyle("baseline", INK, "o", ":")
    for bound, line in zip(BOUNDS, ("-.", "--", (0, (5, 1.5))), strict=True):
        styles[bound] = ArmStyle(bound.replace("_", " "), MUTED, "_", line)  # type: ignore[arg-type]
    return styles


def style_context() -> Any:
    """The rc settings every figure is drawn and saved under.

    Names come from users' files, so ``$`` must not start mathematics.
    """
    return mpl.rc_context(
        {
            "font.size": 9,
            "axes.titlesize": 9.5,
            "axes.labelsize": 9,
            "legend.fontsize": 8.5,
            "text.color": INK,
            "axes.labelcolor": INK,
            "axes.edgecolor": MUTED,
            "xtick.color": MUTED,
            "ytick.color": MUTED,
            "xtick.labelcolor": INK,
            "ytick.labelcolor": INK,
            "grid.color": GRID,
            "grid.linewidth": 0.8,
            "figure.facecolor": PAPER,
            "axes.facecolor": PAPER,
            "savefig.facecolor": PAPER,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.grid": True,
            "axes.axisbelow": True,
            "legend.frameon": False,
            "text.parse_math": False,
            "svg.hashsalt": "fedloop",
            "axes.titlelocation": "left",
            "axes.titlepad": 6,
            "axes.linewidth": 0.8,
            "xtick.major.width": 0.8,
            "ytick.major.width": 0.8,
            "axes.unicode_minus": True,
            "path.simplify": True,
        }
    )


def new_figure(width: float, height: float) -> Figure:
    return Figure(figsize=(width, height), layout="constrained")


def shorten(name: str, length: int = 18) -> str:
    """A user's name that fits a figure; the tables hold the whole."""
    return name if len(name) <= length else name[: length - 1] + "…"


def spread(wanted: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Positions as near to ``wanted`` as a distance of ``gap`` inside [low, high] allows.

    Where the room is too small for all, the distance shrinks to what there is.
    """
    if not wanted:
        return []
    gap = min(gap, (high - low) / max(len(wanted) - 1, 1))
    order = sorted(range(len(wanted)), key=lambda i: wanted[i])
    # Groups of touching labels, each centred on what its members want, merged until none overlap.
    groups: list[list[int]] = []
    starts: list[float] = []
    for index in order:
        groups.append([index])
        starts.append(_start(groups[-1], wanted, gap, low, high))
        while len(groups) > 1 and starts[-2] + gap * len(groups[-2]) > starts[-1] + 1e-12:
            groups[-2:] = [groups[-2] + groups[-1]]
            starts[-2:] = [_start(groups[-1], wanted, gap, low, high)]
    placed = [0.0] * len(wanted)
    for group, start in zip(groups, starts, strict=True):
        for rank, index in enumerate(group):
            placed[index] = start + rank * gap
    return placed


def _start(
    group: Sequence[int], wanted: Sequence[float], gap: float, low: float, high: float
) -> float:
    centre = sum(wanted[index] for index in group) / len(group)
    half = gap * (len(group) - 1) / 2
    return min(max(centre - half, low), high - 2 * half)


def label_ends(axes: Axes, ends: Sequence[tuple[float, float, ArmStyle]]) -> None:
    """Write each curve's name right of the axes, joined to its last point by a thin line."""
    low, high = axes.get_ylim()
    height = float(axes.get_figure().get_size_inches()[1])  # type: ignore[union-attr]
    gap = (high - low) * 0.175 / height
    right = axes.get_xlim()[1]
    span = right - axes.get_xlim()[0]
    places = spread([y for _, y, _ in ends], gap, low, high)
    for (x, y, style), place in zip(ends, places, strict=True):
        axes.plot(
            [x, right, right + 0.03 * span],
            [y, y if x >= right else place, place],
            color=style.colour,
            linewidth=0.8,
            alpha=0.7,
            clip_on=False,
            zorder=1,
        )
        axes.text(
            right + 0.04 * span, place, shorten(style.label), va="center", fontsize=8.5, color=INK
        )
