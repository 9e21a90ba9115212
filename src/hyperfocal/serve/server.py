"""One process of the service: from the run to its last answer."""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
import sys
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch
import uvicorn

from hyperfocal.serve.app import Limits, create_app, is_local
from hyperfocal.serve.board import Board, Follower
from hyperfocal.serve.live import Live

GRACE = 1.0  # seconds in which open connections may send one more request, which tells them of the end
LAST = 30  # seconds in which what is in flight ends
KEEP_ALIVE = 75  # seconds that an idle connection stays open
SWITCH = 0.0005  # seconds that a thread holds the interpreter while another waits


@dataclass(frozen=True)
class Service:
    """What is served, and how.

    Attributes:
        run: the run folder.
        host: address to bind to.
        engine: what computes.
        key: that clients must bear, "" is none.
        limits: of each process.
    """

    run: Path
    host: str = "127.0.0.1"
    engine: str = "torch"
    key: str = ""
    limits: Limits = field(default_factory=Limits)

    @property
    def local(self) -> bool:
        """Return whether only this machine reaches it."""
        return is_local(self.host)


class Server(uvicorn.Server):
    """A server that loses no request when it ends.

    It accepts no new connection, answers whatever still comes over the open ones and closes each after its answer.
    """

    def __init__(self, config: uvicorn.Config, live: Live, ready: Callable[[], Awaitable[None]]) -> None:
        super().__init__(config)
        self._live, self._tell_ready = live, ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to answer, then say so."""
        await super().startup(sockets)
        await self._tell_ready()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """End without a loss."""
        self._live.draining = True
        for server in self.servers:
            server.close()
        until = time.monotonic() + GRACE
        while self.server_state.connections and time.monotonic() < until and not self.force_exit:
            await asyncio.sleep(0.01)
        await super().shutdown(sockets)


def serve(
    service: Service, listening: socket.socket, announce: Callable[[], None] = lambda: None, board: Board | None = None
) -> None:
    """Serve until SIGTERM or SIGINT.

    Args:
        service: what.
        listening: a bound socket.
        announce: called once it answers.
        board: of a service with several processes, which keeps this one at the others' run.

    Raises:
        RunError, ConfigError: the run cannot be served.
    """
    logging.basicConfig(format="%(levelname)s: %(message)s", level=logging.WARNING)
    torch.set_num_threads(1)
    live = Live(service.run, service.engine)
    follower = Follower(board, live) if board else None
    background: set[asyncio.Task[object]] = set()  # a task that nothing refers to may be collected

    def swap() -> None:
        task: asyncio.Task[object] = asyncio.create_task(live.try_swap())
        background.add(task)
        task.add_done_callback(background.discard)

    async def ready() -> None:
        if follower is not None:
            follower.arrive()
            background.add(asyncio.create_task(follower.follow()))
        elif hasattr(signal, "SIGHUP"):
            asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, swap)
        announce()

    app = create_app(live, key=service.key, limits=service.limits, spread=follower.lead if follower else None)
    config = uvicorn.Config(
        app,
        log_level="warning",
        access_log=False,
        forwarded_allow_ips="127.0.0.1",  # whatever the environment says: `refuse_strangers` trusts it
        server_header=False,
        timeout_keep_alive=KEEP_ALIVE,
        timeout_graceful_shutdown=LAST,
    )
    server = Server(config, live, ready)
    for number in (signal.SIGINT, signal.SIGTERM):  # uvicorn takes them later, and raises them again when all is done
        signal.signal(number, server.handle_exit)
    sys.setswitchinterval(SWITCH)
    server.run(sockets=[listening])


def bind(host: str, port: int) -> socket.socket:
    """Return a socket bound to an address; port 0 takes a free one.

    Raises:
        OSError: it is taken, or is no address of this machine.
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
