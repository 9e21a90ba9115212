"""From a log file of any size to a mapped log, in memory that does not grow with its events.

    1  The file is read in blocks. Items are numbered as they appear, and each row goes to one of PARTS files, by the
       hash of its user: user, item number, order, row number.
    2  Each part, which holds its users whole, is sorted by user and order, and its item numbers are written down.
    3  The users of all parts are put in the order of their first appearance, and the items numbered by their ids.

What comes out is what `read_log` gives, users, order, ties and errors included. In memory are a block or a part, the
ids of items and users, and a few numbers a user.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

from hyperfocal.config.recommend import DataSettings
from hyperfocal.data.blocks import read_blocks
from hyperfocal.data.columns import Columns
from hyperfocal.data.files import File
from hyperfocal.data.mapped import BLOCK_EVENTS, MappedLog, map_items
from hyperfocal.data.orders import OrderReader
from hyperfocal.data.tables import Form, OrderKind, count_ties, formed, read_ids
from hyperfocal.errors import DataError
from hyperfocal.sequences import user_blocks

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
