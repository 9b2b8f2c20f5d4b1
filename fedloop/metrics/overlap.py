"""Overlap of a predicted and a reference segmentation, counted so that parts can be added.

Counts of patches, cases or sites are summed before a ratio is taken, which gives the *global*
value; averaging ``dice`` over cases gives the per-case mean. Both are reported, under their names.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedloop.errors import DataError
from fedloop.imaging.case import IGNORE


@dataclass(frozen=True, slots=True)
class Counts:
    """True positives, false positives and false negatives per class, in voxels.

    Index 0 is the background. Adding two counts joins their voxels.
    """

    tp: tuple[int, ...]
    fp: tuple[int, ...]
    fn: tuple[int, ...]

    def __post_init__(self) -> None:
        if not len(self.tp) == len(self.fp) == len(self.fn) >= 2:
            raise DataError(f"counts must cover the same two or more classes, found {self}")

    @classmethod
    def zero(cls, classes: int) -> Counts:
        """Counts of no voxels: the neutral element of the addition."""
        return cls((0,) * classes, (0,) * classes, (0,) * classes)

    @property
    def classes(self) -> int:
        return len(self.tp)

    def __add__(self, other: Counts) -> Counts:
        if self.classes != other.classes:
            raise DataError(f"counts of {self.classes} and {other.classes} classes cannot be added")
        return Counts(
            tuple(a + b for a, b in zip(self.tp, other.tp, strict=True)),
            tuple(a + b for a, b in zip(self.fp, other.fp, strict=True)),
            tuple(a + b for a, b in zip(self.fn, other.fn, strict=True)),
        )


def total(parts: Iterable[Counts], classes: int) -> Counts:
    """The sum of many counts (zero for none)."""
    return sum(parts, start=Counts.zero(classes))


def count(prediction: NDArray[Any], reference: NDArray[Any], classes: int) -> Counts:
    """Count the voxels whose reference is known (not :data:`fedloop.imaging.case.IGNORE`).

    Args:
        prediction: class ids, any integer type; only looked at where the reference is known.
        reference: class ids or IGNORE, of the same shape.
        classes: number of classes, background included.

    Raises:
        DataError: the shapes differ, or a class id is not in ``[0, classes)``.
    """
    if prediction.shape != reference.shape:
        raise DataError(f"prediction {prediction.shape} and reference {reference.shape} differ")
    known = reference != IGNORE
    predicted, true = prediction[known].astype(np.intp), reference[known].astype(np.intp)
    for name, ids in (("prediction", predicted), ("reference", true)):
        if ids.size and not 0 <= ids.min() <= ids.max() < classes:
            raise DataError(
                f"{name} holds class {ids.min()} or {ids.max()}, known: 0..{classes - 1}"
            )
    table = np.bincount(true * classes + predicted, minlength=classes**2).reshape(classes, classes)
    tp = table.diagonal()
    return Counts(
        tuple(tp.tolist()),
        tuple((table.sum(0) - tp).tolist()),
        tuple((table.sum(1) - tp).tolist()),
    )


def dice(counts: Counts) -> NDArray[np.float64]:
    """Dice per class, ``(classes,)``: ``2 tp / (2 tp + fp + fn)``.

    Convention: 1 where a class is absent from both (finding nothing where there is nothing is
    right); a single false positive there gives 0.
    """
    tp, fp, fn = _arrays(counts)
    return _ratio(2 * tp, 2 * tp + fp + fn, 1.0)


def mean_dice(counts: Counts) -> float:
    """Mean of :func:`dice` over the foreground classes."""
    return float(dice(counts)[1:].mean())


def precision(counts: Counts) -> NDArray[np.float64]:
    """``tp / (tp + fp)`` per class; NaN where nothing was predicted."""
    tp, fp, _ = _arrays(counts)
    return _ratio(tp, tp + fp, np.nan)


def recall(counts: Counts) -> NDArray[np.float64]:
    """``tp / (tp + fn)`` per class; NaN where the reference holds none."""
    tp, _, fn = _arrays(counts)
    return _ratio(tp, tp + fn, np.nan)


def _ratio(
    part: NDArray[np.float64], whole: NDArray[np.float64], empty: float
) -> NDArray[np.float64]:
    """``part / whole``, and ``empty`` where ``whole`` is 0."""
    result = np.full(len(part), empty)
    np.divide(part, whole, out=result, where=whole > 0)
    return result


def _arrays(counts: Counts) -> tuple[NDArray[np.float64], ...]:
    return tuple(np.asarray(part, np.float64) for part in (counts.tp, counts.fp, counts.fn))
