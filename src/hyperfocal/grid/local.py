"""Train the points of a grid on this machine, in one process or in several.

Each worker process gets one point after the other. The store decides who trains what, so workers of another command on
the same store need no care; points that they are at are waited for, and taken over if they die.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any, Protocol

from hyperfocal.errors import RunError
from hyperfocal.grid.material import Material
from hyperfocal.grid.points import Point
from hyperfocal.grid.store import Store
from hyperfocal.grid.worker import INTERRUPTED, be_worker, work

WAIT_SECONDS = 1.0  # between two looks at what other commands on the store have done
PATIENCE_SECONDS = 30.0  # after Ctrl-C, for the step that a worker is in


class GridWatch(Protocol):
    """Who looks on while a grid runs."""

    def skipped(self, count: int) -> None:
        """Some points ended in an earlier run."""

    def waiting(self, count: int) -> None:
        """All points that are left are with other processes."""

    def started(self, name: str, seed: int) -> None:
        """A point is being trained."""

    def finished(self, name: str, seed: int, values: dict[str, float], seconds: float) -> None:
        """A point is done and stored."""

    def failed(self, name: str, seed: int, error: str) -> None:
        """A point failed, which is stored too."""


Train = Callable[[Material, Sequence[Point], Store, GridWatch, bool], None]  # the last: whether failed ones again


def run_points(
    material: Material,
    points: Sequence[Point],
    store: Store,
    watch: GridWatch,
    *,
    workers: int = 1,
    retry: bool = False,
    train: Train | None = None,
) -> None:
    """Train every point that is not done yet, here or by another process on the store, and store each result at once.

    Args:
        material: what the points share.
        points: of the grid.
        store: of the results.
        watch: told what happens.
        workers: processes; with 1 this one does the work.
        retry: whether points that failed before are tried again.
        train: claims, trains and stores points elsewhere, in place of `workers` processes here.

    Raises:
        RunError: the store cannot be written; a worker process died at the start or between two points.
        KeyboardInterrupt: Ctrl-C; what was done is stored.
    """
    train = train or partial(_train_here, workers=workers)
    store.drop_own()
    ended = store.done() | (set() if retry else store.failed().keys())
    missing = [point for point in points if point.key(store.fingerprint) not in ended]
    watch.skipped(len(points) - len(missing))
    while missing:
        held = store.held()
        free = [point for point in missing if point.key(store.fingerprint) not in held]
        if free:
            train(material, free, store, watch, retry)
            retry = False  # what failed just now stays so
        else:
            watch.waiting(len(missing))
            time.sleep(WAIT_SECONDS)
        ended = store.done() | store.failed().keys()
        missing = [point for point in missing if point.key(store.fingerprint) not in ended]


def _train_here(
    material: Material, points: Sequence[Point], store: Store, watch: GridWatch, retry: bool, *, workers: int
) -> None:
    if min(workers, len(points)) == 1:
        work(material, points, store, lambda event: _tell(watch, event), retry)
    else:
        _run_processes(material, points, store, watch, workers, retry)


def _tell(watch: GridWatch, event: tuple[Any, ...]) -> None:
    kind, *rest = event
    getattr(watch, kind)(*rest)


def _run_processes(
    material: Material, points: Sequence[Point], store: Store, watch: GridWatch, workers: int, retry: bool
) -> None:
    crew = _Crew(material, points, store, watch, retry)
    try:
        for _ in range(min(workers, len(points))):
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
        self.job = (material, store, retry)
        self.left = deque(points)
        self.store, self.watch, self.threads = store, watch, material.threads
        self.context = multiprocessing.get_context("spawn")  # a fork would inherit torch's thread pool, which hangs
        self.processes: dict[Connection, BaseProcess] = {}  # each has a pipe: a shared queue stays locked if one dies
        self.given: dict[Connection, Point] = {}  # what each got last
        self.training: set[Connection] = set()

    def start(self) -> None:
        """Start one more worker."""
        ours, theirs = self.context.Pipe()
        process = self.context.Process(target=be_worker, args=(*self.job, theirs), daemon=True)
        with _threads_of_children(self.threads), interrupts_held_back():
            process.start()
            self.processes[ours] = process
        theirs.close()

    def busy(self) -> bool:
        """Return whether a worker is left."""
        return bool(self.processes)

    def follow(self) -> None:
        """Wait until workers say something or end, and answer."""
        for each in wait(list(self.processes)):
            assert isinstance(each, Connection)
            try:
                event = each.recv()
            except (EOFError, ConnectionError):
                self._bury(each)
            else:
                self._heed(each, event)

    def _heed(self, worker: Connection, event: tuple[Any, ...]) -> None:
        kind, *rest = event
        if kind == "stopped":
            raise RunError(rest[0])
        self.training.discard(worker)
        if kind == "ready":
            self._give(worker)
            return
        if kind == "started":
            self.training.add(worker)
        _tell(self.watch, event)

    def _give(self, worker: Connection) -> None:
        """Hand out the next point; None sends the worker home."""
        with suppress(ConnectionError):  # it died just now, which `follow` finds
            worker.send(self.left[0] if self.left else None)
            if self.left:
                self.given[worker] = self.left.popleft()

    def _bury(self, worker: Connection) -> None:
        """Keep why a killed worker's point failed, and start another worker in its place."""
        process = self.processes.pop(worker)
        process.join()
        code = process.exitcode or 0
        if code == INTERRUPTED:
            raise KeyboardInterrupt from None
        how = f"by signal {-code}" if code < 0 else f"with code {code}"
        if worker in self.training:
            point = self.given[worker]
            reason = f"the worker process was ended {how}; perhaps there was not enough memory. Try fewer --workers"
            self.store.fail(point, reason)
            self.watch.failed(point.name, point.seed, reason)
            if self.left:
                self.start()
        elif code:
            raise RunError(
                f"a worker process was ended {how} while it trained no point; perhaps there was not enough memory. "
                "What is done is kept. Try --workers 1"
            )

    def stop(self) -> None:
        """End all workers: each gives its point back at the end of its step."""
        for worker, process in self.processes.items():
            if worker not in self.given:
                process.kill()  # it is still importing, and holds nothing
            elif process.is_alive() and process.pid:
                os.kill(process.pid, signal.SIGINT)
            worker.close()  # one that was past its last step would ask for the next point
        for process in self.processes.values():
            process.join(PATIENCE_SECONDS)
            process.kill()


@contextmanager
def interrupts_held_back() -> Iterator[None]:
    """Hold Ctrl-C back until the end, and from processes started inside until they are ready for it.

    These inherit the mask. Here a thread of a library may take the signal in spite of it, so the handler waits too.
    """
    resource_tracker.ensure_running()  # its start lets Ctrl-C through again
    before, held = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT}), list[int]()
    aside = threading.current_thread() is threading.main_thread()  # no other may have a handler
    handler = signal.signal(signal.SIGINT, lambda number, _: held.append(number)) if aside else None
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        if aside:
            signal.signal(signal.SIGINT, handler)
        if held:
            signal.raise_signal(signal.SIGINT)


def thread_variables(threads: int) -> dict[str, str]:
    """Return the variables that limit the thread pools of a process which starts with them."""
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "POLARS_MAX_THREADS")
    return dict.fromkeys(names, str(max(threads, 1)))


@contextmanager
def _threads_of_children(threads: int) -> Iterator[None]:
    """Limit the thread pools of processes started inside, which are made when torch and numpy are imported."""
    variables = thread_variables(threads)
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
