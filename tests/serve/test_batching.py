"""The batcher alone: what is answered together, what is refused, what is given up."""

import asyncio
import threading

import pytest

from hyperfocal.serve import batching
from hyperfocal.serve.batching import FEW, QUICK, Batcher
from hyperfocal.serve.messages import Refusal


class Slow:
    """Answers a request with its double, batch by batch as it is let go, and keeps what came together."""

    def __init__(self):
        self.batches, self.begun, self.go = [], threading.Semaphore(0), threading.Semaphore(0)

    def __call__(self, requests):
        self.batches.append(list(requests))
        self.begun.release()
        assert self.go.acquire(timeout=10)
        return [ValueError("odd") if request % 2 else 2 * request for request in requests]


def run(scenario, **options):
    """Run a scenario with a batcher that has begun a first batch, of the request 0, and waits in it."""

    async def main():
        slow = Slow()
        batcher = Batcher(slow, **options)
        batcher.start()
        first = asyncio.create_task(batcher.ask(0, 1))
        await asyncio.to_thread(slow.begun.acquire, timeout=10)
        try:
            await scenario(batcher, slow)
        finally:
            slow.go.release(100)
            assert await first == 0
            batcher.stop()
        return slow.batches

    return asyncio.run(main())


async def asked(batcher, *requests, rows=1):
    tasks = [asyncio.create_task(batcher.ask(request, rows)) for request in requests]
    await asyncio.sleep(0.01)
    return tasks


def test_what_waits_is_answered_together_up_to_a_batch():
    async def scenario(batcher, slow):
        tasks = await asked(batcher, 2, 4, 6, 8, 10)
        assert batcher.rows == 5
        slow.go.release(100)
        assert await asyncio.gather(*tasks) == [4, 8, 12, 16, 20]
        assert batcher.rows == 0

    assert run(scenario, most_rows=4) == [[0], [2, 4, 6, 8], [10]]


def test_a_request_larger_than_a_batch_is_one_alone():
    async def scenario(batcher, slow):
        tasks = await asked(batcher, 2) + await asked(batcher, 4, rows=9) + await asked(batcher, 6)
        slow.go.release(100)
        assert await asyncio.gather(*tasks) == [4, 8, 12]

    assert run(scenario, most_rows=4) == [[0], [2], [4], [6]]


def test_a_full_queue_refuses_and_says_when_to_come_back():
    async def scenario(batcher, slow):
        tasks = await asked(batcher, 2, 4)
        with pytest.raises(Refusal) as refused:
            await batcher.ask(6, 1)
        assert (refused.value.status, refused.value.headers) == (429, {"Retry-After": "1"})
        slow.go.release(100)
        assert await asyncio.gather(*tasks) == [4, 8]
        assert await batcher.ask(8, 100) == 16  # into an empty queue anything fits

    assert run(scenario, queue=2) == [[0], [2, 4], [8]]


def test_what_waits_too_long_is_given_up_and_not_computed():
    async def scenario(batcher, slow):
        with pytest.raises(Refusal, match=r"no answer within 0.05 seconds"):
            await batcher.ask(2, 1)

    async def patient(batcher, slow):
        batcher._seconds = 0.05
        await scenario(batcher, slow)

    assert run(patient) == [[0]]


def test_an_error_is_raised_to_the_one_who_asked():
    async def scenario(batcher, slow):
        tasks = await asked(batcher, 2, 3)
        slow.go.release(100)
        assert await tasks[0] == 4
        with pytest.raises(ValueError, match="odd"):
            await tasks[1]

    run(scenario)


def test_stop_answers_what_waits():
    async def main():
        batcher = Batcher(lambda requests: [request + 1 for request in requests])
        batcher.start()
        tasks = [asyncio.create_task(batcher.ask(number, 1)) for number in range(20)]
        await asyncio.sleep(0)
        batcher.stop()
        return await asyncio.gather(*tasks)

    assert asyncio.run(main()) == list(range(1, 21))


class Seen:
    """Answers a request of any kind with the thread that computed it; the clock then stands so many seconds later."""

    def __init__(self):
        self.seconds, self.now, self.sizes, self._alone = 0.0, 0.0, [], threading.Lock()

    def monotonic(self):
        return self.now

    def __call__(self, requests):
        assert self._alone.acquire(blocking=False), "computed twice at once"
        self.now += self.seconds
        self.sizes.append(len(requests))
        self._alone.release()
        return [threading.current_thread()] * len(requests)


async def where(batcher, number=1, *, light=True):
    """Ask so many times at once; return the threads that computed the answers."""
    return set(await asyncio.gather(*(batcher.ask(None, 1, light=light) for _ in range(number))))


def test_a_few_light_requests_are_answered_in_the_event_loop_while_they_are_quick(monkeypatch):
    async def main():
        seen = Seen()
        monkeypatch.setattr(batching, "time", seen)
        batcher = Batcher(seen)
        batcher.start()
        here, there = {threading.current_thread()}, {batcher._thread}
        assert await where(batcher) == there  # the first shows how long they take
        assert await where(batcher, FEW) == here
        assert seen.sizes == [1, FEW]
        assert await where(batcher, FEW + 1) == there
        assert await where(batcher, light=False) == there
        assert await where(batcher) == here
        seen.seconds = 1.5 * QUICK
        assert await where(batcher) == here
        assert await where(batcher) == await where(batcher) == there  # they turned out to be slow
        seen.seconds = 0.0
        assert await where(batcher) == there
        assert await where(batcher) == here
        batcher.stop()

    asyncio.run(main())


def test_nothing_is_computed_twice_at_once_or_left_behind():
    async def main():
        batcher = Batcher(Seen(), most_rows=8)
        batcher.start()

        async def ask(number):
            for step in range(10):
                await where(batcher, 1 + (number + step) % 3, light=step % 4 > 0)

        await asyncio.wait_for(asyncio.gather(*(ask(number) for number in range(8))), 30)
        assert batcher.rows == 0
        batcher.stop()

    asyncio.run(main())
