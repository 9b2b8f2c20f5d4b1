"""FedProx adds (μ/2)‖w − wᵗ‖²: the squared norm of the paper, not the norm."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from strategies.fedprox import FedProx, FedProxParameters

torch.set_num_threads(1)


def moved() -> tuple[nn.Module, dict[str, torch.Tensor]]:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    received = {n: p.detach().clone() for n, p in network.named_parameters()}
    with torch.no_grad():
        for parameter in network.parameters():
            parameter += torch.randn_like(parameter)
    return network, received


def test_value_and_gradient_are_the_paper_s() -> None:
    network, received = moved()
    mu = 0.3
    penalty = FedProx(FedProxParameters(mu=mu)).penalty(network, received)
    assert penalty is not None
    flat = torch.cat([(p - received[n]).flatten() for n, p in network.named_parameters()])
    torch.testing.assert_close(penalty, mu / 2 * flat.norm() ** 2)
    penalty.backward()
    for name, parameter in network.named_parameters():
        torch.testing.assert_close(parameter.grad, mu * (parameter - received[name]).detach())


def test_it_is_zero_with_a_zero_gradient_where_nothing_moved() -> None:
    network, _ = moved()
    received = {n: p.detach().clone() for n, p in network.named_parameters()}
    penalty = FedProx(FedProxParameters(mu=1.0)).penalty(network, received)
    assert penalty is not None
    assert float(penalty.detach()) == 0
    penalty.backward()
    # The unsquared norm would have a gradient of NaN here.
    assert all(float(p.grad.abs().sum()) == 0 for p in network.parameters() if p.grad is not None)


def test_frozen_and_unknown_parameters_take_no_part() -> None:
    network, received = moved()
    network[0].weight.requires_grad_(False)
    del received["0.bias"]
    penalty = FedProx(FedProxParameters(mu=2.0)).penalty(network, received)
    rest = [n for n in received if n.startswith("1.")]
    own = dict(network.named_parameters())
    expected = sum(float((own[n].detach() - received[n]).square().sum()) for n in rest)
    assert float(penalty.detach()) == pytest.approx(expected, rel=1e-5)


def test_mu_zero_is_fedavg() -> None:
    network, received = moved()
    assert FedProx(FedProxParameters(mu=0)).penalty(network, received) is None


def test_the_received_weights_stay_as_they_were() -> None:
    network, received = moved()
    before = copy.deepcopy(received)
    FedProx(FedProxParameters()).penalty(network, received).backward()
    assert all(torch.equal(before[n], received[n]) for n in before)
