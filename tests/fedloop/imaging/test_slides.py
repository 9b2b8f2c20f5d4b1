from __future__ import annotations

import pickle
from dataclasses import replace

import numpy as np
import openslide
import pytest
import tifffile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fedloop.errors import DataError
from fedloop.imaging import pyramid
from fedloop.imaging.cache import ARRAYS
from fedloop.imaging.case import IGNORE, Case
from fedloop.imaging.geometry import Box
from fedloop.imaging.slides import SlideCase

GLASS, TISSUE = (242, 240, 243), (200, 120, 170)
LESION = [(100.0, 200.0), (300.0, 200.0), (300.0, 400.0), (100.0, 400.0)]
CUT = [(200.0, 300.0), (300.0, 300.0), (300.0, 400.0), (200.0, 400.0)]
UNSURE = [(50.0, 150.0), (150.0, 150.0), (150.0, 250.0), (50.0, 250.0)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("slides")


@pytest.fixture(scope="module")
def pixels(rng):
    """600 x 500 with tissue in rows 100..500 and columns 50..400."""
    image = np.empty((600, 500, 3), np.uint8)
    image[:] = GLASS
    image[100:500, 50:400] = TISSUE
    noise = rng.integers(-8, 9, image.shape)
    return np.clip(image.astype(int) + noise, 0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def slide(folder, pixels, write_slide, write_asap):
    image = write_slide(folder / "s.tif", pixels)
    label = write_asap(
        folder / "s.xml", [("metastases", LESION), ("normal", CUT), ("None", UNSURE)]
    )
    return SlideCase("s", "CWZ", image, label, "macro", mpp=1.0)


def whole(case: Case) -> Box:
    return Box((0,) * len(case.shape), case.shape)


def test_openslide_reads_the_scale_of_generic_tiff(slide):
    with openslide.OpenSlide(slide.image_path) as handle:
        assert handle.level_count == 3
        assert float(handle.properties["openslide.mpp-x"]) == pytest.approx(0.5, rel=1e-3)
    assert slide.resolution.mpp == pytest.approx((1.0, 1.0), rel=1e-3)
    assert pyramid._tiff_mpp(
        {
            "tiff.ResolutionUnit": "inch",
            "tiff.XResolution": "25400",
            "tiff.YResolution": "50800",
        }
    ) == (0.5, 1.0)


def test_is_a_case_at_the_working_resolution(slide, pixels):
    assert isinstance(slide, Case)
    assert slide.shape == (300, 250)
    means = pixels.reshape(300, 2, 250, 2, 3).mean(axis=(1, 3))
    read = np.moveaxis(slide.read(whole(slide)), 0, -1)
    assert np.abs(read - means).max() <= 1


@pytest.mark.parametrize("mpp", [None, 0.5, 0.75, 1.3, 3.0])
def test_any_resolution_is_the_area_mean(slide, pixels, mpp):
    case = replace(slide, mpp=mpp)
    down = 1.0 if mpp is None else mpp / 0.5
    assert case.shape == tuple(int(n / down + 1e-6) for n in (600, 500))
    box = Box((case.shape[0] // 2, case.shape[1] // 2), (5, 5))
    start = [round(a * down) for a in box.start]
    stop = [round(b * down) for b in box.stop]
    expected = pixels[start[0] : stop[0], start[1] : stop[1]].mean(axis=(0, 1))
    np.testing.assert_allclose(case.read(box).mean(axis=(1, 2)), expected, atol=4)
    assert case.resolution.mpp == pytest.approx((mpp or 0.5,) * 2, rel=2e-3)


_starts = st.tuples(st.integers(-40, 310), st.integers(-40, 260))
_sizes = st.tuples(st.integers(1, 90), st.integers(1, 90))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(_starts, _sizes)
def test_boxes_equal_the_padded_slide(slide, start, size):
    full, label = slide.read(whole(slide)), slide.read_label(whole(slide))
    tissue = slide.read_tissue(whole(slide))
    pad, box = 150, Box(start, size)
    around = ((pad, pad), (pad, pad))
    cut = tuple(slice(a + pad, b + pad) for a, b in zip(box.start, box.stop, strict=True))
    padded = np.pad(full, ((0, 0), *around), mode="edge")
    np.testing.assert_array_equal(slide.read(box), padded[(slice(None), *cut)])
    np.testing.assert_array_equal(
        slide.read_label(box), np.pad(label, around, constant_values=IGNORE)[cut]
    )
    np.testing.assert_array_equal(slide.read_tissue(box), np.pad(tissue, around)[cut])


def test_blocks_of_other_sizes_give_the_same_pixels(slide, monkeypatch):
    case = replace(slide, mpp=0.77)
    expected = case.read_label(whole(case))
    monkeypatch.setattr(pyramid, "BLOCK_PX", 64)
    ARRAYS.clear()
    other = replace(slide, mpp=0.77)
    assert other._view.side == 64
    np.testing.assert_array_equal(other.read_label(whole(other)), expected)
    ARRAYS.clear()


def test_outlines_become_labels(slide):
    label = slide.read_label(whole(slide))
    assert label[110, 60] == 1
    assert label[180, 130] == 0
    assert label[80, 30] == IGNORE
    assert label[110, 70] == 1, "an outline without group says nothing inside a lesion"
    assert label[10, 10] == 0
    assert (label == 1).sum() == 100 * 100 - 50 * 50


def test_tissue_is_neither_glass_nor_everything(slide):
    tissue = slide.read_tissue(whole(slide))
    assert tissue[60:240, 30:190].mean() > 0.99
    assert tissue[:40].mean() < 0.01
    assert replace(slide, tissue="all").read_tissue(whole(slide)).all()


def test_itc_slides_without_exhaustive_outlines(slide):
    label = replace(slide, category="itc", itc_exhaustive=False).read_label(whole(slide))
    assert label[110, 60] == 1
    assert label[180, 130] == 0, "what was cut out is known to be normal"
    assert label[230, 60] == IGNORE
    assert label[10, 10] == 0
    known = replace(slide, category="itc").read_label(whole(slide))
    assert known[230, 60] == 0


def test_negative_slides_need_no_annotation(slide):
    case = replace(slide, label_path=None, category="negative")
    assert case.has_label
    assert not case.read_label(whole(case)).any()
    assert case.read_label(Box((-1, 0), (1, 1))).tolist() == [[IGNORE]]
    missing = replace(case, category="macro")
    assert not missing.has_label
    with pytest.raises(DataError, match="no label"):
        missing.read_label(whole(case))


@pytest.mark.parametrize("value", [1, 255])
def test_mask_slides(folder, slide, write_slide, value):
    mask = np.zeros((300, 250), np.uint8)
    mask[50:100, 60:90] = value
    path = write_slide(folder / f"m{value}_mask.tif", mask, levels=1)
    label = replace(slide, label_path=path).read_label(whole(slide))
    expected = np.zeros_like(mask)
    expected[50:100, 60:90] = 1
    np.testing.assert_array_equal(label, expected)


def test_mask_slides_of_other_extent_or_values(folder, slide, write_slide):
    other = write_slide(folder / "o_mask.tif", np.zeros((200, 300), np.uint8), levels=1)
    with pytest.raises(DataError, match=r"o_mask\.tif has 200 x 300 .*s\.tif has\s600 x 500"):
        replace(slide, label_path=other).read_label(whole(slide))
    values = np.zeros((600, 500), np.uint8)
    values[:300] = 7
    unknown = write_slide(folder / "u_mask.tif", values, levels=1)
    with pytest.raises(DataError, match="values 0, 7 found"):
        replace(slide, label_path=unknown).read_label(whole(slide))
    values[:300], values[300:] = 1, 255
    both = write_slide(folder / "b_mask.tif", values, levels=1)
    with pytest.raises(DataError, match="both 1 and 255"):
        replace(slide, label_path=both).read_label(whole(slide))


@pytest.mark.parametrize("mpp", [None, 352.8])
def test_slides_without_a_scale(folder, slide, pixels, write_slide, mpp):
    path = write_slide(folder / f"n{mpp}.tif", pixels, mpp=mpp)
    case = replace(slide, image_path=path)
    with pytest.raises(DataError, match="no microns per pixel"):
        _ = case.shape
    native = replace(case, mpp=None)
    assert native.shape == (600, 500)
    assert native.resolution.mpp is None


def test_finer_than_the_scan_is_refused(slide):
    with pytest.raises(DataError, match=r"imaging\.mpp 0\.25 is finer"):
        _ = replace(slide, mpp=0.25).shape


def test_huge_single_level_slides_are_read_in_bounded_regions(folder, slide, write_slide):
    path = write_slide(folder / "one.tif", np.full((4096, 1024, 3), 99, np.uint8), levels=1)
    case = replace(slide, image_path=path, label_path=None, mpp=20.0)
    assert case.shape == (102, 25)
    assert case._view.side * max(case._view.step) <= pyramid.SOURCE_PX
    assert (case.read(whole(case)) == 99).all()


def test_damaged_slides_give_one_line(folder, slide):
    path = folder / "cut.tif"
    raw = slide.image_path.read_bytes()
    path.write_bytes(raw[: len(raw) // 2])
    with pytest.raises(DataError, match=r"cut\.tif") as caught:
        replace(slide, image_path=path).read(whole(slide))
    assert "\n" not in str(caught.value)
    plain = folder / "plain.tif"
    tifffile.imwrite(plain, np.zeros((64, 64, 3), np.uint8), photometric="rgb")
    with pytest.raises(DataError, match="plain TIFF"):
        _ = replace(slide, image_path=plain).shape


def test_damage_inside_a_tile_is_told(folder, slide):
    raw = bytearray(slide.image_path.read_bytes())
    with tifffile.TiffFile(slide.image_path) as tiff:
        offsets = tiff.pages[1].dataoffsets
    for offset in offsets:
        raw[offset : offset + 16] = bytes(16)
    path = folder / "damaged.tif"
    path.write_bytes(raw)
    with pytest.raises(DataError, match=r"damaged\.tif is damaged"):
        replace(slide, image_path=path).read(whole(slide))


def test_survives_pickling(slide):
    expected = slide.read(Box((0, 0), (9, 9)))
    again = pickle.loads(pickle.dumps(slide))  # noqa: S301
    ARRAYS.clear()
    np.testing.assert_array_equal(again.read(Box((0, 0), (9, 9))), expected)


def test_statistics_are_those_of_tissue(slide):
    mean, deviation = slide.statistics()
    assert mean == pytest.approx(np.mean(TISSUE), abs=5)
    assert deviation == pytest.approx(np.std(TISSUE), abs=5)


@pytest.mark.realdata
def test_real_slides(real_data):
    slides = real_data / "slides"
    case = SlideCase("a", "x", slides / "cmu_small_region.svs", mpp=2.0)
    assert case.shape == (741, 555), "0.499 microns times 4 is meant by 2.0"
    assert case.resolution.mpp == pytest.approx((1.996, 1.996))
    tissue = case.read_tissue(whole(case))
    assert 0.3 < tissue.mean() < 0.45
    assert not tissue[:100, :100].all()
    image = case.read(whole(case))
    assert image[:, tissue].mean() < image[:, ~tissue].mean() - 40
    case = SlideCase("l", "x", slides / "small_HE_levels.tiff")
    assert case.shape == (250, 300)
    assert case.read(whole(case)).shape == (3, 250, 300)
    with pytest.raises(DataError, match="no microns per pixel"):
        _ = replace(case, mpp=0.5, case_id="again").shape
    for name in ("broken.svs", "smalltif.tif"):
        with pytest.raises(DataError, match=name):
            _ = SlideCase("b", "x", slides / name).shape
