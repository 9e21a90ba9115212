"""The service over HTTP: an app of FastAPI whose bodies msgspec reads and writes.

The pages: read once, served from memory, loading nothing from elsewhere.

POST /v1/reload: swap a run in, and who may do so where no key says it.

Without a key whoever gets a request through could load a folder of his choice. So then only a client on this machine
swaps, only the run that is served or one beside it, and only under a name of this machine: a page of another site whose
name was made to point here (DNS rebinding) still sends that name as its Host.
"""

from __future__ import annotations

import os
from asyncio import to_thread
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from importlib.metadata import version
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit

import msgspec
from fastapi import FastAPI, Query, Request
from starlette.responses import PlainTextResponse, Response
from starlette.types import ASGIApp

from hyperfocal.classify.service import MOST_WORDS
from hyperfocal.errors import HyperfocalError
from hyperfocal.serve.batching import Batcher
from hyperfocal.serve.guard import Answer, Guard
from hyperfocal.serve.live import Live
from hyperfocal.serve.messages import (
    MOST_ANSWERED,
    MOST_EXPLAINED,
    ClassifyRequest,
    RecommendRequest,
    Refusal,
    Reloaded,
    ReloadRequest,
    as_json,
    install,
    read,
)
from hyperfocal.serve.metrics import MEDIA_TYPE, Measures
from hyperfocal.serve.openapi import body, describe, responses

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


FOLDER = Path(__file__).parent / "page"
KINDS = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
ADDRESSES = {"index.html": "/", "docs.html": "/docs"}  # the others are at /page/NAME
HEAD = "head.html"  # what the heads of the pages share, in each in place of a comment with its name


def add_pages(app: FastAPI) -> None:
    """Add a route for each file of the page."""
    head = (FOLDER / HEAD).read_bytes()
    for path in sorted(FOLDER.iterdir()):
        if path.suffix in KINDS and path.name != HEAD:
            content = path.read_bytes().replace(f"<!-- {HEAD} -->\n".encode(), head)
            _add(app, ADDRESSES.get(path.name, f"/page/{path.name}"), content, KINDS[path.suffix])


def _add(app: FastAPI, address: str, content: bytes, kind: str) -> None:
    async def page() -> Response:
        return Response(content, media_type=kind)

    app.add_api_route(address, page, include_in_schema=False)


_RELOAD = msgspec.json.Decoder(ReloadRequest)


def add_reload(
    app: FastAPI, live: Live, measures: Measures, spread: Callable[[], Awaitable[int]] | None, *, keyed: bool
) -> None:
    """Add the route that swaps the run.

    Args:
        app: to add it to.
        live: the run.
        measures: count the swaps.
        spread: tells the other processes of the service to load the same run, and returns how many have it.
        keyed: whether a key has let the request in, so that it may name any folder.
    """

    @app.post(
        "/v1/reload",
        summary="Swap a run in, without a request lost",
        openapi_extra=body("ReloadRequest", required=False),
        responses=responses("Reloaded", 400, 401, 403, 413, 415, 422),
    )
    async def reload(request: Request) -> Response:
        if not keyed:
            refuse_strangers(request)
        content = await request.body()
        asked = read(_RELOAD, content) if content else ReloadRequest()
        try:
            path = None if asked.run is None else Path(asked.run)
            if path is not None and not keyed:
                refuse_elsewhere(path, live.path)
            await live.swap(path)
        except (HyperfocalError, OSError, ValueError) as error:
            measures.reload("refused")
            raise Refusal(422, "not_served", str(error), "$.run") from None
        measures.reload("done")
        workers = await spread() if spread else 1
        return as_json(Reloaded(live.version, str(live.path), workers))


def refuse_strangers(request: Request) -> None:
    """Refuse a request that comes from another machine, or under a name that is none of this machine's.

    Raises:
        Refusal: 401 or 403.
    """
    if request.client is None or not is_local(request.client.host):  # a proxy may hide who asks
        message = "without a key only a client on this machine swaps the run. Use one, or SIGHUP"
        raise Refusal(401, "no_key", message)
    host = request.headers.get("host", "")
    if not is_local(_name_of(host)):
        message = (
            f"without a key the run is swapped at localhost or 127.0.0.1, not at {host!r}. Ask there, or use a key"
        )
        raise Refusal(403, "foreign_host", message)


def refuse_elsewhere(path: Path, served: Path) -> None:
    """Refuse a run that is neither the one served nor in a folder beside it, where its links lead.

    Raises:
        Refusal: 403.
    """
    beside = Path(os.path.realpath(served)).parent  # Path.resolve breaks at a loop of links
    if Path(os.path.realpath(path)).parent != beside:
        message = f"without a key only runs in {beside} are swapped in. Put it there, or serve with a key"
        raise Refusal(403, "outside", message, "$.run")


def is_local(host: str) -> bool:
    """Return whether a host is this machine, whatever a name server says.

    >>> [is_local(host) for host in ("127.0.0.1", "::1", "LocalHost", "10.0.0.1", "127.0.0.1.example.org", "")]
    [True, True, True, False, False, False]
    """
    try:
        return ip_address(host).is_loopback
    except ValueError:  # a name
        return host.lower() == "localhost"


def _name_of(host: str) -> str:
    """Return the header Host without its port and the brackets of IPv6."""
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""
