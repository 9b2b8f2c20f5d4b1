from __future__ import annotations

import numpy as np
import pytest

from fedloop.errors import DataError
from fedloop.imaging.intensity import normaliser, voxel_statistics
from fedloop.settings import IntensitySettings


class _Case:
    def statistics(self) -> tuple[float, float]:
        return 10.0, 2.0


def test_rgb():
    apply = normaliser(_Case(), IntensitySettings())
    out = apply(np.array([0, 255], np.uint8))
    assert out.dtype == np.float32
    np.testing.assert_allclose(out, [-0.7 / 0.25, 0.3 / 0.25], rtol=1e-6)
    with pytest.raises(DataError, match="uint8"):
        apply(np.zeros(2, np.float32))


def test_window():
    apply = normaliser(None, IntensitySettings(kind="window", window=(-100, 100)))
    np.testing.assert_allclose(apply(np.array([-500, 0, 50, 900], np.int16)), [0, 0.5, 0.75, 1])
    with pytest.raises(DataError, match="empty"):
        normaliser(None, IntensitySettings(kind="window", window=(5, 5)))


@pytest.mark.parametrize("of", [_Case(), (10.0, 2.0)])
def test_zscore(of):
    apply = normaliser(of, IntensitySettings(kind="zscore"))
    np.testing.assert_allclose(apply(np.array([10.0, 14.0], np.float32)), [0, 2])


def test_zscore_of_a_constant_image_is_zero():
    apply = normaliser((5.0, 0.0), IntensitySettings(kind="zscore"))
    assert not apply(np.full(4, 5.0, np.float32)).any()


def test_zscore_without_statistics():
    with pytest.raises(DataError, match="statistics"):
        normaliser(None, IntensitySettings(kind="zscore"))


def test_statistics_look_at_tissue_alone():
    voxels = np.array([[[1.0, 3.0], [100.0, 100.0]]])
    tissue = np.array([[True, True], [False, False]])
    assert voxel_statistics(voxels, tissue) == (2.0, 1.0)
    assert voxel_statistics(voxels, np.zeros((2, 2), bool))[0] == 51.0
