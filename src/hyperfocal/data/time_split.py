"""Split a log at a moment: events before it train, and each user's first events from it on are the truth."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

from hyperfocal.data.log_columns import UNITS, unit_of
from hyperfocal.data.logs import Log, offsets_of
from hyperfocal.errors import ConfigError, DataError

DAY = 86_400  # seconds


class TimeSplit(NamedTuple):
    """A log before and after a moment."""

    train: Log  # users with events before it, with these events
    truth: Log  # users with events from it on, with the first of these events


def split_at(log: Log, until: str, *, most: int, days: float = 0) -> TimeSplit:
    """Return the events before a moment, and the first ones from it on.

    Args:
        log: events with times.
        until: the moment, as an ISO 8601 time, or as a number in the unit of the log.
        most: events of a user that are the truth.
        days: after the moment, in which the truth lies. 0: any later time.

    Raises:
        ConfigError: the log has no times, or `until` is none.
        DataError: no event is before the moment, or none from it on.
    """
    order = _times(log)
    moment, stamps = _moment(until, order), _microseconds(order)
    end = moment + days * DAY * UNITS["microseconds"] if days else np.inf
    before, after = stamps < moment, (stamps >= moment) & (stamps < end)
    later = f"in the {days:g} days from it on" if days else "from it on"
    for chosen, where in ((before, "before"), (after, later)):
        if not chosen.any():
            times = f"{order.min()!s} to {order.max()!s}"
            raise DataError(f"`until={until}`: the log has no event {where}. Choose a moment within its times, {times}")
    return TimeSplit(_events(log, before), _events(log, after & (_place(log, after) < most)))


def _times(log: Log) -> pl.Series:
    """Return the times of the events; raise ConfigError if the order is none."""
    order = log.order
    if order is None or not (order.dtype.is_temporal() or (len(order) and unit_of(order.max()))):
        raise ConfigError(
            "`settings={'data.protocol': 'time'}` needs the time of each event, and this log has positions or none. "
            "Name a column of times with `order=`"
        )
    return order


def _moment(until: str, order: pl.Series) -> float:
    """Return a moment in microseconds since 1970."""
    text = until.strip()
    if not text:
        raise ConfigError("`settings={'data.protocol': 'time'}` needs a moment. Give `until=`, such as 2024-05-01")
    number = pl.Series([text]).cast(pl.Float64, strict=False)[0]
    if number is not None and order.dtype.is_numeric():
        return float(_microseconds(pl.Series([number]), unit_of(order.max()))[0])
    zoned = isinstance(order.dtype, pl.Datetime) and order.dtype.time_zone is not None
    for form in (None, "%Y-%m-%d"):
        try:
            read = pl.Series([text]).str.to_datetime(form, time_zone="UTC" if zoned else None)
            return float(_microseconds(read)[0])
        except pl.exceptions.PolarsError:
            continue
    raise ConfigError(f"`until={until}`: not a time. Expected ISO 8601, such as 2024-05-01 or 2024-05-01T12:00:00")


def _microseconds(order: pl.Series, unit: str = "") -> NDArray[np.float64]:
    """Return times in microseconds since 1970."""
    if order.dtype.is_temporal():
        naive = order.cast(pl.Datetime("us", getattr(order.dtype, "time_zone", None)))
        return naive.to_physical().cast(pl.Float64).to_numpy()
    factor = UNITS["microseconds"] / UNITS[unit or unit_of(order.max())]
    return (order.cast(pl.Float64) * factor).to_numpy()


def _place(log: Log, chosen: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Return (N,) how many chosen events of the same user come before each event."""
    sums = np.append(0, np.cumsum(chosen))
    places: NDArray[np.int64] = sums[:-1] - np.repeat(sums[log.offsets[:-1]], log.lengths)
    return places


def _events(log: Log, chosen: NDArray[np.bool_]) -> Log:
    """Return the users with chosen events, with these events alone."""
    sums = np.append(0, np.cumsum(chosen))
    lengths = sums[log.offsets[1:]] - sums[log.offsets[:-1]]
    mask = pl.Series(chosen)
    order = None if log.order is None else log.order.filter(mask)
    kept = replace(log, items=log.items.filter(mask), offsets=offsets_of(lengths), order=order)
    return kept.select(np.flatnonzero(lengths > 0))
