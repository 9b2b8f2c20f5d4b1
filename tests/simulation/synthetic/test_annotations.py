"""Outlines and ASAP documents give the mask back, pixel for pixel."""

from __future__ import annotations

import numpy as np
import pytest
from defusedxml import ElementTree
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from simulation.synthetic.annotations import HOLE_GROUP, LESION_GROUP, asap_xml, outline
from simulation.synthetic.textures import irregular_disc, smooth_field

Mask = NDArray[np.bool_]
FINE = 4


def rasterise(document: str, shape: tuple[int, int]) -> Mask:
    """Read a document as an independent reader would, sampling polygons at pixel centres."""
    drawn = {LESION_GROUP: np.zeros(shape, bool), HOLE_GROUP: np.zeros(shape, bool)}
    for annotation in ElementTree.fromstring(document).iter("Annotation"):
        ring = [
            (float(c.get("X")) * FINE, float(c.get("Y")) * FINE)
            for c in annotation.iter("Coordinate")
        ]
        canvas = Image.new("1", (shape[1] * FINE, shape[0] * FINE))
        ImageDraw.Draw(canvas).polygon(ring, fill=1)
        centres = np.asarray(canvas)[FINE // 2 :: FINE, FINE // 2 :: FINE]
        drawn[annotation.get("PartOfGroup")] |= centres
    return drawn[LESION_GROUP] & ~drawn[HOLE_GROUP]


def mask_of(rows: str) -> Mask:
    return np.array([[mark == "#" for mark in row] for row in rows.split()])


@pytest.mark.parametrize(
    "rows",
    [
        "#",
        "##. .#. ..#",
        "#.# .#. #.#",
        "### #.# ###",
        "##### #...# #.#.# #...# #####",
        "####### #.....# #.###.# #.#.#.# #.###.# #.....# #######",
        "####. #.#.# ##### .#.## #####",
        "##..## #.##.# #.#..# ######",
        "... ... ...",
    ],
)
def test_small_shapes_return_exactly(rows: str) -> None:
    mask = mask_of(rows)
    np.testing.assert_array_equal(rasterise(asap_xml(outline(mask)), mask.shape), mask)


@pytest.mark.parametrize("seed", range(6))
def test_ragged_masks_return_exactly(seed: int) -> None:
    mask = smooth_field(np.random.default_rng(seed), 90, 1.0) > 0.2
    np.testing.assert_array_equal(rasterise(asap_xml(outline(mask)), (90, 90)), mask)


def test_a_plain_reader_agrees_with_large_and_small_lesions() -> None:
    """Drawing the rings without care for pixel centres still gives nearly the same mask."""
    for radius, least in ((150.0, 0.98), (30.0, 0.93)):
        blob = irregular_disc(np.random.default_rng(1), (0, 0), radius, 0.1)
        canvas = Image.new("1", blob.mask.shape[::-1])
        for ring in outline(blob.mask)[LESION_GROUP]:
            ImageDraw.Draw(canvas).polygon([tuple(p) for p in ring.tolist()], fill=1)
        drawn = np.asarray(canvas)
        assert (drawn & blob.mask).sum() / (drawn | blob.mask).sum() > least


def test_holes_form_their_own_group() -> None:
    groups = outline(mask_of("#### #..# ####"))
    assert [ring.tolist() for ring in groups[LESION_GROUP]] == [[[0, 0], [4, 0], [4, 3], [0, 3]]]
    assert [ring.tolist() for ring in groups[HOLE_GROUP]] == [[[1, 1], [3, 1], [3, 2], [1, 2]]]


def test_document_has_the_structure_of_asap() -> None:
    root = ElementTree.fromstring(asap_xml(outline(mask_of("### #.# ###"))))
    assert root.tag == "ASAP_Annotations"
    names = [a.get("Name") for a in root.findall("Annotations/Annotation")]
    assert names == ["Annotation 0", "Annotation 1"]
    assert {a.get("Type") for a in root.findall("Annotations/Annotation")} == {"Polygon"}
    groups = [group.get("Name") for group in root.findall("AnnotationGroups/Group")]
    assert groups == ["metastases", "normal"]
    orders = [c.get("Order") for c in root.find("Annotations/Annotation").iter("Coordinate")]
    assert orders == ["0", "1", "2", "3"]
