"""Logs: the items of each user, oldest first, from a file, a frame or lists.

Formats: CSV, TSV, Parquet and JSON lines in long form, one row per event; plain text (.txt) with one line per user,
`user item item ...`; files of RecBole and MovieLens; and the programming-challenge format, which is recognised by its
header. All but Parquet may be compressed. Ids are compared as text: leading zeros, spaces, quotes and Unicode are
preserved.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from hyperfocal.config.recommend import DataSettings
from hyperfocal.data.files import MEMORY, File, check_rows
from hyperfocal.data.frames import as_series, is_missing
from hyperfocal.data.half_characters import refuse_halves
from hyperfocal.data.ids import IdKind, read_ids
from hyperfocal.data.log_columns import (
    Columns,
    OrderReader,
    check_roles,
    columns_by_plan,
    find_columns,
)
from hyperfocal.data.readers import read_source
from hyperfocal.data.reading import LISTS, PlannedColumn, ReadingPlan, Use, example_of
from hyperfocal.errors import DataError

logger = logging.getLogger("hyperfocal")
UNNAMED = ReadingPlan(LISTS, 0, (PlannedColumn("user", "user"), PlannedColumn("item", "item")))
LogReading = DataSettings | ReadingPlan  # names of columns to find, or the plan of a run


@dataclass(frozen=True, eq=False)
class Log:
    """The events of U users, oldest first, with raw ids.

    The items of user u are `items[offsets[u]:offsets[u + 1]]`.
    """

    users: pl.Series  # (U,) text, in order of first appearance
    items: pl.Series  # (N,) text
    offsets: NDArray[np.int64]  # (U + 1,) int64
    plan: ReadingPlan = UNNAMED  # how the log was read
    ties: int = 0  # events with the same user and time stamp as the event before; they keep the order of the file
    repeats: int = 0  # events with the same user, time stamp and item as an earlier one; they are kept
    incomplete: int = 0  # rows without a user, an item or an order, which are left out
    order: pl.Series | None = None  # (N,) position or time of each event. None: the rows were oldest first

    def __len__(self) -> int:
        """Return U, the number of users."""
        return len(self.users)

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Return (U,) the number of events of each user."""
        return np.diff(self.offsets)

    @classmethod
    @refuse_halves
    def from_lists(cls, histories: Iterable[Sequence[Any]]) -> Log:
        """Build from one list of item ids per user, without missing ones; users are numbered from 0.

        >>> Log.from_lists([["C12", "C7"], []]).lengths.tolist()
        [2, 0]
        """
        rows = [[item for item in row if not is_missing(item) and item != ""] for row in histories]
        column = as_series("item", [item for row in rows for item in row])
        items, kind = read_ids(column.cast(pl.String) if column.is_empty() else column, MEMORY, "")
        users = pl.Series("user", [str(number) for number in range(len(rows))], dtype=pl.String)
        plan = ReadingPlan(LISTS, len(items), (PlannedColumn("user", "user"), PlannedColumn("item", "item", kind)))
        return cls(users, items, offsets_of([*map(len, rows)]), plan)

    def select(self, users: NDArray[np.int64]) -> Log:
        """Return the log of the given users (row numbers), in that order."""
        places, offsets = places_of(self.offsets, users)
        rows = pl.Series(places, dtype=pl.UInt32)
        order = None if self.order is None else self.order.gather(rows)
        chosen = self.users.gather(pl.Series(users))
        return Log(chosen, self.items.gather(rows), offsets, self.plan, order=order)


def offsets_of(lengths: Sequence[int] | NDArray[np.integer[Any]]) -> NDArray[np.int64]:
    """Return (U + 1,) offsets of users with (U,) `lengths`."""
    return np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)


def places_of(offsets: NDArray[np.int64], users: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the row numbers of the events of the given users, user after user, and the users' new offsets."""
    lengths = offsets[users + 1] - offsets[users]
    selected = offsets_of(lengths)
    return np.repeat(offsets[users] - selected[:-1], lengths) + np.arange(selected[-1]), selected


def as_log(source: Any, reading: LogReading | None = None, item_kind: IdKind | None = None) -> Log:
    """Return the log in a file or a frame; a Log is returned as it is.

    Args:
        source: Log; frame, see `frames.is_frame`; or path: .csv, .tsv, .jsonl, .ndjson, .txt, .inter or .dat, all
            also compressed, or .parquet, also a folder or pattern of parts.
        reading: names of the user, item and order columns, "" finds them; or the plan of the run that reads.
        item_kind: of the items of the run that reads. None: as the plan or the column shows.

    Raises:
        DataError: another type of source, no such file, an empty or unreadable file, a missing column, an
            order that is neither number nor time, a position that a user has twice, no row with a user, an item and an
            order.
    """
    if isinstance(source, Log):
        return source
    frame, file = read_source(source, Log)
    return log_from_frame(frame, reading, file, item_kind)


def log_from_frame(
    frame: pl.DataFrame, reading: LogReading | None = None, file: File = MEMORY, item_kind: IdKind | None = None
) -> Log:
    """Return the log in the rows of a file, or of a block of it; errors as in `as_log`."""
    rows, columns = long_form(frame, reading or DataSettings(), file)
    return _group(rows, columns if item_kind is None else replace(columns, item_kind=item_kind), file)


def row_users(frame: pl.DataFrame, reading: LogReading | None, file: File) -> pl.Series:
    """Return the user of each row of a log, as text; null for a row without a user.

    Errors as in `as_log`.
    """
    rows, columns = long_form(frame, reading or DataSettings(), file)
    return read_ids(rows[columns.user], file, "", columns.user_kind)[0]


def long_form(frame: pl.DataFrame, reading: LogReading, file: File) -> tuple[pl.DataFrame, Columns]:
    """Return a frame with one row per event, and its columns; errors as in `as_log`."""
    plan = reading if isinstance(reading, ReadingPlan) else None
    kinds = (None, None) if plan is None else (plan.kind("user"), plan.kind("item"))
    if file.kind == "lines":
        return frame, Columns("user", "item", None, "lines", "auto", *kinds)
    names = set(frame.columns)
    named = reading.user or reading.item or reading.order if isinstance(reading, DataSettings) else plan
    if not named or (plan and plan.form == "challenge"):
        if names >= {"user_id", "challenge_sequence", "challenge"}:
            columns = Columns("user_id", "challenge", "challenge_sequence", "challenge", "position", *kinds)
            check_roles(columns, frame.columns, file)
            return frame, columns
        if names == {"user_sequence", "challenge"}:
            columns = Columns("user_id", "challenge", "position", "challenge", "position", *kinds)
            return _split_user_sequence(frame, file), columns
    if isinstance(reading, ReadingPlan) and reading.form == "long":  # the other forms have fixed names
        return frame, columns_by_plan(frame.columns, reading, file)
    settings = reading if isinstance(reading, DataSettings) else DataSettings()
    return frame, replace(find_columns(frame.columns, settings, file), user_kind=kinds[0], item_kind=kinds[1])


def _split_user_sequence(frame: pl.DataFrame, file: File) -> pl.DataFrame:
    """Split `user_sequence` ("17_11") into user "17" and position 11."""
    fields = frame["user_sequence"].cast(pl.String).str.extract_groups(r"^(.+)_(\d+)$").struct.unnest()
    user, position = fields.get_columns()
    if user.null_count():
        row = int(user.is_null().arg_max() or 0)
        raise DataError(
            f"{file.place(row)}: user_sequence {frame['user_sequence'][row]!r} is not <user>_<position>, such as "
            "17_11. Correct the row, or name the columns with `user=`, `item=` and `order=`"
        )
    return pl.DataFrame({"user_id": user, "challenge": frame["challenge"], "position": position})


def _group(frame: pl.DataFrame, columns: Columns, file: File) -> Log:
    """Group the rows by user, in order of first appearance, with each user's events oldest first."""
    check_rows(frame.height, file, "event")
    user, user_kind = read_ids(frame[columns.user], file, "", columns.user_kind)
    item, item_kind = read_ids(frame[columns.item], file, "", columns.item_kind)
    events = pl.DataFrame({"user": user, "item": item})
    keys, order_kind = ["user"], columns.order_kind
    if columns.order is not None:
        reader = OrderReader()
        events = events.with_columns(reader.read(frame[columns.order], file).alias("order"))
        order_kind = reader.resolve(columns.order_kind)
        keys.append("order")
    columns = replace(columns, order_kind=order_kind, user_kind=user_kind, item_kind=item_kind)
    examples = {name: example_of(frame[name]) for name in columns.names}
    plan = log_plan(frame.columns, columns, frame.height, missing_values(events), examples)
    del user, item, frame  # sorting needs the memory
    events, incomplete = complete_events(events)
    check_complete(events.height, incomplete, file)
    users = events["user"].unique(maintain_order=True)
    numbers = events["user"].cast(pl.Enum(users)).to_physical().cast(pl.UInt32)
    events = events.with_columns(user=numbers).sort(keys, maintain_order=True)
    ties = count_ties(events, users, columns, file)
    offsets = np.searchsorted(events["user"].to_numpy(), np.arange(len(users) + 1)).astype(np.int64)
    repeats, order = count_repeats(events, ties), events["order"] if columns.order is not None else None
    return Log(users.alias("user"), events["item"], offsets, plan, ties, repeats, incomplete, order)


def missing_values(events: pl.DataFrame) -> dict[str, int]:
    """Return the number of rows without a value, by use."""
    return {column.name: column.null_count() for column in events.get_columns()}


def complete_events(events: pl.DataFrame) -> tuple[pl.DataFrame, int]:
    """Return the rows with a user, an item and an order, and the number of the others."""
    complete = events.drop_nulls() if any(missing_values(events).values()) else events
    return complete, events.height - complete.height


def check_complete(rows: int, incomplete: int, file: File) -> None:
    """Warn of the rows that are left out; raise DataError if no others are left."""
    if incomplete and not rows:
        raise DataError(f"{file}: none of {incomplete:,} rows has a user, an item and an order. Check the columns")
    if incomplete:
        total = rows + incomplete
        logger.warning("%s: %s of %s rows have no user, item or order; left out", file, f"{incomplete:,}", f"{total:,}")


def log_plan(
    header: Iterable[str], columns: Columns, rows: int, missing: Mapping[str, int], examples: Mapping[str, str]
) -> ReadingPlan:
    """Return how a log was read.

    Args:
        header: names of all columns.
        columns: the columns that are read, with the kinds of their ids.
        rows: number of rows.
        missing: use -> rows without a value.
        examples: name -> first value.
    """
    names: dict[Use, str] = {"user": columns.user, "item": columns.item}
    uses = names | ({"order": columns.order} if columns.order else {})
    types = {"user": columns.user_kind, "item": columns.item_kind, "order": columns.order_kind}
    planned = [
        PlannedColumn(name, use, types[use] or "text", missing[use], examples[name]) for use, name in uses.items()
    ]
    ignored = [name for name in header if name not in uses.values()]
    return ReadingPlan(columns.form, rows, tuple(planned), tuple(ignored))


def count_repeats(events: pl.DataFrame, ties: int) -> int:
    """Return how many events have the same user, order and item as an earlier one; 0 without an order."""
    if not ties:
        return 0
    tied = events.filter(events.select("user", "order").is_duplicated())
    return tied.height - tied.n_unique()


def count_ties(events: pl.DataFrame, users: pl.Series, columns: Columns, file: File) -> int:
    """Return how many sorted events have the same user and order as the event before; 0 without an order.

    Raises:
        DataError: the order is a position, and a user has one twice.
    """
    if columns.order is None:
        return 0
    user, order = events["user"], events["order"]
    tied = ((user == user.shift(1)) & (order == order.shift(1))).fill_null(value=False)
    if tied.any() and columns.order_kind == "position":
        row = int(tied.arg_max() or 0)
        raise DataError(
            f"{file}: user {users[int(user[row])]!r} has {columns.order} {order[row]} twice, but a position belongs to "
            "one event. Remove one of the rows, or, if the column is a time, "
            "add `settings={'data.order_kind': 'time'}`: then rows with equal times keep the order of the file"
        )
    return int(tied.sum())
