"""Corrections that need no page: an annotator named in ``site.yaml`` answers the queue itself.

Packages offer one through the entry-point group ``fedloop.annotators``; the simulator's clinician
is such a package's class, so a site does not know whether it is part of a simulation.
"""

from __future__ import annotations

from importlib.metadata import entry_points
from typing import Any, Protocol

from client.annotation.store import CorrectionStore, Item
from fedloop.configuration import suggest
from fedloop.errors import SettingsError
from fedloop.imaging.case import Case
from fedloop.imaging.geometry import Grid

GROUP = "fedloop.annotators"


class Annotator(Protocol):
    """Corrects one item at a time."""

    def correct(self, store: CorrectionStore, item: Item, case: Case, grid: Grid) -> None:
        """Store a correction of ``item``, a patch of ``case`` in ``grid``."""
        ...


def build_annotator(name: str, parameters: dict[str, Any]) -> Annotator:
    """Raises: SettingsError: no installed package offers that annotator, or a wrong parameter."""
    offered = {point.name: point for point in entry_points(group=GROUP)}
    if name not in offered:
        raise SettingsError(f"annotator.name: found {name!r}{suggest(name, sorted(offered))}")
    annotator: Annotator = offered[name].load()(parameters)
    return annotator
