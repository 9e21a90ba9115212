"""Splits by user: a user is in one part only."""

from __future__ import annotations

import numpy as np

from hyperfocal.data.tables import Log
from hyperfocal.errors import DataError, LeakError


def split_users(log: Log, *, fraction: float, seed: int) -> tuple[Log, Log]:
    """Return a training and a validation log; `fraction` of the users, drawn by `seed`, validate.

    Raises:
        DataError: fewer than two users.
    """
    if len(log) < 2:
        raise DataError(f"the log has {len(log)} user; a split needs at least 2. Give more users, or --valid FILE")
    count = min(max(round(len(log) * fraction), 1), len(log) - 1)
    order = np.random.default_rng(seed).permutation(len(log))
    return log.select(np.sort(order[count:])), log.select(np.sort(order[:count]))


def refuse_shared_users(train: Log, held_out: Log, *, name: str) -> None:
    """Raise LeakError if a user of `held_out` (called `name` in the message) is in training too."""
    shared = held_out.users.filter(held_out.users.is_in(train.users.implode()))
    if len(shared):
        raise LeakError(
            f"{name}: {len(shared):,} of its {len(held_out):,} users are in training too, first {shared[0]!r}. "
            "A user belongs to one part: remove these users from one of the files"
        )
