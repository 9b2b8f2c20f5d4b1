"""A figure of the report: drawn once, saved as PNG, SVG and CSV, and put inline into the page."""

from __future__ import annotations

import base64
import csv
import io
import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from PIL import Image

from simulation.report.figures_style import THEMED, style_context

PALETTE_SIZE = 96
"""Colours of an image in the page; fewer show as bands on stained tissue."""


@dataclass(frozen=True)
class Drawing:
    """A figure with its words and the numbers it was drawn from.

    Args:
        name: file name without ending, also the anchor in the page.
        title: what is shown.
        message: what it says, in one or two sentences; the alternative text.
        caption: how to read it (definitions, intervals, what was left out).
        header, rows: the CSV.
        wide: takes the page's whole width.
        folded: shown closed, to be opened by the reader.
    """

    name: str
    title: str
    message: str
    caption: str
    figure: Figure
    header: Sequence[str]
    rows: Sequence[Sequence[Any]]
    wide: bool = False
    folded: bool = False


def save_drawing(drawing: Drawing, folder: Path) -> str:
    """Write NAME.png, NAME.svg and NAME.csv into ``folder``; returns the SVG for the page.

    Equal numbers give equal bytes: no dates, and ids hashed with a fixed salt.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with style_context(), warnings.catch_warnings():
        # A user's name may hold letters the default font lacks; a box is drawn in their place.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        # Too many labels for the figure: it is drawn as it is.
        warnings.filterwarnings("ignore", message="constrained_layout not applied")
        svg = io.StringIO()
        drawing.figure.savefig(svg, format="svg", metadata={"Date": None, "Creator": None})
        # The layout is settled by the first save; settling it again would only cost time.
        drawing.figure.set_layout_engine("none")
        png = folder / f"{drawing.name}.png"
        drawing.figure.savefig(
            png, dpi=150, metadata={"Software": None}, pil_kwargs={"compress_level": 3}
        )
    text = svg.getvalue()
    (folder / f"{drawing.name}.svg").write_text(text, encoding="utf-8")
    with (folder / f"{drawing.name}.csv").open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(drawing.header)
        writer.writerows([[_plain(cell) for cell in row] for row in drawing.rows])
    return inline_svg(text, drawing.name)


def inline_svg(text: str, name: str) -> str:
    """The ``<svg>`` element with ids of its own and colours that follow the page's theme."""
    body = text[text.index("<svg") :]
    body = re.sub(r"<!--.*?-->|<metadata>.*?</metadata>", "", body, flags=re.DOTALL)
    head, rest = body.split(">", 1)
    box = re.search(r'viewBox="[^"]+"', head)
    head = f'<svg {box.group(0) if box else ""} aria-hidden="true" focusable="false">'
    # Ids nothing refers to are dropped: matplotlib repeats those of equal images.
    used = set(re.findall(r'(?:url\(|href=")#([^)"]+)', rest))
    rest = re.sub(r' id="([^"]+)"', lambda m: f' id="{name}-{m[1]}"' if m[1] in used else "", rest)
    rest = rest.replace("url(#", f"url(#{name}-").replace('href="#', f'href="#{name}-')
    for colour, variable in THEMED.items():
        rest = rest.replace(f": {colour}", f": var({variable})")
    rest = re.sub(r"data:image/png;base64,([^\"]+)", _fewer_colours, rest)
    return head + re.sub(r"\n\s*", "\n", rest)


def _fewer_colours(match: re.Match[str]) -> str:
    """A palette image a quarter the size: the page must stay small enough to be mailed.

    The files in ``figures`` keep all colours.
    """
    image = Image.open(io.BytesIO(base64.b64decode(match.group(1)))).convert("RGB")
    buffer = io.BytesIO()
    image.quantize(PALETTE_SIZE, dither=Image.Dither.NONE).save(buffer, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def _plain(cell: Any) -> Any:
    """Six significant digits are more than any figure shows, and keep the files readable."""
    return f"{cell:.6g}" if isinstance(cell, float) else cell
