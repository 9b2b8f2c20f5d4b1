"""FedOpt: an adaptive optimiser on the coordinator (Reddi et al., ICLR 2021, algorithm 2).

The average of the sites' weights is read as a pseudo-gradient Δₜ = average − xₜ. Symbols are the
paper's: η (server learning rate), β₁, β₂, τ. Running statistics of norm layers are no parameters
and carry no gradient: they are averaged plainly.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from fedloop.records import Arrays
from fedloop.settings import Settings
from strategies.base import Strategy

RUNNING_STATISTICS = ("running_mean", "running_var")


class FedOptParameters(Settings):
    eta: float = Field(default=1e-2, gt=0, description="η, server learning rate")
    beta_1: float = Field(default=0.9, ge=0, lt=1, description="β₁, momentum")
    beta_2: float = Field(default=0.99, ge=0, lt=1, description="β₂, second moment")
    tau: float = Field(default=1e-3, gt=0, description="τ, adaptivity")


class FedAdagradParameters(FedOptParameters):
    beta_1: float = Field(default=0.0, ge=0, lt=1)


class FedAvgMParameters(Settings):
    eta: float = Field(default=1.0, gt=0, description="η, server learning rate")
    beta: float = Field(default=0.9, ge=0, lt=1, description="β, server momentum")


class _FedOpt(Strategy[FedOptParameters]):
    """mₜ = β₁mₜ₋₁ + (1−β₁)Δₜ;  xₜ₊₁ = xₜ + η·mₜ / (√vₜ + τ), with m₀ = 0 and v₀ = τ²."""

    Parameters = FedOptParameters

    @abstractmethod
    def second_moment(self, v: NDArray[Any], delta_squared: NDArray[Any]) -> NDArray[Any]:
        """vₜ from vₜ₋₁ and Δₜ²."""

    def apply(self, current: Arrays, average: Arrays, state: Arrays) -> tuple[Arrays, Arrays]:
        p = self.parameters
        updated, kept = dict(current), dict[str, NDArray[Any]]()
        for name, mean in average.items():
            if name.endswith(RUNNING_STATISTICS):
                updated[name] = mean
                continue
            x = current[name].astype(np.float64)
            delta = mean.astype(np.float64) - x
            m = p.beta_1 * state.get(f"m/{name}", np.zeros_like(x)) + (1 - p.beta_1) * delta
            v = self.second_moment(state.get(f"v/{name}", np.full_like(x, p.tau**2)), delta**2)
            updated[name] = (x + p.eta * m / (np.sqrt(v) + p.tau)).astype(mean.dtype)
            kept[f"m/{name}"], kept[f"v/{name}"] = m, v
        return updated, kept


class FedAdam(_FedOpt):
    name = "fedadam"

    def second_moment(self, v: NDArray[Any], delta_squared: NDArray[Any]) -> NDArray[Any]:
        beta_2 = self.parameters.beta_2
        moment: NDArray[Any] = beta_2 * v + (1 - beta_2) * delta_squared
        return moment


class FedYogi(_FedOpt):
    name = "fedyogi"

    def second_moment(self, v: NDArray[Any], delta_squared: NDArray[Any]) -> NDArray[Any]:
        beta_2 = self.parameters.beta_2
        moment: NDArray[Any] = v - (1 - beta_2) * delta_squared * np.sign(v - delta_squared)
        return moment


class FedAdagrad(_FedOpt):
    name = "fedadagrad"
    Parameters = FedAdagradParameters

    def second_moment(self, v: NDArray[Any], delta_squared: NDArray[Any]) -> NDArray[Any]:
        moment: NDArray[Any] = v + delta_squared
        return moment


class FedAvgM(Strategy[FedAvgMParameters]):
    """Server momentum (Hsu et al., 2019): vₜ = β·vₜ₋₁ + Δₜ;  xₜ₊₁ = xₜ + η·vₜ."""

    name = "fedavgm"
    Parameters = FedAvgMParameters

    def apply(self, current: Arrays, average: Arrays, state: Arrays) -> tuple[Arrays, Arrays]:
        p = self.parameters
        updated, kept = dict(current), dict[str, NDArray[Any]]()
        for name, mean in average.items():
            if name.endswith(RUNNING_STATISTICS):
                updated[name] = mean
                continue
            x = current[name].astype(np.float64)
            v = p.beta * state.get(f"v/{name}", np.zeros_like(x)) + (mean.astype(np.float64) - x)
            updated[name] = (x + p.eta * v).astype(mean.dtype)
            kept[f"v/{name}"] = v
        return updated, kept
