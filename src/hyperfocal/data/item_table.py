"""Item tables: what is known about each item, as numbers that a network reads.

A column has one of these kinds:

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

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal, cast, get_args

import msgspec
import numpy as np
import polars as pl
from numpy.typing import NDArray
from scipy import sparse

from hyperfocal.data.columns import check_column, is_plain
from hyperfocal.data.ids import IdKind, read_ids
from hyperfocal.data.movielens import read_movies
from hyperfocal.data.readers import read_source
from hyperfocal.errors import DataError

Kind = Literal["category", "list", "text", "number", "date", "encoder"]
BAGS = ("category", "list", "text")
SEPARATORS = re.compile(r"[\s,;|]+")
WORDS = re.compile(r"\w+")
TEXT_WORDS = 8  # words per value, on average, from which a column is text
KEY = "\0item"  # a name that no column of a file has
MOST_VALUES = 20_000  # per column; the most frequent are used


class ItemColumn(msgspec.Struct, frozen=True):
    """A column, fitted on the training items."""

    name: str  # of the column
    kind: Kind  # of its values
    values: dict[str, int] = {}  # of a bag: value -> number of training items that have it, the most frequent first
    items: int = 0  # number of training items that have any value; words are weighted by it
    mean: float = 0.0  # of a number; of a bag, the mean of ln(1 + n)
    deviation: float = 1.0  # standard deviation of the same
    checksum: str = ""  # of the encoder's files


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
        if not is_plain(each.dtype.inner if isinstance(each.dtype, pl.List | pl.Array) else each.dtype):
            raise DataError(f"{file}: column {each.name!r} holds {each.dtype}. Allowed: text, numbers, dates, lists")
    ids, _ = read_ids(frame[name], file, "Every row needs an item id: complete the row or remove it", kind)
    known = frame.drop(name).with_columns(pl.col(pl.String).replace("", None)).with_columns(ids.alias(KEY))
    merged = known.group_by(KEY, maintain_order=True).agg(pl.all().drop_nulls().first())
    return ItemTable(merged[KEY].alias("item"), merged.drop(KEY), len(frame) - len(merged), str(file))


def fit_columns(table: ItemTable, wanted: Sequence[str], ids: pl.Series) -> tuple[list[ItemColumn], list[str]]:
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
        name, kind = _split_kind(text, table)
        column = _fit(rows[name], kind or _guess_kind(rows[name]), table)
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
    columns: Sequence[ItemColumn], table: ItemTable, ids: pl.Series
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
            bag = _bag(column, _bag_values(rows[column.name], column.kind))
            bags.append(bag)
            empty = np.zeros((len(ids), 2), np.float32)
            numbers.append(_standardize(column, _log_popularity(column, bag)) if column.values else empty)
        elif column.kind != "encoder":
            numbers.append(_standardize(column, _as_numbers(rows[column.name], column.kind, table)))
    return sparse.hstack(bags, format="csr", dtype=np.float32), np.hstack(numbers)


def _split_kind(text: str, table: ItemTable) -> tuple[str, Kind | None]:
    """Split "topics:list" into name and kind; None: no kind."""
    name, _, kind = text.rpartition(":")
    if text in table.frame.columns or not name:
        name, kind = text, ""
    check_column(name, table.frame.columns, table.name)
    if kind and kind not in get_args(Kind):
        raise DataError(f"{text}: {kind!r} is not a kind of column. Allowed: {', '.join(get_args(Kind))}")
    return name, cast(Kind, kind) or None


def _guess_kind(values: pl.Series) -> Kind:
    """Return the kind that the values suggest."""
    if values.dtype.is_numeric() or values.dtype == pl.Boolean:
        return "number"
    if values.dtype in (pl.Date, pl.Datetime):
        return "date"
    if isinstance(values.dtype, pl.List | pl.Array):
        return "list"
    known = values.drop_nulls().cast(pl.String)
    if len(known) and known.cast(pl.Float64, strict=False).is_not_null().all():
        return "number"
    if len(known) and _dates(known).is_not_null().all():
        return "date"
    words = [SEPARATORS.split(value.strip()) for value in known]
    distinct = len({word for row in words for word in row})
    if sum(map(len, words)) >= TEXT_WORDS * max(len(words), 1) and distinct < sum(map(len, words)) / 2:
        return "list" if all(re.fullmatch(r"\S*\d\S*", word) for row in words[:100] for word in row) else "text"
    return "list" if any(len(row) > 1 for row in words) and distinct <= known.n_unique() else "category"


def _fit(values: pl.Series, kind: Kind, table: ItemTable) -> ItemColumn:
    if kind == "encoder":
        return ItemColumn(values.name, kind, deviation=float(values.drop_nulls().n_unique() > 1))
    column = ItemColumn(values.name, kind)
    if kind in BAGS:
        rows = _bag_values(values, kind)
        counts = Counter(value for row in rows for value in dict.fromkeys(row)).most_common(MOST_VALUES)
        column = ItemColumn(values.name, kind, dict(counts), items=sum(map(bool, rows)))
        numbers = _log_popularity(column, _bag(column, rows)).astype(np.float64)
    else:
        numbers = _as_numbers(values, kind, table)
    known = numbers[~np.isnan(numbers)]
    mean, deviation = (float(known.mean()), float(known.std())) if len(known) else (0.0, 0.0)
    return msgspec.structs.replace(column, mean=mean, deviation=deviation if deviation > 1e-9 else 0.0)


def _bag_values(values: pl.Series, kind: Kind) -> list[list[str]]:
    """Return the values in each item's bag."""
    if isinstance(values.dtype, pl.List | pl.Array):
        return [[str(value) for value in row or [] if value is not None] for row in values.to_list()]
    texts = values.cast(pl.String).fill_null("").to_list()
    if kind == "category":
        return [[text.strip()] if text.strip() else [] for text in texts]
    if kind == "text":
        return [_words(text) for text in texts]
    return [[value for value in SEPARATORS.split(text) if value] for text in texts]


def _words(text: str) -> list[str]:
    words = WORDS.findall(text.lower())
    return words + [f"{first} {second}" for first, second in pairwise(words)]


def _bag(column: ItemColumn, rows: list[list[str]]) -> sparse.csr_matrix:
    """Return the (L, V) weights of the values of each item's bag."""
    numbers = {value: number for number, value in enumerate(column.values)}
    counts = [Counter(numbers[value] for value in row if value in numbers) for row in rows]
    indptr = np.cumsum([0, *map(len, counts)])
    indices = np.array([number for row in counts for number in row], dtype=np.int64)
    repeats = np.array([times for row in counts for times in row.values()], dtype=np.float32)
    shape = (len(rows), len(numbers))
    if column.kind == "text":
        idf = np.log((1 + column.items) / (1 + np.array(list(column.values.values())))) + 1
        bag = sparse.csr_matrix(((1 + np.log(repeats)) * idf[indices], indices, indptr), shape=shape, dtype=np.float32)
        lengths = np.sqrt(np.asarray(bag.multiply(bag).sum(1)).ravel())
    else:
        bag = sparse.csr_matrix((np.ones_like(repeats), indices, indptr), shape=shape, dtype=np.float32)
        lengths = np.diff(indptr)
    bag.data /= np.repeat(np.maximum(lengths, 1e-9), np.diff(indptr)).astype(np.float32)
    return bag


def _log_popularity(column: ItemColumn, bag: sparse.csr_matrix) -> NDArray[np.float32]:
    """Return (L,) the mean over a bag of ln(1 + n), n the training items that share a value; nan for an empty bag."""
    logs = np.log1p(np.array(list(column.values.values()), dtype=np.float32))
    weights = np.asarray(bag.sum(1)).ravel()
    with np.errstate(invalid="ignore", divide="ignore"):
        return cast(NDArray[np.float32], np.asarray(bag @ logs).ravel() / weights)


def _as_numbers(values: pl.Series, kind: Kind, table: ItemTable) -> NDArray[np.float64]:
    """Return (L,) numbers, nan for missing ones."""
    if kind == "date":
        dates = (values if values.dtype in (pl.Date, pl.Datetime) else _dates(values.cast(pl.String))).cast(pl.Date)
        numbers = dates.to_physical().cast(pl.Float64)
    else:
        numbers = values.cast(pl.Float64, strict=False)
    wrong = values.is_not_null() & (numbers.is_null() | numbers.is_infinite())
    if wrong.any():
        example = values.filter(wrong)[0]
        raise DataError(
            f"{table.name}: column {values.name!r}: {int(wrong.sum()):,} values are not a {kind}, such as {example!r}. "
            f"Correct them, or read the column as another kind, such as {values.name}:category"
        )
    return numbers.fill_null(float("nan")).to_numpy()  # float64: squares of large ids overflow float32


def _dates(values: pl.Series) -> pl.Series:
    return values.str.strip_chars().str.slice(0, 10).str.to_date("%Y-%m-%d", strict=False)


def _standardize(column: ItemColumn, values: NDArray[Any]) -> NDArray[np.float32]:
    """Return (L, 2): standard deviations above the mean, 0 if missing; and whether the value is missing."""
    missing = np.isnan(values)
    scaled = np.where(missing, 0, (values - column.mean) / (column.deviation or 1))
    return np.stack([scaled, missing], 1).astype(np.float32)
