"""Runs one campaign in an interpreter of its own: ``python -m tests.integration.run_engine``.

Ray's threads and warnings stay out of the test process this way. Every attempt to report usage is
printed, so that a test can see that there was none.
"""

from __future__ import annotations

import sys
import threading
import urllib.request
from pathlib import Path

from fedloop.errors import FedloopError
from tests.integration import tiny

USAGE_REPORT = "USAGE REPORT"


def main(engine: str, folder: Path) -> None:
    def refuse(request: object, *args: object, **kwargs: object) -> None:
        print(USAGE_REPORT, getattr(request, "full_url", request), flush=True)
        raise OSError("no network in this test")

    urllib.request.urlopen = refuse  # type: ignore[assignment]
    campaign = tiny.open_existing(folder)
    if engine == "ray":
        from simulation.engines.ray import run_campaign
    else:
        from simulation.engines.inprocess import run_campaign
    kwargs = {"cpus_per_site": 4096.0} if engine == "ray-too-large" else {}
    if kwargs:
        from simulation.engines.ray import run_campaign
    try:
        run_campaign(campaign.folder, campaign.sites, progress=report, **kwargs)
    except FedloopError as error:
        print(f"{type(error).__name__}: {error}", flush=True)
    print("threads", [t.name for t in threading.enumerate() if not t.daemon], flush=True)


def report(step: str) -> None:
    print("step", step, flush=True)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
