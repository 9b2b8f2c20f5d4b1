"""The decisions of scripts/bootstrap.py; no network, no environment is made."""

from __future__ import annotations

import ast
import importlib.util
import os
from pathlib import Path
from types import ModuleType

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
SCRIPT = REPOSITORY / "scripts" / "bootstrap.py"


@pytest.fixture(scope="module")
def bootstrap() -> ModuleType:
    spec = importlib.util.spec_from_file_location("bootstrap_script", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The only folder on PATH."""
    folder = tmp_path / "tools"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    return folder


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    folder = tmp_path / "a repository"
    folder.mkdir()
    (folder / "pyproject.toml").write_text("[project]\n")
    (folder / "constraints.txt").write_text("torch==9.8.7\n")
    return folder


def script(path: Path, body: str) -> None:
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)


# --------------------------------------------------------------------------- torch


@pytest.mark.parametrize(
    "text",
    [
        "torch==2.13.0\n",
        "# torch==1.0\nnumpy==2.0\ntorch==2.13.0  # the pin\nx==1\n",
        "torch==2.13.0+cpu\n",
        "torch==2.13.0; python_version > '3'\n",
        "torchvision==0.1\ntorch==2.13.0",
    ],
)
def test_pin_is_read_from_the_constraints(bootstrap: ModuleType, text: str) -> None:
    assert bootstrap.torch_pin(text) == "2.13.0"


@pytest.mark.parametrize("text", ["", "numpy==2.0\n", "torchvision==0.1\n", "# torch==1.0\n"])
def test_missing_pin_is_told(bootstrap: ModuleType, text: str) -> None:
    with pytest.raises(bootstrap.SetupError, match=r"constraints\.txt has no line torch=="):
        bootstrap.torch_pin(text)


def test_constraints_of_this_repository_hold_one_plain_pin(bootstrap: ModuleType) -> None:
    text = (REPOSITORY / "constraints.txt").read_text(encoding="utf-8")
    assert "+" not in bootstrap.torch_pin(text)
    assert text.count("\ntorch==") == 1
    source = SCRIPT.read_text(encoding="utf-8")
    assert bootstrap.torch_pin(text) not in source, "a second copy of the pin"


def test_cpu_build_is_tried_first_without_a_driver(bootstrap: ModuleType) -> None:
    assert bootstrap.torch_choices("2.1", nvidia=False) == ["torch==2.1+cpu", "torch==2.1"]
    assert bootstrap.torch_choices("2.1", nvidia=True) == ["torch==2.1"]


@pytest.mark.skipif(os.name == "nt", reason="fake tools are shell scripts")
@pytest.mark.parametrize(
    ("nvidia_smi", "driver", "expected"),
    [
        (None, False, False),
        ("exit 0", False, True),
        ("exit 9", False, False),
        ("exit 9", True, True),
        (None, True, True),
    ],
)
def test_driver(
    bootstrap: ModuleType,
    tools: Path,
    tmp_path: Path,
    nvidia_smi: str | None,
    driver: bool,
    expected: bool,
) -> None:
    if nvidia_smi is not None:
        script(tools / "nvidia-smi", nvidia_smi)
    version = tmp_path / "version"
    if driver:
        version.write_text("NVRM version: NVIDIA\n")
    assert bootstrap.has_nvidia_driver(version) is expected


@pytest.mark.skipif(os.name == "nt", reason="fake tools are shell scripts")
def test_hanging_nvidia_smi_is_no_driver(
    bootstrap: ModuleType, tools: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script(tools / "nvidia-smi", "exec /bin/sleep 60")
    monkeypatch.setattr(bootstrap, "NVIDIA_SMI_SECONDS", 0.2)
    assert not bootstrap.has_nvidia_driver(tmp_path / "absent")


@pytest.mark.skipif(os.name == "nt", reason="the fake Python is a shell script")
def test_falls_back_to_the_plain_build_and_says_so(
    bootstrap: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    venv = tmp_path / "an environment"
    (venv / "bin").mkdir(parents=True)
    calls = tmp_path / "calls"
    script(
        venv / "bin" / "python",
        f'echo "$@" >> "{calls}"; case "$*" in *+cpu*) echo no such version; exit 1;; esac',
    )
    bootstrap._install_torch(venv, bootstrap.torch_choices("2.1", nvidia=False), "URL")
    first, second = calls.read_text().splitlines()
    assert first.endswith("--no-deps --index-url URL torch==2.1+cpu")
    assert second.endswith("--no-deps --index-url URL torch==2.1")
    assert "larger CUDA build, which still runs on the CPU" in capsys.readouterr().out


@pytest.mark.skipif(os.name == "nt", reason="the fake Python is a shell script")
def test_failure_shows_the_last_lines_of_pip(bootstrap: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    script(
        tmp_path / "bin" / "python",
        "i=0; while [ $i -lt 99 ]; do echo line $i; i=$((i+1)); done; exit 1",
    )
    with pytest.raises(bootstrap.SetupError, match="could not install fedloop") as caught:
        bootstrap._pip(tmp_path, "-e", "fedloop")
    text = str(caught.value)
    assert "line 98" in text
    assert "line 9\n" not in text


# --------------------------------------------------------------------------- stamp


def stamped(bootstrap: ModuleType, repository: Path, extras: str) -> Path:
    venv: Path = repository / ".venv"
    python: Path = bootstrap.program(venv, "python")
    python.parent.mkdir(parents=True, exist_ok=True)
    python.touch()
    (venv / bootstrap.STAMP).write_text(bootstrap.stamp_of(repository, extras) + "\n")
    return venv


def test_second_call_skips_the_installation(bootstrap: ModuleType, repository: Path) -> None:
    venv = stamped(bootstrap, repository, "dev")
    assert bootstrap.is_current(repository, venv, "dev")
    assert bootstrap.set_up(repository, "dev", None) == venv


def test_developers_environment_serves_the_demo_but_not_the_reverse(
    bootstrap: ModuleType, repository: Path
) -> None:
    assert bootstrap.is_current(repository, stamped(bootstrap, repository, "dev"), "")
    assert not bootstrap.is_current(repository, stamped(bootstrap, repository, ""), "dev")


@pytest.mark.parametrize("name", ["pyproject.toml", "constraints.txt"])
def test_change_of_what_it_was_made_from_makes_it_stale(
    bootstrap: ModuleType, repository: Path, name: str
) -> None:
    venv = stamped(bootstrap, repository, "")
    (repository / name).write_text("torch==9.8.8\n")
    assert not bootstrap.is_current(repository, venv, "")


def test_missing_python_or_stamp_makes_it_stale(bootstrap: ModuleType, repository: Path) -> None:
    venv = stamped(bootstrap, repository, "")
    bootstrap.program(venv, "python").unlink()
    assert not bootstrap.is_current(repository, venv, "")
    assert not bootstrap.is_current(repository, repository / "absent", "")


def test_moved_repository_is_installed_anew(
    bootstrap: ModuleType, repository: Path, tmp_path: Path
) -> None:
    stamped(bootstrap, repository, "")
    moved = repository.rename(tmp_path / "elsewhere")
    assert not bootstrap.is_current(moved, moved / ".venv", "")


# --------------------------------------------------------------------------- command line


def test_arguments_after_test_go_to_pytest(bootstrap: ModuleType) -> None:
    known, rest = bootstrap.parse(["test", "-k", "wire", "--tb=short", "tests/fedloop"])
    assert known.verb == "test"
    assert rest == ["-k", "wire", "--tb=short", "tests/fedloop"]


def test_demo_has_a_default_folder_and_hands_on_the_rest(bootstrap: ModuleType) -> None:
    known, rest = bootstrap.parse(["demo", "--resume"])
    assert (known.out, rest) == ("demo", ["--resume"])
    known, rest = bootstrap.parse(["demo", "--out", "a b", "--torch-index", "URL"])
    assert (known.out, known.torch_index, rest) == ("a b", "URL", [])


@pytest.mark.parametrize("arguments", [[], ["tests"], ["setup", "--quick"], ["lint", "x"]])
def test_wrong_usage_ends_with_2(
    bootstrap: ModuleType, arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        bootstrap.parse(arguments)
    assert caught.value.code == 2
    assert "usage:" in capsys.readouterr().err


def test_python_without_venv_names_the_package_to_install(
    bootstrap: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bootstrap.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(bootstrap.SetupError, match=r"apt install python3\.\d+-venv"):
        bootstrap._create(tmp_path / ".venv")


def test_set_up_that_fails_ends_with_1(
    bootstrap: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object) -> None:
        raise bootstrap.SetupError("the disk is full")

    monkeypatch.setattr(bootstrap, "set_up", fail)
    assert bootstrap.main(["test"]) == 1
    assert capsys.readouterr().err == "error: the disk is full\n"


def test_old_python_gets_as_far_as_the_sentence_that_refuses_it() -> None:
    source = SCRIPT.read_text(encoding="utf-8")
    ast.parse(source, feature_version=(3, 7))
    assert source.index("sys.version_info < (3, 11)") < source.index("import argparse")
