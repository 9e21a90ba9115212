"""Train the points of a grid on this machine, in one process or in several.

Each worker process gets one point after the other. The store decides who trains what, so workers of another command on
the same store need no care; points that they are at are waited for, and taken over if they die.

What a worker does: claim a point, train it and store the result, one after the other.

In this process, or in one of its own, which ends when whoever started it is gone.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any, Protocol

from hyperfocal.errors import ConfigError, HyperfocalError, RunError
from hyperfocal.grid.claims import beating
from hyperfocal.grid.job import Material, Reached
from hyperfocal.grid.points import Point
from hyperfocal.grid.store import Store

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


def check_workers(workers: int, cores: int) -> int:
    """Return the CPU threads of each of some workers: workers x threads <= cores.

    Raises:
        ConfigError: workers below 1, or more than cores: they would take turns and slow each other 10-40 times.
    """
    if not 1 <= workers <= cores:
        raise ConfigError(f"--workers {workers} is not allowed. Expected 1 to {cores}, the cores of this machine")
    return cores // workers


INTERRUPTED = 130  # the exit code of a worker that Ctrl-C stopped
Report = Callable[[tuple[Any, ...]], None]


def work(material: Material, points: Iterable[Point], store: Store, report: Report, retry: bool) -> None:
    """Claim, train and store points, one after the other, until none is left."""
    for point in points:
        if not store.claim(point, retry=retry):
            continue
        began = time.monotonic()
        try:
            report(("started", point.name, point.seed))
            with beating(partial(beat, store, point)):
                (values, resamples), reason = reached(material, point)
            seconds = time.monotonic() - began
            if reason:
                store.fail(point, reason, seconds=seconds)
            else:
                store.put(point, values, resamples, seconds=seconds)
        except BaseException:  # Ctrl-C, or a full disk: another may have it
            give_back(store, point)
            raise
        ended = ("failed", point.name, point.seed, reason)
        report(ended if reason else ("finished", point.name, point.seed, values, seconds))


def beat(store: Store, point: Point) -> None:
    """Say that this process is still at a point."""
    with suppress(RunError):  # a disk that is away for a while: there is time until the claim is void
        store.beat(point)


def give_back(store: Store, point: Point) -> None:
    """Release the point, however often Ctrl-C comes meanwhile: the terminal sends one, and the crew another."""
    while True:
        try:
            with suppress(RunError):
                store.release(point)
            return
        except KeyboardInterrupt:
            continue


def reached(material: Material, point: Point) -> tuple[Reached, str]:
    """Return metrics and resamples of a point, or why it failed: whatever it was, the other points go on."""
    try:
        return material.train(point), ""
    except Exception as error:
        return ({}, {}), f"{type(error).__name__}: {error}"


def be_worker(material: Material, store: Store, retry: bool, crew: Connection) -> None:
    """Work in a process of its own, which ends with code 0; with 130 after Ctrl-C or when the crew's is gone."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
        work(material, _given(crew), store, crew.send, retry)
    except (KeyboardInterrupt, EOFError, ConnectionError):
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # a second one would only spoil the end
        raise SystemExit(INTERRUPTED) from None
    except HyperfocalError as error:
        crew.send(("stopped", str(error)))
        raise SystemExit(1) from None


def _given(crew: Connection) -> Iterator[Point]:
    """Ask for one point after the other, until there is none."""
    crew.send(("ready",))
    while (point := crew.recv()) is not None:
        yield point
        crew.send(("ready",))


def _end_with_parent() -> None:
    """Interrupt this process when its parent is gone, killed perhaps: nobody is left to look on."""
    parent = multiprocessing.parent_process()
    assert parent is not None, "a worker has one"
    wait([parent.sentinel])
    os.kill(os.getpid(), signal.SIGINT)
