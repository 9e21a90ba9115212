"""The guard alone: a bug of ours behind a quick route is answered in our form, logged and counted."""

import asyncio
from types import SimpleNamespace

import httpx

from hyperfocal.serve.guard import Guard
from hyperfocal.serve.metrics import Measures


async def broken(content):
    raise ZeroDivisionError("a bug")


def test_a_bug_is_answered_in_our_form_logged_and_counted(caplog):
    measures = Measures()
    live, quick = SimpleNamespace(draining=False), {"/v1/recommend": broken}
    guard = Guard(None, live=live, measures=measures, key="", limits=(100, 1.0), quick=quick)

    async def ask():
        async with httpx.AsyncClient(transport=httpx.ASGITransport(guard), base_url="http://127.0.0.1") as client:
            return await client.post("/v1/recommend", json={})

    response = asyncio.run(ask())
    assert (response.status_code, response.json()["error"]["reason"]) == (500, "failed")
    assert response.headers["Cache-Control"] == "no-store"
    assert "ZeroDivisionError: a bug" in caplog.text
    assert b'hyperfocal_requests_total{path="/v1/recommend",status="500"} 1.0' in measures.text()
