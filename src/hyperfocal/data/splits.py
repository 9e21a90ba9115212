"""Splits: by user, where a user is in one part only; or by time, where each user's last items are held out."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import polars as pl
from numpy.typing import NDArray

from hyperfocal.data.logs import Log
from hyperfocal.errors import DataError, LeakError

SHORTEST_LEFT_OUT = 3  # items of a user whose last two are held out


def split_users(log: Log, *, fraction: float, seed: int, eligible: NDArray[np.bool_] | None = None) -> tuple[Log, Log]:
    """Return a training and a validation log; `fraction` of the users, drawn by `seed`, validate.

    Args:
        log: U users.
        fraction: in (0, 1).
        seed: of the draw.
        eligible: (U,) which users may validate, for others teach but cannot be scored; None is all.

    Raises:
        DataError: fewer than two users that may validate.
    """
    held_out = draw_users(np.ones(len(log), dtype=np.bool_) if eligible is None else eligible, fraction, seed)
    return log.select(np.flatnonzero(~held_out)), log.select(np.flatnonzero(held_out))


def draw_users(eligible: NDArray[np.bool_], fraction: float, seed: int) -> NDArray[np.bool_]:
    """Return (U,) which users validate: `fraction` of the (U,) `eligible` ones, at least one and never all.

    Raises:
        DataError: fewer than two users that may validate.
    """
    pool = np.flatnonzero(eligible)
    if len(pool) < 2:
        raise DataError(
            f"the log has {len(pool)} user long enough; a split needs at least 2. Give more users, or --valid FILE"
        )
    count = min(max(round(len(pool) * fraction), 1), len(pool) - 1)
    held_out = np.zeros(len(eligible), dtype=np.bool_)
    held_out[np.random.default_rng(seed).permutation(pool)[:count]] = True
    return held_out


def leave_last_out(log: Log) -> tuple[Log, Log]:
    """Return a training and a validation log of the protocol leave-one-out.

    Of users with at least three items the last is for test, the second-last for validation, the others teach. Shorter
    users teach with all they have. The validation log holds the former users, without their last item.

    Raises:
        DataError: no user has three items.
    """
    long = log.lengths >= SHORTEST_LEFT_OUT
    if not long.any():
        raise DataError(
            "no user has 3 items or more; leave-one-out holds the last two of each out. Give longer logs, or "
            "leave --protocol out"
        )
    return _shortened(log, np.where(long, 2, 0)), _shortened(log.select(np.flatnonzero(long)), 1)


def _shortened(log: Log, by: NDArray[np.int64] | int) -> Log:
    """Return the log without the last `by` items of each user."""
    lengths = log.lengths - by
    kept = np.arange(len(log.items)) - np.repeat(log.offsets[:-1], log.lengths) < np.repeat(lengths, log.lengths)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    return replace(log, items=log.items.filter(pl.Series(kept)), offsets=offsets)


def refuse_shared_users(train: pl.Series, held_out: Log, *, name: str) -> None:
    """Raise LeakError if a user of `held_out` (called `name` in the message) is among those of training too."""
    shared = held_out.users.filter(held_out.users.is_in(train.implode()))
    if len(shared):
        raise LeakError(
            f"{name}: {len(shared):,} of its {len(held_out):,} users are in training too, first {shared[0]!r}. "
            "A user belongs to one part: remove these users from one of the files"
        )
