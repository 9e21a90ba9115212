"""Logs larger than memory: item numbers on disk, mapped into memory, in the order of their users.

From a log file of any size to a mapped log, in memory that does not grow with its events.

    1  The file is read in blocks. Items are numbered as they appear, and each row goes to one of PARTS files, by the
       hash of its user: user, item number, order, row number.
    2  Each part, which holds its users whole, is sorted by user and order, and its item numbers are written down.
    3  The users of all parts are put in the order of their first appearance, and the items numbered by their ids.

What comes out is what `read_log` gives, users, order, ties and errors included. In memory are a block or a part, the
ids of items and users, and a few numbers a user.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray

from hyperfocal.config.recommend import DataSettings
from hyperfocal.data.blocks import read_blocks
from hyperfocal.data.files import File
from hyperfocal.data.logs import Columns, Form, Log, OrderKind, OrderReader, count_ties, formed, read_ids
from hyperfocal.errors import DataError
from hyperfocal.sequences import Sequences, user_blocks
from hyperfocal.storage.cache import Arrays, map_file, pack, unpack

BLOCK_EVENTS = 2**22  # events that a pass over a mapped log holds at once


@dataclass(frozen=True, eq=False)
class MappedLog:
    """A log whose events are numbers in a file, and of which only ids and offsets are in memory.

    User u did items `ids[items[offsets[u]:offsets[u + 1]]]`.

    Attributes:
        users: (U,) text, in order of first appearance.
        ids: (L,) text, every item of the log, ascending.
        items: (N,) int32, mapped.
        offsets: (U + 1,) int64.
        user_column, item_column, form, ties: as in `Log`.
    """

    users: pl.Series
    ids: pl.Series
    items: NDArray[np.int32]
    offsets: NDArray[np.int64]
    user_column: str
    item_column: str
    form: Form
    ties: int

    def __len__(self) -> int:
        """Return U, the number of users."""
        return len(self.users)

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Return (U,) the number of events of each user."""
        return np.diff(self.offsets)

    def select(self, users: NDArray[np.int64]) -> Log:
        """Return the given users (row numbers) with their events in memory."""
        lengths = self.lengths[users]
        offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        places = np.repeat(self.offsets[users] - offsets[:-1], lengths) + np.arange(offsets[-1])
        items = self.ids.gather(pl.Series(self.items[places], dtype=pl.UInt32)).alias("item")
        names = self.users.gather(pl.Series(users, dtype=pl.UInt32))
        return Log(names, items, offsets, self.user_column, self.item_column, self.form)

    def blocks(self) -> Iterator[slice]:
        """Yield the users in blocks of about BLOCK_EVENTS events."""
        yield from user_blocks(self.offsets, BLOCK_EVENTS)

    def to_arrays(self) -> Arrays:
        """Return what `from_arrays` reads."""
        facts = pl.DataFrame(
            {"user": [self.user_column], "item": [self.item_column], "form": [self.form], "ties": [self.ties]}
        )
        tables = {"users": self.users.to_frame("user"), "ids": self.ids.to_frame("item"), "facts": facts}
        packed = {name: pack(table) for name, table in tables.items()}
        return {"items": self.items, "offsets": self.offsets, **packed}

    @classmethod
    def from_arrays(cls, arrays: Arrays) -> MappedLog:
        """Build from `to_arrays`."""
        users, ids, facts = (unpack(arrays[name]) for name in ("users", "ids", "facts"))
        user_column, item_column, form, ties = facts.row(0)
        return cls(users["user"], ids["item"], arrays["items"], arrays["offsets"], user_column, item_column, form, ties)


def count_items(log: MappedLog, kept: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Return (L,) the events of each item, of the users that (U,) `kept` names."""
    counts = np.zeros(len(log.ids), dtype=np.int64)
    for block in log.blocks():
        counts += np.bincount(_events(log, block, kept), minlength=len(counts))
    return counts


def keep_users(log: MappedLog, kept: NDArray[np.bool_], numbers: NDArray[np.int32], path: Path) -> Arrays:
    """Write the events of some users under other numbers; return `items`, mapped, and `offsets`.

    Args:
        log: U users over L items.
        kept: (U,) which users.
        numbers: (L,) the new number of each item that they have.
        path: of the file to write.

    Raises:
        OSError: it cannot be written.
    """
    offsets = np.concatenate([[0], np.cumsum(log.lengths[kept])]).astype(np.int64)
    with path.open("wb") as file:
        for block in log.blocks():
            file.write(numbers[_events(log, block, kept)].tobytes())
    return {"items": map_items(path), "offsets": offsets}


def map_items(path: Path) -> NDArray[np.int32]:
    """Return the int32 numbers of a file, mapped."""
    return map_file(path, np.dtype(np.int32))


def as_sequences(arrays: Arrays, num_items: int) -> Sequences:
    """Return mapped `items` and `offsets` as sequences; their item numbers are int32."""
    return Sequences(torch.from_numpy(arrays["items"]), torch.from_numpy(arrays["offsets"]), num_items)


def _events(log: MappedLog, block: slice, kept: NDArray[np.bool_]) -> NDArray[np.int32]:
    """Return the items of the kept users of a block."""
    offsets = log.offsets[block.start : block.stop + 1]
    events: NDArray[np.int32] = log.items[offsets[0] : offsets[-1]][np.repeat(kept[block], np.diff(offsets))]
    return events


BLOCK_ROWS = 1_000_000  # rows of the file in memory at once
PARTS = 64  # of 100 million events each holds 1.6 million


class Part(NamedTuple):
    """The users of one part.

    Attributes:
        users: (V,) text.
        firsts: (V,) int64, the row in the file where each first appears.
        lengths: (V,) int64, how many events each has.
        ties: events that share user and order with the one before.
    """

    users: pl.Series
    firsts: NDArray[np.int64]
    lengths: NDArray[np.int64]
    ties: int


class Source(NamedTuple):
    """What the first pass learns of a file.

    Attributes:
        columns, form, order_kind: as in `tables.formed`; the kind is resolved.
        ids: every item, as they appear.
        order: the dtype of the order; None without one.
    """

    columns: Columns
    form: Form
    order_kind: OrderKind
    ids: pl.Series
    order: pl.DataType | None


def stream_log(path: str | Path, columns: DataSettings, work: Path) -> MappedLog:
    """Return the log in a file as `read_log` does, its events in a file in the folder `work`.

    Args:
        path: as in `read_log`.
        columns: as in `read_log`.
        work: an empty folder, with room for about 40 bytes an event.

    Raises:
        DataError: as in `read_log`.
        OSError: `work` cannot be written.
    """
    file = File(Path(path))
    try:
        source = _scatter(file, columns, work)
        with (work / "parts.bin").open("wb") as items:
            parts = [_sort_part(folder, source, file, items) for folder in sorted(work.glob("part-*"))]
        return _gather(parts, source, work)
    except pl.exceptions.PolarsError as error:  # of writing and reading what was written: a full disk
        raise OSError(str(error)) from error


def _scatter(file: File, settings: DataSettings, work: Path) -> Source:
    """Write the rows to their parts."""
    assert file.path is not None
    ids, order, rows = pl.Series("item", [], dtype=pl.String), OrderReader(), 0
    for number, block in enumerate(read_blocks(file.path, BLOCK_ROWS)):
        frame, columns, form, placed, kind = formed(block.frame, settings, block.file)
        ids, codes = _numbered(ids, read_ids(frame[columns.item], placed))
        user = read_ids(frame[columns.user], placed).alias("user")
        table = pl.DataFrame({"user": user, "item": codes, "row": np.arange(rows, rows + len(user))})
        if columns.order is not None:
            table = table.with_columns(order.take(frame[columns.order], placed).alias("order"))
        _write_parts(table, work, number)
        rows += len(user)
    if rows == 0:
        raise DataError(f"{file}: holds no rows. Give a file with one row an event")
    return Source(columns, form, order.resolve(kind), ids, order.dtype)


def _numbered(ids: pl.Series, items: pl.Series) -> tuple[pl.Series, pl.Series]:
    """Return the ids with those of the items that are new after them, and the number of each item among them."""
    codes = items.cast(pl.Enum(ids), strict=False)
    if codes.null_count():
        ids = pl.concat([ids, items.filter(codes.is_null()).unique(maintain_order=True).alias("item")])
        codes = items.cast(pl.Enum(ids))
    return ids, codes.to_physical().cast(pl.Int32)


def _write_parts(table: pl.DataFrame, work: Path, number: int) -> None:
    """Write the rows of one block, each to the part of its user."""
    parted = table.with_columns(part=table["user"].hash(0) % PARTS)
    for (part,), rows in parted.partition_by("part", as_dict=True, include_key=False).items():
        folder = work / f"part-{part:03}"
        folder.mkdir(exist_ok=True)
        rows.write_ipc(folder / f"{number:06}.arrow", compression="lz4")


def _sort_part(folder: Path, source: Source, file: File, items: IO[bytes]) -> Part:
    """Write the item numbers of a part, user after user and each oldest first, and remove the part."""
    table = pl.concat([_read_rows(path, source) for path in sorted(folder.iterdir())])
    shutil.rmtree(folder)
    users = table["user"].unique(maintain_order=True)
    table = table.with_columns(user=table["user"].cast(pl.Enum(users)).to_physical().cast(pl.UInt32))
    firsts = table["row"].gather(table["user"].arg_unique().sort())
    keys = ["user"] if source.order is None else ["user", "order"]
    ordered = table.drop("row").sort(keys, maintain_order=True)
    ties = 0 if source.order is None else count_ties(ordered, users, source.order_kind, source.columns, file)
    items.write(ordered["item"].to_numpy().tobytes())
    lengths = np.bincount(ordered["user"].to_numpy(), minlength=len(users))
    return Part(users, firsts.to_numpy(), lengths, ties)


def _read_rows(path: Path, source: Source) -> pl.DataFrame:
    rows = pl.read_ipc(path)
    return rows if source.order is None else rows.with_columns(rows["order"].cast(source.order))


def _gather(parts: list[Part], source: Source, work: Path) -> MappedLog:
    """Put the users of all parts in the order in which they appear, and number the items by their ids."""
    order = np.argsort(np.concatenate([part.firsts for part in parts]))
    lengths = np.concatenate([part.lengths for part in parts])
    starts = (np.cumsum(lengths) - lengths)[order]
    lengths = lengths[order]
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    ids = source.ids.sort()
    numbers = source.ids.cast(pl.Enum(ids)).to_physical().cast(pl.Int32).to_numpy()
    scattered = map_items(work / "parts.bin")
    with (work / "items.bin").open("wb") as file:
        for block in user_blocks(offsets, BLOCK_EVENTS):
            shifts = starts[block] - (offsets[block] - offsets[block.start])
            places = np.repeat(shifts, lengths[block])
            places += np.arange(len(places))
            file.write(numbers[scattered[places]].tobytes())
    users = pl.concat([part.users for part in parts]).gather(pl.Series(order, dtype=pl.UInt32)).alias("user")
    ties = sum(part.ties for part in parts)
    columns = source.columns
    items = map_items(work / "items.bin")
    return MappedLog(users, ids, items, offsets, columns.user, columns.item, source.form, ties)
