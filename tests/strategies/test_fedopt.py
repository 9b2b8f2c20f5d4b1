"""Our server halves beside Flower's own classes, and beside the papers where Flower departs.

Flower's classes keep to float32 between rounds, start from v₋₁ = 0 and (FedAdam) multiply η by
Kingma and Ba's bias correction. Reddi et al., algorithm 2, start from v₋₁ ≥ τ² and have no bias
correction; ours follow the paper. The tests below give Flower our start, and undo its correction by
an η per round: then both agree. What is left is the type of the sums: ours are float64.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, Message, MetricRecord, RecordDict
from flwr.serverapp import strategy as flower
from flwr.supercore.task_identity import TaskIdentity

from fedloop.records import Arrays
from fedloop.settings import StrategySettings
from strategies.base import RunningAverage
from strategies.registry import build_strategy

ROUNDS = 5
SITES = 3
TAU = 1e-3
WEIGHTS = (1.0, 2.0, 4.0)


@pytest.fixture(autouse=True, scope="module")
def inside_a_task() -> None:
    TaskIdentity.task_id = TaskIdentity.run_id = TaskIdentity.node_id = 1


@pytest.fixture(autouse=True)
def quiet(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.ERROR, logger="flwr")


def replies(current: Arrays, number: int) -> list[tuple[Arrays, float]]:
    """What the sites send in a round: a step from the current weights, their own each."""
    rng = np.random.default_rng(number)
    return [
        (
            {n: (a + rng.normal(0.1, 0.3, a.shape)).astype(np.float32) for n, a in current.items()},
            weight,
        )
        for weight in WEIGHTS
    ]


def start() -> Arrays:
    rng = np.random.default_rng(99)
    return {n: rng.normal(size=s).astype(np.float32) for n, s in (("w", (3, 4)), ("b", (4,)))}


def messages(updates: list[tuple[Arrays, float]]) -> list[Message]:
    return [
        Message(
            RecordDict(
                {
                    "arrays": ArrayRecord({n: Array(a) for n, a in arrays.items()}),
                    "metrics": MetricRecord({"num-examples": weight}),
                }
            ),
            7,
            "train",
        )
        for arrays, weight in updates
    ]


def flower_rounds(theirs: flower.FedAvg, prepare: Callable[[int], None]) -> Iterator[Arrays]:
    current = start()
    for number in range(1, ROUNDS + 1):
        record = ArrayRecord({n: Array(a) for n, a in current.items()})
        if isinstance(theirs, flower.FedAvgM):
            theirs.current_arrays = theirs.current_arrays or record
        elif hasattr(theirs, "current_arrays"):
            theirs.current_arrays = {n: a.numpy() for n, a in record.items()}  # configure_train
        prepare(number)
        arrays, _ = theirs.aggregate_train(number, messages(replies(current, number)))
        assert arrays is not None
        current = {n: a.numpy().astype(np.float32) for n, a in arrays.items()}
        yield current


def our_rounds(name: str, **parameters: float) -> Iterator[Arrays]:
    ours = build_strategy(StrategySettings(name=name, parameters=parameters))
    current, state = start(), {}
    for number in range(1, ROUNDS + 1):
        average = RunningAverage()
        for arrays, weight in replies(current, number):
            average.add(arrays, weight)
        current, state = ours.apply(current, average.mean(), state)
        yield current


def agree(ours: Iterator[Arrays], theirs: Iterator[Arrays]) -> None:
    rounds = 0
    for mine, other in zip(ours, theirs, strict=True):
        rounds += 1
        for name, values in mine.items():
            assert values.dtype == np.float32
            np.testing.assert_allclose(values, other[name], rtol=2e-5, atol=2e-5)
    assert rounds == ROUNDS


def from_tau(theirs: flower.FedOpt) -> None:
    """Give Flower the paper's start, v₋₁ = τ²."""
    theirs.v_t = {n: np.full_like(a, TAU**2) for n, a in start().items()}


def test_fedavg_equals_flower() -> None:
    agree(our_rounds("fedavg"), flower_rounds(flower.FedAvg(), lambda _: None))


@pytest.mark.parametrize(("eta", "beta"), [(1.0, 0.9), (0.5, 0.9), (0.5, 0.0), (1.0, 0.0)])
def test_fedavgm_equals_flower(eta: float, beta: float) -> None:
    theirs = flower.FedAvgM(server_learning_rate=eta, server_momentum=beta)
    agree(our_rounds("fedavgm", eta=eta, beta=beta), flower_rounds(theirs, lambda _: None))


@pytest.mark.parametrize("beta_1", [0.0, 0.9])
def test_fedadam_equals_flower_without_its_bias_correction(beta_1: float) -> None:
    eta, beta_2 = 0.05, 0.99
    theirs = flower.FedAdam(eta=eta, beta_1=beta_1, beta_2=beta_2, tau=TAU)
    from_tau(theirs)

    def undo(number: int) -> None:
        t = number + 1.0  # Flower's rounds start at 1, and it adds another 1
        theirs.eta = eta * (1 - beta_1**t) / np.sqrt(1 - beta_2**t)

    ours = our_rounds("fedadam", eta=eta, beta_1=beta_1, beta_2=beta_2, tau=TAU)
    agree(ours, flower_rounds(theirs, undo))


def test_fedyogi_equals_flower_from_the_paper_s_start() -> None:
    options = {"eta": 0.05, "beta_1": 0.9, "beta_2": 0.99, "tau": TAU}
    theirs = flower.FedYogi(**options)
    from_tau(theirs)
    agree(our_rounds("fedyogi", **options), flower_rounds(theirs, lambda _: None))


def test_fedadagrad_equals_flower_from_the_paper_s_start() -> None:
    theirs = flower.FedAdagrad(eta=0.05, tau=TAU)
    from_tau(theirs)
    ours = our_rounds("fedadagrad", eta=0.05, beta_1=0.0, tau=TAU)
    agree(ours, flower_rounds(theirs, lambda _: None))


@pytest.mark.parametrize("name", ["FedYogi", "FedAdagrad"])
def test_flower_s_own_start_differs_by_little(name: str) -> None:
    """v₋₁ = 0 in place of τ² = 1e-6: the difference we document, not a bug."""
    theirs = getattr(flower, name)(eta=0.05, tau=TAU)
    extra = {} if name == "FedAdagrad" else {"beta_1": theirs.beta_1, "beta_2": theirs.beta_2}
    ours = list(our_rounds(name.lower(), eta=0.05, tau=TAU, **extra))
    other = list(flower_rounds(theirs, lambda _: None))
    assert max(float(np.abs(ours[0][n] - other[0][n]).max()) for n in start()) < 1e-2


# ------------------------------------------------------------------ the paper, by hand


def by_hand(name: str, deltas: list[float], eta: float, b1: float, b2: float, tau: float) -> float:
    """Algorithm 2 of Reddi et al. for one weight that starts at 0, in double precision."""
    x, m, v = 0.0, 0.0, tau**2
    for delta in deltas:
        m = b1 * m + (1 - b1) * delta
        squared = delta**2
        if name == "fedadagrad":
            v = v + squared
        elif name == "fedyogi":
            v = v - (1 - b2) * squared * float(np.sign(v - squared))
        else:
            v = b2 * v + (1 - b2) * squared
        x = x + eta * m / (v**0.5 + tau)
    return x


@pytest.mark.parametrize("name", ["fedadam", "fedyogi", "fedadagrad"])
def test_the_update_is_the_paper_s_algorithm(name: str) -> None:
    deltas = [0.5, -0.25, 0.001, 0.0, 2.0]
    options = {"eta": 0.1, "beta_1": 0.8, "beta_2": 0.95, "tau": 0.01}
    ours = build_strategy(StrategySettings(name=name, parameters=options))
    current, state = {"w": np.zeros(1)}, {}
    for delta in deltas:
        current, state = ours.apply(current, {"w": current["w"] + delta}, state)
    expected = by_hand(name, deltas, 0.1, 0.8, 0.95, 0.01)
    assert current["w"][0] == pytest.approx(expected, rel=1e-12)


def test_the_state_is_of_double_precision_and_survives_a_checkpoint(tmp_path) -> None:
    from server.checkpoint import CheckpointStore

    ours = build_strategy(StrategySettings(name="fedadam"))
    current, state = ours.apply(start(), {n: a + 1 for n, a in start().items()}, {})
    assert {a.dtype.name for a in state.values()} == {"float64"}
    assert set(state) == {"m/w", "v/w", "m/b", "v/b"}
    store = CheckpointStore(tmp_path)
    store.save_weights("x", [current], [state])
    _, (loaded,) = store.load_weights("x")
    assert all(np.array_equal(loaded[n], a) for n, a in state.items())


# ------------------------------------------------------------------ what is no parameter


@pytest.mark.parametrize("name", ["fedadam", "fedyogi", "fedadagrad", "fedavgm"])
def test_running_statistics_are_averaged_plainly(name: str) -> None:
    current = {
        "norm.weight": np.ones(2, np.float32),
        "norm.running_mean": np.zeros(2, np.float32),
        "norm.running_var": np.ones(2, np.float32),
    }
    average = {n: a + np.float32(3) for n, a in current.items()}
    ours = build_strategy(StrategySettings(name=name))
    updated, state = ours.apply(current, average, {})
    assert updated["norm.running_mean"].tolist() == [3, 3]
    assert updated["norm.running_var"].tolist() == [4, 4]
    assert {key.split("/")[1] for key in state} == {"norm.weight"}
    assert current["norm.running_mean"].tolist() == [0, 0]


@pytest.mark.parametrize("name", ["fedadam", "fedyogi", "fedadagrad", "fedavgm"])
def test_arrays_that_did_not_travel_stay(name: str) -> None:
    ours = build_strategy(StrategySettings(name=name))
    updated, _ = ours.apply(start(), {"w": start()["w"] + 1}, {})
    assert np.array_equal(updated["b"], start()["b"])
    assert not np.array_equal(updated["w"], start()["w"])


@pytest.mark.parametrize("name", ["fedadam", "fedyogi", "fedadagrad"])
def test_where_nothing_moves_nothing_moves(name: str) -> None:
    ours = build_strategy(StrategySettings(name=name))
    current, state = start(), {}
    for _ in range(3):
        current, state = ours.apply(current, dict(current), state)
    assert all(np.array_equal(current[n], a) for n, a in start().items())
