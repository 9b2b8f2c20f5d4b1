"""Fixtures of the integration tests: one data set, and campaigns over it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from simulation.engines.inprocess import run_campaign
from tests.integration import tiny
from tests.integration.tiny import Tiny

Make = Callable[..., Tiny]


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.write_data(tmp_path_factory.mktemp("tiles"))


@pytest.fixture
def make(tmp_path: Path, data: Path) -> Make:
    """Make a fresh campaign under a folder of its own (see :func:`tests.integration.tiny.make`)."""

    def build(name: str = "a", **changes: Any) -> Tiny:
        return tiny.make(tmp_path / name, data, **changes)

    return build


@pytest.fixture(scope="session")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory, data: Path) -> Callable[..., Tiny]:
    """A finished campaign by its settings, run once per session in this process."""
    finished: dict[tuple[tuple[str, Any], ...], Tiny] = {}

    def run(**changes: Any) -> Tiny:
        key = tuple(sorted(changes.items()))
        if key not in finished:
            campaign = tiny.make(tmp_path_factory.mktemp("whole") / "a", data, **changes)
            run_campaign(campaign.folder, campaign.sites)
            finished[key] = campaign
        return finished[key]

    return run
