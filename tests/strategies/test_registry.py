"""Strategies by name: errors name the key, the value and the nearest known one."""

from __future__ import annotations

import pytest

from fedloop.errors import SettingsError
from fedloop.settings import StrategySettings
from strategies.registry import STRATEGIES, build_strategy


def build(name: str, **parameters: object):
    return build_strategy(StrategySettings(name=name, parameters=parameters))


@pytest.mark.parametrize("name", STRATEGIES)
def test_every_strategy_is_built_with_its_defaults(name: str) -> None:
    strategy = build(name)
    assert strategy.name == name
    assert build(name, **strategy.settings()).settings() == strategy.settings()


def test_parameters_arrive() -> None:
    assert build("fedprox", mu=0.5).parameters.mu == 0.5
    assert build("fedadagrad").parameters.beta_1 == 0.0


@pytest.mark.parametrize(
    ("name", "parameters", "text"),
    [
        (
            "fedprx",
            {},
            "federation.strategy.name: found 'fedprx'; did you mean 'fedprox'? known: fedavg, ",
        ),
        (
            "fedprox",
            {"muu": 1},
            "federation.strategy 'fedprox': unknown key 'muu' (found 1); did you mean 'mu'? "
            "allowed keys: mu",
        ),
        ("fedprox", {"mu": -1}, "key 'mu': found -1, input should be greater than or equal to 0"),
        ("fedadam", {"beta_1": 1.0}, "key 'beta_1': found 1.0, input should be less than 1"),
        ("fedadam", {"tau": 0}, "key 'tau': found 0, input should be greater than 0"),
        ("fedavg", {"mu": 1}, "federation.strategy 'fedavg': unknown key 'mu'"),
        ("fedavgm", {"eta": "x"}, "key 'eta': found 'x'"),
    ],
)
def test_errors_name_strategy_key_and_value(
    name: str, parameters: dict[str, object], text: str
) -> None:
    with pytest.raises(SettingsError) as caught:
        build(name, **parameters)
    assert text in str(caught.value)
    assert str(caught.value).startswith("federation.strategy")
