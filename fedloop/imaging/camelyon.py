"""Which hospital a Camelyon slide comes from, by its name and, as a check, its spacing."""

from __future__ import annotations

import logging
import re
from pathlib import Path

from fedloop.errors import DataError

logger = logging.getLogger(__name__)

BLOCKS = ("CWZ", "RST", "UMCU", "RUMC", "LPON")
"""Camelyon17: 20 patients each, from patient_000 on. The challenge page lists the hospitals in
another order, which is not that of the patients. UMCU and RUMC follow by elimination."""

SPACINGS_MPP = {"UMCU": 0.226, "RUMC": 0.243}
TOLERANCE_MPP = 0.006
RUMC_CAMELYON16 = {"normal": 100, "tumor": 70}
"""Camelyon16: training slides up to these numbers are from RUMC, the rest from UMCU."""

_PATIENT = re.compile(r"(patient_(\d{3}))(?:_node_\d+)?")
_CAMELYON16 = re.compile(r"(normal|tumor)_(\d{3})")

RULE = (
    "Centers follow from Camelyon slide names: blocks of 20 patients "
    "(UMCU and RUMC of Camelyon17 by elimination; they may be swapped)."
)


def center_of(case_id: str) -> str | None:
    """Hospital of a Camelyon slide, or none where the name does not tell."""
    if match := _PATIENT.fullmatch(case_id):
        block = int(match[2]) // 20
        return BLOCKS[block] if block < len(BLOCKS) else None
    if match := _CAMELYON16.fullmatch(case_id):
        return "RUMC" if int(match[2]) <= RUMC_CAMELYON16[match[1]] else "UMCU"
    return None


def patient_of(case_id: str) -> str:
    """``patient_NNN`` of a Camelyon17 slide; any other case is a patient of its own."""
    match = _PATIENT.fullmatch(case_id)
    return match[1] if match else case_id


def centers_by_name(case_ids: list[str], root: Path) -> dict[str, str] | None:
    """Center of every case by the Camelyon names, or none where no case has such a name.

    Raises:
        DataError: some names tell their hospital and some do not.
    """
    centers = {case: center_of(case) for case in case_ids}
    unknown = [case for case, center in centers.items() if center is None]
    if len(unknown) == len(centers):
        return None
    if unknown:
        raise DataError(
            f"{root}: the center of {unknown[0]} ({len(unknown)} cases) does not follow from its "
            "name as that of the others does: add centers.csv"
        )
    return {case: center for case, center in centers.items() if center is not None}


def warn_of_spacing(case_id: str, center: str, mpp: float) -> None:
    """Warn when a slide's level-0 spacing is that of the other of UMCU and RUMC."""
    other = {"UMCU": "RUMC", "RUMC": "UMCU"}.get(center)
    if other is None or center_of(case_id) != center:
        return
    if abs(mpp - SPACINGS_MPP[other]) < TOLERANCE_MPP:
        said = "%s: by its name from %s, but %.3f microns per pixel are those of %s"
        logger.warning(said, case_id, center, mpp, other)
