"""Lesion outlines drawn in ASAP, the annotation program of the Camelyon challenges."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from xml.etree.ElementTree import Element, ParseError

import numpy as np
import shapely
from defusedxml import DefusedXmlException, ElementTree
from numpy.typing import NDArray

from fedloop.errors import DataError
from fedloop.imaging.files import one_line, require_file

logger = logging.getLogger(__name__)


class Group(Enum):
    """What an outline says about the tissue inside."""

    LESION = "lesion"
    NORMAL = "normal"
    UNKNOWN = "unknown"


GROUPS = {
    "metastases": Group.LESION,
    "tumor": Group.LESION,
    "_0": Group.LESION,
    "_1": Group.LESION,
    "normal": Group.NORMAL,
    "exclusion": Group.NORMAL,
    "_2": Group.NORMAL,
    "none": Group.UNKNOWN,
}
"""The dialects of Camelyon16, Camelyon17 and their republished copies, in lower case."""


@dataclass(frozen=True, eq=False)
class Region:
    """One valid outline with its holes.

    ``rings`` are ``(n, 2)`` arrays of level-0 ``(x, y)``, to be filled by the even-odd rule;
    ``bounds`` is ``(x_min, y_min, x_max, y_max)``.
    """

    group: Group
    rings: tuple[NDArray[np.float64], ...]
    bounds: tuple[float, float, float, float]


def read_asap(path: Path) -> tuple[Region, ...]:
    """Read an annotation file; outlines that enclose nothing are skipped with a warning.

    Raises:
        DataError: the file is missing, no ASAP XML, or has a group or coordinate nobody knows.
    """
    require_file(path)
    try:
        text = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path} cannot be read: {one_line(error)}") from error
    return parse_asap(text, path)


def parse_asap(text: bytes, path: Path) -> tuple[Region, ...]:
    """Parse the bytes of an ASAP file; ``path`` is for messages only.

    Raises:
        DataError: see :func:`read_asap`.
    """
    try:
        root: Element = ElementTree.fromstring(text)
    except (ParseError, DefusedXmlException, ValueError, LookupError) as error:
        raise DataError(
            f"{path} is no readable XML ({one_line(error)}): export the annotation again"
        ) from error
    if root.tag != "ASAP_Annotations":
        raise DataError(f"{path}: root element <{root.tag}> found, ASAP writes <ASAP_Annotations>")
    regions = (_region(annotation, path) for annotation in root.iter("Annotation"))
    return tuple(region for region in regions if region is not None)


def _region(annotation: Element, path: Path) -> Region | None:
    name = annotation.get("Name", "without name")
    written = annotation.get("PartOfGroup", "None")
    group = GROUPS.get(written.strip().lower())
    if group is None:
        raise DataError(
            f"{path}: annotation {name!r} is in group {written!r}, known are "
            f"{', '.join(sorted(GROUPS))}: rename the group in ASAP"
        )
    vertices = _vertices(annotation, name, path)
    if len(vertices) < 3:
        logger.warning("%s: annotation %r has %d vertices: skipped", path, name, len(vertices))
        return None
    rings = _valid_rings(vertices)
    if not rings:
        logger.warning("%s: annotation %r encloses no area: skipped", path, name)
        return None
    corners = np.concatenate(rings)
    (x_min, y_min), (x_max, y_max) = corners.min(axis=0), corners.max(axis=0)
    return Region(group, rings, (float(x_min), float(y_min), float(x_max), float(y_max)))


def _vertices(annotation: Element, name: str, path: Path) -> list[tuple[float, float]]:
    """Level-0 ``(x, y)`` in the order the file states, which need not be that of its lines."""
    found: list[tuple[float, float, float]] = []
    for position, point in enumerate(annotation.iter("Coordinate")):
        try:
            order = float(point.get("Order", str(position)))
            x, y = (float(point.attrib[axis]) for axis in ("X", "Y"))
        except (KeyError, ValueError) as error:
            raise DataError(
                f"{path}: annotation {name!r} has a coordinate that is no number: {point.attrib}"
            ) from error
        if not all(map(math.isfinite, (order, x, y))):
            raise DataError(f"{path}: annotation {name!r} has a coordinate that is not finite")
        found.append((order, x, y))
    return [(x, y) for _, x, y in sorted(found, key=lambda vertex: vertex[0])]


def _valid_rings(vertices: list[tuple[float, float]]) -> tuple[NDArray[np.float64], ...]:
    polygon = shapely.Polygon(vertices)
    if not polygon.is_valid:
        # `structure` keeps both lobes of a figure of eight, and the overlap where a pen ended
        # beyond its start; the default would turn that overlap into a hole.
        polygon = shapely.make_valid(polygon, method="structure", keep_collapsed=False)
    parts = [
        part for part in shapely.get_parts(polygon) if part.geom_type == "Polygon" and part.area > 0
    ]
    return tuple(
        np.asarray(ring.coords, dtype=np.float64)[:-1, :2]
        for part in parts
        for ring in (part.exterior, *part.interiors)
    )
