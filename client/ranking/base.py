"""What a query strategy sees and what it returns."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from fedloop.errors import SelectionError
from fedloop.settings import Settings

ScoreName = str


@dataclass(frozen=True)
class Pool:
    """The unlabelled patches of one site, as the ensemble sees them; ``n`` patches in all.

    Args:
        case: ``(n,)`` index of the case a patch belongs to.
        cell: ``(n, d)`` grid coordinate of the patch in its case (d = 2 or 3).
        scores: named ``(n,)`` float arrays, patch means over tissue voxels:
            ``uga`` (mean over members of the cross-entropy between ensemble mean and member),
            ``entropy`` (of the ensemble mean), ``mutual_information``,
            ``anchor`` (minimum over members of the foreground probability: a lower confidence
            bound of lesion mass), ``foreground`` (share of voxels predicted foreground).
        features: ``(n, f)`` bottleneck means of all members, concatenated.
        true_error: ``(n,)`` wrongly predicted voxels. Only a simulation knows it.
    """

    case: NDArray[np.int64]
    cell: NDArray[np.int64]
    scores: Mapping[ScoreName, NDArray[np.float32]]
    features: NDArray[np.float32]
    true_error: NDArray[np.float32] | None = None

    def __len__(self) -> int:
        return len(self.case)

    def subset(self, index: Sequence[int]) -> Pool:
        """The pool restricted to some patches, in the order of ``index``."""
        keep = np.asarray(index, dtype=np.int64)
        return Pool(
            case=self.case[keep],
            cell=self.cell[keep],
            scores={name: values[keep] for name, values in self.scores.items()},
            features=self.features[keep],
            true_error=None if self.true_error is None else self.true_error[keep],
        )

    def score(self, name: ScoreName) -> NDArray[np.float32]:
        """Raises: SelectionError: the site did not compute that score."""
        try:
            return self.scores[name]
        except KeyError:
            known = ", ".join(sorted(self.scores))
            raise SelectionError(f"the pool has no score {name!r}; it has: {known}") from None


@dataclass(frozen=True, slots=True)
class Choice:
    """One chosen patch: its index in the pool, its score, and the reason in a clinician's words."""

    index: int
    score: float
    reason: str


P = TypeVar("P", bound=Settings)


class QueryStrategy(ABC, Generic[P]):
    """Ranks patches. Subclasses set ``name`` and ``Parameters`` and implement :meth:`rank`."""

    name: ClassVar[str]
    Parameters: ClassVar[type[Settings]]
    needs_truth: ClassVar[bool] = False
    """True for oracles, which only a simulation can run."""
    random: ClassVar[bool] = False
    """True where two draws differ, so an experiment should average several."""

    def __init__(self, parameters: P, *, per_case_quota: int = 0) -> None:
        self.parameters = parameters
        self.per_case_quota = per_case_quota

    @abstractmethod
    def rank(self, pool: Pool, budget: int, rng: np.random.Generator) -> list[Choice]:
        """Choose ``min(budget, what the pool and the quota allow)`` distinct patches, best first.

        Equal inputs and generator states give equal answers.

        Raises:
            SelectionError: the pool is empty or lacks a score the strategy needs.
        """

    def settings(self) -> dict[str, Any]:
        return self.parameters.model_dump(mode="json")
