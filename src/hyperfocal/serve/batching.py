"""Requests batched together: whatever waits is answered at once, as much of it as a batch may hold.

A few small requests are answered in the event loop itself, once for all that it has read in one turn: there a thread
would cost more than it gives, for the two would fight over the interpreter. Everything else goes to a thread; while it
computes, the next batch gathers by itself. So nothing is delayed on purpose, and under load batches grow. The queue is
bounded; what does not fit is refused, what waits too long ends.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from hyperfocal.serve.messages import Refusal

FEW = 16  # rows that the event loop answers itself
QUICK = 0.01  # seconds in which it has to have answered the last few


@dataclass(slots=True, eq=False)
class _Waiting:
    request: Any
    rows: int
    light: bool
    future: asyncio.Future[Any]
    until: float


class Batcher:
    """Answers requests from one event loop, there or on one thread, never on both at once.

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
        self._few, self._last = min(FEW, most_rows), QUICK  # seconds of the last few; how long they take is to be seen
        self._waiting: deque[_Waiting] = deque()
        self._rows, self._stopped, self._waking = 0, False, False
        self._busy = self._handed = False  # the thread computes; it has been told to and has not begun
        self._lock = threading.Lock()
        self._ready = threading.Condition(self._lock)
        self._thread = threading.Thread(target=self._work, name="batches", daemon=True)

    def start(self) -> None:
        """Start the thread; call it in the event loop."""
        self._loop = asyncio.get_running_loop()
        self._thread.start()

    def stop(self) -> None:
        """Answer what waits, then end the thread; call it in the event loop."""
        with self._ready:
            self._stopped = True
            self._ready.notify()
        self._thread.join()

    @property
    def rows(self) -> int:
        """Return the rows that wait."""
        return self._rows

    async def ask(self, request: Any, rows: int, *, light: bool = False) -> Any:
        """Return the answer to a request.

        Args:
            request: as `answer` takes it.
            rows: histories or texts in it.
            light: whether each row is little work, so that the event loop may answer a few.

        Raises:
            Refusal: 429 when the queue is full, 503 when it took too long.
        """
        future = self._loop.create_future()
        with self._lock:
            if self._waiting and self._rows + rows > self._queue:
                message = f"{self._rows:,} rows are waiting and {rows:,} more do not fit. Try again in a second"
                raise Refusal(429, "busy", message, headers={"Retry-After": "1"})
            self._count(rows)
            self._waiting.append(_Waiting(request, rows, light, future, time.monotonic() + self._seconds))
        self._wake_soon()
        timer = self._loop.call_later(self._seconds, self._give_up, future)
        try:
            return await future
        finally:
            timer.cancel()

    def _wake_soon(self) -> None:
        if not (self._waking or self._busy):
            self._waking = True
            self._loop.call_soon(self._wake)

    def _wake(self) -> None:
        """Answer a few here and now, or let the thread answer a batch."""
        self._waking = False
        with self._ready:
            if self._stopped or not self._waiting:
                return
            if not self._is_light():
                self._busy = self._handed = True
                self._ready.notify()
                return
            batch = self._take()
        _settle_all(*self._compute(batch))

    def _is_light(self) -> bool:
        return self._rows <= self._few and self._last < QUICK and all(one.light for one in self._waiting)

    def _give_up(self, future: asyncio.Future[Any]) -> None:
        message = f"not answered within {self._seconds:g} seconds. Try again in a second, or with fewer rows"
        _settle(future, Refusal(503, "timed_out", message, headers={"Retry-After": "1"}))

    def _work(self) -> None:
        """Answer a batch whenever it is told to, and when it is over all that still waits."""
        while True:
            with self._ready:
                self._ready.wait_for(lambda: self._handed or self._stopped)
                self._handed = False
                batch = self._take()
            if not batch and self._stopped:
                return
            self._loop.call_soon_threadsafe(self._done, *self._compute(batch))

    def _done(self, futures: Sequence[asyncio.Future[Any]], answers: Sequence[Any]) -> None:
        self._busy = False
        _settle_all(futures, answers)
        self._wake_soon()

    def _take(self) -> list[_Waiting]:
        """Return as many as a batch holds, none when nothing waits; under the lock."""
        batch: list[_Waiting] = []
        rows = 0
        while self._waiting and (not batch or rows + self._waiting[0].rows <= self._most_rows):
            batch.append(self._waiting.popleft())
            rows += batch[-1].rows
        self._count(-rows)
        return batch

    def _compute(self, batch: list[_Waiting]) -> tuple[list[asyncio.Future[Any]], Sequence[Any]]:
        """Return who asked, less those who have waited too long, and the answers."""
        began = time.monotonic()
        asked = [one for one in batch if one.until > began]
        if not asked:
            return [], []
        rows = sum(one.rows for one in asked)
        self._watch(rows)
        try:
            answers = self._answer([one.request for one in asked])
        except Exception as error:  # a bug of ours must not end the thread
            answers = [error] * len(asked)
        if rows <= self._few and all(one.light for one in asked):
            self._last = time.monotonic() - began
        return [one.future for one in asked], answers

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
