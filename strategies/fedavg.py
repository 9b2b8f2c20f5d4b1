"""FedAvg: the weighted mean of the sites' weights (McMahan et al., AISTATS 2017)."""

from __future__ import annotations

from strategies.base import NoParameters, Strategy


class FedAvg(Strategy[NoParameters]):
    """The base class as it is."""

    name = "fedavg"
