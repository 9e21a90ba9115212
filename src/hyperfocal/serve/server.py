"""One process of the service, from loading the run to its last answer."""

from __future__ import annotations

import asyncio
import gc
import logging
import signal
import socket
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import torch
import uvicorn

from hyperfocal.serve.access import is_local
from hyperfocal.serve.app import create_app
from hyperfocal.serve.connection import SPARE, Connection
from hyperfocal.serve.descriptors import any_left, reserve
from hyperfocal.serve.limits import Limits
from hyperfocal.serve.live import Engine, Live
from hyperfocal.serve.shared_run import Follower, SharedRun

log = logging.getLogger("hyperfocal.serve")
LOG_FORMAT = "%(levelname)s: %(message)s"
GRACE_SECONDS = 1.0  # in which open connections may send one more request, whose answer closes them
LAST_SECONDS = 30  # in which requests in flight may finish
REPORT_SECONDS = 10.0  # between two lines of the log about connections that were refused
SWITCH_SECONDS = 0.0005  # that a thread keeps the interpreter while another waits for it


@dataclass(frozen=True)
class Service:
    """A service to start; worker processes receive it pickled."""

    run: Path
    engine: Engine
    host: str = "127.0.0.1"  # address to bind to
    key: str = ""  # API key of clients; "": they need none
    limits: Limits = field(default_factory=Limits)  # of each process
    allow_host: tuple[str, ...] = ()  # names that clients may ask for besides local ones

    @property
    def local(self) -> bool:
        """Return whether only this machine can reach it."""
        return is_local(self.host)

    @property
    def hosts(self) -> tuple[str, ...] | None:
        """Return the names that are allowed as Host besides local ones; None: all are.

        If `allow_host` is empty, only a service for this machine without a key checks them.
        """
        return self.allow_host if self.allow_host or (self.local and not self.key) else None


class Server(uvicorn.Server):
    """A server that loses no request on shutdown.

    It then accepts no new connection, answers the requests that still arrive over open ones, and closes each
    connection after its answer.
    """

    def __init__(self, config: uvicorn.Config, live: Live, counts: Counter[str], on_ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._live, self._counts, self._on_ready = live, counts, on_ready
        self._report_at = 0.0

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start to answer, then call `on_ready` in the event loop."""
        await super().startup(sockets)
        self._on_ready()

    async def on_tick(self, counter: int) -> bool:
        """Log refused connections. uvicorn calls it ten times per second."""
        if counter % 10 == 0 and time.monotonic() >= self._report_at:
            self._report_refused()
        return await super().on_tick(counter)

    def _report_refused(self) -> None:
        """Log why connections are refused, at most once in `REPORT_SECONDS`."""
        lines = []
        if self._counts["refused"]:
            lines.append(
                f"{self._counts['refused']:,} connections were refused: too many were open. Raise --connections"
            )
        if not any_left():
            lines.append("no file descriptor is left: new connections are not served. Raise `ulimit -n`")
        for line in lines:
            log.warning(line)
        if lines:
            self._counts["refused"], self._report_at = 0, time.monotonic() + REPORT_SECONDS

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Shut down without losing a request."""
        self._live.draining = True
        for server in self.servers:
            server.close()
        deadline = time.monotonic() + GRACE_SECONDS
        while self.server_state.connections and time.monotonic() < deadline and not self.force_exit:
            await asyncio.sleep(0.01)
        await super().shutdown(sockets)


class _Hangup:
    """Loads the run again after SIGHUP, also after one that came while it was loaded; several at once count as one."""

    def __init__(self) -> None:
        self._came = False

    def listen(self) -> None:
        """Take the signal from now on."""
        signal.signal(signal.SIGHUP, self._take)

    def _take(self, *_: object) -> None:
        self._came = True

    async def follow(self, live: Live) -> None:
        """Load the run after each signal, until the process ends."""
        event = asyncio.Event()
        asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, event.set)
        if self._came:
            event.set()
        while True:
            await event.wait()
            event.clear()
            await live.try_swap()


def serve(
    service: Service,
    listening: socket.socket,
    announce: Callable[[], None] = lambda: None,
    shared: SharedRun | None = None,
) -> None:
    """Serve until SIGTERM or SIGINT.

    Args:
        service: run, engine and limits.
        listening: a bound socket.
        announce: called once the service answers.
        shared: the run of a service with several processes; None: SIGHUP loads the run again.

    Raises:
        RunError, ConfigError: the run cannot be served.
    """
    logging.basicConfig(format=LOG_FORMAT, level=logging.WARNING)
    torch.set_num_threads(1)
    hangup = _Hangup()
    if shared is None:
        hangup.listen()
    live = Live(service.run, service.engine)
    follower = Follower(shared, live) if shared else None
    tasks: list[asyncio.Task[None]] = []  # referenced, so that they are not garbage-collected

    def on_ready() -> None:
        gc.collect()
        gc.freeze()  # a full collection would look at all that was imported, and stop every answer for 0.2 s
        if follower is not None:
            follower.report_ready()
            tasks.append(asyncio.get_running_loop().create_task(follower.follow()))
        else:
            tasks.append(asyncio.get_running_loop().create_task(hangup.follow(live)))
        announce()

    server = _server(service, live, follower, on_ready)
    for number in (signal.SIGINT, signal.SIGTERM):  # before uvicorn takes them over, which raises them again at the end
        signal.signal(number, server.handle_exit)
    sys.setswitchinterval(SWITCH_SECONDS)
    server.run(sockets=[listening])


def _server(service: Service, live: Live, follower: Follower | None, on_ready: Callable[[], None]) -> Server:
    limits, counts = _within_descriptors(service.limits), Counter[str]()
    broadcast = follower.broadcast if follower else None
    app = create_app(live, key=service.key, hosts=service.hosts, limits=limits, broadcast=broadcast)
    config = uvicorn.Config(
        app,
        http=partial(Connection, limits=limits, counts=counts),  # type: ignore[arg-type]
        ws="none",  # a connection with another protocol would have no limits
        log_config=None,  # it logs like everything else here
        log_level="warning",
        access_log=False,
        forwarded_allow_ips="127.0.0.1",  # whatever the environment says, because `refuse_strangers` relies on it
        server_header=False,
        timeout_keep_alive=limits.idle,  # type: ignore[arg-type]
        timeout_graceful_shutdown=LAST_SECONDS,
    )
    return Server(config, live, counts, on_ready)


def _within_descriptors(limits: Limits) -> Limits:
    """Return limits with no more connections than this process may open files for."""
    allowed = reserve(limits.connections + SPARE) - SPARE
    if allowed >= limits.connections:
        return limits
    log.warning("only %d connections instead of %d: `ulimit -n` allows no more", max(1, allowed), limits.connections)
    return replace(limits, connections=max(1, allowed))


def bind(host: str, port: int) -> socket.socket:
    """Return a socket bound to an address; port 0 takes a free one.

    Raises:
        OSError: the port is taken, or the host is not an address of this machine.
    """
    family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    listening = socket.socket(family, kind, protocol)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind(address)
    except OSError:
        listening.close()
        raise
    return listening
