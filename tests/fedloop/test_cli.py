"""Whatever a user gives: one line that names the culprit, no traceback, and a folder left free."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import yaml
from PIL import Image

from fedloop import __version__, cli
from fedloop.errors import DataError, SettingsError

ROOT = Path(__file__).parents[2]


@pytest.fixture
def fedloop(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """``fedloop ARGUMENTS`` in this process: exit code, stdout and stderr."""

    def run(*arguments: object) -> tuple[object, str, str]:
        monkeypatch.setattr(sys, "argv", ["fedloop", *map(str, arguments)])
        with pytest.raises(SystemExit) as caught:
            cli.main()
        out, err = capsys.readouterr()
        return caught.value.code, out, err

    return run


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Three centers of two tiny pictures each."""
    root = tmp_path / "pictures"
    rng = np.random.default_rng(0)
    for center in "abc":
        for folder in ("images", "labels"):
            (root / center / folder).mkdir(parents=True)
        for number in range(2):
            pixels = rng.integers(0, 255, (20, 20, 3)).astype(np.uint8)
            Image.fromarray(pixels).save(root / center / "images" / f"{center}{number}.png")
            mask = np.eye(20, dtype=np.uint8)
            Image.fromarray(mask).save(root / center / "labels" / f"{center}{number}.png")
    return root


@pytest.fixture
def config(tmp_path: Path, pictures: Path) -> Callable[..., Path]:
    def write(**changes: Any) -> Path:
        tree = {
            "budgets": [1],
            "arms": [{"name": "r", "strategy": "random"}],
            "data": {"root": str(pictures)},
            "imaging": {"patch_size": [16, 16], "halo": 2},
            "model": {"members": 1, "parameters": {"channels": [4, 8], "strides": [2]}},
            "training": {"batch_size": 2},
            "igniter": {"steps": 1},
            "federation": {"rounds": 1, "steps_per_round": 1},
            "pictures_per_center": 0,
            "device": "cpu",
            "workers": 1,
        }
        path = tmp_path / "config.yaml"
        path.write_text(yaml.safe_dump(tree | changes))
        return path

    return write


def one_error(result: tuple[object, str, str], code: int, *words: str) -> str:
    status, out, err = result
    assert status == code, err
    lines = [line for line in err.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("error: ")]
    assert len(errors) == 1, err
    assert "Traceback" not in err
    assert out == ""
    for word in words:
        assert word in errors[0], errors[0]
    return errors[0]


def free(out: Path) -> bool:
    """Nothing was left that would make the same command need ``--resume``."""
    return not out.exists() or not [p for p in out.iterdir() if not p.name.startswith(".")]


# ------------------------------------------------------------------ the data


def unreadable_image(root: Path) -> None:
    (root / "b" / "images" / "b1.png").write_bytes(b"\x89PNG\r\n\x1a\nnot really")


def cut_image(root: Path) -> None:
    path = root / "b" / "images" / "b1.png"
    path.write_bytes(path.read_bytes()[:200])


def empty_image(root: Path) -> None:
    (root / "b" / "images" / "b1.png").write_bytes(b"")


def mask_of_another_size(root: Path) -> None:
    Image.fromarray(np.eye(9, dtype=np.uint8)).save(root / "b" / "labels" / "b1.png")


def missing_label(root: Path) -> None:
    (root / "b" / "labels" / "b1.png").unlink()


def label_without_image(root: Path) -> None:
    (root / "b" / "images" / "b1.png").unlink()


def empty_center(root: Path) -> None:
    (root / "d" / "images").mkdir(parents=True)


def center_without_images(root: Path) -> None:
    (root / "d").mkdir()


def unknown_center(root: Path) -> None:
    cases = [f"{c}{n}" for c in "abc" for n in (0, 1)]
    lines = [f"{case},{'zz' if case == 'b1' else case[0]}" for case in cases]
    (root / "centers.csv").write_text("\n".join(["case,center", *lines]))


def unknown_class(root: Path) -> None:
    mask = np.arange(400, dtype=np.uint8).reshape(20, 20) % 8
    Image.fromarray(mask).save(root / "b" / "labels" / "b1.png")


def name_that_is_no_text(root: Path) -> None:
    (root / "b" / "images" / "b1.png").rename(root / "b" / "images" / os.fsdecode(b"b\xff.png"))


def table_without_case(root: Path) -> None:
    (root / "centers.csv").write_text("case,center\na0,a\n")


BAD_DATA: Sequence[tuple[Callable[[Path], None], tuple[str, ...]]] = [
    (unreadable_image, ("b1.png",)),
    (cut_image, ("b1.png",)),
    (empty_image, ("b1.png", "empty")),
    (mask_of_another_size, ("b1", "9", "20")),
    (missing_label, ("missing label", "b1")),
    (label_without_image, ("b1.png", "no image")),
    (empty_center, ("center 'd'", "no images")),
    (center_without_images, ("center 'd'", "no images")),
    (unknown_center, ("centers.csv", "'zz'", "b1")),
    (unknown_class, ("b1", "7")),
    (name_that_is_no_text, ("'b\\udcff.png'", "not UTF-8")),
    (table_without_case, ("centers.csv", "a1")),
]


@pytest.mark.parametrize(("damage", "words"), BAD_DATA, ids=lambda v: getattr(v, "__name__", ""))
def test_bad_data_end_in_one_line_and_leave_the_folder_free(
    fedloop, config, pictures: Path, tmp_path: Path, damage, words
) -> None:
    damage(pictures)
    out = tmp_path / "run"
    command = ("simulate", config(), "--out", out, "--quiet")
    first = one_error(fedloop(*command), 1, *words)
    assert free(out)
    # The same again says the same again: no folder is in the way.
    assert one_error(fedloop(*command), 1, *words) == first


@pytest.mark.parametrize(
    ("voxel", "words"), [(np.nan, ("b1", "finite")), (np.inf, ("b1", "finite"))]
)
def test_volumes_with_voxels_that_are_no_numbers(
    fedloop, config, tmp_path: Path, voxel: float, words: tuple[str, ...]
) -> None:
    root = tmp_path / "volumes"
    for center in "ab":
        for folder in ("images", "labels"):
            (root / center / folder).mkdir(parents=True)
        for number in range(2):
            voxels = np.ones((8, 8, 8), np.float32)
            if (center, number) == ("b", 1):
                voxels[3, 4, 5] = voxel
            name = f"{center}{number}.nii.gz"
            nib.Nifti1Image(voxels, np.eye(4)).to_filename(root / center / "images" / name)
            label = nib.Nifti1Image(np.zeros((8, 8, 8), np.uint8), np.eye(4))
            label.to_filename(root / center / "labels" / name)
    path = config(
        data={"root": str(root)},
        imaging={"patch_size": [8, 8, 8], "intensity": {"kind": "zscore"}},
    )
    one_error(fedloop("simulate", path, "--out", tmp_path / "run", "-q"), 1, *words)
    assert free(tmp_path / "run")


@pytest.mark.e2e
def test_a_mended_data_set_runs_into_the_same_folder(
    fedloop, config, pictures: Path, tmp_path: Path
) -> None:
    mask_of_another_size(pictures)
    command = ("simulate", config(), "--out", tmp_path / "run", "--quiet", "--json")
    one_error(fedloop(*command), 1, "b1")
    Image.fromarray(np.eye(20, dtype=np.uint8)).save(pictures / "b" / "labels" / "b1.png")
    code, out, err = fedloop(*command)
    assert code == 0, err
    assert set(json.loads(out)["dice_global"]) == {"baseline", "r@1"}
    assert err == ""
    # Now there is a run, and a repeat says so.
    one_error(fedloop(*command), 1, "holds a run already; add --resume")


# ------------------------------------------------------------------ the settings


@pytest.mark.parametrize(
    ("changes", "code", "words"),
    [
        ({"budgts": [1]}, 2, ("config.yaml", "'budgts'", "did you mean 'budgets'?")),
        ({"data": {}}, 2, ("data.root",)),
        ({"data": {"root": "/nowhere"}}, 1, ("/nowhere", "data.root")),
        ({"igniter": {"site": "zz"}}, 2, ("igniter.site", "'zz'", "a, b, c")),
        ({"model": {"network": "UNett"}}, 1, ("UNett",)),
        ({"federation": {"strategy": {"name": "fedprx"}}}, 2, ("fedprx", "'fedprox'")),
        ({"arms": [{"name": "r", "strategy": "randm"}]}, 2, ("randm", "'random'")),
        ({"imaging": {"patch_size": [8, 8, 8]}}, 1, ("patch_size",)),
        ({"quick": {"sedes": [1]}}, 2, ("quick section", "'sedes'", "'seeds'")),
        ({"federation": {"rounds": 0}}, 2, ("federation.rounds", "found 0")),
    ],
)
def test_bad_settings_end_in_one_line(
    fedloop, config, tmp_path: Path, changes: dict[str, Any], code: int, words: tuple[str, ...]
) -> None:
    out = tmp_path / "run"
    one_error(fedloop("simulate", config(**changes), "--out", out, "-q"), code, *words)
    assert free(out)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--set", "federation.rounds=x"), ("--set federation.rounds=x", "found 'x'")),
        (("--set", "nonsense"), ("--set nonsense", "KEY=VALUE")),
        (("--set", "a.b=1"), ("unknown key 'a'",)),
        (("--seeds", "1,x"), ("--seeds 1,x", "whole numbers")),
        (("--seeds", "1,1"), ("seeds must differ",)),
        (("--address", "x:1"), ("--address needs --engine ray",)),
    ],
)
def test_bad_arguments_end_in_one_line(fedloop, config, tmp_path, arguments, words) -> None:
    out = tmp_path / "run"
    one_error(fedloop("simulate", config(), "--out", out, "-q", *arguments), 2, *words)
    assert free(out)


def test_a_configuration_that_is_not_there(fedloop, tmp_path: Path) -> None:
    for path in ("gone.yaml", "configs/experiments/gone.yaml"):
        one_error(fedloop("simulate", path, "--out", tmp_path / "run"), 2, path, "no such")


def test_an_installed_configuration_is_found_from_anywhere(
    fedloop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    command = ("simulate", "configs/experiments/demo.yaml", "--out", "run", "--set", "nam=x")
    one_error(fedloop(*command), 2, "unknown key 'nam'")


def test_a_folder_that_is_a_file(fedloop, config, tmp_path: Path) -> None:
    (tmp_path / "run").touch()
    one_error(
        fedloop("simulate", config(), "--out", tmp_path / "run", "-q"), 1, "run: cannot be written"
    )


def test_a_report_of_nothing(fedloop, tmp_path: Path) -> None:
    one_error(fedloop("report", tmp_path, "--out", tmp_path / "report"), 1, str(tmp_path))


# ------------------------------------------------------------------ the door itself


@pytest.mark.parametrize(
    ("error", "code"), [(DataError("case x: no"), 1), (SettingsError("key x: no"), 2)]
)
def test_errors_of_a_verb_are_one_line(fedloop, monkeypatch, error, code: int) -> None:
    def fails(**_: object) -> None:
        raise error

    monkeypatch.setattr(cli.app, "main", fails)
    assert fedloop() == (code, "", f"error: {error}\n")


def test_an_interrupt_says_how_to_go_on(fedloop, monkeypatch) -> None:
    def interrupted(**_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli.app, "main", interrupted)
    code, _, err = fedloop()
    assert code == 130
    assert "--resume" in err


def test_help_version_and_usage(fedloop) -> None:
    code, out, _ = fedloop("--help")
    assert code == 0
    assert all(verb in out for verb in ("demo", "simulate", "report"))
    for verb in ("demo", "simulate", "report"):
        code, out, _ = fedloop(verb, "--help")
        assert code == 0
        assert "Example" in out
    assert fedloop("--version")[:2] == (0, f"fedloop, version {__version__}\n")
    code, out, err = fedloop("simulat")
    assert (code, out) == (2, "")
    assert "No such command 'simulat'" in err


def test_the_help_loads_no_torch() -> None:
    """Heavy imports wait for the command that needs them."""
    code = (
        "import sys; sys.argv = ['fedloop', '--help']\n"
        "from fedloop.cli import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "print(sorted({'torch', 'monai', 'flwr', 'ray'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == "[]"
