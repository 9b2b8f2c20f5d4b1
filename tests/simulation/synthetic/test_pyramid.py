"""OpenSlide reads what was written: levels, resolution and colours."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import openslide
import pytest
import tifffile
from numpy.typing import NDArray

from simulation.synthetic.pyramid import read_description, write_pyramid

COLORS = ((200, 90, 160), (90, 60, 140), (240, 20, 10), (255, 255, 255))


def quarters(side: int) -> NDArray[np.uint8]:
    image = np.empty((side, side, 3), np.uint8)
    half = side // 2
    for color, corner in zip(COLORS, np.ndindex(2, 2), strict=True):
        image[corner[0] * half :, corner[1] * half :] = color
    return image


@pytest.mark.parametrize(("side", "levels"), [(256, 3), (320, 3), (1024, 3), (2112, 5)])
def test_openslide_sees_levels_and_mpp(tmp_path: Path, side: int, levels: int) -> None:
    write_pyramid(tmp_path / "a.tif", quarters(side), mpp=0.243, description="x")
    with openslide.OpenSlide(tmp_path / "a.tif") as slide:
        assert slide.level_dimensions == tuple((side >> k, side >> k) for k in range(levels))
        assert slide.level_downsamples == pytest.approx([2.0**k for k in range(levels)])
        assert float(slide.properties["openslide.mpp-x"]) == pytest.approx(0.243, rel=1e-4)
        assert float(slide.properties["openslide.mpp-y"]) == pytest.approx(0.243, rel=1e-4)


def test_colors_survive_at_every_level(tmp_path: Path) -> None:
    write_pyramid(tmp_path / "a.tif", quarters(512), mpp=2.0, description="x")
    with openslide.OpenSlide(tmp_path / "a.tif") as slide:
        for level, (side, _) in enumerate(slide.level_dimensions):
            region = np.asarray(slide.read_region((0, 0), level, (side, side)))
            for color, corner in zip(COLORS, np.ndindex(2, 2), strict=True):
                y, x = (side // 4 + index * side // 2 for index in corner)
                np.testing.assert_allclose(region[y, x], (*color, 255), atol=4)


def test_file_holds_no_time_and_says_what_it_is(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    write_pyramid(path, quarters(256), mpp=2.0, description="Synthetic")
    assert read_description(path) == "Synthetic"
    with tifffile.TiffFile(path) as file:
        tags = {tag.name for page in file.pages for tag in page.tags}
        assert file.pages.first.is_tiled
    assert not {"DateTime", "Software", "HostComputer"} & tags


@pytest.mark.parametrize("length", [0, 4, 9, 100, 460])
def test_a_torn_or_absent_file_has_no_description(tmp_path: Path, length: int) -> None:
    path = tmp_path / "a.tif"
    assert read_description(path) is None
    write_pyramid(path, quarters(256), mpp=2.0, description="Synthetic")
    path.write_bytes(path.read_bytes()[:length])
    assert read_description(path) is None
