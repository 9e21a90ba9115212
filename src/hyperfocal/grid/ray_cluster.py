"""A connection to a Ray cluster, what its nodes have, and what is said when it is lost. Ray is imported on use."""

from __future__ import annotations

import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, wait
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, TypeVar

from hyperfocal.errors import ConfigError, RunError
from hyperfocal.machine import count_cores

ATTEMPTS = 3  # at reaching the head
ANSWER_SECONDS = 5.0  # for a head that is asked whether it is there
Found = TypeVar("Found")
QUIET: dict[str, Any] = {"log_to_driver": False, "logging_level": "CRITICAL"}  # progress is ours to show


@dataclass(frozen=True)
class Share:
    """What each point gets of a node.

    Attributes:
        cpus: that Ray keeps for it, and the threads that it trains with.
        gpus: likewise; a part of one, or whole ones.

    Raises:
        ConfigError: cpus below 1, gpus below 0, or more than one and not whole.
    """

    cpus: int = 1
    gpus: float = 0.0

    def __post_init__(self) -> None:
        """Check."""
        if self.cpus < 1:
            raise ConfigError(f"--cpus {self.cpus} is not allowed. Expected 1 or more, the CPUs of each point")
        if not (0 <= self.gpus <= 1 or (self.gpus > 1 and self.gpus == int(self.gpus))):
            raise ConfigError(
                f"--gpus {self.gpus:g} is not allowed. Expected a part of one GPU from 0 to 1, or a whole number"
            )

    def __str__(self) -> str:
        """Return it in words."""
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
    """Give the head's host:port of a cluster; leave the cluster in the end, and end one that was begun here.

    Meanwhile whatever is printed goes to stderr.

    Raises:
        ConfigError: Ray is not installed; no such form of address.
        RunError: no cluster answers, or it is of another version.
    """
    if find_spec("ray") is None:
        raise ConfigError("--ray needs Ray, which is not installed: pip install 'hyperfocal[ray]'")
    _check_address(address)
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is told to anyone
    import ray

    own: dict[str, Any] = {"num_cpus": count_cores(), "include_dashboard": False} if address == "local" else {}
    try:
        ray.init(address=address, **own, **QUIET)
    except (OSError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
        raise RunError(_unreachable(address, error)) from error
    with redirect_stdout(sys.stderr):  # Ray prints what becomes of nodes among the results
        try:
            yield ray.get_runtime_context().gcs_address
        finally:
            ray.shutdown()


def _check_address(address: str) -> None:
    """Raise unless an address is a word that we know, or a host and a port where something answers."""
    if address in ("auto", "local"):
        return
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 2**16 or "/" in address:
        raise ConfigError(
            f"--ray {address!r} is not allowed. Expected auto, local, or HOST:PORT of a cluster's head, as `ray start "
            "--head` prints it. A cluster elsewhere is reached from one of its nodes: run this command there"
        )
    try:
        check_head(address)
    except RunError as error:
        raise RunError(_unreachable(address, error.__cause__ or error)) from error


def _unreachable(address: str, error: BaseException) -> str:
    reason = (str(error).strip() or type(error).__name__).splitlines()[0]
    return (
        f"--ray {address}: no Ray cluster to work with ({reason}). Start one with `ray start --head` here or `ray "
        "start --address HOST:PORT` to join one, or let --ray local start its own"
    )


def check_head(address: str) -> None:
    """Raise RunError if the head at host:port no longer answers. Ray waits for it, and then ends the whole process."""
    host, _, port = address.rpartition(":")
    for attempt in range(1, ATTEMPTS + 1):  # hours of training may be in flight
        try:
            socket.create_connection((host, int(port)), timeout=ANSWER_SECONDS).close()
            break
        except OSError as error:
            if attempt == ATTEMPTS:
                raise RunError(_lost(f"its head at {address} does not answer: {error}")) from error
            time.sleep(attempt)


def answer_of(call: Callable[[], Found], head: str) -> Found:
    """Return what a call to the cluster gives, which waits for the head.

    Raises:
        RunError: the head at host:port no longer answers. Left alone, Ray would end the process after a minute.
    """
    answer: Future[Found] = Future()

    def ask() -> None:
        try:
            answer.set_result(call())
        except BaseException as error:  # raised where it is waited for
            answer.set_exception(error)

    threading.Thread(target=ask, daemon=True).start()
    while not wait([answer], timeout=ANSWER_SECONDS).done:
        check_head(head)
    return answer.result()


@contextmanager
def connection_errors() -> Iterator[None]:
    """Turn what Ray raises into RunError, which says that finished points are kept."""
    from ray import exceptions

    try:
        yield
    except exceptions.RayTaskError as error:
        raise RunError(
            f"a node of the Ray cluster cannot train: {error.cause or error}. What is done is kept"
        ) from error
    except (exceptions.RayError, ConnectionError) as error:
        raise RunError(_lost(f"{type(error).__name__}: {error}")) from error


def _lost(why: str) -> str:
    return (
        f"the Ray cluster is lost: {why}. What is done is kept: bring the cluster back and give the same command "
        "again, or go on without --ray"
    )


def count_room(share: Share) -> int:
    """Return how many points the living nodes have room for."""
    return sum(share.fits(resources) for resources in _nodes())


def describe_nodes() -> str:
    """Return what the living nodes have, in words."""
    each = [f"{resources.get('CPU', 0):g} CPUs and {resources.get('GPU', 0):g} GPUs" for resources in _nodes()]
    return "; ".join(f"{each.count(words)} with {words}" for words in dict.fromkeys(each)) or "none"


def _nodes() -> list[dict[str, Any]]:
    import ray

    known = answer_of(ray.nodes, ray.get_runtime_context().gcs_address)
    return [node["Resources"] for node in known if node["Alive"]]
