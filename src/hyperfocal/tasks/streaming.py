"""A log larger than memory, prepared for training: streamed into mapped files once, and kept in the cache."""

from __future__ import annotations

import hashlib
import logging
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from hyperfocal.cache import default_cache, hash_of
from hyperfocal.config.recommend import CAUSAL, RecommendSettings
from hyperfocal.data.mapped import MappedLog, as_sequences, count_items, keep_users
from hyperfocal.data.sequences import hold_out_last
from hyperfocal.data.splits import draw_users, refuse_shared_users
from hyperfocal.data.stream import stream_log
from hyperfocal.data.tables import Log
from hyperfocal.data.vocabulary import Vocabulary
from hyperfocal.models.baselines import STREAMED
from hyperfocal.sequences import Sequences
from hyperfocal.tasks.preparation import (
    TRAIN_USERS_SCORED,
    Prepared,
    as_log,
    cut_of,
    describe,
    name_of,
    refuse_deep,
    refuse_short,
    refuse_truth_alone,
    shortest_history,
    training_examples,
    validation_holdout,
    with_items,
)
from hyperfocal.tasks.streamed_files import FORMAT, is_streamed, kept, key_of

logger = logging.getLogger("hyperfocal")

MODELS = (*CAUSAL, *STREAMED)


def streams(log: Any, settings: RecommendSettings) -> bool:
    """Return whether a log is streamed: a file, and either asked for, or too large for memory and possible.

    Raises:
        ConfigError: asked for where it is not possible.
    """
    return is_streamed(log, settings.data.stream, _impossible(log, settings))


def _impossible(log: Any, settings: RecommendSettings) -> str:
    """Return why a log cannot be streamed, or ""."""
    if not isinstance(log, str | Path):
        return "for a log that is in memory already"
    if settings.data.protocol != "users":
        return f"with data.protocol = {settings.data.protocol!r}, which holds out items of every user"
    if settings.model.name not in MODELS:
        return f"with model {settings.model.name}. Those that learn from a streamed log: {', '.join(MODELS)}"
    return ""


def prepare_streamed(log: Any, valid: Any, valid_truth: Any, settings: RecommendSettings, items: Any) -> Prepared:
    """Return what `prepare` returns, from a log whose events stay on disk.

    The training users' ids and events are not kept in the run, so that `update` has none to add to; of the training
    users only the first TRAIN_USERS_SCORED that are long enough are scored beside validation.

    Args:
        log: path of the training log.
        valid, valid_truth, settings, items: as in `prepare`; a validation log is read into memory.

    Raises:
        DataError, LeakError, ConfigError: as in `prepare`.
        RunError: the cache cannot be written.
    """
    refuse_truth_alone(valid, valid_truth)
    logger.info("%s: streamed through mapped files in %s", log, default_cache())
    data = settings.data
    key = key_of(Path(log), [data.user, data.item, data.order, data.order_kind])
    whole = MappedLog.from_arrays(kept(_folder(), key, lambda work: stream_log(log, data, work).to_arrays()))
    cut = cut_of(settings)
    refuse_short(whole.lengths, cut["history"], str(log))
    held_out = _held_out(whole, valid, settings)
    valid_log = _validation_log(whole, held_out, valid, settings)
    vocabulary, train = _training_part(whole, ~held_out, key)
    refuse_deep(settings, len(vocabulary))
    examples = training_examples(train, settings)
    holdout = validation_holdout(valid_log, valid_truth, vocabulary, settings, name_of(valid, "validation log"))
    scored = np.flatnonzero(~held_out & (whole.lengths > cut["history"]))[:TRAIN_USERS_SCORED]
    train_holdout = hold_out_last(whole.select(scored), vocabulary, **cut)
    counts = describe(train, examples, holdout, whole.ties) | {"streamed": True}
    prepared = Prepared(vocabulary, whole.users.clear(), train, examples, train_holdout, holdout, counts)
    return prepared if items is None else with_items(prepared, items, settings)


def _folder() -> Path:
    return default_cache() / "logs"


def _held_out(log: MappedLog, valid: Any, settings: RecommendSettings) -> NDArray[np.bool_]:
    """Return (U,) which users validate: none where there is a validation log."""
    if valid is not None:
        return np.zeros(len(log), dtype=np.bool_)
    eligible = log.lengths > shortest_history(settings)
    return draw_users(eligible, settings.data.valid_fraction, settings.seed)


def _validation_log(log: MappedLog, held_out: NDArray[np.bool_], valid: Any, settings: RecommendSettings) -> Log:
    if valid is None:
        return log.select(np.flatnonzero(held_out))
    found = as_log(valid, settings.data)
    refuse_shared_users(log.users, found, name=name_of(valid, "validation log"))
    return found


def _training_part(log: MappedLog, trains: NDArray[np.bool_], key: str) -> tuple[Vocabulary, Sequences]:
    """Return the items of the training users, and what these did, in a file of their own.

    Args:
        log: U users.
        trains: (U,) which train.
        key: checksum of the log.
    """
    known = count_items(log, trains) > 0
    vocabulary = Vocabulary(log.ids.filter(pl.Series(known)))
    numbers = (np.cumsum(known) - 1).astype(np.int32)
    key = hash_of(FORMAT, key, hashlib.sha256(trains.tobytes()).hexdigest())
    arrays = kept(_folder(), key, lambda work: keep_users(log, trains, numbers, work / "items.bin"))
    return vocabulary, as_sequences(arrays, len(vocabulary))
