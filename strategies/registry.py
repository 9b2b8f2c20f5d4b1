"""Strategies by name. To add one: write its file beside this one, add one line to STRATEGIES."""

from __future__ import annotations

from typing import Any

from fedloop.configuration import load, suggest
from fedloop.errors import SettingsError
from fedloop.settings import StrategySettings
from strategies.base import Strategy
from strategies.fedavg import FedAvg
from strategies.fedbn import FedBN
from strategies.fedopt import FedAdagrad, FedAdam, FedAvgM, FedYogi
from strategies.fedprox import FedProx

STRATEGIES: dict[str, type[Strategy[Any]]] = {
    "fedavg": FedAvg,
    "fedprox": FedProx,
    "fedbn": FedBN,
    "fedavgm": FedAvgM,
    "fedadam": FedAdam,
    "fedyogi": FedYogi,
    "fedadagrad": FedAdagrad,
}


def build_strategy(settings: StrategySettings) -> Strategy[Any]:
    """Build a strategy from its name and parameters.

    Raises:
        SettingsError: unknown name or parameter, with the nearest known one.
    """
    kind = STRATEGIES.get(settings.name)
    if kind is None:
        hint = suggest(settings.name, list(STRATEGIES))
        raise SettingsError(f"federation.strategy.name: found {settings.name!r}{hint}")
    try:
        return kind(load(kind.Parameters, changes=settings.parameters))
    except SettingsError as error:
        text = str(error).removeprefix("defaults: ")
        raise SettingsError(f"federation.strategy {settings.name!r}: {text}") from None
