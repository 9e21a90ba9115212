"""Dynamic batching: answer all waiting requests together, up to a batch size, without delaying any on purpose.

A few small requests are answered in the event loop itself, all that arrived in one turn of it: a thread would cost more
than it saves, because both compete for the interpreter. Everything else goes to one thread, and the next batch gathers
while it computes. So batches grow under load. The queue is bounded: a request that does not fit is refused, and one
that waits too long is given up.
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
QUICK = 0.01  # seconds; only if the last few rows took less does the event loop answer the next ones


@dataclass(slots=True, eq=False)
class _Waiting:
    request: Any
    rows: int
    light: bool
    future: asyncio.Future[Any]
    deadline: float


class Batcher:
    """Answers the requests of one event loop, in the loop or on one thread, never on both at once.

    Args:
        answer: requests to their answers; an exception in place of an answer is raised to its caller.
        most_rows: histories or texts per batch; a larger request is a batch alone.
        queue: rows that may wait.
        seconds: that a request may wait.
        on_batch: called with the rows of each batch.
        on_waiting: called with the number of waiting rows whenever it changes.
    """

    def __init__(
        self,
        answer: Callable[[Sequence[Any]], Sequence[Any]],
        *,
        most_rows: int = 64,
        queue: int = 2_000,
        seconds: float = 10.0,
        on_batch: Callable[[int], None] = lambda _: None,
        on_waiting: Callable[[int], None] = lambda _: None,
    ) -> None:
        self._answer, self._on_batch, self._on_waiting = answer, on_batch, on_waiting
        self._most_rows, self._queue, self._seconds = most_rows, queue, seconds
        self._few, self._last_seconds = min(FEW, most_rows), QUICK  # QUICK: a thread answers first, and is timed
        self._waiting: deque[_Waiting] = deque()
        self._rows, self._stopped, self._waking = 0, False, False
        self._busy = self._notified = False  # the thread computes; it was notified and has not taken a batch yet
        self._lock = threading.Lock()
        self._ready = threading.Condition(self._lock)
        self._thread = threading.Thread(target=self._work, name="batches", daemon=True)

    def start(self) -> None:
        """Start the thread; call it in the event loop."""
        self._loop = asyncio.get_running_loop()
        self._thread.start()

    def stop(self) -> None:
        """Answer all waiting requests, then end the thread; call it in the event loop."""
        with self._ready:
            self._stopped = True
            self._ready.notify()
        self._thread.join()

    @property
    def rows(self) -> int:
        """Return the number of waiting rows."""
        return self._rows

    async def ask(self, request: Any, rows: int, *, light: bool = False) -> Any:
        """Return the answer to a request of `rows` histories or texts.

        If each row is little work (`light`), the event loop may answer a few.

        Raises:
            Refusal: 429 if the queue is full, 503 if the answer took too long.
        """
        future = self._loop.create_future()
        with self._lock:
            if self._waiting and self._rows + rows > self._queue:
                message = f"{self._rows:,} rows are waiting and {rows:,} more do not fit. Try again in a second"
                raise Refusal(429, "busy", message, headers={"Retry-After": "1"})
            self._add_rows(rows)
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
        """Answer a few light rows at once, or let the thread answer a batch."""
        self._waking = False
        with self._ready:
            if self._stopped or not self._waiting:
                return
            if not self._is_light():
                self._busy = self._notified = True
                self._ready.notify()
                return
            batch = self._take()
        _settle_all(*self._compute(batch))

    def _is_light(self) -> bool:
        few_and_quick = self._rows <= self._few and self._last_seconds < QUICK
        return few_and_quick and all(one.light for one in self._waiting)

    def _give_up(self, future: asyncio.Future[Any]) -> None:
        message = f"no answer within {self._seconds:g} seconds. Try again in a second, or with fewer rows"
        _settle(future, Refusal(503, "timed_out", message, headers={"Retry-After": "1"}))

    def _work(self) -> None:
        """Run the thread: answer a batch whenever notified, and after `stop` all requests that still wait."""
        while True:
            with self._ready:
                self._ready.wait_for(lambda: self._notified or self._stopped)
                self._notified = False
                batch = self._take()
            if not batch and self._stopped:
                return
            self._loop.call_soon_threadsafe(self._finish, *self._compute(batch))

    def _finish(self, futures: Sequence[asyncio.Future[Any]], answers: Sequence[Any]) -> None:
        self._busy = False
        _settle_all(futures, answers)
        self._wake_soon()

    def _take(self) -> list[_Waiting]:
        """Return the next batch, empty if nothing waits; call it under the lock."""
        batch: list[_Waiting] = []
        rows = 0
        while self._waiting and (not batch or rows + self._waiting[0].rows <= self._most_rows):
            batch.append(self._waiting.popleft())
            rows += batch[-1].rows
        self._add_rows(-rows)
        return batch

    def _compute(self, batch: list[_Waiting]) -> tuple[list[asyncio.Future[Any]], Sequence[Any]]:
        """Return the futures of a batch, without the requests past their deadline, and their answers."""
        began = time.monotonic()
        batch = [one for one in batch if one.deadline > began]
        if not batch:
            return [], []
        rows = sum(one.rows for one in batch)
        self._on_batch(rows)
        try:
            answers = self._answer([one.request for one in batch])
        except Exception as error:  # a bug must not end the thread
            answers = [error] * len(batch)
        if rows <= self._few and all(one.light for one in batch):
            self._last_seconds = time.monotonic() - began
        return [one.future for one in batch], answers

    def _add_rows(self, rows: int) -> None:
        self._rows += rows
        self._on_waiting(self._rows)


def _settle_all(futures: Sequence[asyncio.Future[Any]], answers: Sequence[Any]) -> None:
    for future, answer in zip(futures, answers, strict=True):
        _settle(future, answer)


def _settle(future: asyncio.Future[Any], answer: Any) -> None:
    if future.done():  # given up, or its client is gone
        return
    if isinstance(answer, Exception):
        future.set_exception(answer)
    else:
        future.set_result(answer)
