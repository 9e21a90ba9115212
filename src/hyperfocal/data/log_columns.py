"""The user, item and order columns of a log: find them by name, and read the order."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any, Literal

import polars as pl

from hyperfocal.config.recommend import DataSettings
from hyperfocal.data.columns import check_column, check_unique
from hyperfocal.data.files import File
from hyperfocal.data.ids import IdKind
from hyperfocal.data.reading import ReadingPlan, planned_column
from hyperfocal.errors import DataError, columns_of

UNITS = {"seconds": 1, "milliseconds": 10**3, "microseconds": 10**6, "nanoseconds": 10**9}  # in a second
RECENT = (6.3e8, 4.1e9)  # seconds from 1970 to 1990, and to 2100
POSITION_LIMIT = 10_000_000  # integers from here on are time stamps; below it they are positions
KNOWN_NAMES = {
    "user": (
        "user",
        "user_id",
        "userid",
        "student",
        "customer",
        "customer_id",
        "visitor",
        "session",
        "session_id",
        "visitorid",
        "visitor_id",
    ),
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
        "sku",
    ),
    "order": ("order", "position", "timestamp", "time", "datetime", "date", "ts", "sequence"),
}

NO_ORDER = "none"  # in place of the name of an order column: rows are oldest first
MEASURES = {
    "rating", "ratings", "stars", "score", "price", "amount", "value", "quantity", "qty", "count", "weight",
    "event", "event_type", "action", "type", "category", "label",
}  # fmt: skip  # names of a third column that is no order

Form = Literal["challenge", "long", "lines"]
OrderKind = Literal["auto", "position", "time"]


@dataclass(frozen=True)
class Columns:
    """The columns of a log."""

    user: str  # name of the column
    item: str  # name of the column
    order: str | None  # its name; None: rows are in the order of the file
    form: Form = "long"  # of the log
    order_kind: OrderKind = "auto"  # whether the order is a position or a time; "auto" depends on its values
    user_kind: IdKind | None = None  # of the ids that these ids are compared with. None: as the column shows
    item_kind: IdKind | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the columns."""
        return (self.user, self.item, *([self.order] if self.order else []))


def columns_by_plan(header: list[str], plan: ReadingPlan, file: File) -> Columns:
    """Return the columns of a file that a run reads.

    A file with only the user and the item of each event may lack the order: its rows are oldest first.

    Raises:
        DataError: a column of the plan is missing; the file has an order, and the run was fitted on rows without one.
    """
    user, item = (planned_column(plan, use, plan.name(use), header, file) for use in ("user", "item"))
    named, unplanned = plan.name("order"), [name for name in header if name.lower() in KNOWN_NAMES["order"]]
    order = planned_column(plan, "order", named, header, file) if named and len(header) > 2 else None
    if not named and unplanned and not {*unplanned} <= {user, item, *plan.ignored}:
        raise DataError(
            f"{file}: has a column '{unplanned[0]}', but this run was fitted on rows without an order, oldest first. "
            "Sort the rows and remove the column, or fit again on a log that has it"
        )
    kind: OrderKind = "time" if any(each.type == "time" for each in plan.columns if each.use == "order") else "auto"
    columns = Columns(user, item, order, order_kind=kind, user_kind=plan.kind("user"), item_kind=plan.kind("item"))
    check_roles(columns, header, file)
    return columns


def find_columns(header: list[str], settings: DataSettings, file: File) -> Columns:
    """Return the columns that the settings name, else columns of known names, else the first three.

    A third column is no order if it has a name of MEASURES; NO_ORDER in place of a name says that there is none.

    Raises:
        DataError: a named column that does not exist, or has two roles; a role without a column.
    """
    unordered = settings.order == NO_ORDER and NO_ORDER not in header
    named = {"user": settings.user, "item": settings.item, "order": "" if unordered else settings.order}
    for role, name in named.items():
        if name:
            check_column(name, header, file, f"`{role}=`")
    lower = {column.lower(): column for column in reversed(header)}
    for role, names in KNOWN_NAMES.items():
        if not named[role] and not (unordered and role == "order"):
            named[role] = next((lower[n] for n in names if n in lower and lower[n] not in named.values()), "")
    if len(header) <= 3:
        rest = [column for column in header if column not in named.values()]
        _check_first_line(rest, header, file)
        for role in ("user", "item"):
            named[role] = named[role] or (rest.pop(0) if rest else "")
        if rest and not unordered and rest[0].lower() not in MEASURES:
            named["order"] = named["order"] or rest[0]
    missing = [role for role in named if not named[role] and (role != "order" or (len(header) > 2 and not unordered))]
    if missing:
        without = f", or say `order='{NO_ORDER}'` if rows are oldest first" if missing[0] == "order" else ""
        raise DataError(
            f"{file}: cannot tell which column is the {missing[0]}. Name it with `{missing[0]}=`{without}. "
            f"{columns_of(header)}"
        )
    columns = Columns(named["user"], named["item"], named["order"] or None, order_kind=settings.order_kind)
    check_roles(columns, header, file)
    return columns


def check_roles(columns: Columns, header: list[str], file: File) -> None:
    """Raise DataError if a column has two roles, or the header has its name twice."""
    names = columns.names
    for name in names:
        if names.count(name) > 1:
            raise DataError(f"{file}: column '{name}' cannot be two of user, item and order. Name one column for each")
    check_unique(names, header, file)


def _check_first_line(names: list[str], header: list[str], file: File) -> None:
    """Raise DataError if one of the unknown names in the header of a CSV file is a number: then it is a row."""
    if file.kind == "csv" and any(re.fullmatch(r"-?\d+(\.\d+)?", name) for name in names):
        raise DataError(
            f"{file}: the first line looks like a row, not a header: {', '.join(header)}. Add a header, such as "
            "user,item,position, or name the columns with `user=`, `item=` and `order=`"
        )


def read_order(column: pl.Series, file: File) -> pl.Series:
    """Return the order as integers, floats or times, the first of these that reads every value; a missing one is null.

    Raises:
        DataError: a column of another type; a value that is infinite or not readable.
    """
    order, missing = column, column.is_null()
    if column.dtype in (pl.String, pl.Categorical, pl.Enum):
        text = column.cast(pl.String).str.strip_chars()
        missing |= text == ""
        order = _parse(text.set(missing, None))
    if not (order.dtype.is_numeric() or order.dtype.is_temporal()):
        raise DataError(
            f"{file}: order column '{column.name}' holds {order.dtype}, not numbers or times. "
            "Name another column with `order=`"
        )
    bad = ~missing & (order.is_null() | (~order.is_finite() if order.dtype.is_float() else False))
    if bad.any():
        row = int(bad.arg_max() or 0)
        raise DataError(
            f"{file.place(row)}: order column '{column.name}': {column[row]!r} is neither a number nor a time. "
            "Allowed: numbers, or ISO 8601 times such as 2024-05-31T12:00:00, all with or all without a time zone"
        )
    return order


def unit_of(value: Any) -> str:
    """Return the unit in which a number is a time since 1970, from 1990 to 2100; "": none.

    >>> unit_of(1_700_000_000), unit_of(1_700_000_000_000), unit_of(12)
    ('seconds', 'milliseconds', '')
    """
    first, last = RECENT
    return next((unit for unit, factor in UNITS.items() if first * factor <= value < last * factor), "")


def _count_units(order: pl.Series) -> dict[str, int]:
    """Return the number of times by their unit; "": numbers that are no times since 1970."""
    present = len(order) - order.null_count()
    smallest, largest = unit_of(order.min()), unit_of(order.max())
    if smallest == largest != "":  # nearly always, and quick
        return {smallest: present}
    first, last = RECENT
    within = {unit: order.is_between(first * each, last * each, closed="left") for unit, each in UNITS.items()}
    counts = {unit: int(times.sum()) for unit, times in within.items()}
    return {unit: count for unit, count in (counts | {"": present - sum(counts.values())}).items() if count}


def _parse(text: pl.Series) -> pl.Series:
    """Return the first reading without a null except missing values, else the reading with the fewest."""
    readings, missing = [text.cast(pl.Int64, strict=False)], text.null_count()
    if readings[-1].null_count() > missing:
        readings.append(text.cast(pl.Float64, strict=False))
    if readings[-1].null_count() > missing:  # only then, because times are slow
        readings.append(_times(text))
    return min(readings, key=pl.Series.null_count)


def _times(text: pl.Series) -> pl.Series:
    """Read times that begin with the year; 01/02/2024 is ambiguous."""
    text = text.set(~text.str.contains(r"^\d{4}[-/]\d").fill_null(value=False), None)
    unit: Literal["ns", "us"] = "ns" if text.str.contains(r"\.\d{7}").any() else "us"  # us has the wider range
    try:
        return text.str.to_datetime(strict=False, time_unit=unit)
    except pl.exceptions.PolarsError:  # no known format fits the first value
        return pl.Series(text.name, [None] * len(text), dtype=pl.Datetime)


@dataclass
class OrderReader:
    """Read the order column of a file block by block, as if the file were read at once."""

    dtype: pl.DataType | None = None  # type in which all values so far can be compared; None before the first value
    largest: int = 0  # the largest integer so far
    units: set[str] = field(default_factory=set)  # of the times so far; "": of numbers that are no times
    mixed: str = ""  # message about the first time in another unit than earlier ones

    def read(self, column: pl.Series, file: File) -> pl.Series:
        """Return the order of a block's rows.

        Raises:
            DataError: as in `read_order`; numbers in earlier blocks and times in this one, or vice versa.
        """
        order = read_order(column, file)
        if order.null_count() == len(order):
            return order
        common = order.dtype if self.dtype is None else _common(self.dtype, order.dtype)
        if common is None:
            raise DataError(
                f"{file.place(0)}: order column '{column.name}': {column[0]!r} does not have the type of earlier rows, "
                f"{self.dtype}. Allowed: numbers, or times all with or all without a time zone"
            )
        self.dtype = common
        if order.dtype.is_integer():
            self.largest = max(self.largest, int(order.max()))  # type: ignore[arg-type]
        if order.dtype.is_numeric():
            self._note_units(order, file)
        return order

    def _note_units(self, order: pl.Series, file: File) -> None:
        earlier, self.units = self.units, self.units | _count_units(order).keys()
        if self.mixed or len(self.units - {""}) < 2:
            return
        first = next(iter(earlier or {unit_of(order.drop_nulls()[0])}))
        row = next(row for row, value in enumerate(order) if value is not None and unit_of(value) not in ("", first))
        self.mixed = (
            f"{file.place(row)}: order column '{order.name}': {order[row]} is a time in {unit_of(order[row])}, "
            f"but other rows have {first} since 1970. Write all times in one unit"
        )

    def resolve(self, kind: OrderKind) -> OrderKind:
        """Return the kind of all orders; "auto" means a position if all are integers below POSITION_LIMIT.

        Raises:
            DataError: all are times since 1970, but in different units, and none is a position.
        """
        if self.mixed and "" not in self.units and kind != "position":
            raise DataError(self.mixed)
        if kind != "auto" or self.dtype is None:
            return kind
        return "position" if self.dtype.is_integer() and self.largest < POSITION_LIMIT else "time"


def _common(one: pl.DataType, other: pl.DataType) -> pl.DataType | None:
    """Return the type that holds the values of both, or None."""
    if one == other:
        return one
    if one.is_numeric() and other.is_numeric():
        return pl.Int64() if one.is_integer() and other.is_integer() else pl.Float64()
    if isinstance(one, pl.Datetime) and isinstance(other, pl.Datetime) and one.time_zone == other.time_zone:
        return pl.Datetime("ns", one.time_zone)
    return None
