"""Two processes of one service, one of which is killed: what is counted, and what becomes of a swap meanwhile."""

import asyncio
import os
import re
import shutil
import signal
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from serve_cases import ITEMS, benchmark, service

pytestmark = pytest.mark.slow
BENCHMARK = benchmark()
PAYLOADS = [BENCHMARK.payload("/v1/recommend", {"histories": [ITEMS[:5]] * 50, "k": 3})]


@pytest.fixture(scope="module")
def running(recommend_path, tmp_path_factory):
    place = shutil.copytree(recommend_path, tmp_path_factory.mktemp("two") / "run")
    with service(place, "--workers", "2", "--batch", "1") as found:
        found.beside = shutil.copytree(recommend_path, place.with_name("beside"))
        yield found


def counts(running):
    """Return what `/metrics` says over a fresh connection: name with labels -> value."""
    text = httpx.get(f"{running.address}/metrics", timeout=60).text
    assert text.count("# TYPE process_cpu_seconds_total counter") == 1
    return {name: float(value) for name, value in re.findall(r"^([^#\s]\S*(?: \S+)*?) (\S+)$", text, re.MULTILINE)}


def pids(running):
    return {int(pid) for pid in re.findall(r'process_resident_memory_bytes{pid="(\d+)"}', str(counts(running)))}


def until(true, seconds=600):
    """Wait until something is true, and return it."""
    end = time.monotonic() + seconds
    while not (found := true()) and time.monotonic() < end:
        time.sleep(0.05)
    assert found
    return found


async def load_and_kill(running, victim):
    """Load both processes, kill one of them while requests wait in it, and return what came of the load."""
    load = BENCHMARK.Load("127.0.0.1", running.port, PAYLOADS, time.perf_counter() + 120)
    sending = asyncio.create_task(load.run(24))
    await asyncio.to_thread(until, lambda: counts(running)["hyperfocal_queue_rows"] > 600)
    os.kill(victim, signal.SIGKILL)
    await asyncio.sleep(0.5)
    load.until = time.perf_counter()
    await sending
    return load


def test_counts_are_those_of_both_and_stay_when_one_is_killed(running):
    assert len(pids(running)) == 2
    victim = min(pids(running))
    load = asyncio.run(load_and_kill(running, victim))
    assert load.lost > 0
    until(lambda: counts(running)["hyperfocal_queue_rows"] == 0)
    answered = counts(running)['hyperfocal_requests_total{path="/v1/recommend",status="200"}']
    assert load.statuses[200] <= answered <= load.statuses[200] + load.lost
    successors = until(lambda: len(pids(running)) == 2 and pids(running))
    assert victim not in successors


def test_a_swap_does_not_wait_for_a_process_that_dies_meanwhile(running):
    victim = min(until(lambda: len(pids(running)) == 2 and pids(running)))
    os.kill(victim, signal.SIGSTOP)  # so that it does not follow
    with ThreadPoolExecutor(1) as thread:
        reload = thread.submit(
            httpx.post, f"{running.address}/v1/reload", json={"run": str(running.beside)}, timeout=90
        )
        time.sleep(3)
        assert not reload.done()
        os.kill(victim, signal.SIGKILL)
        began = time.monotonic()
        assert reload.result().json()["workers"] == 1
        assert time.monotonic() - began < 20
    until(lambda: len(pids(running)) == 2)
    cards = [httpx.get(f"{running.address}/v1/model", timeout=60).json()["run"] for _ in range(20)]
    assert set(cards) == {"beside"}
