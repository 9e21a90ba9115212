"""A log larger than memory, prepared for training: streamed into mapped files once, and kept in the cache."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from hyperfocal.cache import Arrays, cached, default_cache, hash_of
from hyperfocal.config.recommend import CAUSAL, RecommendSettings
from hyperfocal.data.mapped import MappedLog, as_sequences, count_items, keep_users
from hyperfocal.data.sequences import hold_out_last
from hyperfocal.data.splits import draw_users, refuse_shared_users
from hyperfocal.data.stream import stream_log
from hyperfocal.data.tables import Log
from hyperfocal.data.vocabulary import Vocabulary
from hyperfocal.distributed import local_processes
from hyperfocal.errors import ConfigError, RunError
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

logger = logging.getLogger("hyperfocal")

FORMAT = 1  # of the cached arrays; a change of what they hold makes a new number
MODELS = (*CAUSAL, *STREAMED)
MEMORY_SHARE = (
    1 / 16
)  # of the memory: a larger file is streamed, for as rows and text it takes about ten times its size
MEMORY_LIMIT = Path("/sys/fs/cgroup/memory.max")  # of a container
ENDS = 2**16  # bytes at either end of a file that tell it from another of its size and time


def streams(log: Any, settings: RecommendSettings) -> bool:
    """Return whether a log is streamed: a file, and either asked for, or too large for memory and possible.

    Raises:
        ConfigError: asked for where it is not possible.
    """
    asked = settings.data.stream
    if asked == "off":
        return False
    reason = _impossible(log, settings)
    if asked == "on" and reason:
        raise ConfigError(f"data.stream = 'on' is not allowed {reason}. Leave it out to read the log into memory")
    return not reason and (asked == "on" or _is_large(Path(log)))


def _impossible(log: Any, settings: RecommendSettings) -> str:
    """Return why a log cannot be streamed, or ""."""
    if not isinstance(log, str | Path):
        return "for a log that is in memory already"
    if settings.data.protocol != "users":
        return f"with data.protocol = {settings.data.protocol!r}, which holds out items of every user"
    if settings.model.name not in MODELS:
        return f"with model {settings.model.name}. Those that learn from a streamed log: {', '.join(MODELS)}"
    return ""


def _is_large(path: Path) -> bool:
    return path.is_file() and path.stat().st_size > MEMORY_SHARE * memory_bytes() / local_processes()


def memory_bytes() -> int:
    """Return the memory of the machine, or of the container if that is less."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    try:
        return min(memory, int(MEMORY_LIMIT.read_text()))
    except (OSError, ValueError):  # no container, or "max"
        return memory


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
    key = _key_of(Path(log), settings)
    whole = MappedLog.from_arrays(_kept(key, lambda work: stream_log(log, settings.data, work).to_arrays()))
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


def _training_part(log: MappedLog, kept: NDArray[np.bool_], key: str) -> tuple[Vocabulary, Sequences]:
    """Return the items of the training users, and what these did, in a file of their own.

    Args:
        log: U users.
        kept: (U,) which train.
        key: checksum of the log.
    """
    known = count_items(log, kept) > 0
    vocabulary = Vocabulary(log.ids.filter(pl.Series(known)))
    numbers = (np.cumsum(known) - 1).astype(np.int32)
    key = hash_of(FORMAT, key, hashlib.sha256(kept.tobytes()).hexdigest())
    arrays = _kept(key, lambda work: keep_users(log, kept, numbers, work / "items.bin"))
    return vocabulary, as_sequences(arrays, len(vocabulary))


def _key_of(path: Path, settings: RecommendSettings) -> str:
    """Return a checksum of what a streamed log depends on: the file's name, size, time and ends, and its columns."""
    data = settings.data
    columns = [data.user, data.item, data.order, data.order_kind]
    try:
        state = path.stat()
        with path.open("rb") as file:
            first = file.read(ENDS)
            file.seek(max(state.st_size - ENDS, 0))
            ends = hashlib.sha256(first + file.read()).hexdigest()
    except OSError:  # reading it will say what is wrong
        return hash_of(FORMAT, str(path), columns)
    return hash_of(FORMAT, str(path.resolve()), state.st_size, state.st_mtime_ns, ends, columns)


def _kept(key: str, make: Callable[[Path], Arrays]) -> Arrays:
    """Return the arrays of the cache, mapped; or make them, in a folder that is gone afterwards, and keep them."""
    folder = default_cache() / "logs"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(prefix=".building-", dir=folder) as work:
            return cached(folder, key, partial(make, Path(work)))
    except OSError as error:
        raise RunError(
            f"cache {folder}: cannot be written ({error}). Free some space, or name another folder with the variable "
            "HYPERFOCAL_CACHE"
        ) from None
