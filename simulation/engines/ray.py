"""Flower's own simulation on Ray, for several GPUs or machines; the same two apps.

Flower's simulation knows a node only by its partition number, so the ClientApp is built with a
table from partition to site folder. All machines of a cluster must see these folders.
"""

from __future__ import annotations

import importlib.util
import logging
import os
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path

from flwr.app import Context

from client.app import make_app as make_client_app
from fedloop.errors import SettingsError
from server.app import make_app as make_server_app


def run_campaign(
    folder: Path,
    sites: Mapping[str, Path],
    *,
    progress: Callable[[str], None] = lambda _: None,
    address: str | None = None,
    cpus_per_site: float = 1.0,
    gpus_per_site: float = 0.0,
) -> None:
    """Run (or resume) a campaign on a Ray cluster (``address``) or on a local one.

    Raises:
        SettingsError: Ray is not installed.
        FedloopError: whatever stopped the campaign.
    """
    if importlib.util.find_spec("ray") is None:
        raise SettingsError("--engine ray needs Ray: pip install 'fedloop[ray]'")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")
    from flwr.simulation import run_simulation

    folders = [sites[name] for name in sorted(sites)]

    def find_folder(context: Context) -> Path:
        return folders[int(context.node_config["partition-id"])]

    init_args = {"address": address} if address else {"include_dashboard": False}
    logging.getLogger("flwr").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        # The documented replacement (`flwr run`) can neither join a cluster nor pass apps.
        warnings.simplefilter("ignore", DeprecationWarning)
        run_simulation(
            server_app=make_server_app(folder, progress=progress),
            client_app=make_client_app(find_folder),
            num_supernodes=len(folders),
            backend_config={
                "init_args": init_args,
                "client_resources": {"num_cpus": cpus_per_site, "num_gpus": gpus_per_site},
            },
        )
