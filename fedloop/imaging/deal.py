"""Deals each center's cases to a pool (to select and train from) and a held-out test set."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

from fedloop.errors import DataError
from fedloop.imaging.camelyon import patient_of
from fedloop.imaging.case import Case
from fedloop.imaging.dataset import Dataset
from fedloop.seeds import derive

SEVERITY = ("", "negative", "itc", "micro", "macro")


@dataclass(frozen=True)
class CenterSplit:
    """A center's cases on both sides, sorted by id; ``notes`` say where the rule was not simple."""

    pool: tuple[Case, ...]
    test: tuple[Case, ...]
    notes: tuple[str, ...] = ()


def deal(dataset: Dataset, *, seed: int, test_fraction: float) -> dict[str, CenterSplit]:
    """Split every center, by the table's ``split`` where it is complete, else by the seed.

    The seeded split is stratified by lesion category and leaves at least one patient on each side.
    All slides of a patient lie on one side.

    Args:
        dataset: an opened data set.
        seed: fixes the seeded splits; a center's split does not depend on other centers.
        test_fraction: share of patients held out by the seeded split.

    Raises:
        DataError: a center has one case or one patient, or the table splits a patient.
    """
    return {
        center: _center(center, cases, dataset.split, seed, test_fraction)
        for center, cases in dataset.centers.items()
    }


def _center(
    center: str, cases: tuple[Case, ...], split: Mapping[str, str], seed: int, fraction: float
) -> CenterSplit:
    given = [case for case in cases if case.case_id in split]
    notes: tuple[str, ...] = ()
    if len(given) == len(cases):
        pool = tuple(case for case in cases if split[case.case_id] != "test")
        test = tuple(case for case in cases if split[case.case_id] == "test")
        if pool and test:
            _require_whole_patients(center, pool, test)
            return CenterSplit(pool, test)
        missing = "test" if pool else "train"
        notes = (f"center {center}: centers.csv gives no {missing} case; split by seed instead",)
    elif given:
        notes = (
            f"center {center}: centers.csv gives a split for {len(given)} of {len(cases)} cases; "
            "split by seed instead",
        )
    held_out = _held_out(center, cases, seed, fraction)
    return CenterSplit(
        tuple(case for case in cases if patient_of(case.case_id) not in held_out),
        tuple(case for case in cases if patient_of(case.case_id) in held_out),
        notes,
    )


def _held_out(center: str, cases: tuple[Case, ...], seed: int, fraction: float) -> set[str]:
    """Patients of the test set: of each category its share, by largest remainder."""
    categories = _categories(cases)
    if len(categories) < 2:
        raise DataError(
            f"center {center!r} has {len(cases)} case(s) of one patient, needed are two for a pool "
            "and a test set: add cases, or raise data.min_cases_per_center to join small centers"
        )
    strata: defaultdict[str, list[str]] = defaultdict(list)
    for patient in sorted(
        categories, key=lambda p: (derive(seed, site=center, purpose=f"deal {p}"), p)
    ):
        strata[categories[patient]].append(patient)
    wanted = min(max(round(fraction * len(categories)), 1), len(categories) - 1)
    share = wanted / len(categories)
    quota = {name: int(share * len(patients)) for name, patients in strata.items()}

    def remainder(name: str) -> tuple[float, int]:
        return (
            share * len(strata[name]) - quota[name],
            derive(seed, site=center, purpose=f"deal category {name}"),
        )

    short = wanted - sum(quota.values())
    for name in sorted(sorted(strata), key=remainder, reverse=True)[:short]:
        quota[name] += 1
    return {patient for name, patients in strata.items() for patient in patients[: quota[name]]}


def _categories(cases: tuple[Case, ...]) -> dict[str, str]:
    """Category of each patient: that of the worst slide."""
    worst: dict[str, str] = {}
    for case in cases:
        patient = patient_of(case.case_id)
        worst[patient] = max(worst.get(patient, ""), case.category, key=_severity)
    return worst


def _severity(category: str) -> tuple[int, str]:
    return (SEVERITY.index(category) if category in SEVERITY else len(SEVERITY), category)


def _require_whole_patients(center: str, pool: tuple[Case, ...], test: tuple[Case, ...]) -> None:
    both = {patient_of(c.case_id) for c in pool} & {patient_of(c.case_id) for c in test}
    if both:
        raise DataError(
            f"center {center!r}: centers.csv puts slides of {sorted(both)[0]} into both train and "
            "test: keep a patient on one side"
        )
