"""A synthetic data set on disk, in the layout of Camelyon17.

Slides are written one by one, each under a temporary name first, so a run that stopped goes on
where it was, and several processes may share the work: :func:`slide_plan`, then
:func:`write_slide` for each plan in any order, then :func:`finish` once.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable
from dataclasses import asdict
from pathlib import Path

from fedloop.errors import DataError
from fedloop.settings import SyntheticCamelyonSettings
from simulation.synthetic.annotations import asap_xml, outline
from simulation.synthetic.lymph_node import draw_slide
from simulation.synthetic.marker import (
    GENERATOR_VERSION,
    MARKER,
    identity,
    read_marker,
    refuse_others,
)
from simulation.synthetic.plan import SlidePlan, slide_plan
from simulation.synthetic.pyramid import read_description, write_pyramid
from simulation.synthetic.tables import centers_table, readme, stage_labels

_TABLES = ("stage_labels.csv", "centers.csv", "README.md")
_PARTIAL = ".part"


def write_camelyon(
    folder: Path,
    settings: SyntheticCamelyonSettings,
    *,
    seed: int,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Write the whole data set to ``folder``, or only what is missing of it.

    ``progress`` is called with (slides done, slides in all). A finished folder of the same
    settings and seed is left as it is.

    Raises:
        DataError: the folder holds a data set of other settings or seed, or foreign slides.
        SettingsError: the settings ask for a data set that cannot be drawn.
    """
    plans = slide_plan(settings, seed)
    if is_finished(folder, settings, seed):
        return
    for done, plan in enumerate(plans, start=1):
        write_slide(folder, plan, settings)
        if progress is not None:
            progress(done, len(plans))
    finish(folder, settings, seed)


def is_finished(folder: Path, settings: SyntheticCamelyonSettings, seed: int) -> bool:
    """Tell whether ``folder`` holds this data set with every file at its full size.

    A file of another size than the marker says is removed, so that it is written again.

    Raises:
        DataError: the folder's marker is of other settings or another seed, or unreadable.
    """
    if not (folder / MARKER).exists():
        return False
    marker = read_marker(folder)
    refuse_others(folder, marker, identity(settings, seed))
    whole = True
    for path in _expected(folder, slide_plan(settings, seed)):
        size = marker["files"].get(path.relative_to(folder).as_posix())
        if not path.exists():
            whole = False
        elif path.stat().st_size != size:
            path.unlink()
            whole = False
    return whole


def write_slide(folder: Path, plan: SlidePlan, settings: SyntheticCamelyonSettings) -> None:
    """Write one slide and its annotation, unless both are there already.

    Raises:
        DataError: the tissue has no room for a lesion.
    """
    image, annotation = _paths(folder, plan)
    description = _description(plan, settings)
    lesion = plan.category != "negative"
    if read_description(image) == description and annotation.exists() == lesion:
        return
    node = draw_slide(plan, settings)
    if lesion:
        _replace_text(annotation, asap_xml(outline(node.anatomy.tumor)))
    else:
        annotation.unlink(missing_ok=True)
    partial = _partial(image)
    write_pyramid(partial, node.image, mpp=settings.mpp, description=description)
    os.replace(partial, image)


def finish(folder: Path, settings: SyntheticCamelyonSettings, seed: int) -> None:
    """Write the tables, then the marker that says the data set is complete.

    Raises:
        DataError: a slide is missing, or the folder holds slides of another data set.
    """
    plans = slide_plan(settings, seed)
    _check_slides(folder, plans)
    texts = (stage_labels(plans), centers_table(plans), readme(settings, seed))
    for name, text in zip(_TABLES, texts, strict=True):
        _replace_text(folder / name, text)
    sizes = {
        path.relative_to(folder).as_posix(): path.stat().st_size
        for path in sorted(_expected(folder, plans))
    }
    marker = {**identity(settings, seed), "files": sizes}
    _replace_text(folder / MARKER, json.dumps(marker, indent=1) + "\n")


def _expected(folder: Path, plans: Iterable[SlidePlan]) -> list[Path]:
    """Return every file of the data set but the marker."""
    slides = [
        path
        for plan in plans
        for path in _paths(folder, plan)
        if path.suffix == ".tif" or plan.category != "negative"
    ]
    return [*slides, *(folder / name for name in _TABLES)]


def _check_slides(folder: Path, plans: Iterable[SlidePlan]) -> None:
    """Raise DataError unless all planned slides are there, and no others."""
    expected = [path for path in _expected(folder, plans) if path.parent != folder]
    if missing := [path for path in expected if not path.exists()]:
        raise DataError(f"{folder} is unfinished: {missing[0].name} is missing; write it first")
    for kind in ("images", "annotations"):
        for path in sorted((folder / kind).glob("*")):
            if path.name.endswith(_PARTIAL):
                path.unlink(missing_ok=True)  # left by a process that was stopped
            elif path not in expected:
                raise DataError(f"{path} is not of this data set; use an empty folder")


def _paths(folder: Path, plan: SlidePlan) -> tuple[Path, Path]:
    return (
        folder / "images" / f"{plan.case_id}.tif",
        folder / "annotations" / f"{plan.case_id}.xml",
    )


def _description(plan: SlidePlan, settings: SyntheticCamelyonSettings) -> str:
    """Say in the slide itself that it is synthetic, and what it was drawn from.

    The digest covers the plan and the dials but not the lists of slides, which change only how
    many slides there are.
    """
    dials = settings.model_dump(
        mode="json", exclude={"igniter_slides", "pool_slides", "test_slides"}
    )
    drawn_from = json.dumps([GENERATOR_VERSION, asdict(plan), dials], sort_keys=True)
    digest = hashlib.sha256(drawn_from.encode()).hexdigest()[:16]
    return f"Synthetic lymph node, no real tissue; fedloop generator {GENERATOR_VERSION}, {digest}"


def _replace_text(path: Path, text: str) -> None:
    partial = _partial(path)
    partial.write_text(text, encoding="utf-8", newline="\n")
    os.replace(partial, path)


def _partial(path: Path) -> Path:
    """Return a temporary name beside ``path`` that no other process uses; make its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    return path.with_name(f".{path.name}.{os.getpid()}{_PARTIAL}")
