"""The service over HTTP: an app of FastAPI whose bodies msgspec reads and writes."""

from __future__ import annotations

from asyncio import to_thread
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from importlib.metadata import version
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Any, TypeVar

import msgspec
from fastapi import FastAPI, Query, Request
from starlette.responses import PlainTextResponse, Response

from hyperfocal.errors import HyperfocalError
from hyperfocal.serve.batching import Batcher
from hyperfocal.serve.description import body, describe, responses
from hyperfocal.serve.explaining import MOST_WORDS
from hyperfocal.serve.files import add_pages
from hyperfocal.serve.guard import Answer, Guard
from hyperfocal.serve.live import Live
from hyperfocal.serve.measures import MEDIA_TYPE, Measures
from hyperfocal.serve.messages import (
    MOST_EXPLAINED,
    ClassifyRequest,
    RecommendRequest,
    Reloaded,
    ReloadRequest,
)
from hyperfocal.serve.refusals import Refusal, install

Body = TypeVar("Body")
JSON = "application/json"
TEXT: dict[str, Any] = {"description": "The counts.", "content": {"text/plain": {"schema": {"type": "string"}}}}
COUNTS = responses(None, 401) | {200: TEXT}
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
    local: bool = True,
    spread: Callable[[], Awaitable[int]] | None = None,
) -> FastAPI:
    """Return the app that serves a run.

    Args:
        live: the run.
        key: that clients must bear, "" is none.
        limits: None is the usual ones.
        local: whether it is bound to this machine alone; if not, and without a key, no client may swap the run.
        spread: tells the other processes of the service to load the same run, and returns how many have it.
    """
    limits, measures = limits or Limits(), Measures()
    batcher = Batcher(
        live.answer, most_rows=limits.batch, queue=limits.queue, seconds=limits.seconds, watch=measures.batch
    )

    @asynccontextmanager
    async def life(_: FastAPI) -> AsyncIterator[None]:
        batcher.start()
        yield
        batcher.stop()

    app = FastAPI(title="hyperfocal", version=VERSION, lifespan=life, docs_url=None, redoc_url=None)
    quick = _answers(live, batcher)
    app.add_middleware(Guard, live=live, measures=measures, key=key, limits=(limits.bytes, limits.seconds), quick=quick)
    install(app)
    describe(app, keyed=bool(key))
    _add_answers(app, quick)
    _add_state(app, live, batcher, measures)
    _add_reload(app, live, measures, spread, closed=not local and not key)
    add_pages(app)
    return app


def _answers(live: Live, batcher: Batcher) -> dict[str, Answer]:
    """Return what answers the two routes that have to be quick: path -> from a body to an answer."""

    async def recommend(content: bytes) -> Response:
        _refuse_job(live, "recommend")
        asked = read(_RECOMMEND, content)
        return as_json(await batcher.ask(asked, len(asked.histories) + len(asked.new_items)))

    async def classify(content: bytes) -> Response:
        _refuse_job(live, "classify")
        asked = read(_CLASSIFY, content)
        if asked.explain and len(asked.texts) > MOST_EXPLAINED:
            message = f"explain takes {MOST_EXPLAINED} texts a request at most, got {len(asked.texts):,}. Send fewer"
            raise Refusal(422, "too_many", message, "$.texts")
        rows = len(asked.texts) * (1 + MOST_WORDS if asked.explain else 1)  # each word left out is one more text
        return as_json(await batcher.ask(asked, rows))

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


def _add_state(app: FastAPI, live: Live, batcher: Batcher, measures: Measures) -> None:
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
        return Response(measures.text(batcher.rows), media_type=MEDIA_TYPE)


def _add_reload(
    app: FastAPI, live: Live, measures: Measures, spread: Callable[[], Awaitable[int]] | None, *, closed: bool
) -> None:
    """Add the route that swaps the run."""

    @app.post(
        "/v1/reload",
        summary="Swap a run in, without a request lost",
        openapi_extra=body("ReloadRequest", required=False),
        responses=responses("Reloaded", 400, 401, 413, 415, 422),
    )
    async def reload(request: Request) -> Response:
        if closed and not _on_this_machine(request):
            raise Refusal(
                401, "no_key", "without a key only a client on this machine swaps the run. Use one, or SIGHUP"
            )
        content = await request.body()
        asked = read(_RELOAD, content) if content else ReloadRequest()
        try:
            await live.swap(Path(asked.run) if asked.run is not None else None)
        except (HyperfocalError, OSError, ValueError) as error:
            measures.reload("refused")
            raise Refusal(422, "not_served", str(error), "$.run") from None
        measures.reload("done")
        workers = await spread() if spread else 1
        return as_json(Reloaded(live.version, str(live.path), workers))


def read(decoder: msgspec.json.Decoder[Body], content: bytes) -> Body:
    """Return what a body says.

    Raises:
        Refusal: 400 for JSON that is not well-formed, 422 for another type or a limit; with the place.
    """
    try:
        return decoder.decode(content)
    except msgspec.ValidationError as error:
        message, _, place = str(error).partition(" - at `")
        raise Refusal(422, "invalid", message, place.rstrip("`") or "$") from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Refusal(400, "malformed", f"the body is not JSON: {error}") from None


def as_json(value: Any) -> Response:
    """Return an answer."""
    return Response(msgspec.json.encode(value), media_type=JSON)


_RECOMMEND, _CLASSIFY = msgspec.json.Decoder(RecommendRequest), msgspec.json.Decoder(ClassifyRequest)
_RELOAD = msgspec.json.Decoder(ReloadRequest)


def _refuse_job(live: Live, asked: str) -> None:
    if live.job != asked:
        message = f"the run is one of `{live.job}`, so it does not {asked}. POST to /v1/{live.job}"
        raise Refusal(409, "wrong_job", message)


def _search(live: Live, text: str, limit: int) -> list[str]:
    """Return names that contain a text, in any case: those that begin with it, then the others, frequent ones first."""
    if not text:
        return list(live.predictor.names[:limit])
    wanted = text.casefold()
    found = [name for name in live.predictor.names if wanted in name.casefold()]
    return sorted(found, key=lambda name: not name.casefold().startswith(wanted))[:limit]


def _on_this_machine(request: Request) -> bool:
    try:
        return request.client is not None and ip_address(request.client.host).is_loopback
    except ValueError:  # a proxy hides who asks
        return False
