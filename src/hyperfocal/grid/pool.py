"""Train the points of a grid in a pool of workers; the steps of one point, which every pool takes."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import NamedTuple, Protocol

from torch import Tensor

from hyperfocal.errors import RunError
from hyperfocal.grid.job import Prepared
from hyperfocal.grid.points import Point
from hyperfocal.grid.store import Store
from hyperfocal.training.watch import Watch

WAIT_SECONDS = 1.0  # between two looks at what other commands on the store have done


class Pool(Protocol):
    """Workers that train points, several at a time."""

    @property
    def size(self) -> int:
        """Points at a time."""

    def threads(self, wanted: int) -> int:
        """Return the CPU threads of each training, if the settings want this number; 0: as many as possible."""

    def train(self, prepared: Prepared, points: Sequence[Point], store: Store, watch: Watch, *, retry: bool) -> None:
        """Claim and train points, and store each result at once; points of other processes are left to them.

        With `retry`, points that failed before are trained again.
        """


def run_points(
    prepared: Prepared, points: Sequence[Point], store: Store, watch: Watch, pool: Pool, *, retry: bool = False
) -> None:
    """Train every point that is not done yet, in the pool or by another process on the store.

    Points that other processes train are waited for, and taken over if those processes die.

    Raises:
        RunError: the store cannot be written; or as in `train` of the pool.
        KeyboardInterrupt: Ctrl-C; what is done is stored.
    """
    store.drop_own()
    ended = store.done() | (set() if retry else store.failed().keys())
    missing = [point for point in points if point.key(store.fingerprint) not in ended]
    watch.points_skipped(len(points) - len(missing))
    while missing:
        held = store.held()
        free = [point for point in missing if point.key(store.fingerprint) not in held]
        if free:
            pool.train(prepared, free, store, watch, retry=retry)
            retry = False  # what failed just now is not trained again
        else:
            watch.points_awaited(len(missing))
            time.sleep(WAIT_SECONDS)
        ended = store.done() | store.failed().keys()
        missing = [point for point in missing if point.key(store.fingerprint) not in ended]


class Trained(NamedTuple):
    """The end of one training."""

    values: dict[str, float]  # metric -> number; {} if it failed
    resamples: dict[str, Tensor]  # metric -> (R,); {} if it failed
    error: str  # why it failed; "": it did not
    seconds: float  # that it took


def train_point(prepared: Prepared, point: Point) -> Trained:
    """Train a point; any exception becomes its error, so that the other points are trained all the same."""
    began = time.monotonic()
    try:
        values, resamples = prepared.train(point)
        return Trained(values, resamples, "", time.monotonic() - began)
    except Exception as error:
        return Trained({}, {}, f"{type(error).__name__}: {error}", time.monotonic() - began)


def record(point: Point, trained: Trained, store: Store, watch: Watch) -> None:
    """Store the end of a training, and then report it."""
    values, resamples, error, seconds = trained
    if error:
        store.fail(point, error, seconds=seconds)
        watch.point_failed(point.name, point.seed, error)
    else:
        store.put(point, values, resamples, seconds=seconds)
        watch.point_finished(point.name, point.seed, point.settings, values, seconds)


@contextmanager
def released_on_error(store: Store, point: Point) -> Iterator[None]:
    """Release the claim of a point on any exception inside, such as Ctrl-C or a full disk."""
    try:
        yield
    except BaseException:
        release(store, point)
        raise


def release(store: Store, point: Point) -> None:
    """Release the claim of a point, even if Ctrl-C comes meanwhile: terminal and pool both send it to a worker."""
    while True:
        try:
            with suppress(RunError):
                store.release(point)
            return
        except KeyboardInterrupt:
            continue


def thread_variables(threads: int) -> dict[str, str]:
    """Return the environment variables that limit the thread pools of a process which starts with them."""
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "POLARS_MAX_THREADS")
    return dict.fromkeys(names, str(max(threads, 1)))
