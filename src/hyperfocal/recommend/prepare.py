"""Prepare a log for training: read, split, number and cut.

A log larger than memory is streamed: it is written into mapped files once, and these are kept in the cache.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

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
from hyperfocal.data.field_columns import FieldColumn
from hyperfocal.data.item_table import ItemTable, read_items
from hyperfocal.data.log_checksum import log_checksum
from hyperfocal.data.logs import Log, LogReading, as_log
from hyperfocal.data.mapped_logs import MappedLog, as_sequences, count_items, keep_users, stream_log
from hyperfocal.data.reading import ReadingPlan, plan_words, reading_of
from hyperfocal.data.splits import SHORTEST_LEFT_OUT, check_leak, draw_users, leave_last_out, split_users
from hyperfocal.data.time_split import split_at
from hyperfocal.data.vocabulary import Vocabulary, encode_log
from hyperfocal.errors import ConfigError, DataError
from hyperfocal.machine import default_cache, is_streamed
from hyperfocal.models.baselines import STREAMED
from hyperfocal.models.item_vectors import ItemFeatures
from hyperfocal.recommend.item_features import fit_features, reads_features, table_counts
from hyperfocal.sequences import Sequences
from hyperfocal.storage.cache import FORMAT, cached_streamed, hash_of, key_of

HASHED = 2**20  # numbers that are hashed at once
TRAIN_USERS_SCORED = 10_000  # training users, the first ones, whose scores show overfitting
STREAMED_MODELS = (*CAUSAL, *STREAMED)

logger = logging.getLogger("hyperfocal")


@dataclass(frozen=True, eq=False)
class Prepared:
    """Data to train a model on and to choose its best epoch on.

    Attributes:
        vocabulary: the items of the training users.
        users: ids of the training users; empty if the log was streamed.
        train: every event of the training users, for the baselines.
        examples: for the network: histories and targets, or windows for a network that learns at every position.
        train_holdout: training users cut as validation users are, to see overfitting.
        valid: histories and truth of the validation users.
        counts: of what was read, used and left out.
        plan: how the log was read.
        features: of the items. None: no item table.
        columns: of the item table that the network reads.
        table: of items, whose columns rules read. None: there is none.
        streamed: whether the events stay on disk.
        logs: the checksum of the log, which an update compares; () if it was streamed.
    """

    vocabulary: Vocabulary
    users: pl.Series
    train: Sequences
    examples: Examples | Windows
    train_holdout: Holdout
    valid: Holdout
    counts: dict[str, Any]
    plan: ReadingPlan
    features: ItemFeatures | None = None
    columns: Sequence[FieldColumn] = ()
    table: ItemTable | None = None
    streamed: bool = False
    logs: tuple[str, ...] = ()

    def fingerprint(self) -> str:
        """Return a checksum of items, features, sequences and validation users."""
        checksum = hashlib.sha256("\0".join(self.vocabulary.ids).encode())
        truth, histories = self.valid.truth, self.valid.histories
        arrays = (self.train.items, self.train.offsets, histories.items, histories.offsets, truth.indptr, truth.indices)
        for array in (*arrays, *(self.features or ())):
            for block in _bytes_of(array) if isinstance(array, Tensor) else [str(array).encode()]:
                checksum.update(block)
        return checksum.hexdigest()


def _bytes_of(tensor: Tensor) -> Iterator[bytes]:
    """Yield the bytes of a tensor in blocks; mapped item numbers, which are int32, as int64."""
    for block in tensor.split(HASHED):
        yield (block.long() if block.dtype == torch.int32 else block).numpy().tobytes()


def prepare(
    log: Any,
    valid: Any,
    valid_truth: Any,
    settings: RecommendSettings,
    items: Any = None,
    planned: Callable[[ReadingPlan], None] = lambda plan: None,
) -> Prepared:
    """Read, split, number and cut a log; stream it if that is asked for, or if the file is too large for memory.

    Args:
        log: training events: path, frame or Log.
        valid: events of other users to validate on, read into memory. None: some users of `log`.
        valid_truth: the items that follow `valid`. None: its last items.
        settings: of the run.
        items: table of the items. None: no features.
        planned: called with the plan of `log` once it is read.

    Raises:
        DataError: a log cannot be read; no user has history + 1 items; as in `fit_features`.
        LeakError: a user is in `log` and in `valid`.
        ConfigError: k is above the number of items; `valid` under leave-one-out; streaming is not possible.
        RunError: the cache cannot be written.
    """
    if valid is None and valid_truth is not None:
        raise ConfigError("`valid_truth=` says what follows the histories of `valid=`: give `valid=` too")
    read = _split_streamed if is_streamed(log, settings.data.stream, _no_streaming(log, settings)) else _split_in_memory
    split = read(log, valid, settings)
    logger.info("%s: %s", name_of(log, "training log"), plan_words(split.plan))
    planned(split.plan)
    check_depths(settings, len(split.vocabulary))
    examples = training_examples(split.train, settings)
    cut, name = cut_of(settings), name_of(valid, "validation log")
    reading = reading_of(split.plan, settings.data)
    truth = valid_truth if split.truth is None else split.truth
    holdout = hold_out(split.valid, truth, split.vocabulary, reading, cut=cut, name=name)
    train_holdout = hold_out_last(split.scored, split.vocabulary, **cut)
    counts = {
        "users": len(split.train),
        "items": split.train.num_items,
        "events": len(split.train.items),
        "examples": len(examples),
        "skipped_users": examples.skipped,
        "ties": split.ties,
        "repeats": split.repeats,
        "incomplete": split.incomplete,
        "valid": holdout.describe(),
    } | ({"streamed": True} if split.streamed else {})
    data = Prepared(
        split.vocabulary,
        split.users,
        split.train,
        examples,
        train_holdout,
        holdout,
        counts,
        split.plan,
        streamed=split.streamed,
        logs=split.logs,
    )
    return data if items is None else _with_features(data, items, settings)


class Split(NamedTuple):
    """A log split into training and validation users."""

    vocabulary: Vocabulary  # the items of the training users
    users: pl.Series  # ids of the training users; empty if the log was streamed
    train: Sequences  # their events
    scored: Log  # training users whose scores show overfitting
    valid: Log
    plan: ReadingPlan  # of the log
    ties: int  # events at the same time as the event before
    repeats: int  # events with the same user, time and item as an earlier one
    incomplete: int  # rows without a user, an item or an order
    streamed: bool  # whether the events stay on disk
    truth: Log | None = None  # what follows `valid`. None: its last items, or a file
    logs: tuple[str, ...] = ()  # the checksum of the log; () if it was streamed


def _split_in_memory(log: Any, valid: Any, settings: RecommendSettings) -> Split:
    """Read a log into memory and split it."""
    whole, name = as_log(log, settings.data), name_of(log, "training log")
    check_lengths(whole.lengths, cut_of(settings)["history"], name)
    truth = None
    _check_protocol(valid, settings)
    if settings.data.protocol == "leave-one-out":
        train, held_out = leave_last_out(whole)
    elif settings.data.protocol == "time":
        data = settings.data
        train, truth = split_at(whole, data.until, most=data.next, days=data.horizon)
        held_out = train
    elif valid is None:
        eligible = whole.lengths > shortest_history(settings)
        fraction, seed = settings.data.valid_fraction, settings.seed
        train, held_out = split_users(whole, fraction=fraction, seed=seed, eligible=eligible)
    else:
        train, held_out = whole, _read_valid(valid, whole, settings)
    if settings.model.name == "concat_mlp":
        check_lengths(train.lengths, settings.data.history, name)
    vocabulary = Vocabulary.of(train.items, whole.plan.kind("item"))
    events = encode_log(train, vocabulary)[0]
    counts = (whole.ties, whole.repeats, whole.incomplete)
    logs = (log_checksum(whole),)
    return Split(vocabulary, train.users, events, train, held_out, whole.plan, *counts, False, truth, logs)


def _check_protocol(valid: Any, settings: RecommendSettings) -> None:
    """Raise ConfigError for validation users beside a protocol that has its own, and for a moment without protocol."""
    data = settings.data
    if data.protocol == "leave-one-out" and valid is not None:
        raise ConfigError(
            "`settings={'data.protocol': 'leave-one-out'}` validates on each user's second-last item. "
            "Leave `valid=` out"
        )
    if data.protocol == "time" and valid is not None:
        raise ConfigError(
            "`settings={'data.protocol': 'time'}` validates on what comes after a moment. Leave `valid=` out"
        )
    if data.protocol != "time" and (data.until or data.horizon):
        raise ConfigError(
            f"data.until and data.horizon are for data.protocol = 'time', and it is {data.protocol!r}. Leave them out"
        )


def _split_streamed(log: Any, valid: Any, settings: RecommendSettings) -> Split:
    """Stream a log into mapped files, or map the files of an earlier run, and split it.

    The training users have no ids here, and only the first TRAIN_USERS_SCORED long enough are scored.
    """
    logger.info("%s: streamed through mapped files in %s", log, default_cache())
    data = settings.data
    key = key_of(Path(log), [data.user, data.item, data.order, data.order_kind])
    whole = MappedLog.from_arrays(cached_streamed(_folder(), key, lambda work: stream_log(log, data, work).to_arrays()))
    shortest = cut_of(settings)["history"]
    check_lengths(whole.lengths, shortest, str(log))
    if valid is None:
        held_out = draw_users(whole.lengths > shortest_history(settings), data.valid_fraction, settings.seed)
        valid_log = whole.select(np.flatnonzero(held_out))
    else:
        held_out = np.zeros(len(whole), dtype=np.bool_)
        valid_log = _read_valid(valid, whole, settings)
    vocabulary, train = _map_training(whole, ~held_out, key)
    scored = whole.select(np.flatnonzero(~held_out & (whole.lengths > shortest))[:TRAIN_USERS_SCORED])
    return Split(
        vocabulary,
        whole.users.clear(),
        train,
        scored,
        valid_log,
        whole.plan,
        whole.ties,
        whole.repeats,
        whole.incomplete,
        True,
    )


def _read_valid(valid: Any, train: Log | MappedLog, settings: RecommendSettings) -> Log:
    log = as_log(valid, reading_of(train.plan, settings.data), train.plan.kind("item"))
    check_leak(train.users, log.users, units="users", name=name_of(valid, "validation log"))
    return log


def _map_training(log: MappedLog, trains: NDArray[np.bool_], key: str) -> tuple[Vocabulary, Sequences]:
    """Return the items and events of the users who train, (U,) bool, mapped from a file named after the log's key."""
    in_training = count_items(log, trains) > 0
    vocabulary = Vocabulary(log.ids.filter(pl.Series(in_training)), log.plan.kind("item"))
    numbers = (np.cumsum(in_training) - 1).astype(np.int32)
    key = hash_of(FORMAT, key, hashlib.sha256(trains.tobytes()).hexdigest())
    arrays = cached_streamed(_folder(), key, lambda work: keep_users(log, trains, numbers, work / "items.bin"))
    return vocabulary, as_sequences(arrays, len(vocabulary))


def _folder() -> Path:
    return default_cache() / "logs"


def _no_streaming(log: Any, settings: RecommendSettings) -> str:
    """Return why the log cannot be streamed, or ""."""
    if not isinstance(log, str | Path):
        return "for a log that is in memory already"
    if settings.data.protocol != "users":
        return f"with data.protocol = {settings.data.protocol!r}, which holds out items of every user"
    if settings.model.name not in STREAMED_MODELS:
        return f"with model {settings.model.name}. Those that learn from a streamed log: {', '.join(STREAMED_MODELS)}"
    return ""


def _with_features(data: Prepared, items: Any, settings: RecommendSettings) -> Prepared:
    """Return the data with an item table, and its features if the model reads them; errors as in `fit_features`."""
    table = read_items(items, data.plan.name("item"), data.vocabulary.kind)
    counts, columns, features = table_counts(table, data.vocabulary), data.columns, data.features
    if reads_features(table, settings):
        events = torch.bincount(data.train.items, minlength=len(data.vocabulary))
        columns, features, described = fit_features(table, data.vocabulary, events, settings)
        counts |= described
    return replace(data, counts=data.counts | {"item_table": counts}, features=features, columns=columns, table=table)


def recut(data: Prepared, settings: RecommendSettings) -> Prepared:
    """Return the data with the examples of another model."""
    examples = training_examples(data.train, settings)
    counts = data.counts | {"examples": len(examples), "skipped_users": examples.skipped}
    return replace(data, examples=examples, counts=counts)


def training_examples(sequences: Sequences, settings: RecommendSettings) -> Examples | Windows:
    """Return the examples of the settings' network; raise DataError if a network has none."""
    data, name = settings.data, settings.model.name
    examples: Examples | Windows
    if name in CAUSAL:
        examples = cut_windows(sequences, history=data.history, ahead=data.ahead)
    else:
        examples = cut_examples(sequences, history=data.history, next_items=data.next, every=data.examples == "every")
    if not len(examples) and name not in COUNTING:
        shortest = data.history + 1 if name == "concat_mlp" else 2
        raise DataError(f"no user has {shortest} items to learn from besides the held-out ones. Give longer logs")
    return examples


def hold_out(
    log: Any, truth: Any, vocabulary: Vocabulary, reading: LogReading, *, cut: dict[str, int], name: str
) -> Holdout:
    """Return the users of a log with histories and truth.

    Args:
        log: the histories: path, frame or Log.
        truth: the items that follow, in any of these forms. None: the last items of the histories.
        vocabulary: the training items.
        reading: names of the columns in both, or the plan of the run.
        cut: where histories are cut if there is no truth, as `cut_of` returns it.
        name: of the log in messages.

    Raises:
        DataError: no user can be scored; a log cannot be read.
    """
    histories = as_log(log, reading, vocabulary.kind)
    if truth is None:
        holdout = hold_out_last(histories, vocabulary, **cut)
    else:
        holdout = hold_out_truth(histories, as_log(truth, reading, vocabulary.kind), vocabulary)
    holdout.check_users(name, vocabulary.names[0])
    return holdout


def cut_of(settings: RecommendSettings, *, test: bool = False) -> dict[str, int]:
    """Return where `hold_out_last` cuts: the shortest history, and the number of items held out.

    Leave-one-out holds one item out, of users with any history. For `test` users it leaves out those whose last item
    was in training.
    """
    if settings.data.protocol == "leave-one-out":
        return {"history": SHORTEST_LEFT_OUT - 1 if test else 1, "next_items": 1}
    return {"history": shortest_history(settings), "next_items": settings.data.next}


def shortest_history(settings: RecommendSettings) -> int:
    """Return the number of items that a user needs before the truth: `data.history` for concat_mlp, else 1."""
    return settings.data.history if settings.model.name == "concat_mlp" else 1


def name_of(log: Any, otherwise: str) -> str:
    """Return the path of a log for messages, or another name if it has none."""
    return str(log) if isinstance(log, str | Path) else otherwise


def check_lengths(lengths: NDArray[np.int64], history: int, name: str) -> None:
    """Raise DataError, naming the log, if none of the (U,) lengths is above `history`."""
    longest = int(lengths.max(initial=0))
    if longest <= history:
        raise DataError(
            f"{name}: no user has {history + 1} items or more; the longest has {longest}. "
            f"Training reads {history} and predicts what follows: give a smaller `history=`, or longer logs"
        )


def check_depths(settings: RecommendSettings, num_items: int) -> None:
    """Raise ConfigError if the settings ask for rankings that are longer than the catalogue."""
    depths = {"data.next": settings.data.next, "train.metric": int(settings.train.metric.partition("@")[2])}
    for key, depth in depths.items():
        if depth > num_items:
            raise ConfigError(f"{key} asks for the best {depth:,} items, but training has {num_items:,}. Lower it")
