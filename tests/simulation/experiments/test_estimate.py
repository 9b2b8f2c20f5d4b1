"""The time left is learnt from what was seen."""

from __future__ import annotations

import pytest

from fedloop.settings import ExperimentSettings, FederationSettings
from simulation.experiments.estimate import WorkEstimate, expected_steps, last_step
from simulation.experiments.jobs import Job

SETTINGS = ExperimentSettings(federation=FederationSettings(rounds=4))
IGNITER = Job(kind="igniter", seed=0, arm="baseline")
ARM = Job(kind="arm", seed=0, arm="uga", budget=5, strategy="uga")


def _play(estimate: WorkEstimate, job: Job, seconds: dict[str, float], start: float) -> float:
    """Report every step of an arm, each kind with its duration; returns the time at the end."""
    now = start
    steps = ["select-1", "corrected-1", *(f"round-1-{n}" for n in range(1, 5)), "evaluate-1"]
    for step in steps:
        now += seconds[step.split("-")[0]]
        estimate.finished(job, step, now=now)
    return now


def test_all_done_leaves_nothing() -> None:
    estimate = WorkEstimate(SETTINGS, [ARM], workers=1, now=0.0)
    _play(estimate, ARM, {"select": 3, "corrected": 0, "round": 2, "evaluate": 5}, 0.0)
    assert estimate.seconds_left == 0
    assert estimate.share == 1


def test_second_arm_is_predicted_from_the_first() -> None:
    other = Job(kind="arm", seed=0, arm="random", budget=5, strategy="random")
    estimate = WorkEstimate(SETTINGS, [ARM, other], workers=1, now=100.0)
    _play(estimate, ARM, {"select": 3, "corrected": 1, "round": 2, "evaluate": 5}, 100.0)
    assert estimate.seconds_left == pytest.approx(3 + 1 + 4 * 2 + 5)
    assert estimate.share == pytest.approx(0.5)


def test_two_workers_halve_the_time() -> None:
    one = WorkEstimate(SETTINGS, [IGNITER, ARM], workers=1, now=0.0)
    two = WorkEstimate(SETTINGS, [IGNITER, ARM], workers=2, now=0.0)
    assert two.seconds_left == pytest.approx(one.seconds_left / 2)


def test_unseen_kinds_scale_with_the_machine() -> None:
    slow = WorkEstimate(SETTINGS, [IGNITER, ARM], workers=1, now=0.0)
    fast = WorkEstimate(SETTINGS, [IGNITER, ARM], workers=1, now=0.0)
    slow.finished(IGNITER, "ignite", now=250.0)
    fast.finished(IGNITER, "ignite", now=25.0)
    assert slow.seconds_left == pytest.approx(10 * fast.seconds_left)


def test_expected_steps_follow_the_campaign() -> None:
    federation = FederationSettings(rounds=8, evaluate_every=2, cycles=2)
    settings = ExperimentSettings(federation=federation, budgets=(4,))
    steps = expected_steps(ARM, settings)
    assert steps == {"select": 2, "corrected": 2, "round": 16, "evaluate": 2 * (1 + 3)}
    assert last_step(ARM, settings) == "evaluate-2"
    assert last_step(IGNITER, settings) == "evaluate-0"
