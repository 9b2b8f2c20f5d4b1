"""How long the rest of an experiment will take, learnt from the steps already done."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence

from fedloop.settings import ExperimentSettings
from simulation.experiments.jobs import Job

GUESS_SECONDS = {"ignite": 0.05, "round": 0.25, "evaluate": 5.0, "select": 4.0, "corrected": 0.1}
"""First guesses, per training step for ``ignite`` and ``round``; soon replaced by what is seen."""


class WorkEstimate:
    """Remaining work of a list of jobs, in seconds of one worker, by kind of step.

    Args:
        workers: jobs that run at the same time.
        now: seconds on any steady clock, as in :meth:`finished`.
    """

    def __init__(
        self, settings: ExperimentSettings, jobs: Sequence[Job], *, workers: int, now: float
    ) -> None:
        self._settings = settings
        self._workers = max(1, workers)
        self._open: Counter[str] = Counter()
        for job in jobs:
            self._open.update(expected_steps(job, settings))
        self._seen: dict[str, list[float]] = defaultdict(list)
        self._last: dict[Job, float] = {}
        self._free = [now] * self._workers
        self._spent = 0.0

    def finished(self, job: Job, step: str, *, now: float) -> None:
        """Note that a step of a job is complete."""
        kind = _kind(job, step)
        started = self._last.get(job)
        if started is None:
            # The job's first step began when a worker became free.
            started = self._free.pop(0) if self._free else now
        self._last[job] = now
        duration = max(0.0, now - started)
        self._seen[kind].append(duration)
        self._spent += duration
        if self._open[kind] > 0:
            self._open[kind] -= 1
        if step == last_step(job, self._settings):
            self._free.append(now)

    @property
    def seconds_left(self) -> float:
        """Wall-clock estimate."""
        return self._work_left() / self._workers

    @property
    def share(self) -> float:
        """Share of the work that is done, 0..1."""
        return self._spent / max(self._spent + self._work_left(), 1e-9)

    def _work_left(self) -> float:
        return sum(count * self._seconds(kind) for kind, count in self._open.items())

    def _seconds(self, kind: str) -> float:
        if self._seen[kind]:
            return sum(self._seen[kind]) / len(self._seen[kind])
        return self._guess(kind) * self._slowness()

    def _slowness(self) -> float:
        """This machine and data against the guesses, over the kinds seen so far."""
        kinds = [kind for kind, seen in self._seen.items() if seen]
        guessed = sum(self._guess(kind) * len(self._seen[kind]) for kind in kinds)
        return sum(sum(self._seen[kind]) for kind in kinds) / guessed if guessed else 1.0

    def _guess(self, kind: str) -> float:
        base = GUESS_SECONDS[kind.split(":")[0]]
        match kind:
            case "ignite:igniter":
                return base * self._settings.igniter.steps
            case "ignite:bound":
                return base * self._settings.bound_steps
            case "round":
                return base * self._settings.federation.steps_per_round
            case _:
                return base


def expected_steps(job: Job, settings: ExperimentSettings) -> Counter[str]:
    """How many steps of each kind a job's campaign reports."""
    if job.kind != "arm":
        return Counter({_kind(job, "ignite"): 1, "evaluate": 1})
    f = settings.federation
    between = (f.rounds - 1) // f.evaluate_every if f.evaluate_every else 0
    per_cycle = {"select": 1, "corrected": 1, "round": f.rounds, "evaluate": 1 + between}
    return Counter({kind: f.cycles * count for kind, count in per_cycle.items()})


def last_step(job: Job, settings: ExperimentSettings) -> str:
    return "evaluate-0" if job.kind != "arm" else f"evaluate-{settings.federation.cycles}"


def _kind(job: Job, step: str) -> str:
    kind = step.split("-")[0]
    if kind == "ignite":
        return "ignite:igniter" if job.kind == "igniter" else "ignite:bound"
    return kind
