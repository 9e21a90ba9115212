"""Train the points of a grid as Ray tasks, on all nodes of a cluster.

This process, the driver, owns the store: it claims a point, submits it, says while it runs that it is being trained,
and writes what comes back. The data and features of all points lie in Ray's object store, put there once; a node needs
neither the files nor the cache. Workers of other commands on the same store need no care, as in `local`.

Objects in two parts, so that processes of a machine can share the memory of their arrays: see `pack`.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import version
from typing import Any

from hyperfocal.errors import ConfigError, RunError
from hyperfocal.grid.claims import beating
from hyperfocal.grid.job import Material, Reached
from hyperfocal.grid.local import GridWatch, beat, give_back, reached, thread_variables
from hyperfocal.grid.packing import pack, unpack
from hyperfocal.grid.points import Point
from hyperfocal.grid.ray_cluster import (
    Share,
    check_head,
    connected,
    connection_errors,
    count_room,
    describe_nodes,
)
from hyperfocal.grid.store import Store

ATTEMPTS = 4  # at a point whose node or process dies: the first, and as many again as Ray's own default
LOOK_SECONDS = 1.0  # between two looks at the cluster
PATIENCE_SECONDS = 300.0  # for a node that has room for a point, once there is none
SAME = ("hyperfocal", "torch", "numpy")  # other versions may reach other numbers


@contextmanager
def ray_pool(address: str, share: Share, most: int | None = None) -> Iterator[RayPool]:
    """Connect to a cluster, and leave it in the end.

    Args:
        address: of the cluster's head, host:port; "auto" for the cluster that this machine is a node of, "local" for
            one of its own, which ends with this process.
        share: what each point gets.
        most: points at a time; None is as many as the nodes have room for.

    Raises:
        ConfigError: Ray is not installed; no node has what a point shall get; `most` is below 1.
        RunError: no cluster answers.
    """
    if most is not None and most < 1:
        raise ConfigError(f"--workers {most} is not allowed. Expected 1 or more points at a time")
    with connected(address) as head:
        room = count_room(share)
        if not room:
            raise ConfigError(
                f"no node of the Ray cluster has room for a point of {share}: there are {describe_nodes()}. Ask for "
                "less with --cpus and --gpus, or start a node that has it"
            )
        yield RayPool(head, share, most or room, fixed=most is not None)


class RayPool:
    """A cluster that this process is connected to.

    Attributes:
        share: what each point gets.
        size: points at a time, as the cluster was at first.
    """

    def __init__(self, head: str, share: Share, size: int, *, fixed: bool) -> None:
        self.share, self.size = share, size
        self._head, self._fixed = head, fixed
        self._put: tuple[Material, Any] | None = None  # the last material, and its reference in the object store
        self._empty_since: float | None = None

    def train(self, material: Material, points: Sequence[Point], store: Store, watch: GridWatch, retry: bool) -> None:
        """Claim, train and store points, as `run_points` asks.

        Raises:
            RunError: the cluster is lost, or cannot train: hyperfocal or Ray is missing on a node or another version;
                the store cannot be written. What is done is stored.
            KeyboardInterrupt: Ctrl-C; the points that ran are given back.
        """
        with connection_errors():
            crew = _Crew(self._reference(material), self.share, store, watch, retry)
            left = deque(points)
            with beating(crew.beat):
                try:
                    while left or crew.flying:
                        self._fill(crew, left)
                        crew.land(LOOK_SECONDS)
                except BaseException:  # Ctrl-C, a full disk, a lost cluster: others may have the points
                    crew.stop()
                    raise

    def _reference(self, material: Material) -> Any:
        import ray

        if self._put is None or self._put[0] is not material:
            self._put = material, ray.put(pack(material.portable()))
        return self._put[1]

    def _fill(self, crew: _Crew, left: deque[Point]) -> None:
        """Submit points as long as there is room."""
        check_head(self._head)
        room = count_room(self.share)
        self._refuse_empty(room)
        places = self.size if self._fixed else max(room, 1)
        while left and len(crew.flying) < places:
            crew.start(left.popleft())

    def _refuse_empty(self, room: int) -> None:
        """Raise RunError if no node has had room for a point for a while."""
        now = time.monotonic()
        self._empty_since = None if room else self._empty_since or now
        if self._empty_since is not None and now - self._empty_since > PATIENCE_SECONDS:
            raise RunError(
                f"for {PATIENCE_SECONDS:.0f} s no node of the Ray cluster has had room for a point of {self.share}: "
                f"there are {describe_nodes()}. What is done is kept. Start a node, and give the same command again"
            )


@dataclass(frozen=True)
class _Flight:
    """A point that was submitted, and how often."""

    point: Point
    attempt: int


class _Crew:
    """The points that are claimed and submitted, and what to do with what comes back."""

    def __init__(self, material: Any, share: Share, store: Store, watch: GridWatch, retry: bool) -> None:
        import ray

        variables = {"env_vars": thread_variables(share.cpus)}  # set before torch is imported
        self._task = ray.remote(_train_point).options(
            num_cpus=share.cpus, num_gpus=share.gpus, max_retries=0, runtime_env=variables, name="hyperfocal point"
        )
        self._material, self._store, self._watch, self._retry = material, store, watch, retry
        self.flying: dict[Any, _Flight] = {}  # the reference of what each will return

    def start(self, point: Point) -> None:
        """Claim and submit a point, unless another process has it."""
        try:
            if self._store.claim(point, retry=self._retry):
                self._submit(_Flight(point, 1))
                self._watch.started(point.name, point.seed)
        except BaseException:  # Ctrl-C may come when it was claimed just now
            give_back(self._store, point)
            raise

    def _submit(self, flight: _Flight) -> None:
        self.flying[self._task.remote([self._material], flight.point, _versions())] = flight

    def beat(self) -> None:
        """Say of all that they are being trained."""
        for flight in list(self.flying.values()):
            beat(self._store, flight.point)

    def land(self, seconds: float) -> None:
        """Wait so long for points that end, and store what they reached; submit those again whose node died."""
        import ray
        from ray import exceptions

        lost: tuple[type[Exception], ...] = (exceptions.WorkerCrashedError, exceptions.NodeDiedError)
        lost += (exceptions.OutOfMemoryError, exceptions.ObjectLostError)
        ended, _ = ray.wait(list(self.flying), timeout=seconds) if self.flying else ([], [])
        for reference in ended:
            flight = self.flying[reference]
            try:
                found, reason, took = ray.get(reference)
            except lost as error:
                if flight.attempt < ATTEMPTS:
                    self._submit(_Flight(flight.point, flight.attempt + 1))
                else:
                    self._keep(flight.point, ({}, {}), _why_lost(error), 0.0)
            else:
                self._keep(flight.point, found, reason, took)
            del self.flying[reference]

    def _keep(self, point: Point, found: Reached, reason: str, seconds: float) -> None:
        values, resamples = found
        if reason:
            self._store.fail(point, reason, seconds=seconds)
            self._watch.failed(point.name, point.seed, reason)
        else:
            self._store.put(point, values, resamples, seconds=seconds)
            self._watch.finished(point.name, point.seed, values, seconds)

    def stop(self) -> None:
        """Give all points back, and end what trains them."""
        import ray

        for flight in list(self.flying.values()):
            give_back(self._store, flight.point)
        for reference in self.flying:
            with suppress(Exception):  # the cluster may be gone
                ray.cancel(reference, force=True)


def _why_lost(error: Exception) -> str:
    what = type(error).__name__
    return (
        f"its node or process died {ATTEMPTS} times, the last time by {what}; perhaps there was not enough memory. "
        "Give a point more --cpus, so that fewer run on a node, and try it again with --retry"
    )


def _versions() -> dict[str, str]:
    return {name: version(name) for name in SAME}


def _train_point(material: list[Any], point: Point, versions: dict[str, str]) -> tuple[Reached, str, float]:
    """Be a task: return what a point reached, why it failed or "", and the seconds that it took.

    The reference lies in a list: else Ray would fetch and unpack it again for each point.
    """
    if versions != _versions():
        raise RunError(
            f"a node has {_versions()} and the driver {versions}: their numbers might differ. Install the same "
            "versions on all nodes"
        )
    unpacked, began = _fetched(material[0]), time.monotonic()
    found, reason = reached(unpacked, point)
    return found, reason, time.monotonic() - began


@lru_cache(maxsize=1)  # a process trains one point after the other
def _fetched(reference: Any) -> Material:
    import ray

    material: Material = unpack(ray.get(reference))
    return material
