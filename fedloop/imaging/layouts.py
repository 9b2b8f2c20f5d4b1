"""Finds images and their labels in the folder layouts of public data sets."""

from __future__ import annotations

import functools
import logging
from dataclasses import dataclass
from pathlib import Path

from fedloop.errors import DataError
from fedloop.imaging.files import (
    IMAGE_SUFFIXES,
    LABEL_SUFFIXES,
    VOLUME_SUFFIXES,
    one_line,
    stem_of,
    suffix_of,
)

logger = logging.getLogger(__name__)

LABEL_FOLDERS = ("labels", "annotations", "masks")
MASK_ENDING = "_mask"
CHANNEL_ENDING = "_0000"


@dataclass(frozen=True)
class Found:
    """An image on disk with its label; ``folder`` is the center's folder, ``""`` in flat sets."""

    case_id: str
    image: Path
    label: Path | None
    folder: str = ""


@dataclass(frozen=True)
class Layout:
    """What lies under a root: the images and, where centers are folders, their names."""

    found: tuple[Found, ...]
    folders: tuple[str, ...] = ()


def find(root: Path) -> Layout:
    """List the images of a data set in one of the layouts that fedloop knows.

    ``ROOT/<center>/{images,labels}``, ``ROOT/{images,labels}``, ``ROOT/{imagesTr,labelsTr}``
    (Medical Segmentation Decathlon) or ``ROOT/{images,annotations}`` (Camelyon17).

    Raises:
        DataError: no images, a center's folder without any, a label without image, or a case id
            that occurs twice.
    """
    entries = _entries(root)
    if not entries:
        raise DataError(f"{root} is empty: put the images there or correct data.root")
    names = {path.name for path in entries if path.is_dir()}
    if "imagesTr" in names:
        layout = Layout(_pairs(root / "imagesTr", [root / "labelsTr"]))
    elif "images" in names:
        layout = Layout(_pairs(root / "images", [root / name for name in LABEL_FOLDERS]))
    else:
        layout = _centers(root, sorted(names))
    _require_unique(layout.found)
    return layout


def _centers(root: Path, names: list[str]) -> Layout:
    if not any((root / name / "images").is_dir() for name in names):
        raise DataError(
            f"{root}: no images found; expected images/, imagesTr/ or one folder per center with "
            f"images/ inside; found {', '.join(names[:5]) or 'files only'}"
        )
    found: list[Found] = []
    for name in names:
        images = root / name / "images"
        if not images.is_dir():
            raise DataError(
                f"center {name!r} has no images: {images} is missing; add it or remove the folder"
            )
        found += _pairs(images, [root / name / label for label in LABEL_FOLDERS], name)
    return Layout(tuple(found), tuple(names))


def _pairs(images: Path, label_folders: list[Path], folder: str = "") -> tuple[Found, ...]:
    files = [path for path in _entries(images) if _is_image(path)]
    if not files:
        whose = f"center {folder!r}: " if folder else ""
        raise DataError(
            f"{whose}no images found in {images}; known are {', '.join(IMAGE_SUFFIXES)}"
        )
    labels: dict[str, Path] = {}
    existing = next((path for path in label_folders if path.is_dir()), None)
    for path in _entries(existing) if existing is not None else ():
        if suffix_of(path.name, LABEL_SUFFIXES):
            case = _case_id(path).removesuffix(MASK_ENDING)
            if case in labels:
                raise DataError(f"case {case} has two labels, {labels[case]} and {path}: keep one")
            labels[case] = path
    found = tuple(Found(_case_id(p), p, labels.pop(_case_id(p), None), folder) for p in files)
    if labels:
        raise DataError(
            f"label {next(iter(labels.values()))} ({len(labels)} in all) has no image in {images}: "
            "add the image or remove the label"
        )
    return found


def _is_image(path: Path) -> bool:
    known = bool(suffix_of(path.name, IMAGE_SUFFIXES))
    if not known and path.is_file():
        _leave_out(path)
    return known


@functools.lru_cache(maxsize=1024)
def _leave_out(path: Path) -> None:
    """Told once per file and process: a data set is opened many times."""
    if path.name.lower() not in ("thumbs.db", "desktop.ini"):
        logger.warning("%s: not an image that fedloop reads, left out", path)


def _case_id(path: Path) -> str:
    """Name without suffix; nnU-Net's channel number is no part of the case."""
    stem = stem_of(path.name)
    volume = suffix_of(path.name, VOLUME_SUFFIXES)
    return stem.removesuffix(CHANNEL_ENDING) if volume else stem


def _entries(folder: Path) -> list[Path]:
    """Sorted content without hidden files (``._x`` are left behind by macOS archives)."""
    try:
        if not folder.is_dir():
            raise DataError(f"{folder} is no folder: correct data.root")
        entries = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    except OSError as error:
        raise DataError(f"{folder} cannot be read: {one_line(error)}") from error
    for path in entries:
        # Names become keys of settings and tables, which are UTF-8.
        if not _is_text(path.name):
            raise DataError(f"{folder}: the name {path.name!r} is not UTF-8: rename it")
    return entries


def _is_text(name: str) -> bool:
    try:
        name.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _require_unique(found: tuple[Found, ...]) -> None:
    seen: dict[str, Path] = {}
    for item in found:
        if item.case_id in seen:
            raise DataError(
                f"case id {item.case_id} is not unique: {seen[item.case_id]} and {item.image}: "
                "rename one"
            )
        seen[item.case_id] = item.image
