"""Under load: the model swapped and the service ended without a request lost; back-pressure; several processes."""

import asyncio
import shutil
import signal
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from serve_cases import ITEMS, benchmark, recommend_run, service

BENCHMARK = benchmark()
PAYLOADS = [BENCHMARK.payload("/v1/recommend", {"histories": [ITEMS[place : place + 5]], "k": 3}) for place in range(9)]


@pytest.fixture(scope="module")
def other_path(tmp_path_factory):
    return recommend_run(tmp_path_factory.mktemp("other") / "courses", seed=1)


async def while_loaded(running, action, *, connections=16, again=False):
    """Send requests while `action` runs on a thread; return what came of them."""
    load = BENCHMARK.Load("127.0.0.1", running.port, PAYLOADS, time.perf_counter() + 60, again=again)
    sending = asyncio.create_task(load.run(connections))
    await asyncio.sleep(0.3)
    await asyncio.to_thread(action)
    load.until = time.perf_counter()
    await sending
    return load


def version(client):
    return client.post("/v1/recommend", json={"histories": [[]]}).json()["model"]


def wait_for(client, wanted):
    until = time.monotonic() + 30
    while version(client) != wanted and time.monotonic() < until:
        time.sleep(0.05)
    assert version(client) == wanted


def test_runs_are_swapped_under_load_and_bad_ones_refused(recommend_path, other_path, classify_path, tmp_path):
    place = shutil.copytree(recommend_path, tmp_path / "run")
    other_path, classify_path = (
        shutil.copytree(other_path, tmp_path / "2"),
        shutil.copytree(classify_path, tmp_path / "3"),
    )
    (tmp_path / "empty").mkdir()
    with service(place) as running, httpx.Client(base_url=running.address, timeout=60) as client:
        first = version(client)

        def swap():
            done = client.post("/v1/reload", json={"run": str(other_path)})
            assert done.json() == {"model": version(client), "run": str(other_path), "workers": 1}
            assert version(client) != first
            for bad, reason in (
                (classify_path, "its job is `classify`"),
                (tmp_path / "empty", "config.toml is missing"),
            ):
                error = client.post("/v1/reload", json={"run": str(bad)})
                assert error.status_code == 422
                assert reason in error.json()["error"]["message"]
            assert client.post("/v1/reload", json={"run": "\0"}).status_code == 422
            assert version(client) != first
            assert client.post("/v1/reload", json={"run": str(place)}).json()["model"] == first
            shutil.rmtree(place)
            shutil.copytree(other_path, place)
            running.process.send_signal(signal.SIGHUP)
            wait_for(client, done.json()["model"])
            (place / "vocabulary.json").write_text("{}")
            running.process.send_signal(signal.SIGHUP)
            time.sleep(0.5)

        load = asyncio.run(while_loaded(running, swap))
        assert load.failed == 0
        assert load.statuses[200] > 50
        code, said = running.end()
    assert code == 0
    assert "run not loaded, the current model stays" in said
    assert "vocabulary.json is damaged" in said


@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow)])
def test_no_request_is_lost_at_the_end(recommend_path, number):
    with service(recommend_path) as running:

        def end():
            running.process.send_signal(number)
            assert running.process.wait(30) == 0

        load = asyncio.run(while_loaded(running, end, connections=32, again=True))
        assert load.lost == 0
        assert set(load.statuses) == {200}
        assert load.refused == 32  # every connection was told to close, and found the door shut


def test_a_full_queue_answers_429_and_the_service_goes_on(recommend_path):
    body = {"histories": [ITEMS] * 200, "k": 20}
    with service(recommend_path, "--queue", "1", "--batch", "1") as running, ThreadPoolExecutor(24) as threads:
        send = lambda _: httpx.post(f"{running.address}/v1/recommend", json=body, timeout=60)  # noqa: E731
        found = list(threads.map(send, range(24)))
        statuses = {response.status_code for response in found}
        assert statuses == {200, 429}
        refused = next(response for response in found if response.status_code == 429)
        assert refused.headers["Retry-After"] == "1"
        assert refused.json()["error"]["reason"] == "busy"
        assert send(0).status_code == 200


@pytest.mark.slow
def test_what_takes_too_long_is_given_up(recommend_path):
    with service(recommend_path, "--seconds", "0.001") as running:
        response = httpx.post(f"{running.address}/v1/recommend", json={"histories": [ITEMS] * 999, "k": 20}, timeout=60)
        reason = {503: "timed_out", 408: "too_slow"}[response.status_code]  # if busy, its body alone takes too long
        assert response.json()["error"]["reason"] == reason


@pytest.mark.slow
def test_several_processes_follow_one_another(recommend_path, other_path, tmp_path):
    place, other_path = shutil.copytree(recommend_path, tmp_path / "run"), shutil.copytree(other_path, tmp_path / "2")

    def versions():
        """Ask over fresh connections, which both processes take."""
        return {httpx.post(address, json={"histories": [[]]}).json()["model"] for _ in range(30)}

    with service(place, "--workers", "2") as running:
        address = f"{running.address}/v1/recommend"
        first = versions()
        assert len(first) == 1

        def swap():
            done = httpx.post(f"{running.address}/v1/reload", json={"run": str(other_path)}, timeout=60)
            assert done.json()["workers"] == 2
            assert versions() == {done.json()["model"]} != first
            assert httpx.post(f"{running.address}/v1/reload", json={"run": str(place)}, timeout=60).status_code == 200
            assert versions() == first
            shutil.rmtree(place)
            shutil.copytree(other_path, place)
            running.process.send_signal(signal.SIGHUP)
            until = time.monotonic() + 30
            while versions() != {done.json()["model"]} and time.monotonic() < until:
                time.sleep(0.1)
            assert versions() == {done.json()["model"]}

        load = asyncio.run(while_loaded(running, swap))
        assert load.failed == 0
        text = httpx.get(f"{running.address}/metrics").text
        assert 'hyperfocal_requests_total{path="/v1/reload",status="200"} 2.0' in text
        code, _ = running.end()
        assert code == 0
