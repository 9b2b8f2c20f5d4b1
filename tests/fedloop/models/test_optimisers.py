from __future__ import annotations

import pytest
import torch

from fedloop.models.optimisers import build_optimiser, cosine
from fedloop.settings import OptimiserSettings


@pytest.mark.parametrize("name", ["adamw", "adam", "sgd"])
def test_lowers_a_quadratic_with_the_given_rate(name: str) -> None:
    layer = torch.nn.Linear(3, 1)
    layer.bias.requires_grad_(False)
    frozen = layer.bias.clone()
    settings = OptimiserSettings.model_validate({"name": name, "learning_rate": 9.0})
    optimiser = build_optimiser(layer.parameters(), settings, learning_rate=0.05)
    assert optimiser.param_groups[0]["lr"] == 0.05
    losses = []
    for _ in range(20):
        loss = layer.weight.square().sum()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    assert torch.equal(layer.bias, frozen)


def test_cosine_falls_from_one_to_zero() -> None:
    factors = [cosine(step, 10) for step in range(11)]
    assert factors[0] == 1
    assert factors[5] == pytest.approx(0.5)
    assert factors[10] == pytest.approx(0)
    assert factors == sorted(factors, reverse=True)
