"""Split a log by user, so that a user is in one part only, or by time, so that each user's last items are held out."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import polars as pl
from numpy.typing import NDArray

from hyperfocal.data.logs import Log, offsets_of
from hyperfocal.errors import DataError, LeakError

SHORTEST_LEFT_OUT = 3  # items of a user whose last two are held out


def split_users(log: Log, *, fraction: float, seed: int, eligible: NDArray[np.bool_]) -> tuple[Log, Log]:
    """Return a training and a validation log; users are drawn as `draw_users` does, and raise its errors."""
    held_out = draw_users(eligible, fraction, seed)
    return log.select(np.flatnonzero(~held_out)), log.select(np.flatnonzero(held_out))


def draw_users(eligible: NDArray[np.bool_], fraction: float, seed: int) -> NDArray[np.bool_]:
    """Return (U,) which users validate: a random `fraction` of the eligible ones, at least one and never all.

    Args:
        eligible: (U,) which users may validate; the others train but are too short to be scored.
        fraction: in (0, 1).
        seed: of the draw.

    Raises:
        DataError: fewer than two eligible users.
    """
    pool = np.flatnonzero(eligible)
    if len(pool) < 2:
        raise DataError(
            f"the log has {len(pool)} user long enough, but a split needs at least 2. "
            "Give more users, or others with `valid=`"
        )
    count = min(max(round(len(pool) * fraction), 1), len(pool) - 1)
    held_out = np.zeros(len(eligible), dtype=np.bool_)
    held_out[np.random.default_rng(seed).permutation(pool)[:count]] = True
    return held_out


def leave_last_out(log: Log) -> tuple[Log, Log]:
    """Return a training and a validation log of the leave-one-out protocol.

    Of users with at least three items the last item is for test, the second-last for validation, and the others train.
    All items of shorter users train. The validation log has the longer users, without their last item.

    Raises:
        DataError: no user has three items.
    """
    long = log.lengths >= SHORTEST_LEFT_OUT
    if not long.any():
        raise DataError(
            "no user has 3 items or more, but leave-one-out holds out the last two of each user. Give longer logs, or "
            "`settings={'data.protocol': 'users'}`"
        )
    return _shorten(log, np.where(long, 2, 0)), _shorten(log.select(np.flatnonzero(long)), 1)


def _shorten(log: Log, by: NDArray[np.int64] | int) -> Log:
    """Return the log without the last `by` items of each user."""
    lengths = log.lengths - by
    place = np.arange(len(log.items)) - np.repeat(log.offsets[:-1], log.lengths)  # in its user's sequence
    remaining = pl.Series(place < np.repeat(lengths, log.lengths))
    return replace(log, items=log.items.filter(remaining), offsets=offsets_of(lengths))


def check_leak(train: pl.Series, held_out: pl.Series, *, units: str, name: str) -> None:
    """Raise LeakError if a value of `held_out` is in training too; the message calls the file `name`."""
    names = held_out.drop_nulls().unique(maintain_order=True)
    shared = names.filter(names.is_in(train.drop_nulls().unique().implode()))
    if len(shared):
        raise LeakError(
            f"{name}: {len(shared):,} of its {len(names):,} {units} are in training too, first {shared[0]!r}. "
            f"Remove these {units} from one of the files"
        )
