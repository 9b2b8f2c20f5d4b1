from __future__ import annotations

import io
import pickle
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from fedloop.errors import DataError
from fedloop.imaging.boxes import read_edge, read_filled
from fedloop.imaging.case import IGNORE, Case
from fedloop.imaging.geometry import Box
from fedloop.imaging.tiles import TileCase


@pytest.fixture
def tile(tmp_path, write_picture, rng):
    pixels = rng.integers(0, 256, (30, 40, 3), dtype=np.uint8)
    mask = rng.integers(0, 2, (30, 40), dtype=np.uint8) * 255
    image = write_picture(tmp_path / "a.png", pixels)
    label = write_picture(tmp_path / "a_mask.png", mask)
    return TileCase("a", "x", image, label), pixels, mask


def test_is_a_case_and_reads_like_its_arrays(tile):
    case, pixels, mask = tile
    assert isinstance(case, Case)
    assert case.shape == (30, 40)
    box = Box((3, 5), (10, 12))
    np.testing.assert_array_equal(case.read(box), np.moveaxis(pixels, -1, 0)[:, 3:13, 5:17])
    np.testing.assert_array_equal(case.read_label(box), mask[3:13, 5:17] // 255)
    assert case.read_tissue(box).all()


def test_reads_are_the_callers_own(tile):
    case, _, _ = tile
    box = Box((0, 0), (4, 4))
    case.read(box)[:] = 0
    case.read_label(box)[:] = 7
    assert case.read(box).any()
    assert case.read_label(box).max() <= 1


def test_survives_pickling(tile):
    case, pixels, _ = tile
    case.statistics()
    again = pickle.loads(pickle.dumps(case))  # noqa: S301
    assert again == case
    assert again.read(Box((0, 0), (2, 2))).tolist() == case.read(Box((0, 0), (2, 2))).tolist()
    assert again.statistics() == (pytest.approx(pixels.mean()), pytest.approx(pixels.std()))


_boxes = st.tuples(
    st.tuples(st.integers(-20, 25), st.integers(-20, 25)),
    st.tuples(st.integers(1, 30), st.integers(1, 30)),
)


@given(_boxes, st.tuples(st.integers(1, 9), st.integers(1, 9)))
def test_boxes_equal_the_padded_array(box, shape):
    array = np.arange(2 * shape[0] * shape[1], dtype=np.int64).reshape(2, *shape)
    box = Box(*box)
    pad = 64
    around = ((0, 0), (pad, pad), (pad, pad))
    inside = tuple(slice(a + pad, b + pad) for a, b in zip(box.start, box.stop, strict=True))
    read = read_edge(box, shape, lambda inner: array[(slice(None), *inner.slices)])
    np.testing.assert_array_equal(read, np.pad(array, around, mode="edge")[(slice(None), *inside)])
    label = (array[0] % 3).astype(np.uint8)
    filled = read_filled(box, shape, lambda inner: label[inner.slices], IGNORE)
    padded = np.pad(label, around[1:], constant_values=IGNORE)
    np.testing.assert_array_equal(filled, padded[inside])


def test_a_box_of_other_axes_is_refused(tile):
    with pytest.raises(DataError, match="3 axes"):
        tile[0].read(Box((0, 0, 0), (1, 1, 1)))


def _modes() -> dict[str, Image.Image]:
    grey = Image.fromarray(np.full((4, 4), 100, np.uint8))
    clear = Image.new("RGBA", (4, 4), (10, 20, 30, 0))
    palette = Image.new("P", (4, 4), 1)
    palette.putpalette([0, 0, 0, 9, 8, 7])
    return {
        "L": grey,
        "1": grey.point(lambda v: 255 * (v > 50), mode="1"),
        "P": palette,
        "RGBA": clear,
        "I;16": Image.fromarray(np.full((4, 4), 100 * 256 + 3, np.uint16)),
    }


@pytest.mark.parametrize(
    ("mode", "colour"),
    [
        ("L", (100,) * 3),
        ("1", (255,) * 3),
        ("P", (9, 8, 7)),
        ("RGBA", (255,) * 3),
        ("I;16", (100,) * 3),
    ],
)
def test_modes_become_rgb(tmp_path, mode, colour):
    path = tmp_path / "tile.png"
    _modes()[mode].save(path)
    read = TileCase("a", "x", path).read(Box((0, 0), (1, 1)))
    assert read.dtype == np.uint8
    assert tuple(read[:, 0, 0]) == colour


@pytest.mark.parametrize("suffix", [".jpg", ".tif"])
def test_other_formats(tmp_path, write_picture, suffix):
    path = write_picture(tmp_path / f"a{suffix}", np.full((8, 8, 3), 200, np.uint8))
    assert TileCase("a", "x", path).read(Box((0, 0), (8, 8))).mean() == pytest.approx(200, abs=2)


@pytest.mark.parametrize(
    ("values", "classes", "expected"),
    [
        ([0, 255], 2, [0, 1]),
        ([0, 1], 2, [0, 1]),
        ([0, 38], 2, [0, 1]),
        ([0, 0], 2, [0, 0]),
        ([1, 255], 2, [1, IGNORE]),
        ([0, 2], 3, [0, 2]),
        ([2, 255], 3, [2, IGNORE]),
    ],
)
def test_mask_values(tmp_path, write_picture, values, classes, expected):
    image = write_picture(tmp_path / "a.png", np.zeros((1, 2, 3), np.uint8))
    label = write_picture(tmp_path / "m.png", np.array([values], np.uint8))
    case = TileCase("a", "x", image, label, classes=classes)
    assert case.read_label(Box((0, 0), (1, 2))).tolist() == [expected]


@pytest.mark.parametrize(("values", "classes"), [([1, 2], 2), ([38, 255], 2), ([0, 3], 3)])
def test_unknown_mask_values_are_named(tmp_path, write_picture, values, classes):
    image = write_picture(tmp_path / "a.png", np.zeros((1, 2, 3), np.uint8))
    label = write_picture(tmp_path / "m.png", np.array([values], np.uint8))
    with pytest.raises(DataError, match=rf"m\.png: mask values {values[0]}, {values[1]} found, "):
        TileCase("a", "x", image, label, classes=classes).read_label(Box((0, 0), (1, 2)))


def test_palette_and_bilevel_masks(tmp_path, write_picture):
    image = write_picture(tmp_path / "a.png", np.zeros((2, 2, 3), np.uint8))
    palette = Image.fromarray(np.array([[0, 1], [2, 0]], np.uint8), mode=None).convert("P")
    palette.putpalette([9, 9, 9, 50, 0, 0, 0, 60, 0])
    palette.save(tmp_path / "p.png")
    box = Box((0, 0), (2, 2))
    case = TileCase("a", "x", image, tmp_path / "p.png", classes=3)
    assert case.read_label(box).tolist() == [[0, 1], [2, 0]]
    Image.fromarray(np.array([[True, False], [False, True]])).save(tmp_path / "b.png")
    case = TileCase("a", "x", image, tmp_path / "b.png")
    assert case.read_label(box).tolist() == [[1, 0], [0, 1]]


def test_coloured_masks_are_refused(tmp_path, write_picture):
    image = write_picture(tmp_path / "a.png", np.zeros((2, 2, 3), np.uint8))
    label = write_picture(tmp_path / "m.png", np.eye(3, dtype=np.uint8)[[[0, 1], [2, 0]]])
    with pytest.raises(DataError, match="mode RGB"):
        TileCase("a", "x", image, label).read_label(Box((0, 0), (2, 2)))


def test_mask_of_another_size_names_both(tmp_path, write_picture):
    image = write_picture(tmp_path / "a.png", np.zeros((4, 5, 3), np.uint8))
    label = write_picture(tmp_path / "m.png", np.zeros((5, 4), np.uint8))
    with pytest.raises(DataError, match=r"m\.png has 5 x 4 .*a\.png has 4 x 5"):
        TileCase("a", "x", image, label).read_label(Box((0, 0), (2, 2)))


def test_no_label(tile):
    case = TileCase("a", "x", tile[0].image_path)
    assert not case.has_label
    with pytest.raises(DataError, match="no label"):
        case.read_label(Box((0, 0), (2, 2)))


def _broken(kind: str) -> bytes:
    stream = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    image_format = {"jpg": "JPEG", "tif": "TIFF"}.get(kind, "PNG")
    Image.fromarray(noise).save(stream, image_format)
    raw = stream.getvalue()
    return {"empty": b"", "text": b"not an image"}.get(kind, raw[: len(raw) // 2])


@pytest.mark.parametrize("kind", ["empty", "text", "png", "jpg", "tif"])
def test_broken_files_give_one_line(tmp_path, kind):
    path = tmp_path / f"t.{kind if kind in ('jpg', 'tif') else 'png'}"
    path.write_bytes(_broken(kind))
    with pytest.raises(DataError, match=path.name) as caught:
        TileCase("a", "x", path).read(Box((0, 0), (2, 2)))
    assert "\n" not in str(caught.value)


def test_links_and_folders_instead_of_images(tmp_path):
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "loop.png").symlink_to(tmp_path / "loop.png")
    for name, said in (("folder.png", "is a folder"), ("loop.png", "link"), ("no.png", "missing")):
        with pytest.raises(DataError, match=said):
            _ = TileCase("a", "x", tmp_path / name).shape


def test_float_and_many_paged_tiffs_are_refused(tmp_path):
    float_tile: Path = tmp_path / "f.tif"
    Image.fromarray(np.zeros((4, 4), np.float32)).save(float_tile)
    with pytest.raises(DataError, match="float"):
        TileCase("a", "x", float_tile).read(Box((0, 0), (2, 2)))
    pages = [Image.fromarray(np.zeros((4, 4), np.uint8)) for _ in range(2)]
    pages[0].save(tmp_path / "p.tif", save_all=True, append_images=pages[1:])
    with pytest.raises(DataError, match="2 pages"):
        TileCase("a", "x", tmp_path / "p.tif").read(Box((0, 0), (2, 2)))


@pytest.mark.realdata
def test_real_fundus_and_nuclei(real_data):
    image = next(iter(sorted((real_data / "fundus/drive/images").iterdir())))
    label = real_data / "fundus/drive/labels" / f"{image.stem}.png"
    case = TileCase(image.stem, "drive", image, label, tissue="bright")
    box = Box((0, 0), (512, 512))
    assert case.shape == (512, 512)
    assert 0.05 < case.read_label(box).mean() < 0.25
    assert case.read_tissue(box).mean() > 0.6
    tiles = sorted((real_data / "monuseg/images").iterdir())[:6]
    for path in tiles:
        case = TileCase(path.stem, "x", path, tissue="saturation")
        assert case.read_tissue(Box((0, 0), case.shape)).mean() > 0.6
