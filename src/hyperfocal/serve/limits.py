"""Limits of the service: sizes, times and numbers up to which one process serves its clients."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """Limits of one process.

    Attributes:
        batch: histories or texts computed at once.
        queue: histories or texts that may wait.
        seconds: that a request may wait, and that its body may take to arrive.
        bytes: of a body.
        connections: open at the same time; another one gets 503 and is closed.
        idle: seconds that a connection stays open between two requests.
        head: seconds that the request line and the headers may take to arrive, and that a new connection may be silent.
        head_bytes: of the request line, the headers and the trailers of a request together.
        url_bytes: of a URL.
        headers: header fields of a request, trailers included.
        unread: seconds in which a client must read some of an answer that waits for it.
    """

    batch: int = 64
    queue: int = 2_000
    seconds: float = 10.0
    bytes: int = 2 * 2**20
    connections: int = 1_000
    idle: float = 75.0
    head: float = 10.0
    head_bytes: int = 32 * 2**10
    url_bytes: int = 8 * 2**10
    headers: int = 100
    unread: float = 10.0


DEFAULT = Limits()
