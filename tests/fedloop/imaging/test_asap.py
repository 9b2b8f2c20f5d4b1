from __future__ import annotations

import logging
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedloop.errors import DataError
from fedloop.imaging.asap import Group, parse_asap, read_asap
from fedloop.imaging.geometry import Box
from fedloop.imaging.rasterise import fill

WHERE = Path("slide.xml")
SQUARE = [(1.0, 1.0), (5.0, 1.0), (5.0, 4.0), (1.0, 4.0)]
WHOLE = (1.0, 1.0)


@pytest.mark.parametrize(
    ("written", "group"),
    [
        *((name, Group.LESION) for name in ("metastases", "Tumor", "_0", "_1")),
        *((name, Group.NORMAL) for name in ("normal", "Exclusion", "_2")),
        *((name, Group.UNKNOWN) for name in ("None", "none")),
    ],
)
def test_dialects(asap_bytes, written, group):
    (region,) = parse_asap(asap_bytes([(written, SQUARE)]), WHERE)
    assert region.group is group
    assert region.bounds == (1, 1, 5, 4)


def test_few_vertices_warn_and_go_on(asap_bytes, caplog):
    text = asap_bytes([("Tumor", SQUARE[:2]), ("Tumor", SQUARE), ("Tumor", [(0.0, 0.0)] * 4)])
    with caplog.at_level(logging.WARNING):
        regions = parse_asap(text, WHERE)
    assert len(regions) == 1
    assert "'A0' has 2 vertices" in caplog.text
    assert "'A2' encloses no area" in caplog.text


def test_figure_of_eight_keeps_both_lobes(asap_bytes):
    eight = [(0.0, 0.0), (10.0, 10.0), (10.0, 0.0), (0.0, 10.0)]
    (region,) = parse_asap(asap_bytes([("Tumor", eight)]), WHERE)
    filled = fill(region.rings, Box((0, 0), (10, 10)), WHOLE)
    assert filled[5, 0]
    assert filled[5, 9]
    assert filled.sum() == pytest.approx(50, abs=6)


def test_overshooting_pen_leaves_no_hole(asap_bytes):
    # The pen goes round the square and over its first part again.
    twice = [(0.0, 0.0), (10.0, 0.0), (10.0, 10.0), (0.0, 10.0), (0.0, 0.0), (6.0, 0.0)]
    twice += [(6.0, 5.0), (0.0, 5.0)]
    (region,) = parse_asap(asap_bytes([("Tumor", twice)]), WHERE)
    assert fill(region.rings, Box((0, 0), (10, 10)), WHOLE).all()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b"<ASAP_Annotations>", "no readable XML"),
        (b"\xff\xfe\x00", "no readable XML"),
        (b"<html/>", "root element <html>"),
        (b'<!DOCTYPE a [<!ENTITY b "c">]><ASAP_Annotations>&b;</ASAP_Annotations>', "no readable"),
        (
            b'<ASAP_Annotations><Annotation PartOfGroup="cat"/></ASAP_Annotations>',
            "group 'cat', known are",
        ),
        (
            b'<ASAP_Annotations><Annotation PartOfGroup="_0"><Coordinate X="1" Y="u"/>'
            b"</Annotation></ASAP_Annotations>",
            "no number",
        ),
        (
            b'<ASAP_Annotations><Annotation PartOfGroup="_0"><Coordinate X="nan" Y="1"/>'
            b"</Annotation></ASAP_Annotations>",
            "not finite",
        ),
    ],
)
def test_broken_annotations(text, said):
    with pytest.raises(DataError, match=rf"slide\.xml.*{said}") as caught:
        parse_asap(text, WHERE)
    assert "\n" not in str(caught.value)


def test_missing_file(tmp_path):
    with pytest.raises(DataError, match="missing"):
        read_asap(tmp_path / "no.xml")


def test_order_of_vertices_is_that_of_the_file(asap_bytes):
    text = asap_bytes([("Tumor", SQUARE)])
    lines = text.decode().split("\n")
    lines[3], lines[6] = lines[6], lines[3]
    (region,) = parse_asap("\n".join(lines).encode(), WHERE)
    assert fill(region.rings, Box((0, 0), (6, 6)), WHOLE).sum() == 12


_coordinate = st.floats(-50, 50, allow_nan=False).map(lambda v: round(v, 3))
_polygon = st.lists(st.tuples(_coordinate, _coordinate), min_size=0, max_size=12)


@given(st.lists(st.tuples(st.sampled_from(["Tumor", "_2", "None"]), _polygon), max_size=4))
def test_any_outline_is_taken_or_skipped(asap_bytes, outlines):
    regions = parse_asap(asap_bytes(outlines), WHERE)
    assert len(regions) <= len(outlines)
    for region in regions:
        x_min, y_min, x_max, y_max = region.bounds
        assert x_min <= x_max
        assert y_min <= y_max
        assert all(len(ring) >= 3 and np.isfinite(ring).all() for ring in region.rings)


@given(
    st.lists(st.tuples(_coordinate, _coordinate), min_size=3, max_size=10),
    st.tuples(st.integers(-40, 20), st.integers(-40, 20)),
    st.tuples(st.integers(1, 30), st.integers(1, 30)),
    st.sampled_from([(1.0, 1.0), (2.0, 2.0), (1.7, 0.9)]),
)
def test_fill_has_no_seams(vertices, start, size, downsample):
    ring = np.array(vertices)
    whole = Box((-64, -64), (128, 128))
    box = Box(start, size)
    cut = tuple(slice(a + 64, b + 64) for a, b in zip(box.start, box.stop, strict=True))
    np.testing.assert_array_equal(
        fill([ring], box, downsample), fill([ring], whole, downsample)[cut]
    )


@given(st.floats(3, 30), st.floats(1, 4))
def test_fill_has_the_area_of_a_circle(radius, downsample):
    angle = np.linspace(0, 2 * math.pi, 200, endpoint=False)
    ring = 60 + radius * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    filled = fill([ring], Box((0, 0), (128, 128)), (downsample, downsample))
    area = filled.sum() * downsample**2
    # The error of counting centres grows with the circumference.
    assert area == pytest.approx(math.pi * radius**2, abs=2 * math.pi * radius * downsample)


@pytest.mark.realdata
def test_real_annotation(real_data):
    regions = read_asap(real_data / "facts/patient_004_node_4.xml")
    assert regions
    assert {region.group for region in regions} == {Group.LESION}
    x_min, y_min, x_max, y_max = regions[0].bounds
    box = Box((int(y_min) // 8, int(x_min) // 8), (100, 100))
    filled = fill(regions[0].rings, box, (8.0, 8.0))
    assert 0.3 < filled.sum() * 64 / ((x_max - x_min) * (y_max - y_min)) < 1
