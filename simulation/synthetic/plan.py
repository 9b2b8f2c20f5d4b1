"""Which slides a synthetic data set holds, whose they are, and from which seed each is drawn."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from fedloop.errors import SettingsError
from fedloop.seeds import derive, generator
from fedloop.settings import SyntheticCamelyonSettings
from simulation.synthetic.centers import (
    CENTERS,
    HOME,
    NODES_PER_PATIENT,
    PATIENTS_PER_CENTER,
    center_at,
)
from simulation.synthetic.lesions import CATEGORIES

SIDE_RANGE_PX = (256, 4096)
SIDE_STEP_PX = 64
"""Slides halve evenly through all their pyramid levels, and cut into whole 64-pixel patches."""

Split = Literal["train", "test"]


@dataclass(frozen=True)
class SlidePlan:
    """All that sets one slide apart from the others of its data set.

    ``phenotype_b`` says that its tumour, if any, is of the second kind; ``seed`` is its own, so
    slides can be drawn in any order and by any process.
    """

    case_id: str
    center: str
    split: Split
    category: str
    phenotype_b: bool
    seed: int


def slide_plan(settings: SyntheticCamelyonSettings, seed: int) -> tuple[SlidePlan, ...]:
    """Return every slide of the data set, ordered by case id.

    The home center's ``train`` slides teach the igniter, those of the others are pools to
    correct. A patient's nodes all have the same split.

    Raises:
        SettingsError: an unknown category, a side out of range, or more slides than patients.
    """
    _check(settings)
    return tuple(
        plan
        for name, center in CENTERS.items()
        for split, first_patient, categories in _splits(settings, name, center.first_patient)
        for plan in _deal(settings, seed, name, split, categories, first_patient)
    )


def _check(settings: SyntheticCamelyonSettings) -> None:
    """Raise SettingsError where the settings ask for a data set that cannot be drawn."""
    side, low, high = settings.side_px, *SIDE_RANGE_PX
    if side % SIDE_STEP_PX or not low <= side <= high:
        raise SettingsError(
            f"side_px must be a multiple of {SIDE_STEP_PX} from {low} to {high}, not {side}"
        )
    asked = {*settings.igniter_slides, *settings.pool_slides, *settings.test_slides}
    if unknown := sorted(asked - set(CATEGORIES)):
        raise SettingsError(f"no lesion category {unknown[0]!r}; there are {', '.join(CATEGORIES)}")
    for train in (settings.igniter_slides, settings.pool_slides):
        if (patients := _patients(train) + _patients(settings.test_slides)) > PATIENTS_PER_CENTER:
            raise SettingsError(
                f"{len(train)} train and {len(settings.test_slides)} test slides need {patients} "
                f"patients a center; Camelyon17 numbers {PATIENTS_PER_CENTER} "
                f"of {NODES_PER_PATIENT} nodes"
            )


def _splits(
    settings: SyntheticCamelyonSettings, center: str, first_patient: int
) -> Iterator[tuple[Split, int, tuple[str, ...]]]:
    """Yield each split with its first patient and its slides' categories."""
    train = settings.igniter_slides if center == HOME else settings.pool_slides
    yield "train", first_patient, train
    yield "test", first_patient + _patients(train), settings.test_slides


def _patients(categories: tuple[str, ...]) -> int:
    return -(-len(categories) // NODES_PER_PATIENT)


def _deal(
    settings: SyntheticCamelyonSettings,
    seed: int,
    center: str,
    split: Split,
    categories: tuple[str, ...],
    first_patient: int,
) -> Iterator[SlidePlan]:
    """Number one split's slides node by node and decide which show the second phenotype."""
    second = _phenotype_b(settings, seed, center, split, categories)
    for index, category in enumerate(categories):
        patient, node = divmod(index, NODES_PER_PATIENT)
        yield SlidePlan(
            case_id=f"patient_{first_patient + patient:03d}_node_{node}",
            center=center,
            split=split,
            category=category,
            phenotype_b=index in second,
            seed=derive(seed, site=center, member=index, purpose=f"synthetic slide {split}"),
        )


def _phenotype_b(
    settings: SyntheticCamelyonSettings,
    seed: int,
    center: str,
    split: Split,
    categories: tuple[str, ...],
) -> frozenset[int]:
    """Choose the slides of the second phenotype among those with lesions.

    They are dealt, not tossed for each slide: with four lesion slides a center, a toss would
    often leave none, and then there is nothing new for a site to correct. Where tissue is that
    of the home center, the igniter has met the phenotype once and no test slide shows it.
    """
    lesions = [index for index, category in enumerate(categories) if category != "negative"]
    rng = generator(seed, site=center, purpose=f"synthetic phenotype {split}")
    if center == HOME or settings.tissue_shift == 0:
        count = 1 if split == "train" else 0
    else:
        mix = center_at(center, shift=0, tissue_shift=settings.tissue_shift).tissue
        count = max(1, int(min(mix.phenotype_b, 1.0) * len(lesions) + rng.random()))
    return frozenset(int(index) for index in rng.permutation(lesions)[:count])
