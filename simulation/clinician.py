"""A simulated clinician who knows the reference labels.

The oracle corrects every wrong voxel of a patch. The minutes are modelled, not measured: looking
at a patch costs a fixed time, and drawing costs time per corrected area
(:class:`fedloop.settings.ClinicianSettings`).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from client.annotation.store import CorrectionStore, Item
from fedloop.configuration import load
from fedloop.imaging.case import IGNORE, Case
from fedloop.imaging.geometry import Grid
from fedloop.settings import ClinicianSettings

READER = "simulated clinician"


class SimulatedClinician:
    """Corrects queued patches from the reference labels (``fedloop.annotators``: ``simulated``)."""

    def __init__(self, parameters: dict[str, Any]) -> None:
        self.settings = load(ClinicianSettings, changes=parameters)

    def correct(self, store: CorrectionStore, item: Item, case: Case, grid: Grid) -> None:
        """Store the reference label of the patch as its correction.

        Raises:
            DataError: the case has no readable reference label.
        """
        mask = case.read_label(grid.box(item.cell))
        wrong = int(np.count_nonzero((mask != item.predicted) & (mask != IGNORE)))
        store.correct(item, mask, corrected_px=wrong, seconds=self.seconds(wrong), reader=READER)

    def seconds(self, corrected_px: int) -> float:
        """Modelled active seconds for one patch."""
        s = self.settings
        return s.seconds_per_patch + s.seconds_per_1000_px * corrected_px / 1000.0
