"""FedProx: FedAvg whose sites stay near the global model (Li et al., MLSys 2020)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from pydantic import Field

from fedloop.settings import Settings
from strategies.base import Strategy

if TYPE_CHECKING:
    from torch import Tensor, nn


class FedProxParameters(Settings):
    mu: float = Field(default=0.01, ge=0, description="μ of the paper's proximal term")


class FedProx(Strategy[FedProxParameters]):
    """Adds (μ/2)·‖w − wᵗ‖² (squared, eq. 2 of the paper) over the trainable parameters."""

    name = "fedprox"
    Parameters = FedProxParameters

    def penalty(self, network: nn.Module, received: Mapping[str, Tensor]) -> Tensor | None:
        if self.parameters.mu == 0:
            return None
        terms = [
            (parameter - received[name]).square().sum()
            for name, parameter in network.named_parameters()
            if parameter.requires_grad and name in received
        ]
        total = terms[0]
        for term in terms[1:]:
            total = total + term
        return 0.5 * self.parameters.mu * total
