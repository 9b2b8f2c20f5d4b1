"""Runs all jobs of an experiment over worker processes; a killed run is resumed job by job."""

from __future__ import annotations

import functools
import logging
import multiprocessing
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing.queues import SimpleQueue
from pathlib import Path
from threading import Thread

from fedloop.errors import FedloopError, RunFolderError
from fedloop.settings import ExperimentSettings
from simulation.experiments.execute import Engine, execute
from simulation.experiments.jobs import Job
from simulation.experiments.lock import hold_as_worker
from simulation.experiments.world import World, open_world

THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")

OnStep = Callable[[Job, str], None]


@dataclass(frozen=True)
class Plan:
    """Everything a worker needs; small enough to be sent with each job."""

    settings: ExperimentSettings
    out: Path


def run_serial(plan: Plan, jobs: Sequence[Job], engine: Engine, on_step: OnStep) -> None:
    """Run jobs one after another in this process (Ray, or a single worker)."""
    for job in jobs:
        world = world_of(plan, job.seed)
        execute(
            job,
            plan.settings,
            world,
            plan.out,
            engine,
            progress=functools.partial(on_step, job),
        )


def run_parallel(plan: Plan, jobs: Sequence[Job], workers: int, on_step: OnStep) -> None:
    """Run jobs over ``workers`` processes of one thread each; arms wait for their igniter.

    Raises:
        FedloopError: the first failure; jobs that are running are ended, complete steps stay.
    """
    for name in THREAD_VARIABLES:
        # Read when a worker loads its libraries: one thread each, or workers fight for the cores.
        os.environ.setdefault(name, "1")
    context = multiprocessing.get_context("spawn")
    queue: SimpleQueue[tuple[Job, str] | None] = context.SimpleQueue()
    listener = Thread(target=_listen, args=(queue, on_step), daemon=True)
    listener.start()
    pool = ProcessPoolExecutor(
        max_workers=workers,
        mp_context=context,
        initializer=_start_worker,
        initargs=(plan.out, queue),
    )
    try:
        _schedule(pool, plan, list(jobs))
    except BrokenProcessPool:
        raise RunFolderError(
            f"{plan.out}: a worker process was killed (out of memory?); "
            "continue with --resume, perhaps with --set workers=1"
        ) from None
    finally:
        for process in list((pool._processes or {}).values()):  # noqa: SLF001 - no public way to end running workers
            process.terminate()
        pool.shutdown(wait=True, cancel_futures=True)
        queue.put(None)
        listener.join(timeout=5)


def _schedule(pool: ProcessPoolExecutor, plan: Plan, jobs: list[Job]) -> None:
    running: dict[Future[None], Job] = {}
    while jobs or running:
        for job in list(_ready(jobs, plan.out)):
            jobs.remove(job)
            running[pool.submit(_work, plan, job)] = job
        if not running:
            raise RunFolderError(f"{plan.out}: jobs wait for an igniter that was never trained")
        finished, _ = wait(running, return_when=FIRST_COMPLETED)
        for future in finished:
            running.pop(future)
            future.result()


def _ready(jobs: Sequence[Job], out: Path) -> Iterator[Job]:
    for job in jobs:
        igniter = Job(kind="igniter", seed=job.seed, arm="baseline")
        if not job.needs_igniter or igniter.done(out):
            yield job


# --------------------------------------------------------------------------- in a worker

_queue: SimpleQueue[tuple[Job, str] | None] | None = None


def _start_worker(out: Path, queue: SimpleQueue[tuple[Job, str] | None]) -> None:
    global _queue
    _queue = queue
    # What is odd about the images was told by the main process already.
    logging.getLogger("fedloop.imaging").setLevel(logging.ERROR)
    hold_as_worker(out)


def _work(plan: Plan, job: Job) -> None:
    from simulation.engines.inprocess import run_campaign

    def report(step: str) -> None:
        if _queue is not None:
            _queue.put((job, step))

    try:
        world = world_of(plan, job.seed)
        execute(job, plan.settings, world, plan.out, run_campaign, progress=report)
    except FedloopError as error:
        raise type(error)(f"seed {job.seed}, {job.name}: {error}") from None


def world_of(plan: Plan, seed: int) -> World:
    return _world(plan.settings.model_dump_json(), plan.out, seed)


@functools.lru_cache(maxsize=4)
def _world(settings_json: str, out: Path, seed: int) -> World:
    return open_world(ExperimentSettings.model_validate_json(settings_json), out, seed)


def _listen(queue: SimpleQueue[tuple[Job, str] | None], on_step: OnStep) -> None:
    while (message := queue.get()) is not None:
        on_step(*message)
