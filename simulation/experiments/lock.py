"""One simulation at a time per run folder, orphaned workers of a killed one included."""

from __future__ import annotations

import fcntl
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fedloop.errors import RunFolderError

WATCH_SECONDS = 0.5
WAIT_SECONDS = 10.0


@contextmanager
def exclusive(out: Path) -> Iterator[None]:
    """Hold the run folder; waits a little for the workers of a killed run to notice and end.

    Raises:
        RunFolderError: another simulation works in the folder, or it cannot be written.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        (out / ".lock").touch()
    except OSError as error:
        raise RunFolderError(f"{out}: cannot be written: {error.strerror}") from None
    with (out / ".lock").open("a") as stream:
        deadline = time.monotonic() + WAIT_SECONDS
        while True:
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise RunFolderError(
                        f"{out}: another simulation is running in this folder"
                    ) from None
                time.sleep(WATCH_SECONDS / 2)
        # Workers take a shared lock on the second file: as long as one lives, nobody starts anew.
        with (out / ".workers").open("a") as workers:
            while True:
                try:
                    fcntl.flock(workers, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    fcntl.flock(workers, fcntl.LOCK_UN)
                    break
                except BlockingIOError:
                    if time.monotonic() > deadline:
                        raise RunFolderError(
                            f"{out}: worker processes of an earlier run are still alive"
                        ) from None
                    time.sleep(WATCH_SECONDS / 2)
        yield


def hold_as_worker(out: Path) -> None:
    """Called in a worker process: keep the folder's worker lock, and end when the parent does."""
    stream = (out / ".workers").open("a")
    fcntl.flock(stream, fcntl.LOCK_SH)
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(WATCH_SECONDS)
        stream.close()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
