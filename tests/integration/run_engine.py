"""Runs one campaign in an interpreter of its own: ``python -m tests.integration.run_engine``.

Ray's threads and warnings stay out of the test process this way. Every attempt to report usage is
printed, so that a test can see that there was none.
"""

from __future__ import annotations

import sys
import threading
import time
import urllib.request
from pathlib import Path
from typing import Any

from client import training
from fedloop.errors import FedloopError
from fedloop.records import TrainInstruction
from simulation.engines import inprocess
from tests.integration import tiny

USAGE_REPORT = "USAGE REPORT"
IN_TRAINING = "IN TRAINING"
HANG_SECONDS = 600.0


def main(engine: str, folder: Path) -> None:
    urllib.request.urlopen = refuse  # type: ignore[assignment]
    campaign = tiny.open_existing(folder)
    where = (campaign.folder, campaign.sites)
    try:
        match engine:
            case "inprocess-hangs":
                hang_in_training()
                inprocess.run_campaign(*where, progress=report)
            case "ray":
                from simulation.engines import ray

                ray.run_campaign(*where, progress=report)
            case "ray-too-large":
                from simulation.engines import ray

                ray.run_campaign(*where, progress=report, cpus_per_site=4096.0)
    except FedloopError as error:
        print(f"{type(error).__name__}: {error}", flush=True)
    print("threads", [t.name for t in threading.enumerate() if not t.daemon], flush=True)


def report(step: str) -> None:
    print("step", step, flush=True)


def refuse(request: object, *args: object, **kwargs: object) -> None:
    """Instead of ``urlopen``."""
    print(USAGE_REPORT, getattr(request, "full_url", request), flush=True)
    raise OSError("no network in this test")


def hang_in_training() -> None:
    """Stop moving at the second step of the second site's second round."""
    honest, steps = training._batch, 0

    def batch(sampler: Any, instruction: TrainInstruction, *rest: Any) -> Any:
        nonlocal steps
        if instruction.round == 2:
            steps += 1
            # The first site's members take two steps each.
            if steps == 2 * tiny.MODEL.members + 2:
                print(IN_TRAINING, flush=True)
                time.sleep(HANG_SECONDS)
        return honest(sampler, instruction, *rest)

    training._batch = batch  # type: ignore[assignment]


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
