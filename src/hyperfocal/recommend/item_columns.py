"""Columns of an item table as rules read them: for comparisons, and as groups of items that share a value.

number, date   numbers, as `field_columns.as_numbers` reads them
truth          0 or 1, of a column of booleans or of the texts true and false
text           the whole value, and, in a list or a text with separators, each of its parts
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal, NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

from hyperfocal.data.field_columns import as_numbers, bag_values, guess_kind
from hyperfocal.data.item_table import ItemTable
from hyperfocal.errors import ConfigError, DataError, columns_of

TITLES = ("title", "name", "item_name", "product_name", "item_title")
TRUTHS = {"true": 1.0, "yes": 1.0, "1": 1.0, "false": 0.0, "no": 0.0, "0": 0.0}
Kind = Literal["number", "date", "truth", "text"]


class Numbers(NamedTuple):
    """The values of a column of numbers, dates or booleans."""

    kind: Kind
    values: NDArray[np.float64]  # (L,), nan where it is missing


class Texts(NamedTuple):
    """The items of each value of a column of texts or lists."""

    items: dict[str, NDArray[np.int64]]  # value or part of a value -> ascending item numbers
    known: NDArray[np.bool_]  # (L,) whether the item has a value


@dataclass(frozen=True, eq=False)
class ItemColumns:
    """The columns of L items; a column is read when a rule first asks for it.

    Attributes:
        table: of items, not necessarily the L ones.
        ids: (L,) the items that are ranked.
    """

    table: ItemTable
    ids: pl.Series
    _read: dict[str, Numbers | Texts] = field(default_factory=dict)
    _values: dict[str, list[list[int]]] = field(default_factory=dict)

    @cached_property
    def rows(self) -> pl.DataFrame:
        """The columns of the L items, null for items that are not in the table."""
        return self.table.rows_of(self.ids)

    @property
    def names(self) -> list[str]:
        """Names of the columns."""
        return self.table.frame.columns

    def read(self, name: str) -> Numbers | Texts:
        """Return a column.

        Raises:
            ConfigError: there is no such column.
            DataError: a value of a column of numbers is not a number.
        """
        if name not in self._read:
            if name not in self.names:
                raise ConfigError(f"the item table has no column {name!r}. {columns_of(self.names)}")
            self._read[name] = _read(self.rows[name], self.table.name)
        return self._read[name]

    def values(self, name: str) -> list[list[int]]:
        """Return the values of each of the L items in a column, as numbers; errors as in `read`."""
        if name not in self._values:
            self._values[name] = _numbered(self.read(name), len(self.ids))
        return self._values[name]

    @cached_property
    def titles(self) -> list[str | None]:
        """The title of each of the L items, by the first column of a known name; [] without such a column."""
        lower = {name.lower(): name for name in reversed(self.names)}
        name = next((lower[each] for each in TITLES if each in lower), None)
        return [] if name is None or isinstance(self.rows[name].dtype, pl.List) else _as_titles(self.rows[name])


def _as_titles(values: pl.Series) -> list[str | None]:
    titles: list[str | None] = values.cast(pl.String).to_list()
    return titles


def _read(values: pl.Series, file: str) -> Numbers | Texts:
    if values.dtype == pl.Boolean:
        return Numbers("truth", values.cast(pl.Float64).fill_null(float("nan")).to_numpy())
    kind = guess_kind(values)
    if kind in ("number", "date"):
        return Numbers("number" if kind == "number" else "date", as_numbers(values, kind, file, planned=True))
    if kind == "category" and (truths := _truths(values)) is not None:
        return Numbers("truth", truths)
    rows = _parts(values, is_list=kind == "list")
    return Texts(_by_value(rows), np.array([bool(row) for row in rows]))


def _truths(values: pl.Series) -> NDArray[np.float64] | None:
    """Return (L,) 0 and 1, nan where it is missing; None if a value is neither true nor false."""
    numbers = [None if value is None else TRUTHS.get(str(value).strip().lower()) for value in values]
    known = values.is_not_null().to_list()
    if not any(known) or any(number is None for number, is_known in zip(numbers, known, strict=True) if is_known):
        return None
    return np.array([np.nan if number is None else number for number in numbers])


def _parts(values: pl.Series, *, is_list: bool) -> list[list[str]]:
    """Return the values that each item can be asked for: of a list in a text its parts, and the whole text."""
    if isinstance(values.dtype, pl.List | pl.Array):
        return bag_values(values, "list")
    whole = bag_values(values, "category")
    if not is_list:
        return whole
    return [list(dict.fromkeys([*parts, *text])) for parts, text in zip(bag_values(values, "list"), whole, strict=True)]


def _by_value(rows: Sequence[Sequence[str]]) -> dict[str, NDArray[np.int64]]:
    items: defaultdict[str, list[int]] = defaultdict(list)
    for item, row in enumerate(rows):
        for value in dict.fromkeys(row):
            items[value].append(item)
    return {value: np.array(numbers, dtype=np.int64) for value, numbers in items.items()}


def _numbered(column: Numbers | Texts, size: int) -> list[list[int]]:
    """Return the values of each item as numbers; an item without a value has none."""
    if isinstance(column, Numbers):
        _, codes = np.unique(column.values, return_inverse=True)
        missing = np.isnan(column.values).tolist()
        return [[] if gone else [code] for code, gone in zip(codes.tolist(), missing, strict=True)]
    values: list[list[int]] = [[] for _ in range(size)]
    for number, items in enumerate(column.items.values()):
        for item in items.tolist():
            values[item].append(number)
    return values


def number_of(text: str, column: Numbers, name: str) -> float:
    """Return the value of a condition as the column has it.

    Raises:
        DataError: it is not a number, a date, or true or false.
    """
    if column.kind == "truth":
        truth = TRUTHS.get(text.lower())
        if truth is None:
            raise DataError(f"`filters=`: column {name!r}: {text!r} is neither true nor false. Give one of these")
        return truth
    return float(as_numbers(pl.Series(name, [text]), column.kind, "`filters=`", planned=True)[0])
