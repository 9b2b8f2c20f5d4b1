"""Lesion masks as ASAP polygons, the annotation format of Camelyon17.

Rings run along pixel edges, so rasterising them by pixel centres gives the mask back exactly. A
lesion is the group ``metastases`` minus the group ``normal``.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import binary_fill_holes, find_objects, label

from simulation.synthetic.textures import Mask

Ring = NDArray[np.int64]
"""Corners of a closed polygon, (N, 2) as x, y in pixels; pixel (0, 0) spans 0..1 on both axes."""

LESION_GROUP = "metastases"
HOLE_GROUP = "normal"
_COLORS = {LESION_GROUP: "#FF0000", HOLE_GROUP: "#00FF00"}


def outline(mask: Mask) -> dict[str, list[Ring]]:
    """Return the rings of a mask (H, W) by group: union of lesions minus union of holes."""
    filled = binary_fill_holes(mask)
    return {
        LESION_GROUP: list(_simple_rings(filled)),
        HOLE_GROUP: list(_simple_rings(filled & ~mask)),
    }


def asap_xml(groups: dict[str, list[Ring]]) -> str:
    """Return an ASAP annotation document of these rings, coordinates as they are (level 0)."""
    polygons = [(group, ring) for group, rings in groups.items() for ring in rings]
    lines = ['<?xml version="1.0"?>', "<ASAP_Annotations>", "\t<Annotations>"]
    for number, (group, ring) in enumerate(polygons):
        lines += _annotation(number, group, ring)
    lines += ["\t</Annotations>", "\t<AnnotationGroups>"]
    for group in groups:
        lines += [
            f'\t\t<Group Name="{group}" PartOfGroup="None" Color="{_COLORS[group]}">',
            "\t\t\t<Attributes />",
            "\t\t</Group>",
        ]
    return "\n".join([*lines, "\t</AnnotationGroups>", "</ASAP_Annotations>", ""])


def _annotation(number: int, group: str, ring: Ring) -> list[str]:
    return [
        f'\t\t<Annotation Name="Annotation {number}" Type="Polygon" PartOfGroup="{group}" '
        'Color="#F4FA58">',
        "\t\t\t<Coordinates>",
        *(
            f'\t\t\t\t<Coordinate Order="{order}" X="{x}" Y="{y}" />'
            for order, (x, y) in enumerate(ring.tolist())
        ),
        "\t\t\t</Coordinates>",
        "\t\t</Annotation>",
    ]


def _simple_rings(region: Mask) -> Iterator[Ring]:
    """Yield one ring per piece of a region; a piece with a hole is cut in two at the hole.

    A hole in a hole (tumour inside normal tissue inside tumour) cannot be written otherwise: the
    two groups know only one level of subtraction.
    """
    pieces, _ = label(region)
    for number, window in enumerate(find_objects(pieces), start=1):
        piece = pieces[window] == number
        top, left = window[0].start, window[1].start
        holes = np.flatnonzero((binary_fill_holes(piece) & ~piece).any(axis=0))
        if not holes.size:
            yield _trace(piece) + np.array([left, top])
            continue
        cut = int(holes[0])
        for start, half in ((0, piece[:, :cut]), (cut, piece[:, cut:])):
            for ring in _simple_rings(half):
                yield ring + np.array([left + start, top])


def _trace(piece: Mask) -> Ring:
    """Return the corners of a piece without holes, clockwise on screen.

    Pieces are connected by edges and hole-free, so each corner is passed once: two pixels that
    meet in a point only would enclose a hole, or belong to two pieces.
    """
    follows = _edges(piece)
    start = corner = min(follows)
    path = [start]
    while (corner := follows[corner]) != start:
        path.append(corner)
    ring = np.array(path)
    before, after = ring - np.roll(ring, 1, axis=0), np.roll(ring, -1, axis=0) - ring
    turns: Ring = ring[(before != after).any(axis=1)]
    return turns


def _edges(piece: Mask) -> dict[tuple[int, int], tuple[int, int]]:
    """Return start -> end (x, y) of each pixel edge on the rim, tissue on its right-hand side."""
    padded = np.pad(piece, 1)
    inside = padded[1:-1, 1:-1]
    follows: dict[tuple[int, int], tuple[int, int]] = {}
    for outside, (x0, y0), (x1, y1) in (
        (padded[:-2, 1:-1], (0, 0), (1, 0)),  # top, eastwards
        (padded[1:-1, 2:], (1, 0), (1, 1)),  # right, southwards
        (padded[2:, 1:-1], (1, 1), (0, 1)),  # bottom, westwards
        (padded[1:-1, :-2], (0, 1), (0, 0)),  # left, northwards
    ):
        rows, columns = (axis.tolist() for axis in np.nonzero(inside & ~outside))
        for row, column in zip(rows, columns, strict=True):
            follows[column + x0, row + y0] = (column + x1, row + y1)
    return follows
