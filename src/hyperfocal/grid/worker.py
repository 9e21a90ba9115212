"""What a worker does: claim a point, train it and store the result, one after the other.

In this process, or in one of its own, which ends when whoever started it is gone.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from functools import partial
from multiprocessing.connection import Connection, wait
from typing import Any

from hyperfocal.errors import HyperfocalError, RunError
from hyperfocal.grid.claims import beating
from hyperfocal.grid.material import Material, Reached
from hyperfocal.grid.points import Point
from hyperfocal.grid.store import Store

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
