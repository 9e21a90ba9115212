"""The run that all processes of one service serve: a folder with the latest request and the state of each process."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import time
from multiprocessing import parent_process
from pathlib import Path
from typing import Any

from hyperfocal.serve.live import Live
from hyperfocal.storage.whole import whole_file

log = logging.getLogger("hyperfocal.serve")
REQUESTED = "requested.json"
INTERVAL = 0.1  # seconds between two looks at the folder
PAUSE_SECONDS = 5.0  # after an error of the machine
TIMEOUT = 60.0  # seconds in which every living process should have loaded a requested run


class SharedRun:
    """The folder, made by the process that starts the others.

    It holds `requested.json`, and `worker-PID.json` of each process with the last request it has handled.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def request(self, run: Path) -> int:
        """Request that every process load a run; return the number of the request."""
        number = time.time_ns()
        self._write(REQUESTED, {"number": number, "run": str(run.absolute())})
        return number

    def requested(self) -> tuple[int, Path | None]:
        """Return the number of the latest request and its run; 0 and None before the first."""
        request = self._read(self.folder / REQUESTED)
        return (request["number"], Path(request["run"])) if request else (0, None)

    def report(self, number: int, version: str) -> None:
        """Record that this process has handled a request, and which version of the model it serves now."""
        self._write(f"worker-{os.getpid()}.json", {"number": number, "version": version})

    def reports(self) -> dict[str, tuple[int, str]]:
        """Return the last request that each living process has handled, and the version that it serves."""
        reports = {path.name: self._read(path) for path in self.folder.glob("worker-*.json")}
        return {name: (one["number"], one["version"]) for name, one in reports.items() if one is not None}

    async def wait_for(self, number: int) -> list[str]:
        """Wait until every process has handled a request, and return the versions that they serve.

        The wait ends early for a process that dies, because its successor starts with the latest request, for a
        request that is replaced by another one, and after TIMEOUT.
        """
        waiting, deadline = self.reports().keys(), time.monotonic() + TIMEOUT
        while self.requested()[0] == number and time.monotonic() < deadline:
            reports = self.reports()
            if all(reports[name][0] == number for name in waiting & reports.keys()):
                break
            await asyncio.sleep(INTERVAL)
        return [version for handled, version in self.reports().values() if handled == number]

    def has_reported(self, process: int | None) -> bool:
        """Return whether a process has begun to answer."""
        return (self.folder / f"worker-{process}.json").exists()

    def forget(self, process: int | None) -> None:
        """Remove the report of a dead process."""
        (self.folder / f"worker-{process}.json").unlink(missing_ok=True)

    def _write(self, name: str, value: dict[str, Any]) -> None:
        with whole_file(self.folder / name) as aside:
            aside.write_text(json.dumps(value), encoding="utf-8")

    def _read(self, path: Path) -> dict[str, Any] | None:
        try:
            value: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        return value


class Follower:
    """Keeps this process at the requested run, and ends it when the process that started it is gone."""

    def __init__(self, shared: SharedRun, live: Live) -> None:
        self._shared, self._live = shared, live
        first = parent_process()
        self._handled, self._parent = 0, first.pid if first else os.getppid()  # it may have died meanwhile

    def report_ready(self) -> None:
        """Record that this process answers requests."""
        self._shared.report(self._handled, self._live.version)

    async def broadcast(self) -> int:
        """Make the other processes load the run of this one; return how many processes serve it."""
        self._handled = self._shared.request(self._live.path)
        self._shared.report(self._handled, self._live.version)
        return (await self._shared.wait_for(self._handled)).count(self._live.version)

    async def follow(self) -> None:
        """Load each requested run, until the process ends."""
        while True:
            await asyncio.sleep(INTERVAL)
            if os.getppid() != self._parent:
                signal.raise_signal(signal.SIGTERM)
                return
            try:
                await self._follow_once()
            except OSError as error:  # a full disk, or no file descriptor left: try again
                log.error("run not loaded, the current model stays: %s", error)
                await asyncio.sleep(PAUSE_SECONDS)

    async def _follow_once(self) -> None:
        number, run = self._shared.requested()
        if number != self._handled:
            await self._live.try_swap(run)
            self._handled = number  # after the swap: a run broadcast meanwhile must be loaded again
            self._shared.report(number, self._live.version)
