"""How the processes of one service agree on the run: a folder with what is wanted, and who has it."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
from pathlib import Path
from typing import Any

from hyperfocal.serve.live import Live
from hyperfocal.storage.run_folder import whole_file

WANTED = "wanted.json"
EVERY = 0.1  # seconds between two looks
PATIENCE = 60.0  # seconds until every process that lives has followed


class Board:
    """The folder.

    Args:
        folder: of the service, made by the process that started the others.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def want(self, run: Path) -> int:
        """Ask every process to load a run, and return the number of the wish."""
        number = time.time_ns()
        self._write(WANTED, {"number": number, "run": str(run.absolute())})
        return number

    def wanted(self) -> tuple[int, Path | None]:
        """Return the number of the latest wish and its run; 0 and None at the start."""
        found = self._read(self.folder / WANTED)
        return (found["number"], Path(found["run"])) if found else (0, None)

    def tell(self, number: int, version: str) -> None:
        """Tell that this process has done what it could for a wish, and which model answers in it now."""
        self._write(f"worker-{os.getpid()}.json", {"number": number, "version": version})

    def told(self) -> dict[str, tuple[int, str]]:
        """Return the wish that each living process has followed last, and the version of its model since."""
        found = {path.name: self._read(path) for path in self.folder.glob("worker-*.json")}
        return {name: (one["number"], one["version"]) for name, one in found.items() if one is not None}

    async def agreed(self, number: int) -> list[str]:
        """Wait until every process has followed, within reason, and return the versions of those that have.

        Nobody waits for a process that ends meanwhile - another takes its place, and begins with the latest wish - or
        for a wish in whose place there is another one.
        """
        asked, until = self.told().keys(), time.monotonic() + PATIENCE
        while self.wanted()[0] == number and time.monotonic() < until:
            told = self.told()
            if all(told[name][0] == number for name in asked & told.keys()):
                break
            await asyncio.sleep(EVERY)
        return [version for followed, version in self.told().values() if followed == number]

    def forget(self, process: int | None) -> None:
        """Forget what a process told that is no more."""
        (self.folder / f"worker-{process}.json").unlink(missing_ok=True)

    def _write(self, name: str, value: dict[str, Any]) -> None:
        with whole_file(self.folder / name) as aside:
            aside.write_text(json.dumps(value), encoding="utf-8")

    def _read(self, path: Path) -> dict[str, Any] | None:
        try:
            found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        return found


class Follower:
    """A process that follows the board, and ends when the process that started it is gone."""

    def __init__(self, board: Board, live: Live) -> None:
        self.board, self.live = board, live
        self.number, self._parent = 0, os.getppid()

    def arrive(self) -> None:
        """Tell that this process answers."""
        self.board.tell(self.number, self.live.version)

    async def lead(self) -> int:
        """Let the others load the run that this process has loaded, and return how many processes have it."""
        self.number = self.board.want(self.live.path)
        self.board.tell(self.number, self.live.version)
        return (await self.board.agreed(self.number)).count(self.live.version)

    async def follow(self) -> None:
        """Follow until the end."""
        while True:
            await asyncio.sleep(EVERY)
            if os.getppid() != self._parent:
                signal.raise_signal(signal.SIGTERM)
                return
            number, run = self.board.wanted()
            if number != self.number:
                await self.live.try_swap(run)
                self.number = number  # only now: a wish that came while another was loaded is heard too
                self.board.tell(number, self.live.version)
