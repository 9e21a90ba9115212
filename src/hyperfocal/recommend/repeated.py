"""Recognize a log whose events a fit already has, before an update counts them twice."""

from __future__ import annotations

import numpy as np
import polars as pl
from numpy.typing import NDArray

from hyperfocal.data.log_checksum import log_checksum
from hyperfocal.data.logs import Log, places_of
from hyperfocal.errors import DataError
from hyperfocal.recommend.ranker import Fit

SHORTEST = 3  # stored events of a user that can be recognized: fewer often recur by chance
FEWEST = 5  # such users that decide
NEARLY_ALL = 0.95  # fraction of them whose new events begin with all stored ones


def check_new(fit: Fit, log: Log) -> str:
    """Return the checksum of a log of new events.

    Raises:
        DataError: the fit has these events, from its own log or an earlier update; or the log is cumulative: it begins
            with all events that the fit has of a user, for nearly all users who are in the fit and in the log.
    """
    checksum = log_checksum(log)
    if checksum in fit.logs:
        raise DataError(
            "the run has the events of this log already, so that they would count twice. Give new events, or count "
            "them again with `again=True`"
        )
    repeated = returning(fit, log)
    if len(repeated) >= FEWEST and repeated.mean() >= NEARLY_ALL:
        raise DataError(
            f"the log is cumulative: for {int(repeated.sum()):,} of {len(repeated):,} users it begins with all events "
            "that the run has of them, which would count twice. Give only the new events, or count all of them with "
            "`again=True`"
        )
    return checksum


def returning(fit: Fit, log: Log) -> NDArray[np.bool_]:
    """Return, for each user of the log who can be recognized, whether the log begins with all stored events.

    A user can be recognized by SHORTEST stored events or more, at least two of them different, if the log has as many.
    """
    rows = log.users.cast(pl.Enum(fit.users.cast(pl.String)), strict=False).to_physical().cast(pl.Int64)
    new = np.flatnonzero(rows.is_not_null().to_numpy())
    stored = rows.drop_nulls().to_numpy()
    offsets = fit.events.offsets.numpy()
    lengths = np.diff(offsets)[stored]
    fits = (lengths >= SHORTEST) & (log.lengths[new] >= lengths)
    new, stored, lengths = new[fits], stored[fits], lengths[fits]
    places, starts = places_of(offsets, stored)
    before = fit.events.items.numpy()[places]
    heads = np.repeat(log.offsets[new] - starts[:-1], lengths) + np.arange(len(places))
    after = fit.ranker.vocabulary.encode(log.items.gather(pl.Series(heads, dtype=pl.UInt32))).numpy()
    varied = _per_user(before != np.repeat(before[starts[:-1]], lengths), starts) > 0
    repeated: NDArray[np.bool_] = (_per_user(before != after, starts) == 0)[varied]
    return repeated


def _per_user(values: NDArray[np.bool_], starts: NDArray[np.int64]) -> NDArray[np.int64]:
    sums: NDArray[np.int64] = np.diff(np.concatenate([[0], np.cumsum(values)])[starts])
    return sums
