"""Two processes of one service, one of which is killed: what is counted, and what becomes of a swap meanwhile."""

import asyncio
import os
import re
import shutil
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

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


def children(running):
    """Return the worker processes, of which multiprocessing also starts one to track resources."""
    process = running.process.pid
    pids = [int(pid) for pid in Path(f"/proc/{process}/task/{process}/children").read_text().split()]
    return {pid for pid in pids if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()}


@pytest.fixture
def place(recommend_path, tmp_path, monkeypatch):
    """Return a run of one's own; temporary files are next to it."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    return shutil.copytree(recommend_path, tmp_path / "run")


def shared_folders(place):
    return list(place.parent.glob("hyperfocal-*"))


def test_with_stderr_on_a_full_disk_a_worker_is_replaced_and_sigterm_ends_all(place):
    with Path("/dev/full").open("w") as full, service(place, "--workers", "2", stderr=full) as running:
        (folder,) = shared_folders(place)
        assert folder.stat().st_mode & 0o777 == 0o700
        victim = min(children(running))
        os.kill(victim, signal.SIGKILL)
        until(lambda: len(pids(running)) == 2 and victim not in pids(running))
        running.process.terminate()
        assert running.process.wait(60) == 0
    assert shared_folders(place) == []


def test_the_last_worker_of_a_killed_service_removes_their_folder(place):
    with service(place, "--workers", "2") as running:
        assert len(shared_folders(place)) == 1
        running.process.kill()
        until(lambda: shared_folders(place) == [], 60)


def test_the_next_service_removes_the_folder_of_one_that_was_killed_with_its_workers(place):
    with service(place, "--workers", "2") as running:
        workers = children(running)
        running.process.kill()
        for pid in workers:
            os.kill(pid, signal.SIGKILL)
        running.process.wait()
    (left,) = shared_folders(place)
    (place.parent / "hyperfocal-foreign").mkdir()  # not one of ours
    with service(place, "--workers", "2") as running, service(place, "--workers", "2"):
        assert not left.exists()
        assert len(shared_folders(place)) == 3
        assert len(pids(running)) == 2
    assert [folder.name for folder in shared_folders(place)] == ["hyperfocal-foreign"]


def test_workers_that_cannot_start_are_tried_ever_more_seldom(place):
    content = (place / "vocabulary.json").read_text()
    with service(place, "--workers", "2") as running:
        (place / "vocabulary.json").write_text("{}")
        os.kill(min(children(running)), signal.SIGKILL)
        until(lambda: len(children(running)) == 1)
        time.sleep(15)
        assert httpx.get(f"{running.address}/health", timeout=60).status_code == 200
        (place / "vocabulary.json").write_text(content)
        running.process.send_signal(signal.SIGHUP)  # which tries again at once
        until(lambda: len(pids(running)) == 2)
        (place / "vocabulary.json").write_text("{}")
        for pid in children(running):
            os.kill(pid, signal.SIGKILL)
        assert running.process.wait(300) == 2
        said = running.process.stderr.read()
    assert "vocabulary.json is damaged" in said
    assert said.count("starting another one in 2 s") >= 1
    assert said.count("starting another one in 4 s") >= 1
    assert said.count("exit code 2") <= 12
    assert len([folder.name for folder in shared_folders(place)]) == 0


def test_a_hangup_of_the_whole_terminal_ends_no_worker(place):
    """SIGHUP reaches the process group from the start of the workers on."""
    with service(place, "--workers", "2", before=os.setsid) as running:
        for _ in range(20):
            os.killpg(running.process.pid, signal.SIGHUP)
            time.sleep(0.05)
        os.kill(min(children(running)), signal.SIGKILL)
        for _ in range(200):  # while its successor starts
            os.killpg(running.process.pid, signal.SIGHUP)
            time.sleep(0.05)
        until(lambda: len(pids(running)) == 2)
        code, said = running.end()
    assert code == 0
    assert said.count("a worker ended") == 1
