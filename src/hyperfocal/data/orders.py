"""The order column of a file that is read in blocks: every block read alike, as if the file were read at once."""

from __future__ import annotations

from dataclasses import dataclass

import polars as pl

from hyperfocal.data.files import File
from hyperfocal.data.tables import POSITION_LIMIT, OrderKind, read_order
from hyperfocal.errors import DataError


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
