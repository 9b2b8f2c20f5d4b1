from __future__ import annotations

import logging
import pickle

import numpy as np
import pytest
from pydantic import ValidationError

from fedloop.errors import DataError
from fedloop.imaging.camelyon import center_of
from fedloop.imaging.case import Case
from fedloop.imaging.dataset import Dataset, check, open_dataset
from fedloop.imaging.slides import SlideCase
from fedloop.imaging.tiles import TileCase
from fedloop.imaging.volumes import VolumeCase
from fedloop.settings import DataSettings, ImagingSettings

TILES = ImagingSettings(patch_size=(16, 16))
VOLUMES = ImagingSettings(patch_size=(8, 8, 8))
SLIDES = ImagingSettings(patch_size=(64, 64), mpp=1.0, tissue="saturation")


def opened(root, imaging=TILES, **data) -> Dataset:
    return open_dataset(DataSettings(root=root, **data), imaging)


def ids(dataset: Dataset) -> dict[str, list[str]]:
    return {name: [c.case_id for c in cases] for name, cases in dataset.centers.items()}


@pytest.fixture
def put(write_picture):
    """Write a tile and its mask into a folder with images/ and labels/."""

    def put(folder, *names, label=True):
        for name in names:
            write_picture(folder / "images" / f"{name}.png", np.full((20, 20, 3), 9, np.uint8))
            if label:
                write_picture(folder / "labels" / f"{name}.png", np.eye(20, dtype=np.uint8))

    return put


@pytest.fixture
def three(tmp_path, put):
    """Three centers as folders, with a table."""
    put(tmp_path / "b", "b1", "b2")
    put(tmp_path / "a", "a1", "a2", "a3")
    put(tmp_path / "c", "c1", "c2")
    lines = [f"{case},{case[0]}" for case in ("a1", "a2", "a3", "b1", "b2", "c1", "c2")]
    (tmp_path / "centers.csv").write_text("\n".join(["case,center", *lines]) + "\n")
    return tmp_path


# ------------------------------------------------------------------ layouts


def test_centers_as_folders_with_a_table(three):
    dataset = opened(three)
    assert list(dataset.centers) == ["a", "b", "c"]
    assert ids(dataset)["a"] == ["a1", "a2", "a3"]
    case = dataset.centers["b"][0]
    assert isinstance(case, TileCase)
    assert isinstance(case, Case)
    assert case.center == "b"
    assert dataset.rule == "3 centers as centers.csv lists them."
    assert dataset.split == {}
    assert pickle.loads(pickle.dumps(dataset)) == dataset  # noqa: S301


def test_centers_as_folders_without_a_table(three):
    (three / "centers.csv").unlink()
    dataset = opened(three)
    assert list(dataset.centers) == ["a", "b", "c"]
    assert dataset.rule == "3 centers by the names of their folders."


def test_flat_folder_with_a_table(tmp_path, put):
    put(tmp_path, "x", "y", "z", "w")
    (tmp_path / "centers.csv").write_text(
        "\ufeffcase,Center,split,category,extra\nx.png,B,train,,1\ny,B,TEST,,2\n"
        "z,A,,Micro,3\nw,A,val,normal,4\n",
        encoding="utf-8",
    )
    dataset = opened(tmp_path)
    assert ids(dataset) == {"A": ["w", "z"], "B": ["x", "y"]}
    assert dataset.split == {"x": "train", "y": "test", "w": "val"}
    assert [c.category for c in dataset.centers["A"]] == ["negative", "micro"]


def test_decathlon(tmp_path, write_volume):
    root = tmp_path / "Task04"
    for name in ("h_001", "h_002"):
        write_volume(root / "imagesTr" / f"{name}_0000.nii.gz", np.ones((9, 9, 9), np.float32))
        write_volume(root / "labelsTr" / f"{name}.nii.gz", np.zeros((9, 9, 9), np.uint8))
        (root / "imagesTr" / f"._{name}_0000.nii.gz").write_bytes(b"mac")
    dataset = opened(root, VOLUMES)
    assert ids(dataset) == {"Task04": ["h_001", "h_002"]}
    assert isinstance(dataset.cases[0], VolumeCase)
    assert dataset.rule == "One center, named after the folder `Task04`."
    check(dataset)


@pytest.fixture
def camelyon(tmp_path, write_slide, write_asap, rng):
    image = rng.integers(150, 250, (256, 256, 3), dtype=np.uint8)
    for name in ("patient_004_node_4", "patient_020_node_1", "patient_041_node_0"):
        write_slide(tmp_path / "images" / f"{name}.tif", image, levels=2)
    square = [(10.0, 10.0), (90.0, 10.0), (90.0, 90.0), (10.0, 90.0)]
    for name in ("patient_004_node_4", "patient_041_node_0"):
        write_asap(tmp_path / "annotations" / f"{name}.xml", [("metastases", square)])
    (tmp_path / "stage_labels.csv").write_text(
        "patient,stage\npatient_004.zip,pN1\npatient_004_node_4.tif,macro\n"
        "patient_020.zip,pN0\npatient_020_node_1.tif,negative\npatient_099_node_1.tif,itc\n"
        "patient_041_node_0.tif,micro\n"
    )
    return tmp_path


def test_camelyon17_by_its_patients(camelyon):
    dataset = opened(camelyon, SLIDES, min_cases_per_center=1)
    assert ids(dataset) == {
        "CWZ": ["patient_004_node_4"],
        "RST": ["patient_020_node_1"],
        "UMCU": ["patient_041_node_0"],
    }
    assert "by elimination" in dataset.rule
    case = dataset.centers["CWZ"][0]
    assert isinstance(case, SlideCase)
    assert (case.category, case.mpp, case.itc_exhaustive) == ("macro", 1.0, True)
    assert dataset.centers["RST"][0].has_label
    seen: list[tuple[int, int]] = []
    check(dataset, progress=lambda done, of: seen.append((done, of)))
    assert seen == [(1, 3), (2, 3), (3, 3)]


def test_a_slide_neither_annotated_nor_negative(camelyon):
    (camelyon / "annotations/patient_041_node_0.xml").unlink()
    with pytest.raises(DataError, match=r"missing label: case patient_041_node_0 .*`negative`"):
        opened(camelyon, SLIDES)
    data = DataSettings(root=camelyon)
    case = open_dataset(data, SLIDES, require_labels=False).cases[-1]
    assert not case.has_label


def test_a_scanner_that_contradicts_the_block(camelyon, write_slide, caplog):
    path = camelyon / "images/patient_041_node_0.tif"
    write_slide(path, np.full((128, 128, 3), 200, np.uint8), mpp=0.243)
    with caplog.at_level(logging.WARNING):
        check(opened(camelyon, SLIDES, min_cases_per_center=1))
    assert "patient_041_node_0: by its name from UMCU" in caplog.text


@pytest.mark.parametrize(
    ("case", "center"),
    [
        ("patient_000_node_0", "CWZ"),
        ("patient_039_node_4", "RST"),
        ("patient_040_node_0", "UMCU"),
        ("patient_060_node_0", "RUMC"),
        ("patient_099_node_4", "LPON"),
        ("patient_100_node_0", None),
        ("normal_100", "RUMC"),
        ("normal_101", "UMCU"),
        ("tumor_070", "RUMC"),
        ("tumor_071", "UMCU"),
        ("test_001", None),
        ("drive_01", None),
    ],
)
def test_camelyon_names(case, center):
    assert center_of(case) == center


def test_camelyon_names_beside_others_need_a_table(camelyon, write_slide):
    write_slide(camelyon / "images/test_001.tif", np.zeros((64, 64, 3), np.uint8), levels=1)
    with pytest.raises(DataError, match=r"center of test_001 .* add centers\.csv"):
        opened(camelyon, SLIDES)


# ------------------------------------------------------------------ regrouping


def test_small_centers_join_as_other(three):
    dataset = opened(three, min_cases_per_center=3)
    assert ids(dataset) == {"a": ["a1", "a2", "a3"], "other": ["b1", "b2", "c1", "c2"]}
    assert dataset.centers["other"][0].center == "other"
    assert "(b, c) are joined as `other`" in dataset.rule


def test_virtual_sites(tmp_path, put):
    put(tmp_path, *(f"t{i}" for i in range(7)))
    dataset = opened(tmp_path, virtual_sites=3)
    assert ids(dataset) == {
        "site_1": ["t0", "t3", "t6"],
        "site_2": ["t1", "t4"],
        "site_3": ["t2", "t5"],
    }
    assert "virtual sites: these are no real hospitals" in dataset.rule
    with pytest.raises(DataError, match="7 cases for 8 virtual sites"):
        opened(tmp_path, virtual_sites=8)


def test_virtual_sites_of_real_centers_are_refused(three):
    with pytest.raises(DataError, match="3 real centers"):
        opened(three, virtual_sites=2)


def test_first_cases_by_hash_not_by_name(tmp_path, put):
    put(tmp_path, *(f"t{i:02}" for i in range(20)))
    chosen = ids(opened(tmp_path, max_cases_per_center=5))
    (cases,) = chosen.values()
    assert len(cases) == 5
    assert cases == sorted(cases)
    assert cases != [f"t{i:02}" for i in range(5)]
    assert chosen == ids(opened(tmp_path, max_cases_per_center=5))
    put(tmp_path, "t99")
    (more,) = ids(opened(tmp_path, max_cases_per_center=6)).values()
    assert len(set(cases) & set(more)) >= 5


# ------------------------------------------------------------------ refusals


def refused(root, said, imaging=TILES, **data):
    with pytest.raises(DataError, match=said) as caught:
        check(opened(root, imaging, **data))
    assert "\n" not in str(caught.value)


def test_root(tmp_path):
    refused(tmp_path / "no", "no is no folder")
    refused(tmp_path, "is empty")
    (tmp_path / "readme.txt").write_text("hello")
    refused(tmp_path, "no images found; expected")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    refused(tmp_path / "loop", "loop is no folder")
    with pytest.raises(DataError, match=r"data\.root is not set"):
        open_dataset(DataSettings(), TILES)


def test_no_images(tmp_path, put):
    (tmp_path / "images").mkdir()
    (tmp_path / "images/notes.txt").write_text("hello")
    refused(tmp_path, "no images found in")


def test_empty_center(three):
    (three / "d" / "images").mkdir(parents=True)
    refused(three, "center 'd': no images found")
    (three / "d" / "images").rmdir()
    refused(three, "center 'd' has no images")


def test_unreadable_and_empty_images(three):
    path = three / "a/images/a2.png"
    path.write_bytes(path.read_bytes()[:40])
    refused(three, r"a2\.png cannot be read as an image")
    path.write_bytes(b"")
    refused(three, r"a2\.png is empty")
    path.unlink()
    path.mkdir()
    refused(three, r"a2\.png is a folder")
    path.rmdir()
    path.symlink_to(path)
    refused(three, r"a2\.png is missing, a broken link")


def test_labels(three, put, write_picture):
    write_picture(three / "a/labels/a3.png", np.eye(9, dtype=np.uint8))
    refused(three, r"a3\.png has 9 x 9 pixels, its image .*a3\.png has 20 x 20")
    (three / "a/labels/a3.png").unlink()
    refused(three, "missing label: case a3 .1 of 7")
    put(three / "a", "a3")
    write_picture(three / "a/labels/a4.png", np.eye(9, dtype=np.uint8))
    refused(three, r"label .*a4\.png .1 in all. has no image")
    (three / "a/labels/a4.png").rename(three / "a/labels/a3_mask.png")
    refused(three, "case a3 has two labels")


def test_case_ids_are_unique(three, put):
    put(three / "b", "a1")
    refused(three, r"case id a1 is not unique: .*a1\.png and .*a1\.png")


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("a1,a", "case a1 stands already in line 2"),
        ("a9,a", "line 9: case a9 has no image"),
        ("a9,z", "line 9: unknown center 'z' of case a9"),
        ("a9,", "line 9: column `center` is empty"),
        (",a", "line 9: column `case` is empty"),
    ],
)
def test_table_rows(three, line, said):
    with (three / "centers.csv").open("a") as table:
        table.write(f"{line}\n")
    refused(three, said)


def test_table_against_the_folders(three):
    table = three / "centers.csv"
    text = table.read_text()
    table.write_text(text.replace("c1,c", "c1,b"))
    refused(three, "case c1 is of center 'b', but lies in folder 'c'")
    table.write_text(text.replace("c1,c\n", ""))
    refused(three, r"c1\.png is not in .*centers\.csv")


def test_table_as_such(three):
    table = three / "centers.csv"
    table.write_text("case;center\na1;a\n")
    refused(three, r"lacks the column\(s\) case, center; found case;center")
    table.write_text("case,center\n")
    refused(three, "no rows")
    table.write_bytes(b"")
    refused(three, r"centers\.csv is empty")
    table.write_bytes("case,center\na1,Köln\n".encode("latin-1"))
    refused(three, "not UTF-8")
    table.write_text("case,center,split\na1,a,dev\n")
    refused(three, "split 'dev' of case a1 found, allowed are train, val, test")
    table.unlink()
    table.symlink_to(table)
    refused(three, r"centers\.csv is missing, a broken link")


def test_contradicting_categories(camelyon):
    rows = ["patient_004_node_4,A,itc", "patient_020_node_1,A,", "patient_041_node_0,A,"]
    (camelyon / "centers.csv").write_text("\n".join(["case,center,category", *rows]))
    refused(camelyon, "'itc' in centers.csv and 'macro'", SLIDES)


def test_kinds_that_do_not_fit(three, tmp_path, write_volume):
    refused(three, "has 2 axes, imaging.patch_size .* has 3", VOLUMES)
    root = tmp_path / "v"
    write_volume(root / "images/v.nii.gz", np.zeros((9, 9, 9), np.float32))
    write_volume(root / "labels/v.nii.gz", np.zeros((9, 9, 9), np.uint8))
    imaging = VOLUMES.model_copy(update={"tissue": "saturation"})
    refused(root, "no colour", imaging)


def test_non_finite_voxels(tmp_path, write_volume):
    voxels = np.zeros((9, 9, 9), np.float32)
    voxels[0, 0, 0] = np.nan
    write_volume(tmp_path / "images/v.nii.gz", voxels)
    write_volume(tmp_path / "labels/v.nii.gz", np.zeros((9, 9, 9), np.uint8))
    refused(tmp_path, "1 of 729 voxels that are not finite", VOLUMES)


def test_settings_are_frozen():
    with pytest.raises(ValidationError):
        TILES.mpp = 2.0  # type: ignore[misc]


# ------------------------------------------------------------------ real data


@pytest.mark.realdata
def test_real_fundus(real_data):
    dataset = opened(real_data / "fundus")
    assert {name: len(cases) for name, cases in dataset.centers.items()} == {
        "chasedb1": 28,
        "drive": 40,
        "stare": 20,
    }
    some = {name: cases[:2] for name, cases in dataset.centers.items()}
    check(Dataset(dataset.root, some, {}, ""))


@pytest.mark.realdata
def test_real_nuclei(real_data):
    dataset = opened(real_data / "monuseg", min_cases_per_center=3)
    assert sum(map(len, dataset.centers.values())) == 44
    assert "other" in dataset.centers
    assert len(dataset.split) == 44
    assert set(dataset.split.values()) == {"train", "val", "test"}


@pytest.mark.realdata
def test_real_hippocampus(real_data):
    classes = ("background", "anterior", "posterior")
    imaging = ImagingSettings(patch_size=(16, 16, 16))
    dataset = opened(real_data / "hippocampus", imaging, classes=classes, virtual_sites=4)
    assert {len(cases) for cases in dataset.centers.values()} == {49}
    check(Dataset(dataset.root, {"site_1": dataset.centers["site_1"][:3]}, {}, ""))


@pytest.mark.realdata
def test_camelyon16_names_agree_with_the_published_table(real_data):
    lines = (real_data / "facts/flamby_cam16_metadata.csv").read_text().splitlines()
    header = lines[0].split(",")
    hospital, name = header.index("hospital_corrected"), header.index("slide_name")
    rows = [line.split(",") for line in lines[1:]]
    named = {r[name].removesuffix(".tif"): ("RUMC", "UMCU")[int(float(r[hospital]))] for r in rows}
    told = {case: center_of(case) for case in named}
    known = {case: center for case, center in told.items() if center is not None}
    assert len(known) > 260
    assert known == {case: named[case] for case in known}
