"""Several processes that share a socket: started, kept alive, told of a new run, ended."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from multiprocessing import get_context
from multiprocessing.connection import wait
from multiprocessing.context import SpawnProcess
from pathlib import Path

import click

from hyperfocal.errors import HyperfocalError
from hyperfocal.serve.board import Board
from hyperfocal.serve.metrics import FOLDER, forget
from hyperfocal.serve.server import LAST, Service, serve

PAUSE = 1.0  # seconds before a process that died is replaced


def serve_with_workers(service: Service, listening: socket.socket, workers: int, announce: Callable[[], None]) -> int:
    """Serve with so many processes until SIGTERM or SIGINT, and return the exit code.

    Args:
        service: what.
        listening: a bound socket.
        workers: processes.
        announce: called once all of them answer.
    """
    folder = Path(tempfile.mkdtemp(prefix="hyperfocal-"))
    (folder / "metrics").mkdir()
    os.environ[FOLDER] = str(folder / "metrics")
    try:
        return _Workers(service, listening, Board(folder)).run(workers, announce)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


class _Workers:
    def __init__(self, service: Service, listening: socket.socket, board: Board) -> None:
        self._service, self._listening, self._board = service, listening, board
        self._processes: list[SpawnProcess] = []
        self._ending = self._hung_up = False

    def run(self, workers: int, announce: Callable[[], None]) -> int:
        """Start the first process and, once it answers, the others; then watch over them."""
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._end)
        if hasattr(signal, "SIGHUP"):
            signal.signal(signal.SIGHUP, self._hang_up)
        code = 0
        for started in range(1, workers + 1):
            self._processes.append(self._start())
            if started in (1, workers):
                code = code or self._until_ready(started)
            if code or self._ending:
                break
        if not code and not self._ending:
            announce()
        while not code and not self._ending:
            self._watch()
        self._end_all()
        return code

    def _start(self) -> SpawnProcess:
        _, run = self._board.wanted()
        service = self._service if run is None else replace(self._service, run=run)
        process = get_context("spawn").Process(target=_work, args=(service, self._listening, self._board))
        process.start()
        return process

    def _until_ready(self, number: int) -> int:
        """Wait until so many processes answer; return the exit code of one that ended instead."""
        while len(self._board.told()) < number and not self._ending:
            ended = [process.exitcode for process in self._processes if process.exitcode is not None]
            if ended:
                return ended[0] or 1
            time.sleep(0.02)
        return 0

    def _watch(self) -> None:
        """Look after the processes for a moment: tell them of a new run, replace one that died."""
        if self._hung_up:
            self._hung_up = False
            self._board.want(self._board.wanted()[1] or self._service.run)
        wait([process.sentinel for process in self._processes], timeout=0.1)
        ended = [place for place, process in enumerate(self._processes) if process.exitcode is not None]
        if not ended or self._ending:
            return
        for process in (self._processes[place] for place in ended):
            click.echo(f"a worker ended with {process.exitcode}; another one takes its place", err=True)
            self._board.forget(process.pid)
            forget(process.pid)
        time.sleep(PAUSE)
        for place in ended:
            self._processes[place] = self._start()

    def _end_all(self) -> None:
        self._listening.close()  # else the kernel goes on taking connections that nobody will answer
        for process in self._processes:
            process.terminate()
        for process in self._processes:
            process.join(LAST + 10)
            process.kill()

    def _end(self, *_: object) -> None:
        self._ending = True

    def _hang_up(self, *_: object) -> None:
        self._hung_up = True


def _work(service: Service, listening: socket.socket, board: Board) -> None:
    """Be one of the processes."""
    if hasattr(signal, "SIGHUP"):
        signal.signal(signal.SIGHUP, signal.SIG_IGN)  # a terminal that hangs up tells all; the board says what to do
    try:
        serve(service, listening, board=board)
    except (HyperfocalError, OSError) as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(2)
