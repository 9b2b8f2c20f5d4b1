"""Picture strips: image, reference, before, after, uncertainty, for cases picked by rule."""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

from fedloop.errors import RunFolderError
from simulation.report.figures import Drawing
from simulation.report.figures_data import Study
from simulation.report.figures_style import INK, WIDE, new_figure, shorten
from simulation.report.figures_uncertainty import RAMP
from simulation.report.runfolder import Picture

CLASS_COLOURS = ("#0072b2", "#e69f00", "#009e73", "#d55e00", "#cc79a7", "#56b4e9", "#f0e442")
"""Okabe-Ito; from the eighth class on they repeat, each with its name in the caption."""

PANELS = ("image", "reference", "before", "after", "uncertainty")
SIDE_PX = 280
"""Longest side of a panel in the page: the figure must stay small enough to be mailed."""

IGNORE = 255
RANKS = ("best", "median", "worst")


@dataclass(frozen=True)
class Loaded:
    """The arrays of one picture, thinned to ``SIDE_PX``."""

    image: NDArray[np.uint8]
    masks: dict[str, NDArray[np.uint8]]
    uncertainty: NDArray[np.float32]
    boxes: NDArray[np.float64]


def picture_strips(study: Study) -> list[Drawing]:
    """One figure per center for each arm with pictures; all but the first arm's are folded."""
    drawings: list[Drawing] = []
    arms = [arm for arm in study.arms if any(p.arm == arm for p in study.pictures)]
    # The arm that ends highest comes first: a rule, so that no one picks the showpiece.
    arms.sort(key=lambda arm: -_final(study, arm))
    for place, arm in enumerate(arms):
        for number, center in enumerate(study.centers):
            chosen = [p for p in study.pictures if p.arm == arm and p.center == center]
            if chosen:
                drawings.append(_strip(study, arm, number, _rows(chosen), folded=place > 0))
    return drawings


def _final(study: Study, arm: str) -> float:
    has = study.has("dice_global", arm, study.top)
    return study.estimate("dice_global", arm, study.top).mean if has else -1.0


def _rows(pictures: Sequence[Picture]) -> list[Picture]:
    """Best, median, worst of the first seed and largest budget there is."""
    seed, budget = min(p.seed for p in pictures), max(p.budget for p in pictures)
    same = [p for p in pictures if (p.seed, p.budget) == (seed, budget)]
    return sorted(same or list(pictures), key=lambda p: RANKS.index(p.rank))


def _strip(
    study: Study, arm: str, number: int, pictures: Sequence[Picture], *, folded: bool
) -> Drawing:
    loaded = [load_picture(picture) for picture in pictures]
    shape = loaded[0].image.shape
    height = 0.35 + len(pictures) * (WIDE / len(PANELS) * shape[0] / shape[1] + 0.02)
    figure = new_figure(WIDE, height)
    grid = figure.subplots(len(pictures), len(PANELS), squeeze=False)
    top = max(float(item.uncertainty.max()) for item in loaded) or 1.0
    for line, picture, item in zip(grid, pictures, loaded, strict=True):
        _draw(line, item, top)
        label = f"{picture.rank} · {shorten(picture.case, 22)}\n"
        label += f"Dice {picture.dice_before:.3f} → {picture.dice_after:.3f}"
        line[0].set_ylabel(label, color=INK, fontsize=8.5)
    for axes, title in zip(grid[0], PANELS, strict=True):
        axes.set_title(title)
    center, budget = pictures[0].center, pictures[0].budget
    changes = ", ".join(f"{p.rank} {p.dice_before:.2f} → {p.dice_after:.2f}" for p in pictures)
    colours = ", ".join(f"{name} {_colour_name(index)}" for index, name in enumerate(study.classes))
    caption = f"Seed {pictures[0].seed}, {budget} patches per site; cases picked by their Dice "
    caption += f"after correction. Classes: {colours}. Uncertainty: UGA, dark is doubtful."
    if any(len(item.boxes) for item in loaded):
        caption += " Boxes: patches chosen for correction."
    return Drawing(
        f"pictures_{arm}_{number}",
        f"{arm} at {center}",
        f"Test cases of {center} with {arm}, picked by rule: Dice {changes}.",
        caption,
        figure,
        ("rank", "seed", "arm", "budget", "center", "case", "dice_before", "dice_after"),
        [
            (p.rank, p.seed, p.arm, p.budget, p.center, p.case, p.dice_before, p.dice_after)
            for p in pictures
        ],
        wide=True,
        folded=folded,
    )


def _draw(line: Sequence[Axes], item: Loaded, top: float) -> None:
    line[0].imshow(item.image, interpolation="none")
    for axes, name in zip(line[1:4], PANELS[1:4], strict=True):
        axes.imshow(overlay(item.image, item.masks[name]), interpolation="none")
    line[4].imshow(item.uncertainty, cmap=RAMP, vmin=0, vmax=top, interpolation="none")
    for axes in line:
        axes.set_xticks([])
        axes.set_yticks([])
        axes.grid(visible=False)
        for spine in axes.spines.values():
            spine.set_visible(False)
    for y, x, height, width in item.boxes:
        for axes in (line[0], line[4]):
            for colour, thickness in (("#000000", 2.2), ("#f0e442", 1.1)):
                box = Rectangle((x, y), width, height, fill=False, ec=colour, lw=thickness)
                axes.add_patch(box)


def overlay(image: NDArray[np.uint8], mask: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The image with a light fill and a full outline per class; ignored pixels are hatched grey."""
    out = image.astype(np.float32)
    for label in np.unique(mask):
        inside = mask == label
        if label == 0:
            continue
        if label == IGNORE:
            rows, columns = np.nonzero(inside)
            striped = (rows + columns) % 6 < 2
            out[rows[striped], columns[striped]] = 128
            continue
        colour = np.array(to_rgb(CLASS_COLOURS[(int(label) - 1) % len(CLASS_COLOURS)])) * 255
        out[inside] = 0.68 * out[inside] + 0.32 * colour
        out[_edge(inside)] = colour
    return out.round().astype(np.uint8)


def _edge(inside: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Pixels of the mask with a neighbour (up to two away) outside it."""
    padded = np.pad(inside, 2, mode="edge")
    height, width = inside.shape
    kept = inside.copy()
    for dy, dx in ((0, 2), (4, 2), (2, 0), (2, 4)):
        kept &= padded[dy : dy + height, dx : dx + width]
    return inside & ~kept


def load_picture(picture: Picture) -> Loaded:
    """Read and check the arrays of a picture.

    Raises:
        RunFolderError: unreadable, an array lacks, or shapes differ.
    """
    path = picture.folder / picture.file
    try:
        with np.load(path, allow_pickle=False) as held:
            arrays: dict[str, NDArray[Any]] = {name: held[name] for name in held.files}
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise RunFolderError(f"{path}: cannot be read: {error}") from None
    if lacking := [name for name in PANELS if name not in arrays]:
        raise RunFolderError(f"{path}: no array {lacking[0]!r}")
    shape = arrays["image"].shape
    if len(shape) != 3 or shape[2] != 3 or arrays["image"].dtype != np.uint8:
        raise RunFolderError(f"{path}: array 'image' is not (H, W, 3) uint8 but {shape}")
    for name in PANELS[1:]:
        if arrays[name].shape != shape[:2]:
            raise RunFolderError(f"{path}: array {name!r} is {arrays[name].shape}, not {shape[:2]}")
    boxes = arrays.get("boxes", np.empty((0, 4)))
    if boxes.ndim != 2 or boxes.shape[1] != 4:
        raise RunFolderError(f"{path}: array 'boxes' is not (n, 4) but {boxes.shape}")
    step = max(1, -(-max(shape[:2]) // SIDE_PX))
    return Loaded(
        _thin(arrays["image"], step),
        {name: arrays[name][::step, ::step] for name in PANELS[1:4]},
        np.nan_to_num(arrays["uncertainty"][::step, ::step].astype(np.float32)),
        boxes.astype(np.float64) / step - 0.5 * np.array([1, 1, 0, 0]),
    )


def _thin(image: NDArray[np.uint8], step: int) -> NDArray[np.uint8]:
    """Average blocks of ``step`` x ``step`` pixels; the last ones repeat the border."""
    height, width = (-(-size // step) for size in image.shape[:2])
    padding = ((0, height * step - image.shape[0]), (0, width * step - image.shape[1]), (0, 0))
    whole = np.pad(image, padding, mode="edge").reshape(height, step, width, step, 3)
    thinned: NDArray[np.uint8] = whole.mean(axis=(1, 3)).round().astype(np.uint8)
    return thinned


def _colour_name(index: int) -> str:
    names = ("blue", "orange", "green", "vermilion", "purple", "sky blue", "yellow")
    return names[index % len(names)]
