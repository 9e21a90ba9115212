"""The checksum of a log: the same for the same events in another format or in another order of the rows."""

from __future__ import annotations

import hashlib

import numpy as np
import polars as pl
from numpy.typing import NDArray

from hyperfocal.data.logs import Log, places_of


def log_checksum(log: Log) -> str:
    """Return a checksum of the users, and of the items and the order of their events.

    Users are sorted by id, and events at the same time by item. Without an order, the rows of a user are oldest first.
    """
    users = log.users.arg_sort().to_numpy().astype(np.int64)
    catalogue = log.items.unique().sort()
    codes = log.items.cast(pl.Enum(catalogue)).to_physical().cast(pl.Int64).to_numpy()
    order = _numbers(log)
    codes = _sorted_ties(codes, order, np.repeat(np.arange(len(log)), log.lengths))
    rows, offsets = places_of(log.offsets, users)
    checksum = hashlib.sha256()
    for names in (log.users.sort(), catalogue):
        checksum.update("\0".join(names).encode("utf-8", "surrogatepass") + b"\0\0")
    for array in (offsets, codes[rows], order[rows]):
        checksum.update(np.ascontiguousarray(array).tobytes())
    return checksum.hexdigest()


def _sorted_ties(codes: NDArray[np.int64], order: NDArray[np.float64], owners: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the items with those of equal owner and order sorted; the events are sorted by owner and order."""
    tied = np.zeros(len(codes) + 1, dtype=bool)
    tied[1:-1] = (order[1:] == order[:-1]) & (owners[1:] == owners[:-1])
    rows = np.flatnonzero(tied[1:] | tied[:-1])
    codes = codes.copy()
    codes[rows] = codes[rows][np.lexsort((codes[rows], order[rows], owners[rows]))]
    return codes


def _numbers(log: Log) -> NDArray[np.float64]:
    """Return (N,) the order of each event: a number, a time in microseconds, or else the number of the user's row."""
    if log.order is None:
        starts = np.repeat(log.offsets[:-1], log.lengths)
        return (np.arange(len(log.items)) - starts).astype(np.float64)
    times = isinstance(log.order.dtype, pl.Date | pl.Datetime)
    order = log.order.dt.epoch("us") if times else log.order.to_physical()
    return order.cast(pl.Float64).to_numpy()
