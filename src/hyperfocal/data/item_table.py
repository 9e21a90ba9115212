"""Item tables: what is known about each item, as numbers that a network reads.

A column has one of these kinds (`field_columns.py` reads them):

    category   one value, such as a language               a bag with that value
    list       several values, such as topics: a list, or  a bag with each value at 1 / their number
               a text with separators: spaces , ; |
    text       any number of words                         a bag of words and of pairs of neighboring words,
                                                           (1 + ln tf) * idf, scaled to length 1
    number     standardized; if it is missing, 0; and a second number: whether it is missing
    date       as number, in days
    encoder    text, whose vector a frozen sentence encoder computes; only if the user names this kind

Each bag adds ln(1 + n), standardized, with n the number of training items that share its values.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import polars as pl
from numpy.typing import NDArray
from scipy import sparse

from hyperfocal.data.field_columns import (
    BAGS,
    FieldColumn,
    Kind,
    as_numbers,
    bag_values,
    check_plain,
    count_bags,
    fit_bag,
    guess_kind,
    split_kind,
    standardize,
    with_moments,
)
from hyperfocal.data.ids import IdKind, read_ids
from hyperfocal.data.movielens import read_movies
from hyperfocal.data.readers import read_source
from hyperfocal.errors import DataError

KEY = "\0item"  # a name that no column of a file has


@dataclass(frozen=True, eq=False)
class ItemTable:
    """One row per item."""

    ids: pl.Series  # (N,) text, distinct
    frame: pl.DataFrame  # the other columns, N rows
    duplicates: int  # number of rows merged into an earlier row of the same item, where they fill missing values
    name: str  # of the file, for messages

    def rows_of(self, ids: pl.Series) -> pl.DataFrame:
        """Return the columns of the given items, null for items that are not in the table."""
        known = self.frame.with_columns(self.ids.alias(KEY))
        return pl.DataFrame({KEY: ids}).join(known, on=KEY, how="left", maintain_order="left").drop(KEY)

    def extended(self, others: ItemTable) -> ItemTable:
        """Return the table followed by the rows of other items, whose values get the types of this table."""
        new = ~others.ids.is_in(self.ids.implode())
        shared = [column for column in others.frame.get_columns() if column.name in self.frame.columns]
        added = pl.DataFrame([_as_type(column, self.frame[column.name].dtype).filter(new) for column in shared])
        ids = others.ids.filter(new)
        if not added.width:
            added = self.frame.clear(len(ids))
        frame = pl.concat([self.frame, added], how="diagonal")
        return ItemTable(pl.concat([self.ids, ids]), frame, self.duplicates, self.name)


def _as_type(values: pl.Series, dtype: pl.DataType) -> pl.Series:
    """Return values as another type; null where that is not possible."""
    if values.dtype == dtype:
        return values
    if isinstance(values.dtype, pl.List) and dtype == pl.String:
        return values.cast(pl.List(pl.String)).list.join(",")
    try:
        return values.cast(dtype, strict=False)
    except pl.exceptions.PolarsError:
        return pl.Series(values.name, [None] * len(values), dtype=dtype)


def read_items(source: Any, column: str = "", kind: IdKind | None = None) -> ItemTable:
    """Return the item table in a file or a frame; an ItemTable is returned as it is.

    Args:
        source: ItemTable; frame, see `frames.is_frame`; or path: .csv, .tsv, .jsonl, .item or .dat, all also
            compressed, or .parquet.
        column: of the item ids; if it is "" or does not exist, `item`, else the first column.
        kind: of the ids of the log. None: as the column shows.

    Raises:
        DataError: an unreadable file, a missing item id, no other column, a column of objects.
    """
    if isinstance(source, ItemTable):
        return source
    frame, file = read_source(source, ItemTable, readers={"dat": read_movies}, row="item")
    name = next((each for each in (column, "item", *frame.columns[:1]) if each and each in frame.columns), "")
    if not name:
        raise DataError(f"{file}: the first column has no name, and no column is called item. Complete the header")
    if frame.width < 2:
        raise DataError(f"{file}: the only column is {name!r}. Add columns that describe the items")
    for each in frame.drop(name).get_columns():
        check_plain(each, str(file))
    ids, _ = read_ids(frame[name], file, "Every row needs an item id: complete the row or remove it", kind)
    known = frame.drop(name).with_columns(pl.col(pl.String).replace("", None)).with_columns(ids.alias(KEY))
    merged = known.group_by(KEY, maintain_order=True).agg(pl.all().drop_nulls().first())
    return ItemTable(merged[KEY].alias("item"), merged.drop(KEY), len(frame) - len(merged), str(file))


def fit_columns(table: ItemTable, wanted: Sequence[str], ids: pl.Series) -> tuple[list[FieldColumn], list[str]]:
    """Return the columns fitted on the training items, and the names of columns left out because they are constant.

    Args:
        table: of items.
        wanted: names, optionally with a kind, "topics:list", in place of the kind that the values suggest.
        ids: the training items.

    Raises:
        DataError: no such column, an unknown kind, a value that is not a number or date, only constant columns.
    """
    rows = table.rows_of(ids)
    columns, constant = [], []
    for text in dict.fromkeys(wanted):
        name, kind = split_kind(text, table.frame.columns, table.name)
        column = _fit(rows[name], cast(Kind, kind) or guess_kind(rows[name]), table)
        if len(column.values) > 1 or column.deviation > 0:
            columns.append(column)
        else:
            constant.append(name)
    if not columns:
        raise DataError(
            f"{table.name}: {', '.join(constant)}: at most one value for all {len(ids):,} training items, so there is "
            "nothing to learn. Name other columns, or check that the item ids are those of the log"
        )
    return columns, constant


def encode_items(
    columns: Sequence[FieldColumn], table: ItemTable, ids: pl.Series
) -> tuple[sparse.csr_matrix, NDArray[np.float32]]:
    """Return (L, V) weights of the values of bags, one row per item, and (L, F) numbers; without encoder columns.

    Items that are not in the table, and values that are not in training, are zeros. Errors as in `fit_columns`.
    """
    rows = table.rows_of(ids)
    missing = [column.name for column in columns if column.name not in rows.columns]
    if missing:
        raise DataError(
            f"{table.name}: no column {missing[0]!r}, which the run was trained with. Add it; it may be empty"
        )
    bags: list[Any] = [sparse.csr_matrix(np.empty((len(ids), 0), dtype=np.float32))]
    numbers = [np.empty((len(ids), 0), dtype=np.float32)]
    for column in columns:
        if column.kind in BAGS:
            bag = _bag(column, bag_values(rows[column.name], column.kind))
            bags.append(bag)
            empty = np.zeros((len(ids), 2), np.float32)
            numbers.append(standardize(column, _log_popularity(column, bag)) if column.values else empty)
        elif column.kind != "encoder":
            numbers.append(standardize(column, as_numbers(rows[column.name], column.kind, table.name, planned=True)))
    return sparse.hstack(bags, format="csr", dtype=np.float32), np.hstack(numbers)


def _fit(values: pl.Series, kind: Kind, table: ItemTable) -> FieldColumn:
    if kind == "encoder":
        return FieldColumn(values.name, kind, deviation=float(values.drop_nulls().n_unique() > 1))
    if kind not in BAGS:
        return with_moments(FieldColumn(values.name, kind), as_numbers(values, kind, table.name))
    rows = bag_values(values, kind)
    column = fit_bag(values.name, kind, rows)
    return with_moments(column, _log_popularity(column, _bag(column, rows)).astype(np.float64))


def _bag(column: FieldColumn, rows: list[list[str]]) -> sparse.csr_matrix:
    """Return the (L, V) weights of the values of each item's bag."""
    bag = count_bags(column, [[_in_training(value, column) for value in row] for row in rows])
    if column.kind == "text":
        idf = np.log((1 + column.items) / (1 + np.array(list(column.values.values())))) + 1
        bag.data = ((1 + np.log(bag.data)) * idf[bag.indices]).astype(np.float32)
        lengths = np.sqrt(np.asarray(bag.multiply(bag).sum(1)).ravel())
    else:
        bag.data = np.ones_like(bag.data)
        lengths = np.diff(bag.indptr)
    bag.data /= np.repeat(np.maximum(lengths, 1e-9), np.diff(bag.indptr)).astype(np.float32)
    return bag


def _in_training(value: str, column: FieldColumn) -> str:
    """Return a value as the column has it: a run of an earlier version wrote a whole float as 1.0."""
    return f"{value}.0" if value not in column.values and f"{value}.0" in column.values else value


def _log_popularity(column: FieldColumn, bag: sparse.csr_matrix) -> NDArray[np.float32]:
    """Return (L,) the mean over a bag of ln(1 + n), n the training items that share a value; nan for an empty bag."""
    logs = np.log1p(np.array(list(column.values.values()), dtype=np.float32))
    weights = np.asarray(bag.sum(1)).ravel()
    with np.errstate(invalid="ignore", divide="ignore"):
        return cast(NDArray[np.float32], np.asarray(bag @ logs).ravel() / weights)
