"""A connection whose client can neither fill the memory nor stay open without end.

uvicorn's connection reads a head of any length, and waits for it without a deadline. Here the head, the trailers and
the sizes of chunks are counted while they arrive, and each state has a deadline. Each refusal is an answer of the app:
it follows the answers to earlier requests, has the form of all refusals, and is counted.
"""

from __future__ import annotations

import asyncio
import fcntl
import sys
import termios
from collections import Counter
from collections.abc import Callable
from typing import Any, cast

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from hyperfocal.serve.guard import DISCARDED, REFUSAL
from hyperfocal.serve.limits import Limits
from hyperfocal.serve.messages import Refusal

PIPELINED = 32  # requests of a connection that may wait for the answer to an earlier one
SPARE = 64  # connections above the limit that get 503; any beyond those are closed without an answer
FRAMING = 8  # bytes of chunk sizes and extensions allowed for each byte of a body
LINGER_SECONDS = 2.0  # that a connection stays open after a client has its last answer, for the rest of its request
SLOWEST = 1_000  # bytes per second at which an answer must be read at least
START, HEAD, BODY = range(3)  # states: the piece of a request that is expected next
Timer = asyncio.TimerHandle


class _Stopped(Exception):  # noqa: N818 - ends a callback of the parser
    pass


class _Transport:
    """The transport that the answers of uvicorn write to. Its `close` is that of the connection."""

    __slots__ = ("close", "is_closing", "write")

    def __init__(self, transport: asyncio.Transport, connection: Connection) -> None:
        self.write = transport.write
        self.close: Callable[[], None] = connection.close
        self.is_closing: Callable[[], bool] = lambda: connection.closing

    def release(self, transport: asyncio.Transport) -> None:
        """Forget the connection, which has ended."""
        self.close, self.is_closing = transport.close, transport.is_closing


class Connection(HttpToolsProtocol):
    """A connection of one client.

    Args:
        limits: of the process.
        counts: "refused" connections, for the log of the server; shared by its connections.
        options: of uvicorn.
    """

    def __init__(self, *, limits: Limits, counts: Counter[str], **options: Any) -> None:
        super().__init__(**options)
        self._limits, self._counts = limits, counts
        self._state = START
        self.closing = False
        self._dropping = self._ended = False  # what arrives is dropped; the client sends no more
        self._why: Refusal | None = None  # raised in a callback of the parser
        self._dropped = 0
        self._overhead = 0  # bytes of the request that are not its body, which allows some
        self._trailers = self._trailer_bytes = 0
        self._head_timer: Timer | None = None
        self._reader_timer: Timer | None = None
        self._close_timer: Timer | None = None

    # The transport calls these.

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Accept a client, or refuse it if too many are connected."""
        super().connection_made(transport)
        self._transport = transport
        self._own = _Transport(transport, self)
        self.transport = self._own  # type: ignore[assignment]
        above = len(self.connections) - self._limits.connections
        if above > 0:
            self._counts["refused"] += 1
        if above > SPARE:
            transport.abort()
        elif above > 0:
            self._refuse(_too_many_connections(self._limits.connections))
        else:
            self._head_timer = self.loop.call_later(self._limits.head, self._end_head_wait)

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the client."""
        self.closing = self._dropping = True
        for timer in (self._head_timer, self._reader_timer, self._close_timer):
            if timer is not None:
                timer.cancel()
        self._unset_keepalive_if_required()
        super().connection_lost(exc)
        self._own.release(self._transport)  # so that memory is freed at once, not by the garbage collector

    def data_received(self, data: bytes) -> None:
        """Read what has arrived."""
        if self._dropping:
            self._drop(len(data))
            return
        self._unset_keepalive_if_required()
        self._overhead += len(data)
        try:
            self._parse(data)
        except httptools.HttpParserError as error:
            self._refuse(self._why or _malformed(error))
        else:
            if self._state != START and self._overhead > self._limits.head_bytes:
                self._refuse(_head_too_large(self._limits.head_bytes))
            elif self._head_timer is None and self._is_due():
                self._head_timer = self.loop.call_later(self._limits.head, self._end_head_wait)

    def _parse(self, data: bytes) -> None:
        """Feed the parser; ignore the wish for another protocol, as RFC 9110, 7.8, allows.

        The parser takes what follows the head of such a request for the other protocol, and would take its body for a
        request. So a new parser gets the same head without the header Upgrade, and then the rest.
        """
        while data:
            try:
                self.parser.feed_data(data)
                return
            except httptools.HttpParserUpgrade as upgrade:
                head, data = self._head_without_upgrade(), data[upgrade.args[0] :]
            self.parser = httptools.HttpRequestParser(self)
            self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn does
            self.parser.feed_data(head)

    def _head_without_upgrade(self) -> bytes:
        """Return the head of the request, and let the connection close after it.

        A proxy may believe that the other protocol begins, and then pass on whatever its client sends.
        """
        version = self.parser.get_http_version().encode()
        headers = [header for header in self.headers if header[0] not in (b"upgrade", b"connection")]
        lines = [b"%s: %s\r\n" % header for header in (*headers, (b"connection", b"close"))]
        return b"%s %s HTTP/%s\r\n%s\r\n" % (self.parser.get_method(), self.url, version, b"".join(lines))

    def eof_received(self) -> bool:  # type: ignore[override]
        """Answer a client that sends no more, and return whether an answer is due."""
        if self.closing or self._dropping:
            return self._is_answering() and not self.closing
        self._ended = True
        if self._state != START:
            self._refuse(Refusal(400, "malformed", "the request is incomplete: the client sends no more"))
        elif self._is_answering():
            self._dropping, self.cycle.keep_alive = True, False
        return self._is_answering()

    def pause_writing(self) -> None:
        """Wait for the client to read, up to a deadline."""
        super().pause_writing()
        self._watch_reader()

    def resume_writing(self) -> None:
        """Continue to write."""
        super().resume_writing()
        if self._reader_timer is not None:
            self._reader_timer.cancel()

    def timeout_keep_alive_handler(self) -> None:
        """Close the connection if it is unused; the rest of a head has its own deadline."""
        if self._state == START:
            super().timeout_keep_alive_handler()

    # The parser calls these.

    def on_message_begin(self) -> None:
        """Begin a request."""
        self._state = HEAD
        super().on_message_begin()

    def on_url(self, url: bytes) -> None:
        """Take a piece of the URL."""
        self.url += url
        if len(self.url) > self._limits.url_bytes:
            message = f"the URL has more than {self._limits.url_bytes:,} bytes. Send a shorter one"
            self._stop(Refusal(414, "url_too_long", message))

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header; drop a trailer, which nothing here reads."""
        if self._state != HEAD:
            self._count_trailer(len(name) + len(value) + 4)
            return
        name = name.lower()
        if name == b"expect" and value.lower() == b"100-continue":
            self.expect_100_continue = True
        self.headers.append((name, value))

    def _count_trailer(self, size: int) -> None:
        self._trailers += 1
        self._trailer_bytes += size
        if self._trailers + len(self.headers) > self._limits.headers:
            self._stop(_too_many_headers(self._limits.headers))
        if self._trailer_bytes > self._limits.head_bytes:
            self._stop(_head_too_large(self._limits.head_bytes))

    def on_headers_complete(self) -> None:
        """Start to answer."""
        if self._is_parsed_again():
            return
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None
        if len(self.headers) > self._limits.headers:
            self._stop(_too_many_headers(self._limits.headers))
        if self._head_bytes() > self._limits.head_bytes:
            self._stop(_head_too_large(self._limits.head_bytes))
        if len(self.pipeline) >= PIPELINED:
            message = f"{PIPELINED} requests of this connection wait for their answers. Send more after them"
            self._stop(Refusal(429, "busy", message, headers={"Retry-After": "1"}))
        if self.parser.should_upgrade():
            self._stop(Refusal(400, "malformed", "this service is no proxy. Send no CONNECT"))
        if not self.url.startswith(b"/"):
            self._take_host_of_url()
        super().on_headers_complete()
        self._state, self._trailers, self._trailer_bytes = BODY, 0, 0

    def _is_parsed_again(self) -> bool:
        """Return whether a request wishes for another protocol; CONNECT is refused."""
        return self.parser.should_upgrade() and self.parser.get_method() != b"CONNECT"

    def _head_bytes(self) -> int:
        return len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers)

    def _take_host_of_url(self) -> None:
        """Treat http://HOST/PATH as a request to HOST for /PATH, whatever the header Host says."""
        if self.url == b"*":
            return
        url = httptools.parse_url(self.url)
        if url.host:
            self.headers[:] = [header for header in self.headers if header[0] != b"host"]
            self.headers.append((b"host", b"[%s]" % url.host if b":" in url.host else url.host))
            self.url = (url.path or b"/") + (b"?" + url.query if url.query else b"")

    def on_body(self, body: bytes) -> None:
        """Take a piece of the body."""
        self._overhead -= (1 + FRAMING) * len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        """End a request."""
        if self._is_parsed_again():
            return
        super().on_message_complete()
        self._state, self._overhead = START, 0

    # What ends a connection.

    def close(self) -> None:
        """Close the connection once its client has read the answers, or does not read them."""
        if self.closing:
            return
        self.closing = True
        if self._reader_timer is not None:
            self._reader_timer.cancel()
        self._dropping = self._dropping or self._state != START
        if self._dropping and not self._ended:
            self.flow.resume_reading()
            self._transport.write_eof()  # to close with unread input would reset the connection, and lose the answer
        else:
            self._transport.close()
        self._close_timer = self.loop.call_later(LINGER_SECONDS, self._end_linger, 0)

    def _end_linger(self, before: int) -> None:
        """End a closing connection, unless its client still reads its answers.

        Args:
            before: bytes that the client had not read at the last look; 0: none, or it is the first look.
        """
        waiting = self._unread_bytes()
        if (waiting and before and self._is_too_slow(before, waiting)) or not (waiting or before):
            self._transport.abort()
        else:
            seconds = self._limits.unread if waiting else LINGER_SECONDS
            self._close_timer = self.loop.call_later(seconds, self._end_linger, waiting)

    def _stop(self, refusal: Refusal) -> None:
        """Stop the parser: `data_received` then refuses the request."""
        self._why = refusal
        raise _Stopped  # not the refusal, whose traceback would hold on to the connection

    def _refuse(self, refusal: Refusal) -> None:
        """Answer the request that arrives with a refusal, after all earlier ones, and close the connection."""
        if self._state != BODY:
            super().on_message_begin()
            self.url = b"/"
            cast(dict[str, Any], self.scope)[REFUSAL] = refusal
            super().on_headers_complete()
        else:
            cast(dict[str, Any], self.cycle.scope)[REFUSAL] = refusal
            self.cycle.message_event.set()
        self._dropping, self.cycle.keep_alive = True, False
        self.flow.resume_reading()
        if self.cycle.response_complete:
            self.close()

    def _drop(self, size: int) -> None:
        self._dropped += size
        if self._dropped > DISCARDED:
            self._transport.abort()

    def _end_head_wait(self) -> None:
        """End the wait for a head that did not arrive in time."""
        self._head_timer = None
        if self._dropping:
            return
        if self.flow.read_paused:  # it may have arrived
            self._head_timer = self.loop.call_later(self._limits.head, self._end_head_wait)
        elif self._state == HEAD:
            message = f"the headers did not arrive within {self._limits.head:g} seconds. Send them faster"
            self._refuse(Refusal(408, "too_slow", message))
        elif not self._is_answering():
            self.close()

    def _watch_reader(self) -> None:
        self._reader_timer = self.loop.call_later(self._limits.unread, self._end_unread, self._unread_bytes())

    def _end_unread(self, before: int) -> None:
        """End a connection whose client has read hardly anything since the last look."""
        if self._is_too_slow(before, self._unread_bytes()):
            self._transport.abort()
        else:
            self._watch_reader()

    def _is_too_slow(self, before: int, waiting: int) -> bool:
        return before - waiting < SLOWEST * self._limits.unread

    def _unread_bytes(self) -> int:
        """Return the size of the answers that are not at the client, those in the buffer of the system included.

        The system takes more only once a third of its buffer, megabytes, is free: its buffer must be counted to see
        that a slow client reads.
        """
        size = self._transport.get_write_buffer_size()
        try:
            sent = fcntl.ioctl(self._transport.get_extra_info("socket").fileno(), termios.TIOCOUTQ, bytes(4))
        except OSError:  # a system that does not say
            return size
        return size + int.from_bytes(sent, sys.byteorder)

    def _is_answering(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _is_due(self) -> bool:
        """Return whether the client owes a head, or the rest of one."""
        return self._state == HEAD or (self._state == START and (self.cycle is None or self.cycle.response_complete))


def _malformed(error: Exception) -> Refusal:
    why = "its URL cannot be read" if isinstance(error, httptools.HttpParserCallbackError) else error
    return Refusal(400, "malformed", f"the request is not valid HTTP/1.1: {why}")


def _head_too_large(most: int) -> Refusal:
    return Refusal(
        431, "head_too_large", f"headers, trailers and chunk sizes have more than {most:,} bytes. Send fewer"
    )


def _too_many_headers(most: int) -> Refusal:
    return Refusal(431, "head_too_large", f"the request has more than {most} headers. Send fewer")


def _too_many_connections(most: int) -> Refusal:
    message = f"{most:,} connections are open. Use one connection for several requests, or try again later"
    return Refusal(503, "too_many_connections", message, headers={"Retry-After": "1"})
