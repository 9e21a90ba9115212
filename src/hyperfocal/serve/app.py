"""The HTTP service of a run: its routes under `/v1`, health and metrics, and the pages to try it by hand.

Starlette routes the requests, and msgspec reads and writes their bodies.
"""

from __future__ import annotations

from asyncio import to_thread
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Sequence
from contextlib import asynccontextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import msgspec
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp

from hyperfocal.errors import HyperfocalError
from hyperfocal.serve.access import Access, refuse_elsewhere, refuse_strangers
from hyperfocal.serve.batching import Batcher
from hyperfocal.serve.guard import Guard
from hyperfocal.serve.limits import DEFAULT, Limits
from hyperfocal.serve.live import Live
from hyperfocal.serve.messages import (
    JSON,
    MOST_ANSWERED,
    MOST_EXPLAINED,
    MOST_WORDS,
    ClassifyRequest,
    RecommendRequest,
    Refusal,
    Reloaded,
    ReloadRequest,
    SimilarRequest,
    as_json,
    read,
    read_model_query,
)
from hyperfocal.serve.metrics import MEDIA_TYPE, Metrics
from hyperfocal.serve.openapi import description

VERSION = version("hyperfocal")
LIGHT = 16 * 2**10  # bytes of a body up to which its rows are little work each
PAGES = Path(__file__).parent / "page"
MEDIA_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
PAGE_PATHS = {"index.html": "/", "docs.html": "/docs"}  # all other files are at /page/NAME
HEAD = "head.html"  # shared by the heads of the pages; it replaces a comment with its name
RECOMMEND, SIMILAR, CLASSIFY, RELOAD = map(
    msgspec.json.Decoder, (RecommendRequest, SimilarRequest, ClassifyRequest, ReloadRequest)
)
Broadcast = Callable[[], Awaitable[int]]
Endpoint = Callable[[Request], Awaitable[Response]]


def create_app(
    live: Live,
    *,
    key: str = "",
    hosts: Collection[str] | None = (),
    limits: Limits = DEFAULT,
    broadcast: Broadcast | None = None,
) -> ASGIApp:
    """Return the app that serves a run.

    Args:
        live: the run.
        key: API key of clients; "" lets everybody in, and then `access.py` restricts who may load which run.
        hosts: names that are allowed as Host besides local ones and addresses; None: all are.
        limits: of this process.
        broadcast: makes the other processes of the service load the same run, and returns how many serve it; None:
            there are no others.
    """
    metrics = Metrics()
    batcher = Batcher(
        live.answer,
        most_rows=limits.batch,
        queue=limits.queue,
        seconds=limits.seconds,
        on_batch=metrics.count_batch,
        on_waiting=metrics.set_waiting,
    )

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        batcher.start()
        yield
        batcher.stop()

    routes = [
        *_prediction_routes(live, batcher),
        Route("/v1/model", _model(live)),
        Route("/v1/reload", _reload(live, metrics, broadcast, keyed=bool(key)), methods=["POST"]),
        *_state_routes(live, metrics),
        _fixed("/openapi.json", msgspec.json.encode(description(VERSION, keyed=bool(key))), JSON),
        *_page_routes(),
    ]
    app = Starlette(routes=routes, lifespan=lifespan, exception_handlers=ERROR_HANDLERS)
    return Guard(app, live=live, metrics=metrics, access=Access(key, hosts), limits=limits)


async def _refused(request: Request, error: Refusal) -> Response:
    return error.response()


async def _impossible(request: Request, error: Exception) -> Response:
    return Refusal(422, "not_possible", str(error)).response()


async def _no_route(request: Request, error: HTTPException) -> Response:
    message = f"there is no route {request.scope['path']}. GET /docs lists the routes"
    return Refusal(404, "not_found", message).response()


async def _no_method(request: Request, error: HTTPException) -> Response:
    message = f"{request.scope['path']} does not allow {request.method}. GET /docs lists the routes"
    return Refusal(405, "method_not_allowed", message, headers=error.headers).response()


async def _failed(request: Request, error: Exception) -> Response:
    return Refusal(500, "failed", "the server failed; its log says why. Try again, or report it").response()


ERROR_HANDLERS: dict[Any, Any] = {
    Refusal: _refused, HyperfocalError: _impossible, 404: _no_route, 405: _no_method, Exception: _failed,
}  # fmt: skip


def _prediction_routes(live: Live, batcher: Batcher) -> list[Route]:
    async def recommend(request: Request) -> Response:
        _refuse_other_job(live, "recommend")
        content = await request.body()
        asked = read(RECOMMEND, content)
        users = asked.number
        _refuse_explained(asked)
        light = not (asked.new_items or asked.explain or asked.max_per or asked.diversity) and len(content) <= LIGHT
        rows = users * (1 + MOST_WORDS if asked.explain else 1) + len(asked.new_items)
        return as_json(await batcher.ask(asked, rows, light=light))

    async def similar(request: Request) -> Response:
        _refuse_other_job(live, "recommend")
        content = await request.body()
        asked = read(SIMILAR, content)
        return as_json(await batcher.ask(asked, len(asked.items), light=len(content) <= LIGHT))

    async def classify(request: Request) -> Response:
        _refuse_other_job(live, "classify")
        content = await request.body()
        asked = read(CLASSIFY, content)
        _refuse_too_many(asked)
        rows = asked.number * (1 + MOST_WORDS if asked.explain else 1) + len(asked.new_labels)
        light = not (asked.explain or asked.new_labels) and len(content) <= LIGHT
        return as_json(await batcher.ask(asked, rows, light=light))

    answers = (recommend, similar, classify)
    return [Route(f"/v1/{answer.__name__}", answer, methods=["POST"]) for answer in answers]


def _refuse_other_job(live: Live, job: str) -> None:
    if live.job != job:
        message = f"the served run cannot {job}: its job is `{live.job}`. POST to /v1/{live.job}"
        raise Refusal(409, "wrong_job", message)


def _refuse_explained(asked: RecommendRequest) -> None:
    if asked.explain and asked.number > MOST_EXPLAINED:
        message = f"explain allows {MOST_EXPLAINED} histories per request, got {asked.number:,}. Send fewer"
        raise Refusal(422, "too_many", message, "$.histories")


def _refuse_too_many(asked: ClassifyRequest) -> None:
    texts = asked.number
    if asked.explain and texts > MOST_EXPLAINED:
        message = f"explain allows {MOST_EXPLAINED} texts per request, got {texts:,}. Send fewer"
        raise Refusal(422, "too_many", message, "$.texts")
    if texts * asked.top > MOST_ANSWERED:
        message = f"{texts:,} texts x top = {asked.top:,} are {texts * asked.top:,} scores, and {MOST_ANSWERED:,} are "
        message += "allowed. Send fewer texts per request, or a smaller top"
        raise Refusal(422, "too_many", message, "$.texts")


def _model(live: Live) -> Endpoint:
    async def model(request: Request) -> Response:
        query = read_model_query(request.query_params)
        card = {"job": live.job, "run": live.path.name, "engine": live.engine.name, "loaded": live.loaded}
        card |= {"hyperfocal": VERSION} | live.predictor.card()
        if query.names:
            card["names"] = await to_thread(_search, live.predictor.names, query.search, query.limit)
        return as_json(card)

    return model


def _search(names: Sequence[str], text: str, limit: int) -> list[str]:
    """Return the names that contain a text in any case: first those that begin with it, then by frequency."""
    if not text:
        return list(names[:limit])
    text = text.casefold()
    matches = [name for name in names if text in name.casefold()]
    return sorted(matches, key=lambda name: not name.casefold().startswith(text))[:limit]


def _reload(live: Live, metrics: Metrics, broadcast: Broadcast | None, *, keyed: bool) -> Endpoint:
    async def reload(request: Request) -> Response:
        if not keyed:
            refuse_strangers(request)
        content = await request.body()
        asked = read(RELOAD, content) if content else ReloadRequest()
        try:
            path = None if asked.run is None else Path(asked.run)
            if path is not None and not keyed:
                refuse_elsewhere(path, live.path)
            await live.swap(path)
        except (HyperfocalError, OSError, ValueError) as error:
            metrics.count_reload("refused")
            raise Refusal(422, "not_served", str(error), "$.run") from None
        metrics.count_reload("done")
        return as_json(Reloaded(live.version, str(live.path), await _others_follow(broadcast)))

    return reload


async def _others_follow(broadcast: Broadcast | None) -> int:
    """Return how many processes serve the run of this one, after the others have loaded it."""
    try:
        return await broadcast() if broadcast else 1
    except OSError as error:
        message = f"the other processes cannot load the run that this one serves: {error}. Send SIGHUP, or try again"
        raise Refusal(500, "failed", message) from None


def _state_routes(live: Live, metrics: Metrics) -> list[Route]:
    async def health(request: Request) -> Response:
        return as_json({"status": "alive"})

    async def ready(request: Request) -> Response:
        if live.draining:
            raise Refusal(503, "shutting_down", "the service is shutting down. Ask another one")
        return as_json({"status": "ready"})

    async def counters(request: Request) -> Response:
        return Response(metrics.text(), media_type=MEDIA_TYPE)

    return [Route("/health", health), Route("/ready", ready), Route("/metrics", counters)]


def _page_routes() -> list[Route]:
    """Return a route for each file of the pages, which are read once and served from memory."""
    head = (PAGES / HEAD).read_bytes()
    return [
        _fixed(
            PAGE_PATHS.get(path.name, f"/page/{path.name}"),
            path.read_bytes().replace(f"<!-- {HEAD} -->\n".encode(), head),
            MEDIA_TYPES[path.suffix],
        )
        for path in sorted(PAGES.iterdir())
        if path.suffix in MEDIA_TYPES and path.name != HEAD
    ]


def _fixed(path: str, content: bytes, media_type: str) -> Route:
    """Return a route whose answer never changes."""

    async def answer(request: Request) -> Response:
        return Response(content, media_type=media_type)

    return Route(path, answer)
