"""Several processes that share a socket: started, replaced when they die, sent to another run, ended."""

from __future__ import annotations

import os
import signal
import socket
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from multiprocessing import get_context
from multiprocessing.connection import wait
from multiprocessing.context import SpawnProcess

import click

from hyperfocal.errors import HyperfocalError
from hyperfocal.private.work import held, temporary_folder
from hyperfocal.serve.metrics import FOLDER, forget
from hyperfocal.serve.server import LAST_SECONDS, Service, serve
from hyperfocal.serve.shared_run import SharedRun

PAUSE_SECONDS = 1.0  # before a dead process is replaced


def serve_with_workers(service: Service, listening: socket.socket, workers: int, announce: Callable[[], None]) -> int:
    """Serve with several processes until SIGTERM or SIGINT; return the exit code.

    Call `announce` once all of them answer on the bound socket.
    """
    with temporary_folder() as folder:
        (folder / "metrics").mkdir()
        os.environ[FOLDER] = str(folder / "metrics")
        return _Workers(service, listening, SharedRun(folder)).run(workers, announce)


class _Workers:
    def __init__(self, service: Service, listening: socket.socket, shared: SharedRun) -> None:
        self._service, self._listening, self._shared = service, listening, shared
        self._processes: list[SpawnProcess] = []
        self._ending = self._reload_requested = False

    def run(self, workers: int, announce: Callable[[], None]) -> int:
        """Start the first process and, once it answers, the others; then watch over them until the end."""
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._end)
        if hasattr(signal, "SIGHUP"):
            signal.signal(signal.SIGHUP, self._request_reload)
        code = 0
        for started in range(1, workers + 1):
            self._processes.append(self._start())
            if started in (1, workers):
                code = code or self._wait_until_ready(started)
            if code or self._ending:
                break
        if not code and not self._ending:
            announce()
        while not code and not self._ending:
            self._watch()
        self._end_all()
        return code

    def _start(self) -> SpawnProcess:
        _, run = self._shared.requested()
        service = self._service if run is None else replace(self._service, run=run)
        process = get_context("spawn").Process(target=_work, args=(service, self._listening, self._shared))
        process.start()
        return process

    def _wait_until_ready(self, number: int) -> int:
        """Wait until `number` processes answer; return 0, or the exit code of a process that ended instead."""
        while len(self._shared.reports()) < number and not self._ending:
            ended = [process.exitcode for process in self._processes if process.exitcode is not None]
            if ended:
                return ended[0] or 1
            time.sleep(0.02)
        return 0

    def _watch(self) -> None:
        """Look after the processes once: pass on SIGHUP, replace the dead ones."""
        if self._reload_requested:
            self._reload_requested = False
            self._shared.request(self._shared.requested()[1] or self._service.run)
        wait([process.sentinel for process in self._processes], timeout=0.1)
        dead = [place for place, process in enumerate(self._processes) if process.exitcode is not None]
        if not dead or self._ending:
            return
        for process in (self._processes[place] for place in dead):
            click.echo(f"a worker ended with exit code {process.exitcode}; starting another one", err=True)
            self._shared.forget(process.pid)
            forget(process.pid)
        time.sleep(PAUSE_SECONDS)
        for place in dead:
            self._processes[place] = self._start()

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
    if hasattr(signal, "SIGHUP"):
        signal.signal(signal.SIGHUP, signal.SIG_IGN)  # a terminal sends it to all; the first process passes it on
    try:
        with held(shared.folder):
            serve(service, listening, shared=shared)
    except (HyperfocalError, OSError) as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(2)
