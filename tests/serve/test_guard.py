"""The guard around an app with a bug, and around the service at the level of ASGI."""

import asyncio
from pathlib import Path
from types import SimpleNamespace

import httpx
from starlette.applications import Starlette
from starlette.routing import Route

from hyperfocal.serve.access import Access
from hyperfocal.serve.app import ERROR_HANDLERS, create_app
from hyperfocal.serve.guard import Guard
from hyperfocal.serve.limits import Limits
from hyperfocal.serve.metrics import Metrics


def guarded():
    async def broken(request):
        raise ZeroDivisionError("a bug")

    routes = [Route("/v1/recommend", broken, methods=["POST"])]
    app, metrics = Starlette(routes=routes, exception_handlers=ERROR_HANDLERS), Metrics()
    live = SimpleNamespace(draining=False)
    access, limits = Access("", None), Limits(bytes=100, seconds=0.1)
    return Guard(app, live=live, metrics=metrics, access=access, limits=limits), metrics


def ask(guard, content):
    async def main():
        async with httpx.AsyncClient(transport=httpx.ASGITransport(guard), base_url="http://127.0.0.1") as client:
            return await client.post("/v1/recommend", content=content, headers={"Content-Type": "application/json"})

    return asyncio.run(main())


def test_a_bug_is_answered_in_our_form_logged_and_counted(caplog):
    guard, metrics = guarded()
    response = ask(guard, b"{}")
    assert (response.status_code, response.json()["error"]["reason"]) == (500, "failed")
    assert response.headers["Cache-Control"] == "no-store"
    assert "ZeroDivisionError: a bug" in caplog.text
    assert b'hyperfocal_requests_total{path="/v1/recommend",status="500"} 1.0' in metrics.text()


def test_a_slow_body_is_refused_and_counted():
    async def slowly():
        yield b"{"
        await asyncio.sleep(1)
        yield b"}"

    guard, metrics = guarded()
    response = ask(guard, slowly())
    assert (response.status_code, response.json()["error"]["reason"]) == (408, "too_slow")
    assert response.headers["Connection"] == "close"
    assert b'hyperfocal_requests_total{path="/v1/recommend",status="408"} 1.0' in metrics.text()


def test_an_aborted_reload_swaps_nothing():
    swapped, sent = [], []

    async def swap(path):
        swapped.append(path)

    async def send(message):
        sent.append(message)

    live = SimpleNamespace(draining=False, answer=None, swap=swap, path=Path("run"), version="1")
    app = create_app(live, key="k")
    headers = [(b"content-type", b"application/json"), (b"content-length", b"20"), (b"authorization", b"Bearer k")]
    scope = {"type": "http", "method": "POST", "path": "/v1/reload", "headers": headers, "query_string": b""}
    start, end = ({"type": "http.request", "body": b'{"run": ', "more_body": True}, {"type": "http.disconnect"})
    for messages in ([end], [start, end]):
        asyncio.run(app(dict(scope), receiver(messages), send))
    assert swapped == []
    asyncio.run(app(dict(scope), receiver([{"type": "http.request", "body": b"{}"}]), send))
    assert swapped == [None]
    assert [message["status"] for message in sent if "status" in message] == [400, 400, 200]


def receiver(messages):
    remaining = iter(messages)

    async def receive():
        return next(remaining)

    return receive
