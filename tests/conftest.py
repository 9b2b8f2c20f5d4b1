"""Fixtures for all tests."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import settings

# Times per example are not what these tests are about, and shared machines are uneven.
settings.register_profile("fedloop", deadline=None, database=None)
settings.load_profile("fedloop")


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real images; tests that need it are marked ``realdata``."""
    folder = Path(__file__).resolve().parents[2] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"real images not found: {folder} is no folder")
    return folder
