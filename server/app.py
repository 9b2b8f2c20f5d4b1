"""The coordinator as a Flower ServerApp; the same on every engine.

``app`` is what a SuperLink runs: its run config names the campaign folder. An engine that cannot
pass a run config builds its own with :func:`make_app`.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from fedloop.configuration import load
from fedloop.errors import SettingsError
from fedloop.settings import CampaignSettings
from server.campaign import Campaign

CAMPAIGN_FILE = "campaign.yaml"
RUN_CONFIG_KEY = "campaign-folder"


def make_app(
    folder: Path | None = None, *, progress: Callable[[str], None] = lambda _: None
) -> ServerApp:
    """A ServerApp that runs the campaign of ``folder`` (none: of the run config)."""
    app = ServerApp()

    @app.main()
    def main(grid: Grid, context: Context) -> None:
        place = folder or _folder_of(context)
        settings = load(CampaignSettings, place / CAMPAIGN_FILE)
        Campaign(settings, place, progress=progress).run(grid)

    return app


def _folder_of(context: Context) -> Path:
    value = context.run_config.get(RUN_CONFIG_KEY)
    if not value:
        raise SettingsError(f"run config: key {RUN_CONFIG_KEY!r} must name the campaign's folder")
    return Path(str(value))


app = make_app()
