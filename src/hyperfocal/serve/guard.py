"""The outermost app of the service: refuses requests by their headers, and bodies by size and time; counts all."""

from __future__ import annotations

import asyncio
import logging
import time

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from hyperfocal.serve.access import Access
from hyperfocal.serve.limits import Limits
from hyperfocal.serve.live import Live
from hyperfocal.serve.messages import JSON, Refusal
from hyperfocal.serve.metrics import Metrics

log = logging.getLogger("hyperfocal.serve")
COUNTED = frozenset({"/", "/v1/recommend", "/v1/classify", "/v1/model", "/v1/reload", "/health", "/ready", "/metrics"})
REFUSAL = "hyperfocal.refusal"  # in the scope: why the connection refuses this request, perhaps during its body
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
JSON_BYTES, CLOSE = JSON.encode(), (b"connection", b"close")
DISCARDED = 64 * 2**20  # bytes of a refused body that are read and dropped, so that its sender receives the refusal


class Guard:
    """The outermost ASGI app: refuses or passes on each request, adds headers to each answer, and counts it.

    While `live` is shutting down, each connection is closed after its answer.
    """

    def __init__(self, app: ASGIApp, *, live: Live, metrics: Metrics, access: Access, limits: Limits) -> None:
        self._app, self._live, self._metrics, self._access = app, live, metrics, access
        self._most_bytes, self._seconds = limits.bytes, limits.seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began, status = time.perf_counter(), 500

        async def send_guarded(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message["headers"], *HEADERS]
                if self._live.draining:
                    message["headers"].append(CLOSE)
            await send(message)

        try:
            await self._answer(scope, receive, send_guarded)
        finally:
            path = scope["path"] if scope["path"] in COUNTED else "other"
            self._metrics.count_request(path, status, time.perf_counter() - began)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = dict(scope["headers"])
        try:
            refusal = scope.get(REFUSAL) or _ambiguous(scope, headers) or self._refusal(scope, headers)
            if refusal is not None:
                raise await self._dropped(scope, headers, receive, refusal)
            if scope["method"] == "POST" or _has_body(headers):
                receive = _replay(await self._read(scope, receive), receive)
        except Refusal as error:
            error.with_traceback(None)  # which holds on to the body
            return await error.response()(scope, receive, send)
        try:
            await self._app(scope, receive, send)
        except Exception:  # a bug, which the app has answered with 500
            log.exception("a request failed")

    def _refusal(self, scope: Scope, headers: dict[bytes, bytes]) -> Refusal | None:
        """Return why a request is refused by its headers alone, or None."""
        refusal = self._access.refusal(scope, headers)
        if refusal is not None:
            return refusal
        if scope["method"] == "POST":
            kind = headers.get(b"content-type", b"").partition(b";")[0].strip().lower()
            if kind != JSON_BYTES:
                message = f"the body is {kind.decode('latin-1')!r}. Send JSON, with `Content-Type: application/json`"
                return Refusal(415, "not_json", message)
        length = headers.get(b"content-length")
        return self._too_large() if length and int(length) > self._most_bytes else None

    async def _dropped(self, scope: Scope, headers: dict[bytes, bytes], receive: Receive, refusal: Refusal) -> Refusal:
        """Return a refusal after the body was read and dropped; it closes the connection if the body is not whole."""
        if REFUSAL in scope or not _has_body(headers):
            return refusal
        waits = headers.get(b"expect", b"").lower() == b"100-continue"  # the client, whether to send its body
        if waits or int(headers.get(b"content-length", b"0")) > DISCARDED:
            return refusal.closing()
        try:
            async with asyncio.timeout(self._seconds):
                return refusal if await _discard(scope, receive) else refusal.closing()
        except TimeoutError:
            return refusal.closing()

    async def _read(self, scope: Scope, receive: Receive) -> bytes:
        """Return the body of a request, whatever length its headers claim.

        Raises:
            Refusal: 413 if it is too large, 408 if it arrives too slowly, 400 if the client disconnects before its end,
                or why the connection refuses it.
        """
        blocks, size = [], 0
        try:
            async with asyncio.timeout(self._seconds):
                while True:
                    message = await receive()
                    if REFUSAL in scope:
                        raise scope[REFUSAL]
                    if message["type"] == "http.disconnect":  # nobody reads the answer; the metrics count it
                        raise Refusal(400, "malformed", "the body is incomplete: the client disconnected")
                    blocks.append(message.get("body", b""))
                    size += len(blocks[-1])
                    if size > self._most_bytes:
                        blocks.clear()
                        whole = _is_last(message) or await _discard(scope, receive)
                        raise self._too_large() if whole else self._too_large().closing()
                    if _is_last(message):
                        return b"".join(blocks)
        except TimeoutError:
            why = f"the body did not arrive within {self._seconds:g} seconds. Send it faster, or a smaller one"
            raise Refusal(408, "too_slow", why).closing() from None

    def _too_large(self) -> Refusal:
        message = f"the body has more than {self._most_bytes:,} bytes. Send several smaller requests"
        return Refusal(413, "too_large", message)


def _ambiguous(scope: Scope, headers: dict[bytes, bytes]) -> Refusal | None:
    """Return why a request is refused that names several hosts, or None."""
    if len(headers) == len(scope["headers"]) or sum(name == b"host" for name, _ in scope["headers"]) < 2:
        return None
    return Refusal(400, "malformed", "the request has several headers `Host`. Send one").closing()


def _has_body(headers: dict[bytes, bytes]) -> bool:
    return b"transfer-encoding" in headers or headers.get(b"content-length", b"0") != b"0"


def _replay(content: bytes, receive: Receive) -> Receive:
    """Return a `receive` that gives a body that was read before, then whatever follows it."""
    pending: list[Message] = [{"type": "http.request", "body": content, "more_body": False}]

    async def replay() -> Message:
        return pending.pop() if pending else await receive()

    return replay


async def _discard(scope: Scope, receive: Receive) -> bool:
    """Read the rest of a body, up to a limit; return whether its end was read."""
    read = 0
    while read < DISCARDED and REFUSAL not in scope:
        message = await receive()
        read += len(message.get("body", b""))
        if _is_last(message):
            return True
    return False


def _is_last(message: Message) -> bool:
    """Return whether a message ends a body, or its client is gone."""
    return message["type"] != "http.request" or not message.get("more_body")
