"""Logs: the items of each user, oldest first, from a file, a frame or lists.

Formats: CSV, TSV (also .gz), Parquet and JSON lines (also .gz) in long form, one row per event; plain text (.txt,
also .gz) with one line per user, `user item item ...`; and the programming-challenge format, which is recognised by
its header. Ids stay text: leading zeros, spaces, quotes and Unicode are preserved.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from hyperfocal.config.recommend import DataSettings
from hyperfocal.data.columns import read_ids
from hyperfocal.data.files import MEMORY, File, check_rows, read_source
from hyperfocal.data.frames import plain_text
from hyperfocal.data.log_columns import Columns, Form, check_roles, find_columns, read_order, resolve_kind
from hyperfocal.errors import DataError

ADVICE = "Every row needs a user and an item: complete the row or remove it"


@dataclass(frozen=True, eq=False)
class Log:
    """The events of U users, oldest first, with raw ids.

    The items of user u are `items[offsets[u]:offsets[u + 1]]`.
    """

    users: pl.Series  # (U,) text, in order of first appearance
    items: pl.Series  # (N,) text
    offsets: NDArray[np.int64]  # (U + 1,) int64
    user_column: str = "user"  # name of the user column, for predictions
    item_column: str = "item"  # name of the item column
    form: Form = "long"  # "challenge", "long" or "lines"
    ties: int = 0  # events with the same user and time stamp as the event before; they keep the order of the file

    def __len__(self) -> int:
        """Return U, the number of users."""
        return len(self.users)

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Return (U,) the number of events of each user."""
        return np.diff(self.offsets)

    @classmethod
    def from_lists(cls, histories: Iterable[Sequence[str]]) -> Log:
        """Build from one list of item ids per user; users are numbered from 0.

        >>> Log.from_lists([["C12", "C7"], []]).lengths.tolist()
        [2, 0]
        """
        rows = [[plain_text(item) for item in row] for row in histories]
        items = pl.Series("item", [item for row in rows for item in row], dtype=pl.String)
        users = pl.Series("user", [str(number) for number in range(len(rows))], dtype=pl.String)
        return cls(users, items, offsets_of([*map(len, rows)]))

    def select(self, users: NDArray[np.int64]) -> Log:
        """Return the log of the given users (row numbers), in that order."""
        places, offsets = places_of(self.offsets, users)
        items = self.items.gather(pl.Series(places, dtype=pl.UInt32))
        names = self.users.gather(pl.Series(users))
        return Log(names, items, offsets, self.user_column, self.item_column, self.form)


def offsets_of(lengths: Sequence[int] | NDArray[np.integer[Any]]) -> NDArray[np.int64]:
    """Return (U + 1,) offsets of users with (U,) `lengths`."""
    return np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)


def places_of(offsets: NDArray[np.int64], users: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the row numbers of the events of the given users, user after user, and the users' new offsets."""
    lengths = offsets[users + 1] - offsets[users]
    selected = offsets_of(lengths)
    return np.repeat(offsets[users] - selected[:-1], lengths) + np.arange(selected[-1]), selected


def as_log(source: Any, settings: DataSettings | None = None) -> Log:
    """Return the log in a file or a frame; a Log is returned as it is.

    Args:
        source: Log; frame, see `frames.is_frame`; or path: .csv, .tsv, .parquet, .jsonl, .ndjson or .txt, all but
            Parquet also with .gz.
        settings: names of the user, item and order columns; "" finds them.

    Raises:
        DataError: another type of source, no such file, an empty or unreadable file, a missing column, a row without
            a value, an order that is neither number nor time, a position that a user has twice.
    """
    if isinstance(source, Log):
        return source
    frame, file = read_source(source, Log)
    return log_from_frame(frame, settings, file)


def log_from_frame(frame: pl.DataFrame, settings: DataSettings | None = None, file: File = MEMORY) -> Log:
    """Return the log in the rows of a file, or of a block of it; errors as in `as_log`."""
    return _group(*long_form(frame, settings or DataSettings(), file), file)


def row_users(frame: pl.DataFrame, settings: DataSettings | None, file: File) -> pl.Series:
    """Return the user of each row of a log, as text; errors as in `as_log`."""
    rows, columns = long_form(frame, settings or DataSettings(), file)
    return read_ids(rows[columns.user], file, ADVICE)


def long_form(frame: pl.DataFrame, settings: DataSettings, file: File) -> tuple[pl.DataFrame, Columns]:
    """Return a frame with one row per event, and its columns; errors as in `as_log`."""
    if file.kind == "lines":
        return frame, Columns("user", "item", None, "lines")
    names = set(frame.columns)
    named = settings.user or settings.item or settings.order
    if not named and names >= {"user_id", "challenge_sequence", "challenge"}:
        columns = Columns("user_id", "challenge", "challenge_sequence", "challenge", "position")
        check_roles(columns, frame.columns, file)
        return frame, columns
    if not named and names == {"user_sequence", "challenge"}:
        columns = Columns("user_id", "challenge", "position", "challenge", "position")
        return _split_user_sequence(frame, file), columns
    return frame, find_columns(frame.columns, settings, file)


def _split_user_sequence(frame: pl.DataFrame, file: File) -> pl.DataFrame:
    """Split `user_sequence` ("17_11") into user "17" and position 11."""
    fields = frame["user_sequence"].cast(pl.String).str.extract_groups(r"^(.+)_(\d+)$").struct.unnest()
    user, position = fields.get_columns()
    if user.null_count():
        row = int(user.is_null().arg_max() or 0)
        raise DataError(
            f"{file.place(row)}: user_sequence {frame['user_sequence'][row]!r} is not <user>_<position>, such as "
            "17_11. Correct the row, or name the columns with --user, --item and --order"
        )
    return pl.DataFrame({"user_id": user, "challenge": frame["challenge"], "position": position})


def _group(frame: pl.DataFrame, columns: Columns, file: File) -> Log:
    """Group the rows by user, in order of first appearance, with each user's events oldest first."""
    check_rows(frame.height, file, "event")
    user, item = (read_ids(frame[name], file, ADVICE) for name in (columns.user, columns.item))
    users = user.unique(maintain_order=True)
    events = pl.DataFrame({"user": user.cast(pl.Enum(users)).to_physical().cast(pl.UInt32), "item": item})
    keys = ["user"]
    if columns.order is not None:
        events = events.with_columns(read_order(frame[columns.order], file).alias("order"))
        keys.append("order")
    del user, item, frame  # sorting needs the memory
    events = events.sort(keys, maintain_order=True)
    ties = count_ties(events, users, columns, file)
    offsets = np.searchsorted(events["user"].to_numpy(), np.arange(len(users) + 1)).astype(np.int64)
    return Log(users.alias("user"), events["item"], offsets, columns.user, columns.item, columns.form, ties)


def count_ties(events: pl.DataFrame, users: pl.Series, columns: Columns, file: File) -> int:
    """Return how many sorted events have the same user and order as the event before; 0 without an order.

    Raises:
        DataError: the order is a position, and a user has one twice.
    """
    if columns.order is None:
        return 0
    user, order = events["user"], events["order"]
    tied = ((user == user.shift(1)) & (order == order.shift(1))).fill_null(value=False)
    if tied.any() and resolve_kind(columns.order_kind, order.dtype, order.max()) == "position":
        row = int(tied.arg_max() or 0)
        raise DataError(
            f"{file}: user {users[int(user[row])]!r} has {columns.order} {order[row]} twice, but a position belongs to "
            "one event. Remove one of the rows, or, if the column is a time, "
            "add --set data.order_kind=time: then rows with equal times keep the order of the file"
        )
    return int(tied.sum())
