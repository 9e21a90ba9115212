"""A pool of tasks on the nodes of a Ray cluster.

This process, the driver, owns the store: it claims a point, submits it as a task, renews the claim while the task
runs, and stores what comes back. The data and features of all points are put into Ray's object store once; a node
needs neither the files nor the cache.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import lru_cache
from importlib.metadata import version
from typing import Any

from hyperfocal.errors import ConfigError, RunError
from hyperfocal.grid.claims import beating
from hyperfocal.grid.job import Prepared
from hyperfocal.grid.packing import pack, unpack
from hyperfocal.grid.points import Point
from hyperfocal.grid.pool import (
    Trained,
    record,
    release,
    released_on_error,
    thread_variables,
    train_point,
)
from hyperfocal.grid.ray_cluster import Share, check_head, connected, connection_errors, count_room, describe_nodes
from hyperfocal.grid.store import Store
from hyperfocal.training.watch import Watch

ATTEMPTS = 4  # at a point whose node or process dies: the first one, and as many more as Ray's own default
LOOK_SECONDS = 1.0  # between two looks at the cluster
PATIENCE_SECONDS = 300.0  # for a node that has room for a point, once there is none
SAME = ("hyperfocal", "torch", "numpy")  # other versions of these packages may reach other numbers


@contextmanager
def ray_pool(address: str, share: Share, most: int | None = None) -> Iterator[RayPool]:
    """Connect to a cluster, and disconnect in the end.

    Args:
        address: host:port of the cluster's head; "auto": the cluster that this machine is a node of; "local": a
            cluster on this machine that ends with this process.
        share: what each point gets.
        most: points at a time; None: as many as the nodes have room for.

    Raises:
        ConfigError: Ray is not installed; no node has the share of a point; `most` is below 1.
        RunError: no cluster answers.
    """
    if most is not None and most < 1:
        raise ConfigError(f"--workers {most} is not allowed. Expected 1 or more points at a time")
    with connected(address) as head:
        room = count_room(share)
        if not room:
            raise ConfigError(
                f"no node of the Ray cluster has room for a point of {share}: there are {describe_nodes()}. Ask for "
                "less with --cpus and --gpus, or start a larger node"
            )
        yield RayPool(head, share, most or room, fixed=most is not None)


class RayPool:
    """A cluster that this process is connected to.

    Attributes:
        share: what each point gets.
        size: points at a time when the connection was made.
    """

    def __init__(self, head: str, share: Share, size: int, *, fixed: bool) -> None:
        self.share, self.size = share, size
        self._head, self._fixed = head, fixed
        self._put: tuple[Prepared, Any] | None = None  # the last data, and their reference in the object store
        self._full_since: float | None = None

    def threads(self, wanted: int) -> int:
        """Return the CPU threads of each training: the CPUs that it gets, whatever is wanted."""
        return self.share.cpus

    def train(self, prepared: Prepared, points: Sequence[Point], store: Store, watch: Watch, *, retry: bool) -> None:
        """Claim, train and store points.

        Raises:
            RunError: the cluster is lost, or cannot train because hyperfocal or Ray is missing on a node or has
                another version; the store cannot be written. Finished points are stored.
            KeyboardInterrupt: Ctrl-C; the points in training are released.
        """
        with connection_errors():
            tasks = _Tasks(self._reference(prepared), self.share, store, watch, retry)
            left = deque(points)
            with beating(tasks.beat):
                try:
                    while left or tasks.running:
                        self._submit(tasks, left)
                        tasks.collect(LOOK_SECONDS)
                except BaseException:  # Ctrl-C, a full disk, a lost cluster: others may have the points
                    tasks.stop()
                    raise

    def _reference(self, prepared: Prepared) -> Any:
        import ray

        if self._put is None or self._put[0] is not prepared:
            self._put = prepared, ray.put(pack(prepared.portable()))
        return self._put[1]

    def _submit(self, tasks: _Tasks, left: deque[Point]) -> None:
        """Submit points as long as there is room."""
        check_head(self._head)
        room = count_room(self.share)
        self._check_room(room)
        places = self.size if self._fixed else max(room, 1)
        while left and len(tasks.running) < places:
            tasks.submit(left.popleft())

    def _check_room(self, room: int) -> None:
        """Raise RunError if no node has had room for a point for a while."""
        now = time.monotonic()
        self._full_since = None if room else self._full_since or now
        if self._full_since is not None and now - self._full_since > PATIENCE_SECONDS:
            raise RunError(
                f"for {PATIENCE_SECONDS:.0f} s no node of the Ray cluster has had room for a point of {self.share}: "
                f"there are {describe_nodes()}. Finished points are stored: start a node, and repeat the command"
            )


class _Tasks:
    """The points that are claimed and submitted, and what follows when their tasks end."""

    def __init__(self, data: Any, share: Share, store: Store, watch: Watch, retry: bool) -> None:
        import ray

        variables = {"env_vars": thread_variables(share.cpus)}  # set before torch is imported
        self._task = ray.remote(_train).options(
            num_cpus=share.cpus, num_gpus=share.gpus, max_retries=0, runtime_env=variables, name="hyperfocal point"
        )
        self._data, self._store, self._watch, self._retry = data, store, watch, retry
        self.running: dict[Any, tuple[Point, int]] = {}  # reference of what the task will return -> point, attempt

    def submit(self, point: Point) -> None:
        """Claim and submit a point, unless another process has it."""
        with released_on_error(self._store, point):
            if self._store.claim(point, retry=self._retry):
                self._start(point, 1)
                self._watch.point_started(point.name, point.seed)

    def _start(self, point: Point, attempt: int) -> None:
        self.running[self._task.remote([self._data], point, _versions())] = point, attempt

    def beat(self) -> None:
        """Renew the claims of all running points."""
        for point, _ in list(self.running.values()):
            self._store.beat(point)

    def collect(self, seconds: float) -> None:
        """Wait at most so long for a task that ends, and store its result, or submit it again if its node died."""
        import ray
        from ray import exceptions

        lost: tuple[type[Exception], ...] = (exceptions.WorkerCrashedError, exceptions.NodeDiedError)
        lost += (exceptions.OutOfMemoryError, exceptions.ObjectLostError)
        ended, _ = ray.wait(list(self.running), timeout=seconds) if self.running else ([], [])
        for reference in ended:
            point, attempt = self.running[reference]
            try:
                record(point, ray.get(reference), self._store, self._watch)
            except lost as error:
                if attempt < ATTEMPTS:
                    self._start(point, attempt + 1)
                else:
                    record(point, Trained({}, {}, _why_lost(error), 0.0), self._store, self._watch)
            del self.running[reference]

    def stop(self) -> None:
        """Release all points, and cancel their tasks."""
        import ray

        for point, _ in list(self.running.values()):
            release(self._store, point)
        for reference in self.running:
            with suppress(Exception):  # the cluster may be gone
                ray.cancel(reference, force=True)


def _why_lost(error: Exception) -> str:
    return (
        f"its node or process died {ATTEMPTS} times, the last time by {type(error).__name__}, perhaps for lack of "
        "memory. Give each point more --cpus, so that fewer run on a node, and try again with --retry"
    )


def _versions() -> dict[str, str]:
    return {name: version(name) for name in SAME}


def _train(data: list[Any], point: Point, versions: dict[str, str]) -> Trained:
    """Train a point, as a Ray task.

    Args:
        data: one reference, in a list: otherwise Ray would fetch and unpack it again for each point.
        point: to train.
        versions: of the packages in SAME, on the driver.

    Raises:
        RunError: this node has other versions.
    """
    if versions != _versions():
        raise RunError(
            f"a node has {_versions()} and the driver {versions}: their numbers might differ. Install the same "
            "versions on all nodes"
        )
    return train_point(_unpacked(data[0]), point)


@lru_cache(maxsize=1)  # a process trains one point after the other
def _unpacked(reference: Any) -> Prepared:
    import ray

    prepared: Prepared = unpack(ray.get(reference))
    return prepared
