"""The model that answers now, and how another takes its place: loaded beside, checked, then swapped."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hyperfocal.errors import ConfigError
from hyperfocal.serve.predictor import load_predictor

log = logging.getLogger("hyperfocal.serve")


class Live:
    """The run that is served. A batch that has begun ends with the model that it began with.

    Args:
        path: of the run.
        engine: by which it is loaded.

    Attributes:
        predictor: what answers now.
        path: of its run.
        since: when it was loaded, seconds since the epoch.
        draining: whether the service is about to end.

    Raises:
        RunError, ConfigError: as in `load_predictor`.
    """

    def __init__(self, path: Path, engine: str = "torch") -> None:
        self.predictor = load_predictor(path, engine)
        self.path, self.engine, self.since = path, engine, time.time()
        self.draining = False
        self._lock = asyncio.Lock()

    @property
    def job(self) -> str:
        """Return the job, which no swap changes."""
        return self.predictor.job

    @property
    def version(self) -> str:
        """Return the checksum of the model that answers now."""
        return self.predictor.version

    def answer(self, requests: Sequence[Any]) -> list[Any]:
        """Return the answers to requests, from the model that is there when they are begun."""
        return self.predictor.answer(requests)

    async def swap(self, path: Path | None = None) -> None:
        """Let the run in a folder answer, None the same folder anew; one after the other.

        Raises:
            RunError, ConfigError: it cannot be served, or is of the other job; the model that is there goes on.
        """
        async with self._lock:
            chosen = self.path if path is None else path
            found = await asyncio.to_thread(load_predictor, chosen, self.engine)
            if found.job != self.job:
                raise ConfigError(
                    f"run {chosen}: is one of `{found.job}`, and this service is one of `{self.job}`. "
                    "Start another service for it"
                )
            self.predictor, self.path, self.since = found, chosen, time.time()
        log.warning("run %s answers now, version %s", chosen, found.version)

    async def try_swap(self, path: Path | None = None) -> str:
        """Swap as `swap` does, and return "" or why nothing changed, which is logged."""
        try:
            await self.swap(path)
        except Exception as error:  # whoever asked is not here to hear it, and who follows must go on
            log.error("not swapped, the run that is there goes on: %s", error)
            return str(error)
        return ""
