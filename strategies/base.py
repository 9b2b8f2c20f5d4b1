"""What a federated strategy is: a server half, a local half and frozen parameters, in one file."""

from __future__ import annotations

from abc import ABC
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from fedloop.records import Arrays
from fedloop.settings import Settings

if TYPE_CHECKING:
    from torch import Tensor, nn

P = TypeVar("P", bound=Settings)


class NoParameters(Settings):
    """A strategy without parameters."""


class Strategy(ABC, Generic[P]):
    """Base of all strategies; its methods are FedAvg, so a subclass overrides what differs.

    One instance serves one ensemble member on the coordinator (``server_state`` is that member's)
    and is stateless at a site.
    """

    name: ClassVar[str]
    Parameters: ClassVar[type[Settings]] = NoParameters

    def __init__(self, parameters: P) -> None:
        self.parameters = parameters

    # ------------------------------------------------------------------ which arrays travel

    def is_local(self, array: str, norm_arrays: frozenset[str]) -> bool:
        """True for arrays that never leave a site (``norm_arrays``: those of norm layers)."""
        del array, norm_arrays
        return False

    # ------------------------------------------------------------------ server half

    def apply(self, current: Arrays, average: Arrays, state: Arrays) -> tuple[Arrays, Arrays]:
        """New global arrays and new server state from the weighted average of the sites' arrays.

        Args:
            current: the global arrays of this round.
            average: what travelled back, averaged; a subset of ``current`` where arrays are local.
            state: the strategy's own arrays of the last round; empty in the first.
        """
        return {**current, **average}, state

    # ------------------------------------------------------------------ local half

    def penalty(self, network: nn.Module, received: Mapping[str, Tensor]) -> Tensor | None:
        """A term to add to the local loss of every step; ``received`` are the global arrays."""
        del network, received
        return None

    def settings(self) -> dict[str, Any]:
        return self.parameters.model_dump(mode="json")


class RunningAverage:
    """Folds weighted updates into one float64 sum, so memory does not grow with the sites.

    The order of folding is the caller's; equal order gives equal bits.
    """

    def __init__(self) -> None:
        self._sums: dict[str, NDArray[np.float64]] = {}
        self._dtypes: dict[str, np.dtype[Any]] = {}
        self._weight = 0.0

    @property
    def weight(self) -> float:
        return self._weight

    def add(self, arrays: Arrays, weight: float) -> None:
        """Fold one update; the caller has checked names, shapes and finiteness.

        Raises:
            ValueError: the weight is not positive, or the names differ from the first update's.
        """
        if not weight > 0:
            raise ValueError(f"weight must be positive, found {weight}")
        if self._sums and set(arrays) != set(self._sums):
            raise ValueError("updates with different array names cannot be averaged")
        for name, values in arrays.items():
            if name in self._sums:
                self._sums[name] += values.astype(np.float64) * weight
            else:
                self._sums[name] = values.astype(np.float64) * weight
                self._dtypes[name] = values.dtype
        self._weight += weight

    def mean(self) -> Arrays:
        """Raises: ValueError: nothing was added."""
        if not self._sums:
            raise ValueError("no update to average")
        return {n: (s / self._weight).astype(self._dtypes[n]) for n, s in self._sums.items()}
