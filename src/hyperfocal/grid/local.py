"""A pool of processes on this machine.

Each worker process asks for one point after the other, claims it, trains it and stores the result by itself, so
that results survive the death of the process that started it. The store decides who trains what, so workers of another
command on the same store need no care.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any

from hyperfocal.errors import ConfigError, HyperfocalError, RunError
from hyperfocal.grid.claims import beating
from hyperfocal.grid.job import Prepared
from hyperfocal.grid.points import Point
from hyperfocal.grid.pool import record, released_on_error, thread_variables, train_point
from hyperfocal.grid.store import Store
from hyperfocal.machine import allowed_threads, count_cores, default_cache
from hyperfocal.private.folders import VARIABLE
from hyperfocal.training.watch import Forward, Watch

PATIENCE_SECONDS = 30.0  # after Ctrl-C, for the step that a worker is in
INTERRUPTED = 130  # exit code of a worker that Ctrl-C stopped


@dataclass(frozen=True)
class LocalPool:
    """Worker processes on this machine.

    Attributes:
        size: processes; with 1 this process trains.
        fixed_threads: CPU threads of each; 0: its share of the cores, or fewer if settings or environment say so.

    Raises:
        ConfigError: size below 1, or above the number of cores: processes that take turns are 10-40 times slower.
    """

    size: int = 1
    fixed_threads: int = 0

    def __post_init__(self) -> None:
        """Check the size."""
        cores = count_cores()
        if not 1 <= self.size <= cores:
            raise ConfigError(f"--workers {self.size} is not allowed. Expected 1 to {cores}, the cores of this machine")

    def threads(self, wanted: int) -> int:
        """Return the CPU threads of each training: size x threads <= cores."""
        share = min(count_cores() // self.size, allowed_threads())
        return self.fixed_threads or min(wanted or share, share)

    def train(self, prepared: Prepared, points: Sequence[Point], store: Store, watch: Watch, *, retry: bool) -> None:
        """Claim, train and store points, in this process or in several.

        Raises:
            RunError: the store cannot be written; a worker process died at its start or between two points.
            KeyboardInterrupt: Ctrl-C; the points in training are released.
        """
        size = min(self.size, len(points))
        if size == 1:
            work(prepared, points, store, watch, retry=retry)
            return
        workers = _Workers(prepared, points, store, watch, retry)
        try:
            for _ in range(size):
                workers.start()
            while workers.processes:
                workers.follow()
        finally:
            workers.stop()


def work(prepared: Prepared, points: Iterable[Point], store: Store, watch: Watch, *, retry: bool) -> None:
    """Claim, train and store points, one after the other, until none is left."""
    for point in points:
        with released_on_error(store, point):
            if not store.claim(point, retry=retry):
                continue
            watch.point_started(point.name, point.seed)
            with beating(partial(store.beat, point)):
                trained = train_point(prepared, point)
            record(point, trained, store, watch)


class _Workers:
    """The worker processes, the point that each trains, and what follows if one dies."""

    def __init__(self, prepared: Prepared, points: Sequence[Point], store: Store, watch: Watch, retry: bool) -> None:
        self.job = (prepared, store, retry)
        self.left = deque(points)
        self.store, self.watch, self.threads = store, watch, prepared.threads
        self.context = multiprocessing.get_context("spawn")  # a fork would inherit torch's thread pool, which hangs
        self.processes: dict[Connection, BaseProcess] = {}  # a pipe for each: a shared queue stays locked if one dies
        self.given: dict[Connection, Point] = {}  # the last point that each got
        self.training: set[Connection] = set()

    def start(self) -> None:
        """Start one more worker."""
        ours, theirs = self.context.Pipe()
        process = self.context.Process(target=be_worker, args=(*self.job, theirs), daemon=True)
        with _variables_of_children(self.threads), interrupts_held_back():
            process.start()
            self.processes[ours] = process
        theirs.close()

    def follow(self) -> None:
        """Wait until workers report something or end, and answer."""
        for worker in wait(list(self.processes)):
            assert isinstance(worker, Connection)
            try:
                event = worker.recv()
            except (EOFError, ConnectionError):
                self._replace(worker)
            else:
                self._handle(worker, *event)

    def _handle(self, worker: Connection, kind: str, *details: Any) -> None:
        if kind == "stopped":
            raise RunError(details[0])
        if kind == "point_started":
            self.training.add(worker)
        else:
            self.training.discard(worker)
        if kind == "ready":
            self._give(worker)
        else:
            getattr(self.watch, kind)(*details)

    def _give(self, worker: Connection) -> None:
        """Send the next point; None ends the worker."""
        with suppress(ConnectionError):  # it died just now, which `follow` finds
            worker.send(self.left[0] if self.left else None)
            if self.left:
                self.given[worker] = self.left.popleft()

    def _replace(self, worker: Connection) -> None:
        """Store why the point of a dead worker failed, and start another worker if points are left."""
        process = self.processes.pop(worker)
        process.join()
        code = process.exitcode or 0
        if code == INTERRUPTED:
            raise KeyboardInterrupt from None
        how = f"by signal {-code}" if code < 0 else f"with code {code}"
        if worker in self.training:
            point = self.given[worker]
            error = f"the worker process ended {how}, perhaps for lack of memory. Try fewer --workers"
            self.store.fail(point, error)
            self.watch.point_failed(point.name, point.seed, error)
            if self.left:
                self.start()
        elif code:
            raise RunError(
                f"a worker process ended {how} while it trained no point, perhaps for lack of memory. "
                "Finished points are stored: try again with --workers 1"
            )

    def stop(self) -> None:
        """End all workers: each releases its point at the end of its step."""
        for worker, process in self.processes.items():
            if worker not in self.given:
                process.kill()  # it is still importing, and holds no claim
            elif process.is_alive() and process.pid:
                os.kill(process.pid, signal.SIGINT)
            worker.close()  # one that was past its last step would ask for the next point
        for process in self.processes.values():
            process.join(PATIENCE_SECONDS)
            process.kill()


def be_worker(prepared: Prepared, store: Store, retry: bool, pool: Connection) -> None:
    """Run a worker process. It ends with code 0, or with 130 after Ctrl-C or if its parent process is gone."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
        work(prepared, _points_from(pool), store, Forward(lambda *event: pool.send(event)), retry=retry)
    except (KeyboardInterrupt, EOFError, ConnectionError):
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # a second one would only disturb the end
        raise SystemExit(INTERRUPTED) from None
    except HyperfocalError as error:
        pool.send(("stopped", str(error)))
        raise SystemExit(1) from None


def _points_from(pool: Connection) -> Iterator[Point]:
    """Ask for one point after the other, until there is none."""
    pool.send(("ready",))
    while (point := pool.recv()) is not None:
        yield point
        pool.send(("ready",))


def _end_with_parent() -> None:
    """Interrupt this process when its parent is gone, perhaps killed."""
    parent = multiprocessing.parent_process()
    assert parent is not None, "a worker has one"
    wait([parent.sentinel])
    os.kill(os.getpid(), signal.SIGINT)


@contextmanager
def interrupts_held_back() -> Iterator[None]:
    """Hold Ctrl-C back until the end, and from processes started inside until they are ready for it.

    These inherit the signal mask. In this process a thread of a library may take the signal in spite of the mask, so
    the handler waits too.
    """
    resource_tracker.ensure_running()  # its start lets Ctrl-C through again
    before, held = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT}), list[int]()
    is_main = threading.current_thread() is threading.main_thread()  # no other thread may set a handler
    handler = signal.signal(signal.SIGINT, lambda number, _: held.append(number)) if is_main else None
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        if is_main:
            signal.signal(signal.SIGINT, handler)
        if held:
            signal.raise_signal(signal.SIGINT)


@contextmanager
def _variables_of_children(threads: int) -> Iterator[None]:
    """Limit the thread pools of processes started inside, made when torch and numpy are imported; share the cache."""
    variables = thread_variables(threads) | {VARIABLE: str(default_cache())}
    before = {name: os.environ[name] for name in variables if name in os.environ}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name in variables:
            del os.environ[name]
        os.environ.update(before)
