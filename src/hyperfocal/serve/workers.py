"""Several processes that share a socket: started, replaced when they die, sent to another run, ended."""

from __future__ import annotations

import logging
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from multiprocessing import get_context
from multiprocessing.connection import wait
from multiprocessing.context import SpawnProcess

import click

from hyperfocal.errors import HyperfocalError
from hyperfocal.private.work import held, temporary_folder
from hyperfocal.serve.metrics import FOLDER, forget
from hyperfocal.serve.server import LAST_SECONDS, LOG_FORMAT, Service, serve
from hyperfocal.serve.shared_run import SharedRun

log = logging.getLogger("hyperfocal.serve")
PAUSE_SECONDS = 1.0  # before a dead process is replaced; doubled each time that its successor cannot start
LONGEST_PAUSE = 60.0
MOST_FAILURES = 5  # starts in a row that fail while no process is left, after which the service ends


def serve_with_workers(service: Service, listening: socket.socket, workers: int, announce: Callable[[], None]) -> int:
    """Serve with several processes until SIGTERM or SIGINT; return the exit code.

    Call `announce` once all of them answer on the bound socket.
    """
    logging.basicConfig(format=LOG_FORMAT, level=logging.WARNING)
    with temporary_folder() as folder:
        (folder / "metrics").mkdir()
        os.environ[FOLDER] = str(folder / "metrics")
        return _Workers(service, listening, SharedRun(folder), workers).run(announce)


class _Workers:
    def __init__(self, service: Service, listening: socket.socket, shared: SharedRun, workers: int) -> None:
        self._service, self._listening, self._shared, self._workers = service, listening, shared, workers
        self._processes: list[SpawnProcess] = []
        self._failures, self._next_start = 0, 0.0  # starts in a row that failed; time.monotonic() of the next one
        self._ending = self._reload_requested = False

    def run(self, announce: Callable[[], None]) -> int:
        """Start the first process and, once it answers, the others; then watch over them until the end."""
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._end)
        signal.signal(signal.SIGHUP, self._request_reload)
        try:
            code = self._start_all()
            if not code and not self._ending:
                announce()
            while not code and not self._ending:
                code = self._watch()
            return code
        finally:
            self._end_all()

    def _start_all(self) -> int:
        """Return 0 once all processes answer, or the exit code of one that ended instead."""
        for started in range(1, self._workers + 1):
            self._processes.append(self._start())
            code = self._wait_until_ready(started) if started in (1, self._workers) else 0
            if code or self._ending:
                return code
        return 0

    def _start(self) -> SpawnProcess:
        _, run = self._shared.requested()
        service = self._service if run is None else replace(self._service, run=run)
        process = get_context("spawn").Process(target=_work, args=(service, self._listening, self._shared))
        with _hangup_blocked():  # which the process inherits, until it ignores the signal
            process.start()
        return process

    def _wait_until_ready(self, number: int) -> int:
        """Wait until `number` processes answer; return 0, or the exit code of a process that ended instead."""
        while len(self._shared.reports()) < number and not self._ending:
            ended = [process.exitcode for process in self._processes if process.exitcode is not None]
            if ended:
                code = ended[0] or 1
                log.error("a worker ended with exit code %d while the service started; the service ends", code)
                return code if code > 0 else 1
            time.sleep(0.02)
        return 0

    def _watch(self) -> int:
        """Pass on SIGHUP and replace the dead processes, once; return an exit code if none can start.

        An error of the machine, such as a full disk, must not end the service while a process answers.
        """
        try:
            if self._reload_requested:
                self._reload_requested = False
                self._shared.request(self._shared.requested()[1] or self._service.run)
                self._next_start = 0.0
            wait([process.sentinel for process in self._processes], timeout=0.1)
            dead = [process for process in self._processes if process.exitcode is not None]
            for process in dead:
                self._remove(process)
            if not self._processes and self._failures >= MOST_FAILURES:
                return (dead[-1].exitcode if dead else 1) or 1
            self._replace()
        except OSError as error:
            log.error("the first process of the service: %s", error)
            self._postpone(failed=True)
        return 0

    def _remove(self, process: SpawnProcess) -> None:
        """Remove a dead process, and decide when to replace it."""
        self._processes.remove(process)
        self._postpone(failed=not self._shared.has_reported(process.pid))
        seconds = self._next_start - time.monotonic()
        log.warning("a worker ended with exit code %s; starting another one in %.0f s", process.exitcode, seconds)
        self._shared.forget(process.pid)
        forget(process.pid)

    def _postpone(self, *, failed: bool) -> None:
        self._failures = self._failures + 1 if failed else 0
        self._next_start = time.monotonic() + min(PAUSE_SECONDS * 2**self._failures, LONGEST_PAUSE)

    def _replace(self) -> None:
        if self._ending or time.monotonic() < self._next_start:
            return
        while len(self._processes) < self._workers:
            self._processes.append(self._start())

    def _end_all(self) -> None:
        self._listening.close()  # otherwise the kernel accepts connections that nobody will answer
        for process in self._processes:
            process.terminate()
        for process in self._processes:
            process.join(LAST_SECONDS + 10)
            process.kill()

    def _end(self, *_: object) -> None:
        self._ending = True

    def _request_reload(self, *_: object) -> None:
        self._reload_requested = True


def _work(service: Service, listening: socket.socket, shared: SharedRun) -> None:
    """Run one of the processes."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # a terminal sends it to all; the first process passes it on
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGHUP})
    try:
        with held(shared.folder):
            serve(service, listening, shared=shared)
    except (HyperfocalError, OSError) as error:
        with suppress(OSError):  # stderr may be on a full disk
            click.echo(f"error: {error}", err=True)
        sys.exit(2)


@contextmanager
def _hangup_blocked() -> Iterator[None]:
    """Hold SIGHUP back."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGHUP})
