"""Splits by user: a user is in one part only."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from hyperfocal.data.tables import Log
from hyperfocal.errors import DataError, LeakError


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
    pool = np.arange(len(log)) if eligible is None else np.flatnonzero(eligible)
    if len(pool) < 2:
        raise DataError(
            f"the log has {len(pool)} user long enough; a split needs at least 2. Give more users, or --valid FILE"
        )
    count = min(max(round(len(pool) * fraction), 1), len(pool) - 1)
    held_out = np.zeros(len(log), dtype=np.bool_)
    held_out[np.random.default_rng(seed).permutation(pool)[:count]] = True
    return log.select(np.flatnonzero(~held_out)), log.select(np.flatnonzero(held_out))


def refuse_shared_users(train: Log, held_out: Log, *, name: str) -> None:
    """Raise LeakError if a user of `held_out` (called `name` in the message) is in training too."""
    shared = held_out.users.filter(held_out.users.is_in(train.users.implode()))
    if len(shared):
        raise LeakError(
            f"{name}: {len(shared):,} of its {len(held_out):,} users are in training too, first {shared[0]!r}. "
            "A user belongs to one part: remove these users from one of the files"
        )
