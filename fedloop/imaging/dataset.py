"""A data set opened by its settings: cases by center, split and the rule of its centers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from fedloop.errors import DataError
from fedloop.imaging import camelyon
from fedloop.imaging.case import Case
from fedloop.imaging.centers import assign
from fedloop.imaging.geometry import Box
from fedloop.imaging.layouts import Layout, find
from fedloop.imaging.pyramid import slide_mpp
from fedloop.imaging.readers import open_case
from fedloop.imaging.slides import SlideCase
from fedloop.imaging.tables import CenterRow, read_centers, read_stages
from fedloop.settings import DataSettings, ImagingSettings

REGION_PX = 512


@dataclass(frozen=True)
class Dataset:
    """All cases under ``root``.

    ``centers`` and their cases are sorted by name. ``split`` holds ``train``, ``val`` or ``test``
    of the cases for which centers.csv gives one. ``rule`` says in plain words how the centers came
    about, for the report.
    """

    root: Path
    centers: dict[str, tuple[Case, ...]]
    split: Mapping[str, str] = field(default_factory=dict)
    rule: str = ""

    @property
    def cases(self) -> tuple[Case, ...]:
        return tuple(case for cases in self.centers.values() for case in cases)


def open_dataset(
    data: DataSettings, imaging: ImagingSettings, *, require_labels: bool = True
) -> Dataset:
    """Find the images under ``data.root`` and assign them to centers; pixels are read later.

    Args:
        data: root folder and how cases are dealt to centers.
        imaging: working resolution and tissue of the readers.
        require_labels: refuse cases without a label (a site's pool in the field may have some).

    Raises:
        DataError: the folder or its tables are wrong; the message names the culprit and a remedy.
    """
    if data.root is None:
        raise DataError("data.root is not set: name the folder of the data set")
    root = data.root
    layout = find(root)
    table = root / "centers.csv"
    rows = read_centers(table) if _listed(table) else None
    assignment = assign(layout, rows, root, data)
    categories = _categories(layout, rows, root)
    found = {item.case_id: item for item in layout.found}
    for name in (*assignment.centers, *found):
        if not name.isprintable():
            raise DataError(f"{root}: the name {name!r} holds control characters: rename it")
    centers = {
        center: tuple(open_case(found[c], center, categories[c], data, imaging) for c in cases)
        for center, cases in assignment.centers.items()
    }
    kept = [case for cases in centers.values() for case in cases]
    if require_labels:
        _require_labels(kept, root)
    ids = {case.case_id for case in kept}
    split = {c: row.split for c, row in (rows or {}).items() if row.split and c in ids}
    return Dataset(root, centers, split, assignment.rule)


def check(dataset: Dataset, *, progress: Callable[[int, int], None] | None = None) -> None:
    """Open every case and read it: tiles and volumes in full, of slides the thumbnail, the label
    and one region in the middle.

    Args:
        dataset: what to check.
        progress: called with the number of cases done and in all.

    Raises:
        DataError: the first case that cannot be used.
    """
    cases = dataset.cases
    for done, case in enumerate(cases, start=1):
        box = Box((0,) * len(case.shape), case.shape)
        if isinstance(case, SlideCase):
            box = _middle(case.shape)
            _check_scale(case)
        case.read_tissue(box)
        case.read(box)
        if case.has_label:
            case.read_label(box)
        if progress is not None:
            progress(done, len(cases))


def _listed(path: Path) -> bool:
    """Whether a table is there; a broken link to one must be told, not passed over."""
    return path.is_symlink() or path.exists()


def _middle(shape: tuple[int, ...]) -> Box:
    size = tuple(min(n, REGION_PX) for n in shape)
    return Box(tuple((n - s) // 2 for n, s in zip(shape, size, strict=True)), size)


def _check_scale(case: SlideCase) -> None:
    case.statistics()  # reads the whole thumbnail, also where all counts as tissue
    mpp = slide_mpp(case.image_path)
    if mpp is not None:
        camelyon.warn_of_spacing(case.case_id, case.center, sum(mpp) / 2)


def _categories(layout: Layout, rows: Mapping[str, CenterRow] | None, root: Path) -> dict[str, str]:
    """Lesion category of every case, ``""`` where neither table has one."""
    path = root / "stage_labels.csv"
    stages = read_stages(path) if _listed(path) else {}
    categories = {}
    for item in layout.found:
        listed = rows[item.case_id].category if rows is not None else ""
        staged = stages.get(item.case_id, "")
        if listed and staged and listed != staged:
            raise DataError(
                f"case {item.case_id} is {listed!r} in centers.csv and {staged!r} in {path}: "
                "correct one of them"
            )
        categories[item.case_id] = listed or staged
    return categories


def _require_labels(cases: list[Case], root: Path) -> None:
    missing = [case.case_id for case in cases if not case.has_label]
    if missing:
        slides = any(isinstance(case, SlideCase) for case in cases if case.case_id in missing)
        remedy = " or list the slide as `negative`" if slides else ""
        raise DataError(
            f"missing label: case {missing[0]} ({len(missing)} of {len(cases)} under {root}) has "
            f"none: add it beside the others{remedy}, or remove the image"
        )
