"""Logs larger than memory: item numbers in a memory-mapped file, ids and offsets in memory.

`stream_log` reads a file in three steps, with memory that does not grow with the number of events:

    1  Read the file in blocks. Number the items as they appear, and write each row (user, item number, order, row
       number) to the partition of its user.
    2  Sort each partition by user and order, and write its item numbers.
    3  Put the users of all partitions in order of first appearance, and number the items in order of their ids.

Users, order, ties and errors are those of `as_log`. Memory holds a block or a partition, the ids of items and users,
and a few numbers per user.
"""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, NamedTuple

import msgspec
import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray

from hyperfocal.config.recommend import DataSettings
from hyperfocal.data.blocks import read_blocks
from hyperfocal.data.files import File, check_rows
from hyperfocal.data.ids import IdKind, IdReader, NotWhole
from hyperfocal.data.log_columns import Columns, OrderReader
from hyperfocal.data.logs import (
    Log,
    check_complete,
    complete_events,
    count_repeats,
    count_ties,
    log_plan,
    long_form,
    missing_values,
    offsets_of,
    places_of,
)
from hyperfocal.data.partitions import partition_folders, write_partitions
from hyperfocal.data.reading import ReadingPlan, example_of
from hyperfocal.sequences import Sequences, user_blocks
from hyperfocal.storage.cache import Arrays, map_file, pack, unpack

BLOCK_EVENTS = 2**22  # events of a mapped log in memory at once
BLOCK_ROWS = 1_000_000  # rows of the file in memory at once


@dataclass(frozen=True, eq=False)
class MappedLog:
    """A log whose events are item numbers in a file; only ids and offsets are in memory.

    The items of user u are `ids[items[offsets[u]:offsets[u + 1]]]`.
    """

    users: pl.Series  # (U,) text, in order of first appearance
    ids: pl.Series  # (L,) text, all items of the log, ascending
    items: NDArray[np.int32]  # (N,) int32, mapped
    offsets: NDArray[np.int64]  # (U + 1,) int64
    plan: ReadingPlan  # this and the following as in `Log`
    ties: int
    repeats: int
    incomplete: int

    def __len__(self) -> int:
        """Return U, the number of users."""
        return len(self.users)

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Return (U,) the number of events of each user."""
        return np.diff(self.offsets)

    def select(self, users: NDArray[np.int64]) -> Log:
        """Return the log of the given users (row numbers), in that order and in memory."""
        places, offsets = places_of(self.offsets, users)
        items = self.ids.gather(pl.Series(self.items[places], dtype=pl.UInt32)).alias("item")
        names = self.users.gather(pl.Series(users, dtype=pl.UInt32))
        return Log(names, items, offsets, self.plan)

    def to_arrays(self) -> Arrays:
        """Return the arrays that `from_arrays` reads."""
        counts = {"ties": self.ties, "repeats": self.repeats, "incomplete": self.incomplete}
        facts = pl.DataFrame({"plan": msgspec.json.encode(self.plan).decode()} | counts)
        tables = {"users": self.users.to_frame("user"), "ids": self.ids.to_frame("item"), "facts": facts}
        packed = {name: pack(table) for name, table in tables.items()}
        return {"items": self.items, "offsets": self.offsets, **packed}

    @classmethod
    def from_arrays(cls, arrays: Arrays) -> MappedLog:
        """Build from the arrays of `to_arrays`."""
        users, ids, facts = (unpack(arrays[name]) for name in ("users", "ids", "facts"))
        plan, *counts = facts.row(0)
        plan = msgspec.json.decode(plan, type=ReadingPlan)
        return cls(users["user"], ids["item"], arrays["items"], arrays["offsets"], plan, *counts)


def stream_log(path: str | Path, settings: DataSettings, work: Path) -> MappedLog:
    """Return the log in a file, with its events in a file in the folder `work`.

    Args:
        path, settings: as in `as_log`.
        work: empty folder, with room for about 40 bytes per event.

    Raises:
        DataError: as in `as_log`.
        OSError: `work` cannot be written.
    """
    file = File(Path(path))
    try:
        source = _partition(file, settings, work)
        with (work / "sorted.bin").open("wb") as items:
            partitions = [_sort_partition(folder, source, file, items) for folder in partition_folders(work)]
        return _join(partitions, source, work)
    except pl.exceptions.PolarsError as error:  # a full disk, when temporary files are written or read
        raise OSError(str(error)) from error


class _Source(NamedTuple):
    """Facts about a whole file, from its first pass."""

    columns: Columns  # with the kinds resolved
    plan: ReadingPlan
    incomplete: int  # rows that are left out
    ids: pl.Series  # all items, in order of appearance
    order: pl.DataType | None  # type of the order column


class _Partition(NamedTuple):
    """The V users of one partition."""

    users: pl.Series  # (V,) text
    first_rows: NDArray[np.int64]  # (V,) row number of each user's first appearance in the file
    lengths: NDArray[np.int64]  # (V,) number of events of each user
    ties: int
    repeats: int


def _partition(
    file: File, settings: DataSettings, work: Path, kinds: tuple[IdKind | None, IdKind | None] = (None, None)
) -> _Source:
    """Write the rows of the file to partitions by user; `kinds` are those of the users and the items, if known."""
    users, items, order = IdReader(kinds[0]), IdReader(kinds[1]), OrderReader()
    try:
        return _write_blocks(file, settings, work, users, items, order)
    except NotWhole:
        for folder in partition_folders(work):
            shutil.rmtree(folder)
        texts = [reader.kind == "text" for reader in (users, items)]
        return _partition(file, settings, work, ("text" if texts[0] else None, "text" if texts[1] else None))


def _write_blocks(
    file: File, settings: DataSettings, work: Path, users: IdReader, items: IdReader, order: OrderReader
) -> _Source:
    ids, rows, complete = pl.Series("item", [], dtype=pl.String), 0, 0
    header, missing, examples = dict[str, None](), Counter[str](), dict[str, str]()
    for number, block in enumerate(read_blocks(file.path, BLOCK_ROWS)):
        frame, columns = long_form(block.frame, settings, block.file)
        read = {
            "user": users.read(frame[columns.user], block.file),
            "item": items.read(frame[columns.item], block.file),
        }
        if columns.order is not None:
            read["order"] = order.read(frame[columns.order], block.file)
        events = pl.DataFrame(read)
        missing.update(missing_values(events))
        events, _ = complete_events(events.with_columns(row=np.arange(rows, rows + frame.height)))
        ids, numbers = _number(ids, events["item"])
        write_partitions(events.with_columns(item=numbers), "user", work, number)
        rows, complete = rows + frame.height, complete + events.height
        header |= dict.fromkeys(frame.columns)
        examples = {name: examples.get(name) or example_of(frame[name]) for name in columns.names}
    check_rows(rows, file, "event")
    check_complete(complete, rows - complete, file)
    columns = replace(columns, order_kind=order.resolve(columns.order_kind), user_kind=users.kind, item_kind=items.kind)
    return _Source(columns, log_plan(header, columns, rows, missing, examples), rows - complete, ids, order.dtype)


def _number(ids: pl.Series, items: pl.Series) -> tuple[pl.Series, pl.Series]:
    """Return the ids with new items appended, and the number of each item among them."""
    numbers = items.cast(pl.Enum(ids), strict=False)
    if numbers.null_count():
        ids = pl.concat([ids, items.filter(numbers.is_null()).unique(maintain_order=True).alias("item")])
        numbers = items.cast(pl.Enum(ids))
    return ids, numbers.to_physical().cast(pl.Int32)


def _sort_partition(folder: Path, source: _Source, file: File, items: IO[bytes]) -> _Partition:
    """Write the item numbers of a partition, user after user with oldest first, and remove its folder."""
    events = pl.concat([_read_events(path, source) for path in sorted(folder.iterdir())])
    shutil.rmtree(folder)
    users = events["user"].unique(maintain_order=True)
    events = events.with_columns(user=events["user"].cast(pl.Enum(users)).to_physical().cast(pl.UInt32))
    first_rows = events["row"].gather(events["user"].arg_unique().sort())
    keys = ["user"] if source.order is None else ["user", "order"]
    events = events.drop("row").sort(keys, maintain_order=True)
    ties = count_ties(events, users, source.columns, file)
    items.write(events["item"].to_numpy().tobytes())
    lengths = np.bincount(events["user"].to_numpy(), minlength=len(users))
    return _Partition(users, first_rows.to_numpy(), lengths, ties, count_repeats(events, ties))


def _read_events(path: Path, source: _Source) -> pl.DataFrame:
    events = pl.read_ipc(path)
    return events if source.order is None else events.with_columns(events["order"].cast(source.order))


def _join(partitions: list[_Partition], source: _Source, work: Path) -> MappedLog:
    """Put all users in order of first appearance, and number the items in order of their ids."""
    order = np.argsort(np.concatenate([partition.first_rows for partition in partitions]))
    lengths = np.concatenate([partition.lengths for partition in partitions])
    starts = (np.cumsum(lengths) - lengths)[order]
    lengths = lengths[order]
    offsets = offsets_of(lengths)
    ids = source.ids.sort()
    numbers = source.ids.cast(pl.Enum(ids)).to_physical().cast(pl.Int32).to_numpy()
    partitioned = map_items(work / "sorted.bin")
    with (work / "items.bin").open("wb") as file:
        for block in user_blocks(offsets, BLOCK_EVENTS):
            shifts = starts[block] - (offsets[block] - offsets[block.start])
            places = np.repeat(shifts, lengths[block])
            places += np.arange(len(places))
            file.write(numbers[partitioned[places]].tobytes())
    users = pl.concat([partition.users for partition in partitions]).gather(pl.Series(order, dtype=pl.UInt32))
    ties, repeats = (sum(getattr(partition, name) for partition in partitions) for name in ("ties", "repeats"))
    return MappedLog(
        users.alias("user"), ids, map_items(work / "items.bin"), offsets, source.plan, ties, repeats, source.incomplete
    )


def count_items(log: MappedLog, users: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Return (L,) the number of events of each item, among the users that the (U,) mask selects."""
    counts = np.zeros(len(log.ids), dtype=np.int64)
    for items in _select_blocks(log, users):
        counts += np.bincount(items, minlength=len(counts))
    return counts


def keep_users(log: MappedLog, users: NDArray[np.bool_], numbers: NDArray[np.int32], path: Path) -> Arrays:
    """Write the events of some users with new item numbers; return `items`, mapped, and `offsets`.

    Args:
        log: U users, L items.
        users: (U,) mask of the users to write.
        numbers: (L,) the new number of each item.
        path: file to write.

    Raises:
        OSError: the file cannot be written.
    """
    with path.open("wb") as file:
        for items in _select_blocks(log, users):
            file.write(numbers[items].tobytes())
    return {"items": map_items(path), "offsets": offsets_of(log.lengths[users])}


def _select_blocks(log: MappedLog, users: NDArray[np.bool_]) -> Iterator[NDArray[np.int32]]:
    """Yield the item numbers of the users that the (U,) mask selects, in blocks of about BLOCK_EVENTS events."""
    for block in user_blocks(log.offsets, BLOCK_EVENTS):
        offsets = log.offsets[block.start : block.stop + 1]
        yield log.items[offsets[0] : offsets[-1]][np.repeat(users[block], np.diff(offsets))]


def map_items(path: Path) -> NDArray[np.int32]:
    """Return the int32 item numbers of a file, mapped."""
    return map_file(path, np.dtype(np.int32))


def as_sequences(arrays: Arrays, num_items: int) -> Sequences:
    """Return the `items` (int32) and `offsets` of `keep_users` as sequences."""
    return Sequences(torch.from_numpy(arrays["items"]), torch.from_numpy(arrays["offsets"]), num_items)
