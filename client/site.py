"""A site: its settings file, its folder, its cases.

``site.yaml`` is owned by the hospital. Everything a site remembers lies in its folder; nothing a
later step needs lives only in a process, since Flower may run each message in a new one.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import Field

from client.annotation.store import CorrectionStore
from fedloop.configuration import load
from fedloop.errors import DataError
from fedloop.imaging.bank import PatchBank, load_bank
from fedloop.imaging.case import Case
from fedloop.imaging.dataset import open_dataset
from fedloop.settings import DataSettings, ImagingSettings, Settings

SITE_FILE = "site.yaml"
LOG_FILE = "site.log"
BANKS_KEPT = 24
"""Patch banks kept in memory per process; arms of an experiment share a site's images."""


class AnnotatorSettings(Settings):
    """Who corrects queued patches without a human: a name from ``fedloop.annotators``."""

    name: str
    parameters: dict[str, Any] = Field(default_factory=dict)


class SiteSettings(Settings):
    """``site.yaml``: which cases the site holds, and in which role.

    ``labelled`` cases carry the site's own reference labels and may be trained on; ``pool`` cases
    are what the query strategy chooses from; ``test`` cases are held out.
    """

    name: str = Field(min_length=1, max_length=128)
    data: DataSettings
    labelled: tuple[str, ...] = ()
    pool: tuple[str, ...] = ()
    test: tuple[str, ...] = ()
    annotator: AnnotatorSettings | None = None
    study: bool = Field(
        default=False,
        description="a simulation: the pool's reference labels may be used to measure true errors",
    )
    cache: Path | None = Field(default=None, description="shared cache of pool predictions")
    device: str = "auto"
    threads: int = Field(default=0, ge=0, description="CPU threads for torch; 0: its own choice")


@dataclass(frozen=True)
class Site:
    """An opened site."""

    folder: Path
    settings: SiteSettings

    @property
    def name(self) -> str:
        return self.settings.name

    @property
    def store(self) -> CorrectionStore:
        return CorrectionStore(self.folder / "annotation")

    @property
    def log_file(self) -> Path:
        return self.folder / LOG_FILE

    def cases(self, role: str, imaging: ImagingSettings) -> tuple[Case, ...]:
        """The cases of ``labelled``, ``pool`` or ``test``, in the order of ``site.yaml``.

        Raises:
            DataError: ``site.yaml`` names a case the data set does not have.
        """
        wanted: Sequence[str] = getattr(self.settings, role)
        known = _cases(self.settings.data, imaging)
        try:
            return tuple(known[case_id] for case_id in wanted)
        except KeyError as error:
            raise DataError(
                f"{self.folder / SITE_FILE}: key {role!r}: case {error.args[0]!r} is not in "
                f"{self.settings.data.root}"
            ) from None

    def bank(self, role: str, imaging: ImagingSettings, *, with_labels: bool) -> PatchBank:
        """The patches of a role's cases, read once per process."""
        return _bank(self.settings.data, imaging, tuple(getattr(self.settings, role)), with_labels)


def open_site(folder: Path) -> Site:
    """Raises: SettingsError: ``site.yaml`` is missing or wrong."""
    return Site(folder, load(SiteSettings, folder / SITE_FILE))


@functools.lru_cache(maxsize=BANKS_KEPT)
def _cases(data: DataSettings, imaging: ImagingSettings) -> dict[str, Case]:
    dataset = open_dataset(data, imaging)
    return {case.case_id: case for cases in dataset.centers.values() for case in cases}


@functools.lru_cache(maxsize=BANKS_KEPT)
def _bank(
    data: DataSettings, imaging: ImagingSettings, case_ids: tuple[str, ...], with_labels: bool
) -> PatchBank:
    known = _cases(data, imaging)
    return load_bank([known[i] for i in case_ids], imaging, with_labels=with_labels)
