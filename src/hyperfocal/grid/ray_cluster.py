"""A connection to a Ray cluster, the resources of its nodes, and the errors of a lost one. Ray is imported on use."""

from __future__ import annotations

import os
import socket
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, wait
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

from hyperfocal.errors import ConfigError, RunError
from hyperfocal.machine import count_cores

ATTEMPTS = 3  # to reach the head
ANSWER_SECONDS = 5.0  # to wait for an answer of the head
QUIET: dict[str, Any] = {"log_to_driver": False, "logging_level": "CRITICAL"}  # we show the progress ourselves


@dataclass(frozen=True)
class Share:
    """The resources that each point gets from a node.

    Attributes:
        cpus: that Ray reserves for it, and the threads that it trains with.
        gpus: that Ray reserves for it: a fraction of one, or a whole number.

    Raises:
        ConfigError: cpus below 1; gpus below 0, or above 1 and not whole.
    """

    cpus: int = 1
    gpus: float = 0.0

    def __post_init__(self) -> None:
        """Check the numbers."""
        if self.cpus < 1:
            raise ConfigError(f"--cpus {self.cpus} is not allowed. Expected 1 or more, the CPUs of each point")
        if not (0 <= self.gpus <= 1 or (self.gpus > 1 and self.gpus == int(self.gpus))):
            raise ConfigError(
                f"--gpus {self.gpus:g} is not allowed. Expected a fraction of one GPU from 0 to 1, or a whole number"
            )

    def __str__(self) -> str:
        """Return the share in words."""
        return f"{self.cpus} CPUs" + (f" and {self.gpus:g} GPUs" if self.gpus else "")

    def fits(self, resources: dict[str, float]) -> int:
        """Return how many points a node with these resources has room for.

        >>> Share(cpus=2, gpus=0.5).fits({"CPU": 7.0, "GPU": 1.0})
        2
        """
        by_cpus, gpus = int(resources.get("CPU", 0) // self.cpus), resources.get("GPU", 0)
        if not self.gpus:
            return by_cpus
        each = int(gpus) * int(1 / self.gpus + 1e-9) if self.gpus < 1 else int(gpus // self.gpus)
        return min(by_cpus, each)


@contextmanager
def connected(address: str) -> Iterator[str]:
    """Connect to a cluster and give the host:port of its head; disconnect in the end, and end a cluster started here.

    Meanwhile everything that is printed goes to stderr.

    Raises:
        ConfigError: Ray is not installed; the address has another form.
        RunError: no cluster answers, or it is of another version.
    """
    if find_spec("ray") is None:
        raise ConfigError("--ray needs Ray, which is not installed: pip install 'hyperfocal[ray]'")
    _check_address(address)
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # no telemetry
    import ray

    own: dict[str, Any] = {"num_cpus": count_cores(), "include_dashboard": False} if address == "local" else {}
    try:
        ray.init(address=address, **own, **QUIET)
    except (OSError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
        raise RunError(_unreachable(address, error)) from error
    with redirect_stdout(sys.stderr):  # Ray would print messages about nodes among the results
        try:
            yield ray.get_runtime_context().gcs_address
        finally:
            ray.shutdown()


def _check_address(address: str) -> None:
    """Raise unless an address is "auto", "local", or a host and a port where something answers."""
    if address in ("auto", "local"):
        return
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 2**16 or "/" in address:
        raise ConfigError(
            f"--ray {address!r} is not allowed. Expected auto, local, or HOST:PORT of a cluster's head, as `ray start "
            "--head` prints it. To use a cluster elsewhere, run this command on one of its nodes"
        )
    try:
        check_head(address)
    except RunError as error:
        raise RunError(_unreachable(address, error.__cause__ or error)) from error


def _unreachable(address: str, error: BaseException) -> str:
    reason = (str(error).strip() or type(error).__name__).splitlines()[0]
    return (
        f"--ray {address}: no Ray cluster answers ({reason}). Start one with `ray start --head` here or `ray "
        "start --address HOST:PORT` to join one, or let --ray local start its own"
    )


def check_head(address: str) -> None:
    """Raise RunError if the head at host:port no longer answers. Ray itself would wait, and then end the process."""
    host, _, port = address.rpartition(":")
    for attempt in range(1, ATTEMPTS + 1):  # hours of training may depend on it
        try:
            socket.create_connection((host, int(port)), timeout=ANSWER_SECONDS).close()
            break
        except OSError as error:
            if attempt == ATTEMPTS:
                raise RunError(_lost(f"its head at {address} does not answer: {error}")) from error
            time.sleep(attempt)


@contextmanager
def connection_errors() -> Iterator[None]:
    """Turn the errors of Ray into RunError, which says that finished points are stored."""
    from ray import exceptions

    try:
        yield
    except exceptions.RayTaskError as error:
        raise RunError(
            f"a node of the Ray cluster cannot train: {error.cause or error}. Finished points are stored"
        ) from error
    except (exceptions.RayError, ConnectionError) as error:
        raise RunError(_lost(f"{type(error).__name__}: {error}")) from error


def _lost(why: str) -> str:
    return (
        f"the Ray cluster is lost: {why}. Finished points are stored: restart the cluster and repeat the command, or "
        "continue without --ray"
    )


def count_room(share: Share) -> int:
    """Return how many points the living nodes have room for."""
    return sum(share.fits(resources) for resources in _nodes())


def describe_nodes() -> str:
    """Return the resources of the living nodes in words."""
    each = [f"{resources.get('CPU', 0):g} CPUs and {resources.get('GPU', 0):g} GPUs" for resources in _nodes()]
    return "; ".join(f"{each.count(words)} with {words}" for words in dict.fromkeys(each)) or "none"


def _nodes() -> list[dict[str, Any]]:
    """Return the resources of the living nodes.

    Raises:
        RunError: the head no longer answers. Ray itself would end the process after a minute.
    """
    import ray

    head, answer = ray.get_runtime_context().gcs_address, Future[list[dict[str, Any]]]()

    def ask() -> None:
        try:
            answer.set_result(ray.nodes())  # type: ignore[no-untyped-call]
        except BaseException as error:  # raised below
            answer.set_exception(error)

    threading.Thread(target=ask, daemon=True).start()
    while not wait([answer], timeout=ANSWER_SECONDS).done:
        check_head(head)
    return [node["Resources"] for node in answer.result() if node["Alive"]]
