"""From logs to what a recommender learns from and is chosen on.

A log larger than memory, prepared for training: streamed into mapped files once, and kept in the cache.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray
from torch import Tensor

from hyperfocal.config.recommend import CAUSAL, COUNTING, RecommendSettings
from hyperfocal.data.examples import (
    Examples,
    Holdout,
    Windows,
    cut_examples,
    cut_windows,
    hold_out_last,
    hold_out_truth,
)
from hyperfocal.data.item_table import ItemColumn
from hyperfocal.data.logs import Log, as_log
from hyperfocal.data.mapped_logs import MappedLog, as_sequences, count_items, keep_users, stream_log
from hyperfocal.data.splits import SHORTEST_LEFT_OUT, check_distinct_users, draw_users, leave_last_out, split_users
from hyperfocal.data.vocabulary import Vocabulary, encode_log
from hyperfocal.errors import ConfigError, DataError
from hyperfocal.models.baselines import STREAMED
from hyperfocal.models.item_vectors import ItemFeatures
from hyperfocal.recommend.item_features import learn_features
from hyperfocal.sequences import Sequences
from hyperfocal.storage.cache import FORMAT, cached_streamed, default_cache, hash_of, is_streamed, key_of

HASHED = 2**20  # numbers that are hashed at once
TRAIN_USERS_SCORED = 10_000  # training users, the first, whose scores beside validation show overfitting


@dataclass(frozen=True, eq=False)
class Prepared:
    """What a recommender learns from and is chosen on.

    Attributes:
        vocabulary: the items of the training users.
        users: their ids; none where the log was streamed.
        train: every event of the training users, for the baselines.
        examples: histories and targets, for the network; windows, for one that learns from every position.
        train_holdout: the training users as validation users are: to see overfitting.
        valid: histories and truth of other users.
        counts: what was read, kept and left out.
        features: of the items, for the network; None without a table of them.
        columns: of that table, as training has them.
    """

    vocabulary: Vocabulary
    users: pl.Series
    train: Sequences
    examples: Examples | Windows
    train_holdout: Holdout
    valid: Holdout
    counts: dict[str, Any]
    features: ItemFeatures | None = None
    columns: Sequence[ItemColumn] = ()

    def fingerprint(self) -> str:
        """Return a checksum of items, sequences and validation, which tells other data or another split."""
        found = hashlib.sha256("\0".join(self.vocabulary.ids).encode())
        truth, histories = self.valid.truth, self.valid.histories
        parts = (self.train.items, self.train.offsets, histories.items, histories.offsets, truth.indptr, truth.indices)
        for part in (*parts, *(self.features or ())):
            for raw in _bytes_of(part) if isinstance(part, Tensor) else [str(part).encode()]:
                found.update(raw)
        return found.hexdigest()


def _bytes_of(tensor: Tensor) -> Iterator[bytes]:
    """Yield the bytes of a tensor block by block; mapped item numbers, which are int32, as int64."""
    for part in tensor.split(HASHED):
        yield (part.long() if part.dtype == torch.int32 else part).numpy().tobytes()


def prepare(log: Any, valid: Any, valid_truth: Any, settings: RecommendSettings, items: Any = None) -> Prepared:
    """Read, split, number and cut.

    Raises:
        DataError: unreadable, or no user with history + 1 items in a part; as in `learn_features`.
        LeakError: a user in both parts.
        ConfigError: a k above the number of items; a validation file under leave-one-out; data.stream = "on".
    """
    data = settings.data
    if data.stream == "on":
        raise ConfigError("data.stream = 'on' is not allowed in a grid: its points share a log in memory. Leave it out")
    whole = as_log(log, data)
    name = name_of(log, "training log")
    refuse_short(whole.lengths, cut_of(settings)["history"], name)
    train, valid_log = _split(whole, valid, valid_truth, settings)
    if settings.model.name == "concat_mlp":
        refuse_short(train.lengths, data.history, name)
    vocabulary = Vocabulary.of(train.items)
    sequences, _ = encode_log(train, vocabulary)
    refuse_deep(settings, len(vocabulary))
    examples = training_examples(sequences, settings)
    holdout = validation_holdout(valid_log, valid_truth, vocabulary, settings, name_of(valid, "validation log"))
    counts = describe(sequences, examples, holdout, whole.ties)
    train_holdout = hold_out_last(train, vocabulary, **cut_of(settings))
    prepared = Prepared(vocabulary, train.users, sequences, examples, train_holdout, holdout, counts)
    return prepared if items is None else with_items(prepared, items, settings)


def validation_holdout(log: Log, truth: Any, vocabulary: Vocabulary, settings: RecommendSettings, name: str) -> Holdout:
    """Return the validation users, cut; `truth` says what follows them, None takes their last items.

    Raises:
        DataError: no user can be scored; the truth cannot be read.
    """
    if truth is None:
        holdout = hold_out_last(log, vocabulary, **cut_of(settings))
    else:
        holdout = hold_out_truth(log, as_log(truth, settings.data), vocabulary)
    holdout.check_users(name)
    return holdout


def describe(train: Sequences, examples: Examples | Windows, valid: Holdout, ties: int) -> dict[str, Any]:
    """Return what was read, kept and left out."""
    return {
        "users": len(train),
        "items": train.num_items,
        "events": len(train.items),
        "examples": len(examples),
        "skipped_users": examples.skipped,
        "ties": ties,
        "valid": valid.describe(),
    }


def with_items(data: Prepared, items: Any, settings: RecommendSettings) -> Prepared:
    """Return the same with the features of a table of items; errors as in `learn_features`."""
    events = torch.bincount(data.train.items, minlength=len(data.vocabulary))
    columns, features, described = learn_features(items, data.vocabulary, events, settings)
    return replace(data, counts=data.counts | {"item_table": described}, features=features, columns=columns)


def recut(data: Prepared, settings: RecommendSettings) -> Prepared:
    """Return the same users, with the examples that another model learns from."""
    examples = training_examples(data.train, settings)
    counts = data.counts | {"examples": len(examples), "skipped_users": examples.skipped}
    return replace(data, examples=examples, counts=counts)


def training_examples(sequences: Sequences, settings: RecommendSettings) -> Examples | Windows:
    """Return what the network of the settings learns from.

    Raises:
        DataError: nothing, where there is a network.
    """
    data, name = settings.data, settings.model.name
    found: Examples | Windows
    if name in CAUSAL:
        found = cut_windows(sequences, history=data.history, ahead=data.ahead)
    else:
        found = cut_examples(sequences, history=data.history, next_items=data.next, every=data.examples == "every")
    if not len(found) and name not in COUNTING:
        shortest = data.history + 1 if name == "concat_mlp" else 2
        raise DataError(f"no user has {shortest} items to learn from, beside those that are held out. Give longer logs")
    return found


def _split(log: Log, valid: Any, valid_truth: Any, settings: RecommendSettings) -> tuple[Log, Log]:
    """Return the training and the validation log."""
    refuse_truth_alone(valid, valid_truth)
    if settings.data.protocol == "leave-one-out":
        if valid is not None:
            raise ConfigError("--protocol leave-one-out validates on each user's second-last item: leave --valid out")
        return leave_last_out(log)
    if valid is None:
        eligible = log.lengths > shortest_history(settings)
        return split_users(log, fraction=settings.data.valid_fraction, seed=settings.seed, eligible=eligible)
    found = as_log(valid, settings.data)
    check_distinct_users(log.users, found, name=name_of(valid, "validation log"))
    return log, found


def refuse_truth_alone(valid: Any, valid_truth: Any) -> None:
    """Raise ConfigError if there is a truth without its histories."""
    if valid is None and valid_truth is not None:
        raise ConfigError("--valid-truth says what follows the histories of --valid: give --valid too")


def cut_of(settings: RecommendSettings, *, test: bool = False) -> dict[str, int]:
    """Return where `hold_out_last` cuts: after how many items at least, and before how many.

    Args:
        settings: under leave-one-out one item is held out, of users with any history; of users of test only those
            whose last item did not teach.
        test: whether it is for test.
    """
    if settings.data.protocol == "leave-one-out":
        return {"history": SHORTEST_LEFT_OUT - 1 if test else 1, "next_items": 1}
    return {"history": shortest_history(settings), "next_items": settings.data.next}


def shortest_history(settings: RecommendSettings) -> int:
    """Return how many items a user's history has at least to be scored: all but concat_mlp read any."""
    return settings.data.history if settings.model.name == "concat_mlp" else 1


def hold_out(log: Any, truth: Any, vocabulary: Vocabulary, settings: RecommendSettings) -> Holdout:
    """Return the users of a log to score a fitted recommender on.

    Args:
        log: their histories: a path, a frame or a Log.
        truth: likewise, the items that follow; None takes the last ones of each history.
        vocabulary: the items of training.
        settings: of the recommender.

    Raises:
        DataError: no user can be scored.
    """
    histories = as_log(log, settings.data)
    if truth is None:
        holdout = hold_out_last(histories, vocabulary, **cut_of(settings, test=True))
    else:
        holdout = hold_out_truth(histories, as_log(truth, settings.data), vocabulary)
    holdout.check_users(str(log) if isinstance(log, str | Path) else "log")
    return holdout


def name_of(data: Any, otherwise: str) -> str:
    """Return the path of a log for messages, or what else to call it."""
    return str(data) if isinstance(data, str | Path) else otherwise


def refuse_short(lengths: NDArray[np.int64], history: int, name: str) -> None:
    """Raise DataError, calling the log `name`, if none of the (U,) lengths is above `history`."""
    longest = int(lengths.max(initial=0))
    if longest <= history:
        raise DataError(
            f"{name}: no user has {history + 1} items or more; the longest has {longest}. "
            f"Training reads {history} and predicts what follows: give a smaller --history, or longer logs"
        )


def refuse_deep(settings: RecommendSettings, num_items: int) -> None:
    """Raise ConfigError if rankings are asked for that are longer than the catalogue."""
    depths = {"data.next": settings.data.next, "train.metric": int(settings.train.metric.partition("@")[2])}
    for key, depth in depths.items():
        if depth > num_items:
            raise ConfigError(f"{key} asks for the best {depth:,} items, but training has {num_items:,}. Lower it")


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
    whole = MappedLog.from_arrays(cached_streamed(_folder(), key, lambda work: stream_log(log, data, work).to_arrays()))
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
    check_distinct_users(log.users, found, name=name_of(valid, "validation log"))
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
    arrays = cached_streamed(_folder(), key, lambda work: keep_users(log, trains, numbers, work / "items.bin"))
    return vocabulary, as_sequences(arrays, len(vocabulary))
