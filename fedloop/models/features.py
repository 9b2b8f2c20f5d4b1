"""Reads the bottleneck of a network during its ordinary forward."""

from __future__ import annotations

from types import TracebackType

import torch
from torch import nn

from fedloop.errors import ModelError
from fedloop.models.bottleneck import find_bottleneck, listen


class FeatureTap:
    """Exposes the bottleneck of the latest forward; remove it with ``with`` or :meth:`close`.

    >>> with FeatureTap(network, sample) as tap:
    ...     logits = network(images)
    ...     features = tap.latest  # (N, channels, *small)
    """

    def __init__(self, network: nn.Module, sample: torch.Tensor) -> None:
        self.bottleneck = find_bottleneck(network, sample)
        self._latest: torch.Tensor | None = None
        module = network.get_submodule(self.bottleneck.module)
        self._handle = listen(module, self.bottleneck.side, self._store)

    @property
    def latest(self) -> torch.Tensor:
        """``(N, channels, *small)``, in the dtype of the forward.

        Raises:
            ModelError: nothing has been computed since the tap was set.
        """
        if self._latest is None:
            raise ModelError("the feature tap was read before a forward")
        return self._latest

    def close(self) -> None:
        self._handle.remove()
        self._latest = None

    def __enter__(self) -> FeatureTap:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _store(self, tensor: torch.Tensor) -> None:
        self._latest = tensor.detach()
