"""One process of the service, from loading the run to its last answer."""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
import sys
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import uvicorn

from hyperfocal.serve.app import Limits, create_app
from hyperfocal.serve.guard import is_local
from hyperfocal.serve.live import Engine, Live
from hyperfocal.serve.shared_run import Follower, SharedRun

GRACE_SECONDS = 1.0  # in which open connections may send one more request, whose answer closes them
LAST_SECONDS = 30  # in which requests in flight may finish
KEEP_ALIVE_SECONDS = 75  # that an idle connection stays open
SWITCH_SECONDS = 0.0005  # that a thread keeps the interpreter while another waits for it


@dataclass(frozen=True)
class Service:
    """A service to start; worker processes receive it pickled."""

    run: Path
    engine: Engine
    host: str = "127.0.0.1"  # address to bind to
    key: str = ""  # API key of clients; "" lets everybody in
    limits: Limits = field(default_factory=Limits)  # of each process

    @property
    def local(self) -> bool:
        """Return whether only this machine can reach it."""
        return is_local(self.host)


class Server(uvicorn.Server):
    """A server that loses no request on shutdown.

    It then accepts no new connection, answers the requests that still arrive over open ones, and closes each
    connection after its answer.
    """

    def __init__(self, config: uvicorn.Config, live: Live, on_ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._live, self._on_ready = live, on_ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start to answer, then call `on_ready` in the event loop."""
        await super().startup(sockets)
        self._on_ready()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Shut down without losing a request."""
        self._live.draining = True
        for server in self.servers:
            server.close()
        deadline = time.monotonic() + GRACE_SECONDS
        while self.server_state.connections and time.monotonic() < deadline and not self.force_exit:
            await asyncio.sleep(0.01)
        await super().shutdown(sockets)


class _Background:
    """Tasks of the event loop that nobody awaits, referenced here so that they are not garbage-collected."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()

    def start(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


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
    logging.basicConfig(format="%(levelname)s: %(message)s", level=logging.WARNING)
    torch.set_num_threads(1)
    live, background = Live(service.run, service.engine), _Background()
    follower = Follower(shared, live) if shared else None

    def on_ready() -> None:
        if follower is not None:
            follower.report_ready()
            background.start(follower.follow())
        elif hasattr(signal, "SIGHUP"):
            loop = asyncio.get_running_loop()
            loop.add_signal_handler(signal.SIGHUP, lambda: background.start(live.try_swap()))
        announce()

    app = create_app(live, key=service.key, limits=service.limits, broadcast=follower.broadcast if follower else None)
    config = uvicorn.Config(
        app,
        log_level="warning",
        access_log=False,
        forwarded_allow_ips="127.0.0.1",  # whatever the environment says, because `refuse_strangers` relies on it
        server_header=False,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=LAST_SECONDS,
    )
    server = Server(config, live, on_ready)
    for number in (signal.SIGINT, signal.SIGTERM):  # before uvicorn takes them over, which raises them again at the end
        signal.signal(number, server.handle_exit)
    sys.setswitchinterval(SWITCH_SECONDS)
    server.run(sockets=[listening])


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
