"""POST /v1/reload: swap a run in, and who may do so where no key says it.

Without a key whoever gets a request through could load a folder of his choice. So then only a client on this machine
swaps, only the run that is served or one beside it, and only under a name of this machine: a page of another site whose
name was made to point here (DNS rebinding) still sends that name as its Host.
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from ipaddress import ip_address
from pathlib import Path
from urllib.parse import urlsplit

import msgspec
from fastapi import FastAPI, Request
from starlette.responses import Response

from hyperfocal.errors import HyperfocalError
from hyperfocal.serve.bodies import as_json, read
from hyperfocal.serve.description import body, responses
from hyperfocal.serve.live import Live
from hyperfocal.serve.measures import Measures
from hyperfocal.serve.messages import Reloaded, ReloadRequest
from hyperfocal.serve.refusals import Refusal

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
