"""What the user sees while an experiment runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from fedloop.settings import ExperimentSettings
from simulation.experiments.jobs import Job

SCORING_COST = 0.5
"""A selection or evaluation, in units of one site's training round of the default length."""


class Reporter:
    """Progress bars on stderr; silent when ``quiet``."""

    def __init__(self, *, quiet: bool = False) -> None:
        self.quiet = quiet
        self.console = Console(stderr=True, quiet=quiet)

    def say(self, text: str) -> None:
        self.console.print(text, highlight=False, markup=False)

    @contextmanager
    def stage(self, what: str) -> Iterator[None]:
        """A step without countable parts."""
        with self.console.status(what):
            yield
        self.say(f"{what}: done")

    @contextmanager
    def count(self, what: str) -> Iterator[Callable[[int, int], None]]:
        """A step with countable parts; yields ``progress(done, total)``."""
        with self._progress(MofNCompleteColumn()) as bar:
            task = bar.add_task(what, total=None)
            yield lambda done, total: bar.update(task, completed=done, total=total)

    @contextmanager
    def jobs(
        self, settings: ExperimentSettings, jobs: Sequence[Job], todo: Sequence[Job]
    ) -> Iterator[Callable[[Job, str], None]]:
        """The campaigns; yields ``on_step(job, step)``. Time left follows the estimated work of
        what is missing, not the number of steps, since an igniter costs more than a round."""
        total = sum(_job_cost(job, settings) for job in todo)
        skipped = len(jobs) - len(todo)
        if skipped:
            self.say(f"{skipped} of {len(jobs)} campaigns are complete already")
        with self._progress(TaskProgressColumn()) as bar:
            task = bar.add_task(f"{len(todo)} campaigns", total=total)

            def on_step(job: Job, step: str) -> None:
                bar.update(
                    task,
                    advance=_step_cost(step, job, settings),
                    description=f"seed {job.seed} {job.name}: {step}",
                )

            yield on_step
            bar.update(task, completed=total, description=f"{len(todo)} campaigns")

    def _progress(self, column: MofNCompleteColumn | TaskProgressColumn) -> Progress:
        return Progress(
            SpinnerColumn(),
            TextColumn("{task.description:<44.44}"),
            BarColumn(bar_width=28),
            column,
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(elapsed_when_finished=False),
            console=self.console,
            disable=self.quiet,
        )


def _job_cost(job: Job, settings: ExperimentSettings) -> float:
    if job.kind != "arm":
        return sum(_step_cost(step, job, settings) for step in ("ignite", "evaluate-0"))
    f = settings.federation
    steps = ["select-1", "corrected-1", *("round-1-1",) * f.rounds, "evaluate-1"]
    if f.evaluate_every:
        steps += ["evaluate-1-1"] * ((f.rounds - 1) // f.evaluate_every)
    return f.cycles * sum(_step_cost(step, job, settings) for step in steps)


def _step_cost(step: str, job: Job, settings: ExperimentSettings) -> float:
    """Work of one step in training steps of one member; rough, but in proportion."""
    per_round = float(settings.federation.steps_per_round)
    match step.split("-")[0]:
        case "ignite":
            steps = settings.igniter.steps if job.kind == "igniter" else settings.bound_steps
            return float(steps)
        case "round":
            return per_round * 5
        case "select" | "evaluate":
            return SCORING_COST * 5 * 5 * 2
        case _:
            return 0.0
