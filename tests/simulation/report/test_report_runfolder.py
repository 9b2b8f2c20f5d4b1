"""A malformed run folder is refused in one line that names file, line and column."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from fedloop.errors import RunFolderError
from simulation.report import build_report
from simulation.report.runfolder import read_run
from tests.simulation.report.test_report_fake import Fake, write_run


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return write_run(tmp_path / "run", Fake(patches=12))


def edit(path: Path, line: int, text: str) -> None:
    lines = path.read_text().splitlines()
    lines[line - 1] = text
    path.write_text("\n".join(lines) + "\n")


@pytest.mark.parametrize(
    ("file", "line", "text", "expected"),
    [
        ("metrics.csv", 3, "uga,0,a,,,1,5,dice_global,abc", "line 3, column 'value': found 'abc'"),
        ("metrics.csv", 3, "uga,x,a,,,1,5,dice_global,1", "line 3, column 'seed': found 'x'"),
        ("metrics.csv", 3, "uga,0,a,,,1,5,dice_global,inf", "line 3, column 'value': found 'inf'"),
        ("metrics.csv", 3, "uga,0,a", "line 3: 3 cells, 9 expected"),
        ("metrics.csv", 3, "ugga,0,a,,,1,5,dice,1", "line 3, column 'arm': 'ugga' is none of"),
        ("metrics.csv", 1, "arm,seed,center,case", "line 1: no column 'category'"),
        ("rounds.csv", 2, "uga,0,0,5,1,1,a,0.5,x,1,1,", "line 2, column 'examples': found 'x'"),
        ("patches.csv", 2, "0,a,b,0-0,,0,0,0,0,,0", "line 2, column 'uga': found ''"),
        ("selections.csv", 2, "uga", "line 2: 1 cells, 13 expected"),
        ("run.json", 1, '{"command" 3}', "run.json: line 1, column"),
        ("run.json", 1, '{"command": 3}', "run.json: key 'command'"),
        ("settings.yaml", 1, "nmae: x", "settings.yaml: unknown key 'nmae'"),
        ("pictures/pictures.json", 1, '[{"seed": "a"}]', "pictures.json: key '0.seed'"),
    ],
)
def test_errors_name_the_place(run: Path, file: str, line: int, text: str, expected: str) -> None:
    edit(run / file, line, text)
    with pytest.raises(RunFolderError) as caught:
        read_run(run)
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("file", ["settings.yaml", "run.json", "metrics.csv"])
def test_required_files(run: Path, file: str) -> None:
    (run / file).unlink()
    with pytest.raises(RunFolderError, match=f"no {file}"):
        read_run(run)


def test_no_folder_and_no_runs(tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match="no such run folder"):
        build_report([tmp_path / "nowhere"], tmp_path / "out")
    with pytest.raises(RunFolderError, match="at least one"):
        build_report([], tmp_path / "out")


def test_metrics_without_rows(run: Path) -> None:
    path = run / "metrics.csv"
    path.write_text(path.read_text().splitlines()[0] + "\n")
    with pytest.raises(RunFolderError, match="holds no rows"):
        read_run(run)


def test_undecodable_bytes(run: Path) -> None:
    (run / "rounds.csv").write_bytes(b"arm,\xff\xfe\n")
    with pytest.raises(RunFolderError, match=r"rounds.csv: cannot be read"):
        read_run(run)


@pytest.mark.parametrize("break_it", ["not an archive", "shape", "lacking"])
def test_broken_pictures(run: Path, tmp_path: Path, break_it: str) -> None:
    path = run / "pictures" / "000.npz"
    with np.load(path) as held:
        arrays = dict(held)
    if break_it == "not an archive":
        path.write_bytes(b"PK nonsense")
    else:
        after = arrays.pop("after")
        extra = {"after": after[1:]} if break_it == "shape" else {}
        np.savez(path, **arrays, **extra)  # type: ignore[arg-type]
    with pytest.raises(RunFolderError, match=r"000\.npz"):
        build_report([run], tmp_path / "out")


def test_more_columns_are_passed_over(run: Path) -> None:
    path = run / "rounds.csv"
    path.write_text("\n".join(line + ",more" for line in path.read_text().splitlines()) + "\n")
    read_run(run)
