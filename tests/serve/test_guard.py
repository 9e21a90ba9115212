"""The guard alone, around an app with a bug."""

import asyncio
from types import SimpleNamespace

import httpx
from starlette.applications import Starlette
from starlette.routing import Route

from hyperfocal.serve.app import ERROR_HANDLERS
from hyperfocal.serve.guard import Guard
from hyperfocal.serve.metrics import Metrics


def guarded():
    async def broken(request):
        raise ZeroDivisionError("a bug")

    routes = [Route("/v1/recommend", broken, methods=["POST"])]
    app, metrics = Starlette(routes=routes, exception_handlers=ERROR_HANDLERS), Metrics()
    live = SimpleNamespace(draining=False)
    return Guard(app, live=live, metrics=metrics, key="", most_bytes=100, seconds=0.1), metrics


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
