"""Access rules of the service: the key, the size and time of a body, and who may load a run without a key.

Without a key, anybody who gets a request through could load a folder of his choice. So then only a client on this
machine may load a run, only the served run or one in the same folder, and only through a local host name: a page of
another site whose name was made to point here (DNS rebinding) still sends that name as its Host.
"""

from __future__ import annotations

import asyncio
import hmac
import logging
import os
import time
from contextlib import suppress
from ipaddress import ip_address
from pathlib import Path
from urllib.parse import urlsplit

from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from hyperfocal.serve.live import Live
from hyperfocal.serve.messages import JSON, Refusal
from hyperfocal.serve.metrics import Metrics

log = logging.getLogger("hyperfocal.serve")
COUNTED = frozenset({"/", "/v1/recommend", "/v1/classify", "/v1/model", "/v1/reload", "/health", "/ready", "/metrics"})
KEYED = ("/v1/", "/metrics")  # paths that need the API key
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
DISCARDED = 64 * 2**20  # bytes of a refused body that are read and dropped, so that its sender receives the refusal


class Guard:
    """The outermost ASGI app: refuses or passes on each request, adds headers to each answer, and counts it.

    While `live` is shutting down, each connection is closed after its answer. A body may have `most_bytes` and must
    arrive within `seconds`. The key "" lets everybody in.
    """

    def __init__(
        self, app: ASGIApp, *, live: Live, metrics: Metrics, key: str, most_bytes: int, seconds: float
    ) -> None:
        self._app, self._live, self._metrics = app, live, metrics
        self._bearer = f"Bearer {key}".encode() if key else b""
        self._most_bytes, self._seconds = most_bytes, seconds

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
                    message["headers"].append((b"connection", b"close"))
            await send(message)

        try:
            await self._answer(scope, receive, send_guarded)
        finally:
            path = scope["path"] if scope["path"] in COUNTED else "other"
            self._metrics.count_request(path, status, time.perf_counter() - began)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        refusal = self._refusal(scope)
        if refusal is not None:
            with suppress(TimeoutError):
                async with asyncio.timeout(self._seconds):
                    await _discard(receive)
        elif scope["method"] == "POST":
            try:
                receive = _replay(await self._read(receive), receive)
            except Refusal as error:
                refusal = error
        if refusal is not None:
            return await refusal.response()(scope, receive, send)
        try:
            await self._app(scope, receive, send)
        except Exception:  # a bug, which the app has answered with 500
            log.exception("a request failed")

    def _refusal(self, scope: Scope) -> Refusal | None:
        """Return why a request is refused by its headers alone, or None."""
        headers = dict(scope["headers"])
        if scope["path"].startswith(KEYED) and not self._has_key(headers):
            message = "this service needs a key. Send the header `Authorization: Bearer KEY`"
            return Refusal(401, "no_key", message, headers={"WWW-Authenticate": "Bearer"})
        if scope["method"] != "POST":
            return None
        kind = headers.get(b"content-type", b"").partition(b";")[0].strip().lower()
        if kind != JSON.encode():
            message = f"the body is {kind.decode('latin-1')!r}. Send JSON, with `Content-Type: application/json`"
            return Refusal(415, "not_json", message)
        length = headers.get(b"content-length", b"0")
        return self._too_large() if int(length) > self._most_bytes else None

    def _has_key(self, headers: dict[bytes, bytes]) -> bool:
        return not self._bearer or hmac.compare_digest(headers.get(b"authorization", b""), self._bearer)

    async def _read(self, receive: Receive) -> bytes:
        """Return the body of a request, whatever length its headers claim.

        Raises:
            Refusal: 413 if it is too large, 408 if it arrives too slowly, 400 if the client disconnects before its end.
        """
        blocks, size = [], 0
        try:
            async with asyncio.timeout(self._seconds):
                while True:
                    message = await receive()
                    if message["type"] == "http.disconnect":  # nobody reads the answer; the metrics count it
                        raise Refusal(400, "malformed", "the body is incomplete: the client disconnected")
                    blocks.append(message.get("body", b""))
                    size += len(blocks[-1])
                    if size > self._most_bytes:
                        await _discard(receive)
                        raise self._too_large()
                    if _is_last(message):
                        return b"".join(blocks)
        except TimeoutError:
            why = f"the body did not arrive within {self._seconds:g} seconds. Send it faster, or a smaller one"
            raise Refusal(408, "too_slow", why, headers={"Connection": "close"}) from None

    def _too_large(self) -> Refusal:
        message = f"the body has more than {self._most_bytes:,} bytes. Send several smaller requests"
        return Refusal(413, "too_large", message)


def _replay(content: bytes, receive: Receive) -> Receive:
    """Return a `receive` that gives a body that was read before, then whatever follows it."""
    pending: list[Message] = [{"type": "http.request", "body": content, "more_body": False}]

    async def replay() -> Message:
        return pending.pop() if pending else await receive()

    return replay


async def _discard(receive: Receive) -> None:
    """Read the rest of a body, up to a limit."""
    read = 0
    while read < DISCARDED:
        message = await receive()
        read += len(message.get("body", b""))
        if _is_last(message):
            return


def _is_last(message: Message) -> bool:
    """Return whether a message ends a body, or its client is gone."""
    return message["type"] != "http.request" or not message.get("more_body")


def refuse_strangers(request: Request) -> None:
    """Raise a Refusal, 401 or 403, of a request from another machine, or for a host name that is not local."""
    if request.client is None or not is_local(request.client.host):  # a proxy may hide the client
        message = "without a key, only a client on this machine may load a run. Use a key, or SIGHUP"
        raise Refusal(401, "no_key", message)
    host = request.headers.get("host", "")
    if not is_local(_host_name(host)):
        message = f"without a key, a run is loaded at localhost or 127.0.0.1, not at {host!r}. Ask there, or use a key"
        raise Refusal(403, "foreign_host", message)


def refuse_elsewhere(path: Path, served: Path) -> None:
    """Raise a Refusal, 403, of a run that is, with its links resolved, neither the served one nor in its folder."""
    allowed = Path(os.path.realpath(served)).parent  # Path.resolve raises for a loop of links
    if Path(os.path.realpath(path)).parent != allowed:
        message = f"without a key, only runs in {allowed} may be loaded. Put the run there, or serve with a key"
        raise Refusal(403, "outside", message, "$.run")


def is_local(host: str) -> bool:
    """Return whether a host is this machine, without asking a name server.

    >>> [is_local(host) for host in ("127.0.0.1", "::1", "LocalHost", "10.0.0.1", "127.0.0.1.example.org", "")]
    [True, True, True, False, False, False]
    """
    try:
        return ip_address(host).is_loopback
    except ValueError:  # a name
        return host.lower() == "localhost"


def _host_name(host: str) -> str:
    """Return the header Host without its port and without the brackets of IPv6."""
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""
