"""Flower's own simulation on Ray, for several GPUs or machines; the same two apps.

Flower's simulation knows a node only by its partition number, so the ClientApp is built with a
table from partition to site folder. All machines of a cluster must see these folders.
"""

from __future__ import annotations

import importlib.util
import logging
import os
import socket
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from threading import Event
from typing import Any

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp
from flwr.supercore import telemetry

from client.app import make_app as make_client_app
from fedloop.errors import SettingsError
from server.app import make_app as make_server_app
from simulation.engines.stoppable import StoppableGrid


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
        SettingsError: Ray is not installed, or cannot give a site what it needs.
        FedloopError: whatever stopped the campaign.
    """
    if importlib.util.find_spec("ray") is None:
        raise SettingsError("--engine ray needs Ray: pip install 'fedloop[ray]'")
    if " " in sys.executable:
        # Ray splits its workers' command line at spaces and then waits for them for ever.
        raise SettingsError(
            f"--engine ray: Ray cannot start from a path with a space ({sys.executable}); "
            "move the environment to one without"
        )
    if address:
        require_cluster(address)
    _stay_silent()
    from flwr.simulation import run_simulation

    folders = [sites[name].resolve() for name in sorted(sites)]

    def find_folder(context: Context) -> Path:
        return folders[int(context.node_config["partition-id"])]

    stop = Event()
    init_args: dict[str, Any] = {"include_dashboard": False}
    if address:
        init_args = {"address": address}
    try:
        with _quiet_flower():
            run_simulation(
                server_app=_stoppable(make_server_app(folder, progress=progress), stop),
                client_app=make_client_app(find_folder),
                num_supernodes=len(folders),
                backend_config={
                    "init_args": init_args,
                    "client_resources": {"num_cpus": cpus_per_site, "num_gpus": gpus_per_site},
                },
            )
    except RuntimeError as error:  # Flower's own, around whatever Ray raised
        raise SettingsError(
            f"--engine ray: Ray failed with {cpus_per_site:g} CPU(s) and {gpus_per_site:g} GPU(s) "
            f"per site: {_first_cause(error)}"
        ) from error
    finally:
        stop.set()


def require_cluster(address: str) -> None:
    """Raises: SettingsError: nothing listens there; Ray itself would wait for minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=5).close()
    except (OSError, ValueError, OverflowError) as error:
        raise SettingsError(
            f"--address {address}: no Ray cluster answers there ({error}); expected HOST:PORT as "
            "`ray start --head` prints it"
        ) from None


def _stoppable(campaign: ServerApp, stop: Event) -> ServerApp:
    app = ServerApp()

    @app.main()
    def main(grid: Grid, context: Context) -> None:
        campaign(StoppableGrid(grid, stop), context)

    return app


def _stay_silent() -> None:
    """No usage reports to anybody, unless the user has asked for them."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # Flower reads its variable once, when it is first imported; that was long ago.
    telemetry.FLWR_TELEMETRY_ENABLED = os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")


@contextmanager
def _quiet_flower() -> Iterator[None]:
    logger = logging.getLogger("flwr")
    level = logger.level
    logger.setLevel(logging.CRITICAL)  # what it logs as errors is raised or replied as well
    try:
        with warnings.catch_warnings():
            # The documented replacement (`flwr run`) can neither join a cluster nor pass apps.
            warnings.simplefilter("ignore", DeprecationWarning)
            yield
    finally:
        logger.setLevel(level)


def _first_cause(error: BaseException) -> str:
    while error.__cause__ is not None:
        error = error.__cause__
    return " ".join(str(error).split()) or type(error).__name__
