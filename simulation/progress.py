"""What the user sees while an experiment runs."""

from __future__ import annotations

import time
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
from simulation.experiments.estimate import WorkEstimate
from simulation.experiments.jobs import Job


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
        with self._progress(MofNCompleteColumn(), TimeRemainingColumn()) as bar:
            task = bar.add_task(what, total=None)
            yield lambda done, total: bar.update(task, completed=done, total=total)

    @contextmanager
    def jobs(
        self,
        settings: ExperimentSettings,
        jobs: Sequence[Job],
        todo: Sequence[Job],
        *,
        workers: int,
    ) -> Iterator[Callable[[Job, str], None]]:
        """The campaigns; yields ``on_step(job, step)``. The time left is learnt from the steps
        seen so far, kind by kind, since an igniter takes far longer than a round."""
        if skipped := len(jobs) - len(todo):
            self.say(f"{skipped} of {len(jobs)} campaigns are complete already")
        estimate = WorkEstimate(settings, todo, workers=workers, now=time.monotonic())
        with self._progress(TaskProgressColumn(), TextColumn("{task.fields[left]}")) as bar:
            task = bar.add_task(f"{len(todo)} campaigns", total=1.0, left="")

            def on_step(job: Job, step: str) -> None:
                estimate.finished(job, step, now=time.monotonic())
                bar.update(
                    task,
                    completed=estimate.share,
                    description=f"seed {job.seed} {job.name}: {step}",
                    left=_clock(estimate.seconds_left),
                )

            yield on_step
            bar.update(task, completed=1.0, description=f"{len(todo)} campaigns", left="")

    def _progress(
        self,
        column: MofNCompleteColumn | TaskProgressColumn,
        left: TextColumn | TimeRemainingColumn,
    ) -> Progress:
        return Progress(
            SpinnerColumn(),
            TextColumn("{task.description:<44.44}"),
            BarColumn(bar_width=24),
            column,
            TimeElapsedColumn(),
            left,
            console=self.console,
            disable=self.quiet,
        )


def _clock(seconds: float) -> str:
    """``about 3 min left``: an estimate should not look like a measurement."""
    if seconds < 60:
        return "under 1 min left"
    if seconds < 5400:
        return f"about {round(seconds / 60)} min left"
    return f"about {seconds / 3600:.1f} h left"
