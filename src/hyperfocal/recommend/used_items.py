"""Items that a user has had, and so does not get again, perhaps only for some days."""

from __future__ import annotations

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray

from hyperfocal.data.log_columns import UNITS, unit_of
from hyperfocal.data.logs import Log
from hyperfocal.data.vocabulary import UNKNOWN, Vocabulary
from hyperfocal.errors import ConfigError
from hyperfocal.labels import row_pointers
from hyperfocal.rules import Rules
from hyperfocal.sequences import Sequences

SECONDS = 86_400  # in a day


def used_of(log: Log, vocabulary: Vocabulary, histories: Sequences, rules: Rules) -> Sequences | None:
    """Return the items that each user of a log may not get; None: there are none.

    With `repeat_after` these are the items of the events that are less than so many days older than the user's newest
    event.

    Args:
        log: U users.
        vocabulary: the items.
        histories: of the same users, encoded.
        rules: of the request.

    Raises:
        ConfigError: `repeat_after` and a log without times.
    """
    if rules.repeats:
        return None
    if rules.repeat_after is None:
        return histories
    days = _days(log)
    newest = np.repeat(days[np.maximum(log.offsets[1:] - 1, 0)], log.lengths) if len(days) else days
    numbers = vocabulary.encode(log.items)
    used = torch.from_numpy(newest - days < rules.repeat_after) & (numbers != UNKNOWN)
    return Sequences(numbers[used], row_pointers(used)[torch.from_numpy(log.offsets)], len(vocabulary))


def _days(log: Log) -> NDArray[np.float64]:
    """Return (N,) the time of each event in days; raise ConfigError if the order is none."""
    order = log.order
    if order is not None and order.dtype.is_temporal():
        return (order.cast(pl.Datetime("us")).to_physical() / (SECONDS * UNITS["microseconds"])).to_numpy()
    unit = "" if order is None or not len(order) else unit_of(order.max())
    if order is None or (not unit and len(order)):
        raise ConfigError(
            "`repeat_after=` needs the time of each event, and this log has positions or none. Name a column of times "
            "with `order=`, or leave it out"
        )
    return (order.cast(pl.Float64) / (SECONDS * UNITS[unit or "seconds"])).to_numpy()
