"""Train the points of a grid on this machine, in one process or in several.

A worker claims a point, trains it and stores the result, until none is left. Nobody hands out work, so workers of
another command on the same store, or a worker that is killed, need no care.
"""

from __future__ import annotations

import multiprocessing
import os
import queue
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.process import BaseProcess
from typing import Any, Protocol

from hyperfocal.errors import HyperfocalError, RunError
from hyperfocal.grid.points import Point
from hyperfocal.grid.store import Store
from hyperfocal.grid.training import Material, train_point

POLL_SECONDS = 0.2
PATIENCE_SECONDS = 30.0  # after Ctrl-C, for the step that a worker is in
INTERRUPTED = 130  # the exit code of a worker that Ctrl-C stopped
Report = Callable[[tuple[Any, ...]], None]


class GridWatch(Protocol):
    """Who looks on while a grid runs."""

    def started(self, name: str, seed: int) -> None:
        """A point is being trained."""

    def finished(self, name: str, seed: int, values: dict[str, float], seconds: float) -> None:
        """A point is done and stored."""

    def failed(self, name: str, seed: int, error: str) -> None:
        """A point failed, which is stored too."""


def run_points(
    material: Material,
    points: Sequence[Point],
    store: Store,
    watch: GridWatch,
    *,
    workers: int = 1,
    retry: bool = False,
) -> None:
    """Train every point that is not done yet and store each result the moment it is there.

    Args:
        material: documents and features.
        points: of the grid.
        store: of the results.
        watch: told what happens.
        workers: processes; with 1 this one does the work.
        retry: whether points that failed before are tried again.

    Raises:
        RunError: the store cannot be written; a worker process died again and again.
        KeyboardInterrupt: Ctrl-C; what was done is stored.
    """
    if workers == 1:
        work(material, points, store, lambda event: _tell(watch, event), retry)
    else:
        _run_processes(material, points, store, watch, workers, retry)


def work(material: Material, points: Sequence[Point], store: Store, report: Report, retry: bool) -> None:
    """Claim, train and store points, one after the other, until none is left."""
    for point in points:
        if not store.claim(point, retry=retry):
            continue
        report(("started", point.name, point.seed))
        began = time.monotonic()
        try:
            values, resamples = train_point(material, point)
        except (HyperfocalError, ArithmeticError, LookupError, MemoryError, RuntimeError, ValueError) as error:
            reason = f"{type(error).__name__}: {error}"
            store.fail(point, reason, seconds=time.monotonic() - began)
            report(("failed", point.name, point.seed, reason))
        except BaseException:  # Ctrl-C: another may have it
            store.release(point)
            raise
        else:
            seconds = time.monotonic() - began
            store.put(point, values, resamples, seconds=seconds)
            report(("finished", point.name, point.seed, values, seconds))


def _tell(watch: GridWatch, event: tuple[Any, ...]) -> None:
    kind, *rest = event
    getattr(watch, kind)(*rest)


def _run_processes(
    material: Material, points: Sequence[Point], store: Store, watch: GridWatch, workers: int, retry: bool
) -> None:
    crew = _Crew(material, points, store, watch, retry)
    try:
        for _ in range(workers):
            crew.start()
        while crew.busy():
            crew.follow()
    finally:
        crew.stop()


class _Crew:
    """Worker processes, what each is training, and what to do when one dies."""

    def __init__(
        self, material: Material, points: Sequence[Point], store: Store, watch: GridWatch, retry: bool
    ) -> None:
        self.job = (material, points, store, retry)
        self.points = {(point.name, point.seed): point for point in points}
        self.store, self.watch, self.threads = store, watch, material.threads
        self.context = multiprocessing.get_context("spawn")  # a fork would inherit torch's thread pool, which hangs
        self.events = self.context.Queue()
        self.processes: dict[int, BaseProcess] = {}  # worker number -> process
        self.training: dict[int, tuple[str, int]] = {}  # worker number -> name and seed
        self.started = 0

    def start(self) -> None:
        """Start one more worker."""
        number, self.started = self.started, self.started + 1
        process = self.context.Process(target=_be_worker, args=(*self.job, self.events, number), daemon=True)
        with _threads_of_children(self.threads):
            process.start()
        self.processes[number] = process

    def busy(self) -> bool:
        """Return whether a worker is left."""
        return bool(self.processes)

    def follow(self) -> None:
        """Tell the watch what the workers say, and look after the ones that have ended."""
        ended = [number for number, process in self.processes.items() if not process.is_alive()]
        self._hear()  # after, so that nothing that the ended ones said is missed
        for number in ended:
            self._bury(number, self.processes.pop(number).exitcode or 0)

    def _hear(self) -> None:
        try:
            while True:
                number, event = self.events.get(timeout=POLL_SECONDS)
                kind, *rest = event
                if kind == "stopped":
                    raise RunError(rest[0])
                self.training.pop(number, None)
                if kind == "started":
                    self.training[number] = (rest[0], rest[1])
                _tell(self.watch, event)
        except queue.Empty:
            return

    def _bury(self, number: int, code: int) -> None:
        """Keep why a killed worker's point failed, and start another worker in its place."""
        if number not in self.training:
            if code not in (0, INTERRUPTED):
                raise RunError(f"a worker process ended with code {code} before it trained a point. Try --workers 1")
            return
        name, seed = self.training.pop(number)
        if code == INTERRUPTED:
            return
        how = f"by signal {-code}" if code < 0 else f"with code {code}"
        reason = f"the worker process was ended {how}; perhaps there was not enough memory. Try fewer --workers"
        self.store.fail(self.points[name, seed], reason)
        self.watch.failed(name, seed, reason)
        self.start()

    def stop(self) -> None:
        """End all workers: each gives its point back at the end of its step."""
        for process in self.processes.values():
            if process.pid is not None and process.is_alive():
                os.kill(process.pid, signal.SIGINT)
        for process in self.processes.values():
            process.join(PATIENCE_SECONDS)
            process.kill()
        self.events.close()


def _be_worker(
    material: Material, points: Sequence[Point], store: Store, retry: bool, events: Any, number: int
) -> None:
    """Work in a process of its own, which ends with code 0, after Ctrl-C with 130."""
    parent = multiprocessing.parent_process()

    def report(event: tuple[Any, ...]) -> None:
        events.put((number, event))
        if parent is not None and not parent.is_alive():  # killed: nobody is left to look on
            raise KeyboardInterrupt

    try:
        work(material, points, store, report, retry)
    except KeyboardInterrupt:
        raise SystemExit(INTERRUPTED) from None
    except HyperfocalError as error:
        report(("stopped", str(error)))
        raise SystemExit(1) from None


@contextmanager
def _threads_of_children(threads: int) -> Iterator[None]:
    """Limit the thread pools of processes started inside, which are made when torch and numpy are imported."""
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "POLARS_MAX_THREADS")
    before = {name: os.environ.get(name) for name in names}
    os.environ.update(dict.fromkeys(names, str(max(threads, 1))))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
