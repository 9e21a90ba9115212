"""The service over HTTP: an app of FastAPI whose bodies msgspec reads and writes."""

from __future__ import annotations

from asyncio import to_thread
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from importlib.metadata import version
from typing import Annotated, Any

import msgspec
from fastapi import FastAPI, Query, Request
from starlette.responses import PlainTextResponse, Response
from starlette.types import ASGIApp

from hyperfocal.serve.batching import Batcher
from hyperfocal.serve.bodies import as_json, read
from hyperfocal.serve.description import body, describe, responses
from hyperfocal.serve.explaining import MOST_WORDS
from hyperfocal.serve.files import add_pages
from hyperfocal.serve.guard import Answer, Guard
from hyperfocal.serve.live import Live
from hyperfocal.serve.measures import MEDIA_TYPE, Measures
from hyperfocal.serve.messages import MOST_ANSWERED, MOST_EXPLAINED, ClassifyRequest, RecommendRequest
from hyperfocal.serve.refusals import Refusal, install
from hyperfocal.serve.reloading import add_reload

TEXT: dict[str, Any] = {"description": "The counts.", "content": {"text/plain": {"schema": {"type": "string"}}}}
COUNTS = responses(None, 401) | {200: TEXT}
LIGHT = 16 * 2**10  # bytes of a body whose rows are little work each
VERSION = version("hyperfocal")


@dataclass(frozen=True)
class Limits:
    """What one process takes on.

    Attributes:
        batch: histories or texts that are computed at once.
        queue: histories or texts that may wait.
        seconds: until a request that waits is given up.
        bytes: of a body.
    """

    batch: int = 64
    queue: int = 2_000
    seconds: float = 10.0
    bytes: int = 2 * 2**20


def create_app(
    live: Live,
    *,
    key: str = "",
    limits: Limits | None = None,
    spread: Callable[[], Awaitable[int]] | None = None,
) -> ASGIApp:
    """Return the app that serves a run.

    Args:
        live: the run.
        key: that clients must bear; "" is none, and then `reloading.py` says who may swap which run in.
        limits: None is the usual ones.
        spread: tells the other processes of the service to load the same run, and returns how many have it.
    """
    limits, measures = limits or Limits(), Measures()
    batcher = Batcher(
        live.answer,
        most_rows=limits.batch,
        queue=limits.queue,
        seconds=limits.seconds,
        watch=measures.batch,
        waiting=measures.waiting,
    )

    @asynccontextmanager
    async def life(_: FastAPI) -> AsyncIterator[None]:
        batcher.start()
        yield
        batcher.stop()

    app = FastAPI(title="hyperfocal", version=VERSION, lifespan=life, docs_url=None, redoc_url=None)
    quick = _answers(live, batcher)
    install(app)
    describe(app, keyed=bool(key))
    _add_answers(app, quick)
    _add_state(app, live, measures)
    add_reload(app, live, measures, spread, keyed=bool(key))
    add_pages(app)
    return Guard(app, live=live, measures=measures, key=key, limits=(limits.bytes, limits.seconds), quick=quick)


def _answers(live: Live, batcher: Batcher) -> dict[str, Answer]:
    """Return what answers the two routes that have to be quick: path -> from a body to an answer."""

    async def recommend(content: bytes) -> Response:
        _refuse_job(live, "recommend")
        asked = read(_RECOMMEND, content)
        light = not asked.new_items and len(content) <= LIGHT
        return as_json(await batcher.ask(asked, len(asked.histories) + len(asked.new_items), light=light))

    async def classify(content: bytes) -> Response:
        _refuse_job(live, "classify")
        asked = read(_CLASSIFY, content)
        _refuse_many(asked)
        rows = len(asked.texts) * (1 + MOST_WORDS if asked.explain else 1)  # each word left out is one more text
        return as_json(await batcher.ask(asked, rows, light=not asked.explain and len(content) <= LIGHT))

    return {"/v1/recommend": recommend, "/v1/classify": classify}


def _add_answers(app: FastAPI, quick: dict[str, Answer]) -> None:
    """Describe the quick routes, which `Guard` answers before they get here."""
    refused = (400, 401, 409, 413, 415, 422, 429, 503)

    @app.post(
        "/v1/recommend",
        summary="The next items of each history",
        openapi_extra=body("RecommendRequest"),
        responses=responses("Recommendations", *refused),
    )
    async def recommend(request: Request) -> Response:
        return await quick["/v1/recommend"](await request.body())

    @app.post(
        "/v1/classify",
        summary="The labels of each text",
        openapi_extra=body("ClassifyRequest"),
        responses=responses("Classifications", *refused),
    )
    async def classify(request: Request) -> Response:
        return await quick["/v1/classify"](await request.body())


def _add_state(app: FastAPI, live: Live, measures: Measures) -> None:
    """Add what tells about the service."""

    @app.get("/v1/model", summary="The card of the run", responses=responses(None, 401, 422))
    async def model(
        names: Annotated[bool, Query(description="Add names of items or labels, frequent ones first.")] = False,
        search: Annotated[
            str, Query(max_length=200, description="Only names that contain this; those that begin with it first.")
        ] = "",
        limit: Annotated[int, Query(ge=1, le=10_000, description="Names at most.")] = 100,
    ) -> Response:
        card = {"job": live.job, "run": live.path.name, "engine": live.engine, "loaded": live.since}
        card |= {"hyperfocal": VERSION} | live.predictor.card()
        if names:
            card["names"] = await to_thread(_search, live, search, limit)
        return as_json(card)

    @app.get("/health", summary="Whether the process lives", responses=responses(None))
    async def health() -> Response:
        return as_json({"status": "alive"})

    @app.get("/ready", summary="Whether it answers: 503 while it shuts down", responses=responses(None, 503))
    async def ready() -> Response:
        if live.draining:
            raise Refusal(503, "shutting_down", "the service shuts down. Ask another one")
        return as_json({"status": "ready"})

    @app.get("/metrics", summary="Counts, for Prometheus", response_class=PlainTextResponse, responses=COUNTS)
    async def metrics() -> Response:
        return Response(measures.text(), media_type=MEDIA_TYPE)


_RECOMMEND, _CLASSIFY = msgspec.json.Decoder(RecommendRequest), msgspec.json.Decoder(ClassifyRequest)


def _refuse_job(live: Live, asked: str) -> None:
    if live.job != asked:
        message = f"the run is one of `{live.job}`, so it does not {asked}. POST to /v1/{live.job}"
        raise Refusal(409, "wrong_job", message)


def _refuse_many(asked: ClassifyRequest) -> None:
    texts = len(asked.texts)
    if asked.explain and texts > MOST_EXPLAINED:
        message = f"explain takes {MOST_EXPLAINED} texts a request at most, got {texts:,}. Send fewer"
    elif texts * asked.top > MOST_ANSWERED:
        message = f"{texts:,} texts x top = {asked.top:,} are {texts * asked.top:,} scores, and {MOST_ANSWERED:,} are "
        message += "allowed. Send fewer texts a request, or a smaller top"
    else:
        return
    raise Refusal(422, "too_many", message, "$.texts")


def _search(live: Live, text: str, limit: int) -> list[str]:
    """Return names that contain a text, in any case: those that begin with it, then the others, frequent ones first."""
    if not text:
        return list(live.predictor.names[:limit])
    wanted = text.casefold()
    found = [name for name in live.predictor.names if wanted in name.casefold()]
    return sorted(found, key=lambda name: not name.casefold().startswith(wanted))[:limit]
