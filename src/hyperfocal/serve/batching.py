"""Requests batched together: one thread answers whatever waits, as much of it at once as a batch may hold.

While a batch is computed the next one gathers by itself, and the thread is woken once for all that the event loop has
read in one turn. So nothing is delayed on purpose: a lone request is answered at once, and under load batches grow.
The queue is bounded; what does not fit is refused, what waits too long ends.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from hyperfocal.serve.refusals import Refusal


@dataclass(slots=True, eq=False)
class _Waiting:
    request: Any
    rows: int
    future: asyncio.Future[Any]
    until: float


class Batcher:
    """Answers requests from one event loop on one thread.

    Args:
        answer: requests to their answers; an exception in place of an answer is raised to the one who asked.
        most_rows: histories or texts a batch; a larger request is a batch alone.
        queue: rows that may wait.
        seconds: until a request that waits is given up.
        watch: called with the rows of each batch.
        waiting: called with the rows that wait, whenever their number has changed.
    """

    def __init__(
        self,
        answer: Callable[[Sequence[Any]], Sequence[Any]],
        *,
        most_rows: int = 64,
        queue: int = 2_000,
        seconds: float = 10.0,
        watch: Callable[[int], None] = lambda _: None,
        waiting: Callable[[int], None] = lambda _: None,
    ) -> None:
        self._answer, self._watch, self._tell_waiting = answer, watch, waiting
        self._most_rows, self._queue, self._seconds = most_rows, queue, seconds
        self._waiting: deque[_Waiting] = deque()
        self._rows, self._stopped, self._waking = 0, False, False
        self._lock = threading.Lock()
        self._ready = threading.Condition(self._lock)
        self._thread = threading.Thread(target=self._work, name="batches", daemon=True)

    def start(self) -> None:
        """Start the thread; call it in the event loop."""
        self._loop = asyncio.get_running_loop()
        self._thread.start()

    def stop(self) -> None:
        """Answer what waits, then end the thread."""
        with self._ready:
            self._stopped = True
            self._ready.notify()
        self._thread.join()

    @property
    def rows(self) -> int:
        """Return the rows that wait."""
        return self._rows

    async def ask(self, request: Any, rows: int) -> Any:
        """Return the answer to a request of so many rows.

        Raises:
            Refusal: 429 when the queue is full, 503 when it took too long.
        """
        future = self._loop.create_future()
        with self._lock:
            if self._waiting and self._rows + rows > self._queue:
                message = f"{self._rows:,} rows are waiting and {rows:,} more do not fit. Try again in a second"
                raise Refusal(429, "busy", message, headers={"Retry-After": "1"})
            self._count(rows)
            self._waiting.append(_Waiting(request, rows, future, time.monotonic() + self._seconds))
        if not self._waking:
            self._waking = True
            self._loop.call_soon(self._wake)
        timer = self._loop.call_later(self._seconds, self._give_up, future)
        try:
            return await future
        finally:
            timer.cancel()

    def _wake(self) -> None:
        self._waking = False
        with self._ready:
            self._ready.notify()

    def _give_up(self, future: asyncio.Future[Any]) -> None:
        message = f"not answered within {self._seconds:g} seconds. Try again in a second, or with fewer rows"
        _settle(future, Refusal(503, "timed_out", message, headers={"Retry-After": "1"}))

    def _work(self) -> None:
        while batch := self._take():
            asked = [one for one in batch if one.until > time.monotonic()]
            if not asked:
                continue
            self._watch(sum(one.rows for one in asked))
            try:
                answers = self._answer([one.request for one in asked])
            except Exception as error:  # a bug of ours must not end the thread
                answers = [error] * len(asked)
            self._loop.call_soon_threadsafe(_settle_all, [one.future for one in asked], answers)

    def _take(self) -> list[_Waiting]:
        """Wait for requests and return as many as a batch holds; none when it is over."""
        with self._ready:
            self._ready.wait_for(lambda: self._waiting or self._stopped)
            batch: list[_Waiting] = []
            rows = 0
            while self._waiting and (not batch or rows + self._waiting[0].rows <= self._most_rows):
                batch.append(self._waiting.popleft())
                rows += batch[-1].rows
            self._count(-rows)
            return batch

    def _count(self, rows: int) -> None:
        self._rows += rows
        self._tell_waiting(self._rows)


def _settle_all(futures: Sequence[asyncio.Future[Any]], answers: Sequence[Any]) -> None:
    for future, answer in zip(futures, answers, strict=True):
        _settle(future, answer)


def _settle(future: asyncio.Future[Any], answer: Any) -> None:
    if future.done():  # given up, or nobody listens any more
        return
    if isinstance(answer, Exception):
        future.set_exception(answer)
    else:
        future.set_result(answer)
