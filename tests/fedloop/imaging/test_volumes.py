from __future__ import annotations

import gzip
import pickle
from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fedloop.errors import DataError
from fedloop.imaging.case import IGNORE, Case
from fedloop.imaging.geometry import Box
from fedloop.imaging.volumes import VolumeCase

SHAPE = (12, 10, 8)
AFFINE = np.diag([1.0, 2.0, 3.0, 1.0])


@pytest.fixture(scope="module")
def voxels(rng):
    return rng.normal(100, 20, SHAPE).astype(np.float32)


@pytest.fixture(scope="module")
def volume(tmp_path_factory, voxels, write_volume):
    folder = tmp_path_factory.mktemp("volumes")
    image = write_volume(folder / "v.nii.gz", voxels, AFFINE)
    label = write_volume(folder / "l.nii.gz", (voxels > 110).astype(np.uint8), AFFINE)
    return VolumeCase("v", "x", image, label)


def whole(case):
    return Box((0, 0, 0), case.shape)


def test_is_a_case_and_reads_its_voxels(volume, voxels):
    assert isinstance(volume, Case)
    assert volume.shape == SHAPE
    assert volume.resolution.spacing_mm == (1, 2, 3)
    read = volume.read(whole(volume))
    assert read.dtype == np.float32
    np.testing.assert_array_equal(read[0], voxels)
    np.testing.assert_array_equal(volume.read_label(whole(volume)), voxels > 110)
    assert volume.statistics() == (
        pytest.approx(float(voxels.mean()), rel=1e-5),
        pytest.approx(float(voxels.std()), rel=1e-5),
    )


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.tuples(*[st.integers(-6, 14)] * 3),
    st.tuples(*[st.integers(1, 12)] * 3),
)
def test_boxes_equal_the_padded_volume(volume, voxels, start, size):
    box, pad = Box(start, size), 32
    cut = tuple(slice(a + pad, b + pad) for a, b in zip(box.start, box.stop, strict=True))
    np.testing.assert_array_equal(volume.read(box)[0], np.pad(voxels, pad, mode="edge")[cut])
    label = (voxels > 110).astype(np.uint8)
    np.testing.assert_array_equal(
        volume.read_label(box), np.pad(label, pad, constant_values=IGNORE)[cut]
    )


@pytest.mark.parametrize("codes", ["LPS", "SAR", "PIL"])
def test_any_orientation_is_read_as_ras(tmp_path, volume, voxels, codes):
    turn = nib.orientations.ornt_transform(
        nib.orientations.axcodes2ornt("RAS"), nib.orientations.axcodes2ornt(codes)
    )
    turned = nib.Nifti1Image(voxels, AFFINE).as_reoriented(turn)
    turned.to_filename(tmp_path / "t.nii")
    case = VolumeCase("t", "x", tmp_path / "t.nii")
    assert case.shape == SHAPE
    assert case.resolution.spacing_mm == (1, 2, 3)
    np.testing.assert_array_equal(case.read(whole(case)), volume.read(whole(volume)))


def test_resampling_keeps_the_extent_and_the_label_in_place(tmp_path, write_volume):
    shape = (20, 20, 10)
    i, j, k = np.meshgrid(*map(np.arange, shape), indexing="ij")
    ramp = ((i + 0.5) * 1 + (j + 0.5) * 1 + (k + 0.5) * 2).astype(np.float32)
    affine = np.diag([1.0, 1.0, 2.0, 1.0])
    image = write_volume(tmp_path / "v.nii.gz", ramp, affine)
    label = write_volume(tmp_path / "l.nii.gz", (ramp > 30).astype(np.uint8), affine)
    case = VolumeCase("v", "x", image, label, spacing_mm=(2.0, 2.0, 1.0))
    assert case.shape == (10, 10, 20)
    assert case.resolution.spacing_mm == (2.0, 2.0, 1.0)
    i, j, k = np.meshgrid(*map(np.arange, case.shape), indexing="ij")
    expected = (i + 0.5) * 2 + (j + 0.5) * 2 + (k + 0.5)
    inner = (slice(None), slice(None), slice(1, -1))
    np.testing.assert_allclose(case.read(whole(case))[0][inner], expected[inner], atol=1e-4)
    agree = case.read_label(whole(case)) == (expected > 30)
    assert agree[np.abs(expected - 30) > 2.6].all()


def test_fourth_axis_of_one(tmp_path, write_volume, voxels):
    case = VolumeCase("v", "x", write_volume(tmp_path / "v.nii", voxels[..., None], AFFINE))
    assert case.shape == SHAPE
    np.testing.assert_array_equal(case.read(whole(case))[0], voxels)


def test_scaled_integers(tmp_path, volume, voxels):
    image = nib.Nifti1Image(voxels, AFFINE)
    image.header.set_data_dtype(np.int16)
    image.to_filename(tmp_path / "i.nii.gz")
    case = VolumeCase("i", "x", tmp_path / "i.nii.gz")
    np.testing.assert_allclose(case.read(whole(case))[0], voxels, atol=0.01)


def _patched(source, path, offset, raw):
    """A copy of an unpacked NIfTI-1 with some header bytes overwritten."""
    data = bytearray(gzip.decompress(source.read_bytes()))
    data[offset : offset + len(raw)] = raw
    path.write_bytes(gzip.compress(bytes(data)))
    return path


@pytest.mark.parametrize("size", [0.0, -1.0, np.nan, np.inf])
def test_bad_voxel_sizes_are_refused(tmp_path, volume, size):
    path = _patched(volume.image_path, tmp_path / "z.nii.gz", 80, np.float32(size).tobytes())
    with pytest.raises(DataError, match=r"z\.nii\.gz has voxel size"):
        _ = VolumeCase("z", "x", path).shape


def test_nan_and_singular_affines_are_refused(tmp_path, volume):
    for name, row in (("n", [np.nan, 0, 0, 0]), ("s", [0, 0, 0, 0])):
        raw = np.array(row, np.float32).tobytes()
        path = _patched(volume.image_path, tmp_path / f"{name}.nii.gz", 280, raw)
        with pytest.raises(DataError, match="affine"):
            _ = VolumeCase("z", "x", path).shape


def test_wrong_checksum_is_refused(tmp_path, volume):
    raw = bytearray(volume.image_path.read_bytes())
    raw[-8] ^= 0xFF
    path = tmp_path / "c.nii.gz"
    path.write_bytes(raw)
    case = VolumeCase("c", "x", path)
    with pytest.raises(DataError, match=r"c\.nii\.gz fails its checksum"):
        case.read(whole(case))


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.99])
@pytest.mark.parametrize("packed", [True, False])
def test_truncated_files_are_refused(tmp_path, volume, share, packed):
    raw = volume.image_path.read_bytes()
    raw = raw if packed else gzip.decompress(raw)
    path = tmp_path / ("t.nii.gz" if packed else "t.nii")
    path.write_bytes(raw[: int(len(raw) * share)])
    case = VolumeCase("t", "x", path)
    with pytest.raises(DataError, match=r"t\.nii") as caught:
        case.read(whole(case))
    assert "\n" not in str(caught.value)


def test_an_impossible_size_asks_for_no_memory(tmp_path, volume):
    dim = np.array([3, 32767, 32767, 32767], np.int16).tobytes()
    path = _patched(volume.image_path, tmp_path / "h.nii.gz", 40, dim)
    case = VolumeCase("h", "x", path)
    with pytest.raises(DataError, match="truncated"):
        case.read(Box((0, 0, 0), (1, 1, 1)))


def test_non_finite_voxels_are_counted(tmp_path, write_volume, voxels):
    bad = voxels.copy()
    bad[0, 0, :3] = [np.nan, np.inf, -np.inf]
    case = VolumeCase("b", "x", write_volume(tmp_path / "b.nii.gz", bad))
    with pytest.raises(DataError, match=r"b\.nii\.gz holds 3 of 960 voxels that are not finite"):
        case.read(Box((5, 5, 5), (1, 1, 1)))


@pytest.mark.parametrize("shape", [(4, 4), (4, 4, 4, 2)])
def test_other_axes_are_refused(tmp_path, write_volume, shape):
    path = write_volume(tmp_path / "d.nii.gz", np.zeros(shape, np.float32))
    with pytest.raises(DataError, match="needed are three"):
        _ = VolumeCase("d", "x", path).shape


def test_colour_and_complex_voxels_are_refused(tmp_path, write_volume):
    path = write_volume(tmp_path / "c.nii.gz", np.zeros((4, 4, 4), np.complex64))
    with pytest.raises(DataError, match="plain numbers"):
        VolumeCase("c", "x", path).read(Box((0, 0, 0), (1, 1, 1)))


def test_no_nifti(tmp_path):
    (tmp_path / "x.nii").write_bytes(b"some words" * 90)
    with pytest.raises(DataError, match="no NIfTI"):
        _ = VolumeCase("x", "x", tmp_path / "x.nii").shape


def test_label_on_other_voxels(tmp_path, volume, write_volume):
    label = np.zeros((12, 10, 7), np.uint8)
    case = replace(volume, label_path=write_volume(tmp_path / "s.nii.gz", label, AFFINE))
    with pytest.raises(DataError, match=r"has shape \(12, 10, 7\), its image .* has \(12, 10, 8\)"):
        case.read_label(whole(volume))
    moved = AFFINE.copy()
    label = np.zeros(SHAPE, np.uint8)
    moved[0, 3] = 0.05
    near = replace(volume, label_path=write_volume(tmp_path / "n.nii.gz", label, moved))
    assert not near.read_label(whole(volume)).any()
    moved[0, 3] = 5
    far = replace(volume, label_path=write_volume(tmp_path / "f.nii.gz", label, moved))
    with pytest.raises(DataError, match="lies 5 mm away"):
        far.read_label(whole(volume))


@pytest.mark.parametrize(("value", "said"), [(0.5, "1 label voxels are not whole"), (3, "0, 3")])
def test_bad_label_values(tmp_path, volume, write_volume, value, said):
    label = np.zeros(SHAPE, np.float32)
    label[0, 0, 0] = value
    case = replace(volume, label_path=write_volume(tmp_path / "l.nii.gz", label, AFFINE))
    with pytest.raises(DataError, match=said):
        case.read_label(whole(volume))


def test_ignore_in_labels(tmp_path, volume, write_volume):
    label = np.zeros(SHAPE, np.uint8)
    label[0, 0, 0] = 255
    case = replace(volume, label_path=write_volume(tmp_path / "l.nii.gz", label, AFFINE))
    assert case.read_label(whole(volume))[0, 0, 0] == IGNORE


def test_no_label(volume):
    with pytest.raises(DataError, match="no label"):
        replace(volume, label_path=None).read_label(whole(volume))


def test_survives_pickling(volume):
    again = pickle.loads(pickle.dumps(volume))  # noqa: S301
    np.testing.assert_array_equal(again.read(whole(again)), volume.read(whole(volume)))


@pytest.mark.realdata
def test_real_hippocampus(real_data):
    images = sorted((real_data / "hippocampus/imagesTr").glob("h*.nii.gz"))[:3]
    for path in images:
        label = real_data / "hippocampus/labelsTr" / path.name
        case = VolumeCase(path.stem, "x", path, label, classes=3)
        assert case.resolution.spacing_mm == (1, 1, 1)
        assert set(np.unique(case.read_label(whole(case)))) == {0, 1, 2}
        assert case.statistics()[1] > 0
