"""The checksum of a log: the same for the same events in another format or in another order of the rows."""

from __future__ import annotations

import hashlib

import numpy as np
import polars as pl
from numpy.typing import NDArray

from hyperfocal.data.logs import Log


def log_checksum(log: Log) -> str:
    """Return a checksum of the users, and of the items and the order of their events.

    Users are sorted by id, and events at the same time by item. Without an order, the rows of a user are oldest first.
    """
    ranks = log.users.rank("ordinal").cast(pl.Int64)
    catalogue = log.items.unique().sort()
    codes = log.items.cast(pl.Enum(catalogue)).to_physical().cast(pl.Int64).to_numpy()
    owners = np.repeat(ranks.to_numpy(), log.lengths)
    order = _numbers(log)
    rows = np.lexsort((codes, order, owners))
    lengths = log.lengths[np.argsort(ranks.to_numpy())]
    checksum = hashlib.sha256()
    for names in (log.users.sort(), catalogue):
        checksum.update("\0".join(names).encode("utf-8", "surrogatepass") + b"\0\0")
    for array in (lengths, codes[rows], order[rows]):
        checksum.update(np.ascontiguousarray(array).tobytes())
    return checksum.hexdigest()


def _numbers(log: Log) -> NDArray[np.float64]:
    """Return (N,) the order of each event: a number, a time in microseconds, or else the number of the user's row."""
    if log.order is None:
        starts = np.repeat(log.offsets[:-1], log.lengths)
        return (np.arange(len(log.items)) - starts).astype(np.float64)
    times = isinstance(log.order.dtype, pl.Date | pl.Datetime)
    order = log.order.dt.epoch("us") if times else log.order.to_physical()
    return order.cast(pl.Float64).to_numpy()
