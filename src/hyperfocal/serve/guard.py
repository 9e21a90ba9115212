"""What every request passes first: its key, its kind and its size; and what every answer gets: headers, a count.

The routes that have to be quick are answered right here, before FastAPI: its own way through middleware, routing,
dependencies and responses costs more than the answer of a small network. It describes them all the same.
"""

from __future__ import annotations

import asyncio
import hmac
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress

from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from hyperfocal.errors import HyperfocalError
from hyperfocal.serve.live import Live
from hyperfocal.serve.messages import Refusal, failure
from hyperfocal.serve.metrics import Measures

log = logging.getLogger("hyperfocal.serve")
Answer = Callable[[bytes], Awaitable[Response]]
COUNTED = frozenset({"/", "/v1/recommend", "/v1/classify", "/v1/model", "/v1/reload", "/health", "/ready", "/metrics"})
KEYED = ("/v1/", "/metrics")  # what the API key opens
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = [
    (b"content-security-policy", POLICY.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cache-control", b"no-store"),
]
DISCARDED = 64 * 2**20  # bytes of a body too large that are read and thrown away, so that its sender hears why


class Guard:
    """The outermost ASGI app.

    Args:
        app: what comes behind.
        live: says whether the service is about to end: connections are then closed after their answer.
        measures: count the requests.
        key: that the header Authorization must bear; "" is none.
        limits: bytes of a body, and the seconds in which it has to come.
        quick: path -> from the body of a POST to its answer.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        live: Live,
        measures: Measures,
        key: str,
        limits: tuple[int, float],
        quick: Mapping[str, Answer],
    ) -> None:
        self._app, self._live, self._measures, self._quick = app, live, measures, quick
        self._bearer = f"Bearer {key}".encode() if key else b""
        self._most_bytes, self._seconds = limits

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began, status = time.perf_counter(), 500
        refusal = None

        async def answer(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message["headers"], *HEADERS]
                if self._live.draining:
                    message["headers"].append((b"connection", b"close"))
            await send(message)

        try:
            refusal = self._refusal(scope)
            if refusal is None and scope["method"] == "POST" and scope["path"] in self._quick:
                response = await self._answer(self._quick[scope["path"]], self._counted(scope, receive))
                await response(scope, receive, answer)
            elif refusal is None:
                await self._app(scope, self._counted(scope, receive), answer)
            else:
                with suppress(TimeoutError):
                    async with asyncio.timeout(self._seconds):
                        await _discard(receive)
                await refusal.response()(scope, receive, answer)
        finally:
            path = scope["path"] if scope["path"] in COUNTED else "other"
            self._measures.request(path, status, time.perf_counter() - began)

    async def _answer(self, quick: Answer, receive: Receive) -> Response:
        try:
            async with asyncio.timeout(self._seconds):
                content = await _body(receive)
        except TimeoutError:
            message = f"the body did not come within {self._seconds:g} seconds"
            return Refusal(408, "too_slow", message, headers={"Connection": "close"}).response()
        except Refusal as refusal:
            return refusal.response()
        try:
            return await quick(content)
        except Refusal as refusal:
            return refusal.response()
        except HyperfocalError as error:
            return Refusal(422, "not_possible", str(error)).response()
        except Exception:
            log.exception("a request failed")
            return failure().response()

    def _refusal(self, scope: Scope) -> Refusal | None:
        headers = dict(scope["headers"])
        if scope["path"].startswith(KEYED) and not self._has_key(headers):
            message = "this service asks for a key. Send the header `Authorization: Bearer KEY`"
            return Refusal(401, "no_key", message, headers={"WWW-Authenticate": "Bearer"})
        if scope["method"] != "POST":
            return None
        kind = headers.get(b"content-type", b"").partition(b";")[0].strip().lower()
        if kind != b"application/json":
            message = f"the body is {kind.decode('latin-1')!r}. Send JSON, with `Content-Type: application/json`"
            return Refusal(415, "not_json", message)
        length = headers.get(b"content-length", b"0")
        return self._too_large() if int(length) > self._most_bytes else None

    def _has_key(self, headers: dict[bytes, bytes]) -> bool:
        return not self._bearer or hmac.compare_digest(headers.get(b"authorization", b""), self._bearer)

    def _too_large(self) -> Refusal:
        message = f"the body has more than {self._most_bytes:,} bytes. Send several smaller requests"
        return Refusal(413, "too_large", message)

    def _counted(self, scope: Scope, receive: Receive) -> Receive:
        """Return what refuses a body that grows too large, whatever length it told."""
        if scope["method"] != "POST":
            return receive
        read = 0

        async def counted() -> Message:
            nonlocal read
            message = await receive()
            read += len(message.get("body", b""))
            if read > self._most_bytes:
                await _discard(receive)
                raise self._too_large()
            return message

        return counted


async def _body(receive: Receive) -> bytes:
    parts = []
    while True:
        message = await receive()
        parts.append(message.get("body", b""))
        if message["type"] != "http.request" or not message.get("more_body"):  # the last part, or nobody listens
            return b"".join(parts)


async def _discard(receive: Receive) -> None:
    """Read what is left of a body, up to a bound."""
    read = 0
    while read < DISCARDED:
        message = await receive()
        read += len(message.get("body", b""))
        if message["type"] != "http.request" or not message.get("more_body"):
            return
