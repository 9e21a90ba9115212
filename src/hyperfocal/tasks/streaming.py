"""A log larger than memory, prepared for training: streamed into mapped files once, and kept in the cache."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from hyperfocal.cache import Arrays, cached, default_cache, hash_of
from hyperfocal.config.recommend import CAUSAL, RecommendSettings
from hyperfocal.data.mapped import MappedLog, as_sequences, count_items, keep_users
from hyperfocal.data.sequences import hold_out_last, hold_out_truth
from hyperfocal.data.splits import draw_users, refuse_shared_users
from hyperfocal.data.stream import stream_log
from hyperfocal.data.vocabulary import Vocabulary
from hyperfocal.errors import ConfigError, RunError
from hyperfocal.models.baselines import STREAMED
from hyperfocal.tasks.items import learn_features
from hyperfocal.tasks.preparation import (
    TRAIN_USERS_SCORED,
    Prepared,
    as_log,
    cut_of,
    name_of,
    refuse_deep,
    refuse_short,
    shortest_history,
    training_examples,
)

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
    return path.is_file() and path.stat().st_size > MEMORY_SHARE * memory_bytes()


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
    key = _key_of(Path(log), settings)
    whole = MappedLog.from_arrays(_kept(key, lambda work: stream_log(log, settings.data, work).to_arrays()))
    cut = cut_of(settings)
    refuse_short(whole.lengths, cut["history"], str(log))
    if valid is None and valid_truth is not None:
        raise ConfigError("--valid-truth says what follows the histories of --valid: give --valid too")
    held_out = _held_out(whole, valid, settings)
    if valid is None:
        valid_log = whole.select(np.flatnonzero(held_out))
    else:
        valid_log = as_log(valid, settings.data)
        refuse_shared_users(whole.users, valid_log, name=name_of(valid, "validation log"))
    counts = count_items(whole, ~held_out)
    vocabulary = Vocabulary(whole.ids.filter(counts > 0))
    refuse_deep(settings, len(vocabulary))
    numbers = (np.cumsum(counts > 0) - 1).astype(np.int32)
    part = hash_of(FORMAT, key, hashlib.sha256(held_out.tobytes()).hexdigest())
    arrays = _kept(part, lambda work: keep_users(whole, ~held_out, numbers, work / "items.bin"))
    train = as_sequences(arrays, len(vocabulary))
    examples = training_examples(train, settings)
    if valid_truth is None:
        holdout = hold_out_last(valid_log, vocabulary, **cut)
    else:
        holdout = hold_out_truth(valid_log, as_log(valid_truth, settings.data), vocabulary)
    holdout.refuse_empty(name_of(valid, "validation log"))
    scored = np.flatnonzero(~held_out & (whole.lengths > cut["history"]))[:TRAIN_USERS_SCORED]
    described = {
        "users": len(train),
        "items": len(vocabulary),
        "events": len(train.items),
        "examples": len(examples),
        "skipped_users": examples.skipped,
        "ties": whole.ties,
        "streamed": True,
        "valid": holdout.describe(),
    }
    prepared = Prepared(
        vocabulary,
        whole.users.clear(),
        train,
        examples,
        hold_out_last(whole.select(scored), vocabulary, **cut),
        holdout,
        described,
    )
    if items is None:
        return prepared
    events = torch.from_numpy(counts[counts > 0])
    columns, features, table = learn_features(items, vocabulary, events, settings)
    return replace(prepared, counts=described | {"item_table": table}, features=features, columns=columns)


def _held_out(log: MappedLog, valid: Any, settings: RecommendSettings) -> NDArray[np.bool_]:
    """Return (U,) which users validate: none where there is a validation log."""
    if valid is not None:
        return np.zeros(len(log), dtype=np.bool_)
    eligible = log.lengths > shortest_history(settings)
    return draw_users(eligible, settings.data.valid_fraction, settings.seed)


def _key_of(path: Path, settings: RecommendSettings) -> str:
    """Return a checksum of what a streamed log depends on: the file's name, size, time and ends, and its columns."""
    data = settings.data
    columns = [data.user, data.item, data.order, data.order_kind]
    if not path.is_file():
        return hash_of(FORMAT, str(path), columns)  # reading it will say what is wrong
    state = path.stat()
    with path.open("rb") as file:
        first = file.read(ENDS)
        file.seek(max(state.st_size - ENDS, 0))
        ends = hashlib.sha256(first + file.read()).hexdigest()
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
