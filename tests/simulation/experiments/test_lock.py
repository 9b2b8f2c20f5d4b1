"""One simulation per folder; a killed one's workers end by themselves."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from fedloop.errors import RunFolderError
from simulation.experiments import lock
from simulation.experiments.lock import exclusive

ROOT = Path(__file__).parents[3]

PARENT = """
import subprocess, sys, time
worker = subprocess.Popen([sys.executable, "-c", '''
import sys, time
from pathlib import Path
from simulation.experiments.lock import hold_as_worker
hold_as_worker(Path(sys.argv[1]))
print("holding", flush=True)
time.sleep(60)
''', sys.argv[1]])
print(worker.pid, flush=True)
time.sleep(60)
"""


@contextmanager
def worker_of_a_parent(out: Path) -> Iterator[tuple[subprocess.Popen[str], int]]:
    with subprocess.Popen(
        [sys.executable, "-c", PARENT, str(out)], stdout=subprocess.PIPE, text=True, cwd=ROOT
    ) as parent:
        assert parent.stdout is not None
        lines = sorted(parent.stdout.readline().strip() for _ in range(2))
        assert lines[1] == "holding"
        try:
            yield parent, int(lines[0])
        finally:
            parent.kill()


def alive(pid: int) -> bool:
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return status.rsplit(")", 1)[1].split()[0] != "Z"


def test_a_second_simulation_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "WAIT_SECONDS", 0.0)
    out = tmp_path / "a" / "run"
    with (
        exclusive(out),
        pytest.raises(RunFolderError, match="another simulation is running in this folder"),
        exclusive(out),
    ):
        pass
    with exclusive(out):
        pass  # free again


def test_an_error_frees_the_folder(tmp_path: Path) -> None:
    with pytest.raises(KeyError), exclusive(tmp_path):
        raise KeyError
    with exclusive(tmp_path):
        pass


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for out in (tmp_path / "file", tmp_path / "file" / "run", Path("/proc/run")):
        with (
            pytest.raises(RunFolderError, match=f"^{out}: cannot be written: "),
            exclusive(out),
        ):
            pass


def test_a_living_worker_of_an_earlier_run_keeps_the_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lock, "WAIT_SECONDS", 0.0)
    with worker_of_a_parent(tmp_path) as (_, worker):
        assert alive(worker)
        with (
            pytest.raises(RunFolderError, match="worker processes of an earlier run are still"),
            exclusive(tmp_path),
        ):
            pass


def test_a_worker_ends_when_its_parent_is_killed(tmp_path: Path) -> None:
    with worker_of_a_parent(tmp_path) as (parent, worker):
        os.kill(parent.pid, signal.SIGKILL)
        start = time.monotonic()
        with exclusive(tmp_path):  # waits for the orphan
            pass
        assert time.monotonic() - start < lock.WAIT_SECONDS
        for _ in range(50):
            if not alive(worker):
                break
            time.sleep(0.05)
        assert not alive(worker)
