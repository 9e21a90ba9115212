"""Access rules of the service: the key, the host names it answers to, and who may load which run.

Without a key, anybody who gets a request through could read answers and load any folder. A browser can be
made to send requests here by a page of another site whose name was made to point here (DNS rebinding); they still have
that name as their Host. So a service for this machine alone answers to local names, to addresses, which cannot be
rebound, and to names that it was given. Only a client on this machine may load a run, only the served run or one in the
same folder, and only through a local name.
"""

from __future__ import annotations

import hmac
import os
from collections.abc import Collection
from ipaddress import ip_address
from pathlib import Path
from urllib.parse import urlsplit

from starlette.requests import Request
from starlette.types import Scope

from hyperfocal.serve.messages import Refusal

KEYED = ("/v1/", "/metrics")  # paths that need the API key
OPEN = ("/health", "/ready")  # paths for probes, whose answers say nothing: any Host may ask
REMEMBERED = 100  # values of Host that were checked


class Access:
    """Decides if a request is allowed by its key and its Host.

    Args:
        key: API key of clients; "": they need none.
        hosts: names that are allowed as Host besides local ones and addresses; None: all are.
    """

    def __init__(self, key: str, hosts: Collection[str] | None) -> None:
        self._keyed, self._key = bool(key), key.strip().encode()
        self._hosts = None if hosts is None else {host.lower().rstrip(".") for host in hosts}
        self._allowed: set[bytes] = set()

    def refusal(self, scope: Scope, headers: dict[bytes, bytes]) -> Refusal | None:
        """Return why a request is refused by its path and headers, or None."""
        path: str = scope["path"]
        if self._keyed and path.startswith(KEYED) and not self._has_key(headers):
            message = "this service needs a key. Send the header `Authorization: Bearer KEY`"
            return Refusal(401, "no_key", message, headers={"WWW-Authenticate": "Bearer"})
        host = headers.get(b"host", b"")
        if self._hosts is None or host in self._allowed or path in OPEN:
            return None
        return self._check_host(host)

    def _has_key(self, headers: dict[bytes, bytes]) -> bool:
        scheme, _, key = headers.get(b"authorization", b"").partition(b" ")
        right = hmac.compare_digest(key.strip(b" "), self._key)
        return right and bool(self._key) and scheme.lower() == b"bearer"

    def _check_host(self, host: bytes) -> Refusal | None:
        text = host.decode("latin-1")
        name = host_name(text).rstrip(".")
        if host and not (is_local(name) or _is_address(name) or name in (self._hosts or ())):
            message = (
                f"the service does not answer to the host {text!r}. Ask at localhost or an address, or start it with "
            )
            return Refusal(403, "foreign_host", f"{message}--allow-host {name or 'NAME'} or a key")
        if len(self._allowed) < REMEMBERED:
            self._allowed.add(host)
        return None


def refuse_strangers(request: Request) -> None:
    """Raise a Refusal, 401 or 403, of a request from another machine, or for a host name that is not local."""
    if request.client is None or not is_local(request.client.host):  # a proxy may hide the client
        message = "without a key, only a client on this machine may load a run. Use a key, or SIGHUP"
        raise Refusal(401, "no_key", message)
    host = request.headers.get("host", "")
    if not is_local(host_name(host)):
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


def host_name(host: str) -> str:
    """Return the header Host without its port and without the brackets of IPv6."""
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""


def _is_address(host: str) -> bool:
    try:
        return bool(ip_address(host))
    except ValueError:
        return False
