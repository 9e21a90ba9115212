"""Logs: who did what in which order, read from a file or a frame.

Formats: CSV, TSV (also .gz), Parquet, JSON lines (also .gz) in long form, a row an event; plain text
(.txt, also .gz) with a user a line, `user item item ...`; and the programming-challenge format,
recognised by its header. Ids stay text: leading zeros, spaces, quotes and Unicode survive.

Which column is the user, which the item, which the order.

The order column of a file that is read in blocks: every block read alike, as if the file were read at once.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray

from hyperfocal.config.recommend import DataSettings
from hyperfocal.data.files import File, is_plain, read_frame
from hyperfocal.errors import DataError, did_you_mean

if TYPE_CHECKING:
    from hyperfocal.config.recommend import DataSettings
    from hyperfocal.data.files import File


POSITION_LIMIT = 10_000_000  # integers from here on are time stamps, below they are positions

MEMORY = File(None)

Form = Literal["challenge", "long", "lines"]
OrderKind = Literal["auto", "position", "time"]


@dataclass(frozen=True, eq=False)
class Log:
    """What each user did, oldest first, with raw ids.

    User u did `items[offsets[u]:offsets[u + 1]]`.

    Attributes:
        users: (U,) text, in order of first appearance.
        items: (N,) text.
        offsets: (U + 1,) int64.
        user_column: name of the user column, which predictions repeat.
        item_column: name of the item column.
        form: "challenge", "long" or "lines".
        ties: events of one user that share their time stamp with the one before; they keep file order.
    """

    users: pl.Series
    items: pl.Series
    offsets: NDArray[np.int64]
    user_column: str = "user"
    item_column: str = "item"
    form: Form = "long"
    ties: int = 0

    def __len__(self) -> int:
        """Return U, the number of users."""
        return len(self.users)

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Return (U,) the number of events of each user."""
        return np.diff(self.offsets)

    @classmethod
    def from_lists(cls, histories: Iterable[Sequence[str]]) -> Log:
        """Build from one list of item ids a user; the users are numbered from 0.

        >>> Log.from_lists([["C12", "C7"], []]).lengths.tolist()
        [2, 0]
        """
        rows = [[str(item) for item in row] for row in histories]
        items = pl.Series("item", [item for row in rows for item in row], dtype=pl.String)
        users = pl.Series("user", [str(number) for number in range(len(rows))], dtype=pl.String)
        return cls(users, items, np.cumsum([0, *map(len, rows)], dtype=np.int64))

    def select(self, users: NDArray[np.int64]) -> Log:
        """Return the log of the given users (row numbers), in that order."""
        lengths = self.lengths[users]
        offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        places = np.repeat(self.offsets[users] - offsets[:-1], lengths) + np.arange(offsets[-1])
        chosen = pl.Series(users)
        return Log(
            self.users.gather(chosen),
            self.items.gather(pl.Series(places, dtype=pl.UInt32)),
            offsets,
            self.user_column,
            self.item_column,
            self.form,
        )


def read_log(path: str | Path, columns: DataSettings | None = None) -> Log:
    """Return the log in a file.

    Args:
        path: .csv, .tsv, .parquet, .jsonl, .ndjson or .txt; all but Parquet also with .gz.
        columns: names of the user, item and order columns; "" finds them.

    Raises:
        DataError: no such file, an empty or unreadable file, a missing column, a row without a value,
            an order that is neither number nor time, a position that a user has twice.
    """
    file = File(Path(path))
    return log_from_frame(read_frame(file), columns, file)


def log_from_frame(frame: pl.DataFrame, columns: DataSettings | None = None, file: File = MEMORY) -> Log:
    """Return the log in a frame in long or challenge form, or in the form of its file; errors as in `read_log`."""
    return _arrange(*formed(frame, columns or DataSettings(), file))


def row_users(frame: pl.DataFrame, columns: DataSettings | None, file: File) -> pl.Series:
    """Return the user of each row of a log, as text; errors as in `read_log`."""
    rows, found, *_ = formed(frame, columns or DataSettings(), file)
    return read_ids(rows[found.user], file)


def formed(
    frame: pl.DataFrame, settings: DataSettings, file: File
) -> tuple[pl.DataFrame, Columns, Form, File, OrderKind]:
    """Return the frame with its columns, form, file and kind of order; errors as in `read_log`."""
    if file.path is not None and file.kind == "lines":
        return frame, Columns("user", "item", None), "lines", file, "auto"
    names = set(frame.columns)
    asked = settings.user or settings.item or settings.order
    if not asked and names >= {"user_id", "challenge_sequence", "challenge"}:
        columns = Columns("user_id", "challenge", "challenge_sequence")
        refuse_twice(columns, frame.columns, file)
        return frame, columns, "challenge", file, "position"
    if not asked and names == {"user_sequence", "challenge"}:
        columns = Columns("user_id", "challenge", "position")
        return _split_user_sequence(frame, file), columns, "challenge", file, "position"
    return frame, find_columns(frame.columns, settings, file), "long", file, settings.order_kind


def _split_user_sequence(frame: pl.DataFrame, file: File) -> pl.DataFrame:
    """Turn `user_sequence` ("17_11") into user "17" and position 11."""
    parts = frame["user_sequence"].cast(pl.String).str.extract_groups(r"^(.+)_(\d+)$").struct.unnest()
    user, position = parts.get_columns()
    if user.null_count():
        row = int(user.is_null().arg_max() or 0)
        raise DataError(
            f"{file.place(row)}: user_sequence {frame['user_sequence'][row]!r} is not <user>_<position>, as 17_11. "
            "Mend the row or name the columns with --user, --item and --order"
        )
    return pl.DataFrame({"user_id": user, "challenge": frame["challenge"], "position": position})


def _arrange(frame: pl.DataFrame, columns: Columns, form: Form, file: File, order_kind: OrderKind) -> Log:
    """Group the rows by user, in order of first appearance, each user's events oldest first."""
    if frame.height == 0:
        raise DataError(f"{file}: holds no rows. Give a file with one row an event")
    user, item = (read_ids(frame[name], file) for name in (columns.user, columns.item))
    users = user.unique(maintain_order=True)
    sortable = pl.DataFrame({"user": user.cast(pl.Enum(users)).to_physical().cast(pl.UInt32), "item": item})
    keys = ["user"]
    if columns.order is not None:
        sortable = sortable.with_columns(read_order(frame[columns.order], file).alias("order"))
        keys.append("order")
    del user, item, frame
    ordered = sortable.sort(keys, maintain_order=True)
    ties = count_ties(ordered, users, order_kind, columns, file) if columns.order is not None else 0
    offsets = np.searchsorted(ordered["user"].to_numpy(), np.arange(len(users) + 1)).astype(np.int64)
    return Log(users.alias("user"), ordered["item"], offsets, columns.user, columns.item, form, ties)


def count_ties(ordered: pl.DataFrame, users: pl.Series, order_kind: str, columns: Columns, file: File) -> int:
    """Return how many events share user and order with the one before; a position twice is an error."""
    order = ordered["order"]
    tied = ((ordered["user"] == ordered["user"].shift(1)) & (order == order.shift(1))).fill_null(value=False)
    if order_kind == "auto":
        order_kind = "position" if order.dtype.is_integer() and int(order.max()) < POSITION_LIMIT else "time"  # type: ignore[arg-type]
    if order_kind == "position" and tied.any():
        row = int(tied.arg_max() or 0)
        raise DataError(
            f"{file}: user {users[int(ordered['user'][row])]!r} has {columns.order} {order[row]} twice; a position "
            "belongs to one event. Remove one of the rows, or, if the column is a time, "
            "add --set data.order_kind=time: then rows with equal times keep the order of the file"
        )
    return int(tied.sum())


def read_ids(series: pl.Series, file: File) -> pl.Series:
    """Return the ids as text, whole numbers without a ".0"; an id that is missing or empty is an error."""
    if series.dtype.is_float():
        text = series.fill_nan(None).cast(pl.String).str.strip_suffix(".0")
    elif not is_plain(series.dtype):
        raise DataError(f"{file}: column '{series.name}' holds {series.dtype}, not ids. Allowed: text and numbers")
    else:
        text = series.cast(pl.String)
    missing = text.is_null() | (text == "")
    if missing.any():
        row = int(missing.arg_max() or 0)
        raise DataError(
            f"{file.place(row)}: no value in column '{series.name}'{file.fields(row)}. Every row needs a user and "
            "an item: complete the row or remove it"
        )
    return text


def read_order(series: pl.Series, file: File) -> pl.Series:
    """Return the order as integers, floats or times, whichever reads every value."""
    if series.dtype in (pl.String, pl.Categorical, pl.Enum):
        order = _parsed(series.cast(pl.String).str.strip_chars())
    else:
        order = series
    if not (order.dtype.is_numeric() or order.dtype.is_temporal()):
        raise DataError(
            f"{file}: order column '{series.name}' holds {order.dtype}, not numbers or times. "
            "Name another column with --order"
        )
    bad = order.is_null() | (~order.is_finite() if order.dtype.is_float() else False)
    if bad.any():
        row = int(bad.arg_max() or 0)
        value = "no value" if series[row] is None else f"{series[row]!r} is neither a number nor a time"
        raise DataError(
            f"{file.place(row)}: order column '{series.name}': {value}{file.fields(row)}. Allowed are numbers, and "
            "ISO 8601 times as 2024-05-31T12:00:00, all with or all without a time zone"
        )
    return order


def _parsed(text: pl.Series) -> pl.Series:
    """Return the first reading without a null, else the one with the fewest."""
    readings: list[pl.Series] = []
    for read in (_integers, _floats, _times):  # one after the other: times take long
        readings.append(read(text))
        if readings[-1].null_count() == 0:
            return readings[-1]
    return min(readings, key=pl.Series.null_count)


def _integers(text: pl.Series) -> pl.Series:
    return text.cast(pl.Int64, strict=False)


def _floats(text: pl.Series) -> pl.Series:
    return text.cast(pl.Float64, strict=False)


def _times(text: pl.Series) -> pl.Series:
    """Read times that begin with the year: what 01/02/2024 means is anybody's guess."""
    text = text.set(~text.str.contains(r"^\d{4}[-/]\d").fill_null(value=False), None)
    unit: Literal["ns", "us"] = "ns" if text.str.contains(r"\.\d{7}").any() else "us"  # us reaches further
    try:
        return text.str.to_datetime(strict=False, time_unit=unit)
    except pl.exceptions.PolarsError:  # no known format fits the first value
        return pl.Series(text.name, [None] * len(text), dtype=pl.Datetime)


KNOWN_NAMES = {
    "user": ("user", "user_id", "userid", "student", "customer", "customer_id", "visitor", "session", "session_id"),
    "item": (
        "item",
        "item_id",
        "itemid",
        "course",
        "challenge",
        "product",
        "product_id",
        "article",
        "movie",
        "movie_id",
    ),
    "order": ("order", "position", "timestamp", "time", "datetime", "date", "ts", "sequence"),
}


@dataclass(frozen=True)
class Columns:
    """The names of the columns; without an order, rows are in the order of the file."""

    user: str
    item: str
    order: str | None


def find_columns(found: list[str], settings: DataSettings, file: File) -> Columns:
    """Return the columns that the settings name, else those of known names, else the first three.

    Raises:
        DataError: a named column that is not there, or that is named twice; no telling which column is which.
    """
    named = {"user": settings.user, "item": settings.item, "order": settings.order}
    for name in filter(None, named.values()):
        if name not in found:
            raise DataError(f"{file}: no column '{name}'.{did_you_mean(name, found)} Columns found: {', '.join(found)}")
    lower = {column.lower(): column for column in reversed(found)}
    for role, names in KNOWN_NAMES.items():
        if not named[role]:
            named[role] = next((lower[n] for n in names if n in lower and lower[n] not in named.values()), "")
    if len(found) <= 3:
        rest = [column for column in found if column not in named.values()]
        _refuse_headless(rest, found, file)
        for role in named:
            named[role] = named[role] or (rest.pop(0) if rest else "")
    missing = [role for role in named if not named[role] and (role != "order" or len(found) > 2)]
    if missing:
        raise DataError(
            f"{file}: cannot tell which column is the {missing[0]}. Name it with --{missing[0]} COLUMN. "
            f"Columns found: {', '.join(found)}"
        )
    columns = Columns(named["user"], named["item"], named["order"] or None)
    refuse_twice(columns, found, file)
    return columns


def refuse_twice(columns: Columns, found: list[str], file: File) -> None:
    """Raise DataError if one column has two roles, or the header has the name of a column twice."""
    names = [columns.user, columns.item, columns.order]
    for name in filter(None, names):
        if names.count(name) > 1:
            raise DataError(f"{file}: column '{name}' cannot be two of user, item and order. Name one column for each")
        if f"{name}_duplicated_0" in found:  # so polars renames the second
            raise DataError(f"{file}: the header has column '{name}' twice. Rename one of them")


def _refuse_headless(names: list[str], found: list[str], file: File) -> None:
    """Raise DataError if the header of a CSV file, of which the given names mean nothing, looks like a row."""
    if file.path is not None and file.kind == "csv" and any(re.fullmatch(r"-?\d+(\.\d+)?", name) for name in names):
        raise DataError(
            f"{file}: the first line looks like a row, not a header: {', '.join(found)}. Add a header, as "
            "user,item,position, or name the columns with --user, --item and --order"
        )


@dataclass
class OrderReader:
    """Reads one block after another.

    Attributes:
        dtype: in which the values of all blocks so far can be compared; None before the first.
        largest: of integers so far.
    """

    dtype: pl.DataType | None = None
    largest: int = 0

    def take(self, series: pl.Series, file: File) -> pl.Series:
        """Return the order of a block's rows; errors as in `read_order`.

        Raises:
            DataError: earlier blocks have numbers and this one times, or the other way round.
        """
        order = read_order(series, file)
        both = order.dtype if self.dtype is None else _common(self.dtype, order.dtype)
        if both is None:
            raise DataError(
                f"{file.place(0)}: order column '{series.name}': {series[0]!r} is not of the kind of the rows before, "
                f"{self.dtype}. Allowed are numbers, or times all with or all without a time zone"
            )
        self.dtype = both
        if order.dtype.is_integer() and len(order):
            self.largest = max(self.largest, int(order.max()))  # type: ignore[arg-type]
        return order

    def resolve(self, kind: OrderKind) -> OrderKind:
        """Return what the order is: a position where it is said, or where all are integers below POSITION_LIMIT."""
        if kind != "auto" or self.dtype is None:
            return kind
        return "position" if self.dtype.is_integer() and self.largest < POSITION_LIMIT else "time"


def _common(one: pl.DataType, other: pl.DataType) -> pl.DataType | None:
    """Return the dtype that holds the values of both, None where there is none."""
    if one == other:
        return one
    if one.is_numeric() and other.is_numeric():
        return pl.Int64() if one.is_integer() and other.is_integer() else pl.Float64()
    if isinstance(one, pl.Datetime) and isinstance(other, pl.Datetime) and one.time_zone == other.time_zone:
        return pl.Datetime("ns", one.time_zone)
    return None
