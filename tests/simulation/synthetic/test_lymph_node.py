"""What is drawn: lesions by category, looks by center, and dials that turn one thing each."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.ndimage import label

from fedloop.errors import SettingsError
from fedloop.settings import SyntheticCamelyonSettings
from simulation.synthetic.centers import CENTERS, center_at
from simulation.synthetic.lymph_node import LymphNode, draw_slide
from simulation.synthetic.plan import SlidePlan, slide_plan
from simulation.synthetic.tissues import Compartment

SMALL = SyntheticCamelyonSettings(side_px=512)
LESION_UM2 = {"itc": (12.0, 28.0), "micro": (60.0, 120.0), "macro": (220.0, 380.0)}


def plan(category: str, seed: int = 0, center: str = "RUMC", **values: bool) -> SlidePlan:
    base = SlidePlan("patient_060_node_0", center, "train", category, False, seed)
    return replace(base, **values)


def mean_tissue_color(node: LymphNode) -> np.ndarray:
    return node.image[node.anatomy.tissue].mean(axis=0)


def largest_lesion_px(node: LymphNode) -> int:
    pieces, _ = label(node.anatomy.tumor)
    return int(np.bincount(pieces.ravel())[1:].max())


@pytest.mark.parametrize("category", LESION_UM2)
def test_lesions_have_the_size_of_their_category(category: str) -> None:
    low, high = (np.pi * (radius / SMALL.mpp) ** 2 for radius in LESION_UM2[category])
    slack = {"itc": 2.2, "micro": 2.0, "macro": 1.3}[category]  # neighbours can merge
    for seed in range(6):
        node = draw_slide(plan(category, seed), SMALL)
        assert 0.5 * low < largest_lesion_px(node) < slack * high
        assert not (node.anatomy.tumor & ~node.anatomy.tissue).any()


@pytest.mark.parametrize("values", [{"side_px": 256}, {"side_px": 256, "mpp": 8.0}])
def test_every_lesion_slide_holds_tumor_and_no_negative_one(values: dict[str, float]) -> None:
    settings = SMALL.model_copy(update=values)
    for seed in range(10):
        for category in ("negative", "itc", "micro", "macro"):
            node = draw_slide(plan(category, seed), settings)
            assert node.anatomy.tumor.any() == (category != "negative")
            assert node.anatomy.tumor.sum() < 0.8 * node.anatomy.tissue.sum()


def test_sizes_are_physical() -> None:
    """Half the pixel size on twice the side shows the same lesions, four times the pixels."""
    coarse = draw_slide(plan("macro"), SMALL)
    fine = draw_slide(plan("macro"), SMALL.model_copy(update={"side_px": 1024, "mpp": 1.0}))
    ratio = largest_lesion_px(fine) / largest_lesion_px(coarse)
    assert ratio == pytest.approx(4.0, rel=0.5)


def test_lesion_scale_enlarges_lesions() -> None:
    sizes = [
        largest_lesion_px(
            draw_slide(plan("micro", 2), SMALL.model_copy(update={"lesion_scale": k}))
        )
        for k in (0.5, 1.0, 2.0)
    ]
    assert sizes[0] < sizes[1] < sizes[2]


def test_phenotype_decides_the_compartment() -> None:
    for second, compartment in ((False, Compartment.TUMOR_A), (True, Compartment.TUMOR_B)):
        anatomy = draw_slide(plan("micro", phenotype_b=second), SMALL).anatomy
        assert set(anatomy.compartments[anatomy.tumor]) == {compartment}


def test_no_mimics_means_cortex_and_medulla() -> None:
    node = draw_slide(plan("negative", 1, "RST"), SMALL.model_copy(update={"mimics": 0.0}))
    found = set(node.anatomy.compartments[node.anatomy.tissue].tolist())
    assert found <= {Compartment.CORTEX, Compartment.MEDULLA, Compartment.FAT}
    more = draw_slide(plan("negative", 1, "RST"), SMALL.model_copy(update={"mimics": 8.0}))
    assert Compartment.GERMINAL_CENTER in more.anatomy.compartments


def test_dials_leave_the_rest_of_a_slide_alone() -> None:
    base = draw_slide(plan("micro", center="CWZ"), SMALL)
    for dial in ({"shift": 0.0}, {"mimics": 20.0}, {"tissue_shift": 12.0}):
        other = draw_slide(plan("micro", center="CWZ"), SMALL.model_copy(update=dial))
        np.testing.assert_array_equal(other.anatomy.tumor, base.anatomy.tumor)
        assert (other.image != base.image).any()


def test_shift_zero_makes_centers_look_alike() -> None:
    def spread(shift: float) -> float:
        settings = SMALL.model_copy(update={"shift": shift, "tissue_shift": 0.0})
        colors = [mean_tissue_color(draw_slide(plan("negative", 5, c), settings)) for c in CENTERS]
        return float(np.ptp(colors, axis=0).max())

    assert spread(0.0) == 0.0
    assert spread(0.4) > 5.0
    assert spread(0.8) > 1.5 * spread(0.4)


def test_colors_are_those_of_stained_tissue_on_glass() -> None:
    for center in CENTERS:
        node = draw_slide(plan("macro", 3, center), SMALL)
        red, green, blue = mean_tissue_color(node)
        assert green < red < 255
        assert green < blue < 255
        assert node.image[~node.anatomy.tissue].mean() > 235


def test_class_imbalance_of_a_default_pool() -> None:
    """Of the 64-pixel tissue patches, some 5-8 % hold tumour; one pool scatters about that."""
    settings = SyntheticCamelyonSettings()
    held = total = 0
    for slide in slide_plan(settings, seed=2):
        if slide.center != "UMCU" or slide.split != "train":
            continue
        anatomy = draw_slide(slide, settings).anatomy
        tiles = [m.reshape(16, 64, 16, 64).mean((1, 3)) for m in (anatomy.tissue, anatomy.tumor)]
        total += int((tiles[0] >= 0.3).sum())
        held += int((tiles[1][tiles[0] >= 0.3] > 0).sum())
    assert 700 < total < 1100
    assert 0.03 < held / total < 0.11


def test_unknown_center_is_refused() -> None:
    with pytest.raises(SettingsError, match="no synthetic center 'AMC'"):
        center_at("AMC", shift=1.0, tissue_shift=1.0)


def test_dials_meet_home_and_never_turn_negative() -> None:
    home = CENTERS["RUMC"]
    same = center_at("CWZ", shift=0.0, tissue_shift=0.0)
    assert same.scanner == home.scanner
    assert same.tissue == home.tissue
    assert center_at("CWZ", shift=50.0, tissue_shift=50.0).scanner.blur_um == 0.0
    for center in CENTERS:
        stain = center_at(center, shift=0.8, tissue_shift=1.0).stain
        assert np.linalg.norm(stain.hematoxylin) == pytest.approx(1.0)
