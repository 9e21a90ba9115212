"""Tables of items: what is known of each beside who used it, as numbers that a network reads.

A column is one of

    category   one value, as a language                     a bag with that value
    list       several values, as topics; a list, or text   a bag with each value at 1 / their number
               in which spaces, commas, semicolons or bars part them
    text       words in any number                          a bag of words and of pairs of neighbouring words,
                                                            (1 + ln tf) * idf, scaled to length 1
    number     standardised; where it is missing 0, and a second number says so
    date       as number, in days
    encoder    text, turned into a vector by a frozen sentence encoder (`tasks/items.py`); never told from the values

and each bag adds how many training items share its values, ln(1 + n), standardised.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, cast, get_args

import msgspec
import numpy as np
import polars as pl
from numpy.typing import NDArray
from scipy import sparse

from hyperfocal.data.files import File, as_frame, is_plain, read_frame
from hyperfocal.errors import DataError, did_you_mean

Kind = Literal["category", "list", "text", "number", "date", "encoder"]
BAGS = ("category", "list", "text")
SEPARATORS = re.compile(r"[\s,;|]+")
WORDS = re.compile(r"\w+")
TEXT_WORDS = 8  # words a value on average, from which a column is text
KEY = "\0item"  # no column of a file is called so
MOST_VALUES = 20_000  # of a column; the commonest are kept


class ItemColumn(msgspec.Struct, frozen=True):
    """A column as training items have it.

    Attributes:
        name: of the column.
        kind: how it is read.
        values: of a bag, the commonest first, each with the number of training items that have it.
        items: training items that have any of them, by which words are weighted.
        mean: of a number; of a bag, of ln(1 + n).
        deviation: likewise.
        checksum: of the files of the encoder.
    """

    name: str
    kind: Kind
    values: dict[str, int] = {}
    items: int = 0
    mean: float = 0.0
    deviation: float = 1.0
    checksum: str = ""


@dataclass(frozen=True, eq=False)
class ItemTable:
    """A row an item.

    Attributes:
        ids: (N,) text, distinct.
        frame: the other columns, N rows.
        duplicates: rows left out because an earlier one has the same item; they filled what it lacks.
        name: of the file, for messages.
    """

    ids: pl.Series
    frame: pl.DataFrame
    duplicates: int
    name: str

    def rows_of(self, ids: pl.Series) -> pl.DataFrame:
        """Return the columns of the given items, null where the table lacks one."""
        known = self.frame.with_columns(self.ids.alias(KEY))
        return pl.DataFrame({KEY: ids}).join(known, on=KEY, how="left", maintain_order="left").drop(KEY)


def read_items(source: Any, column: str = "") -> ItemTable:
    """Return the item table of a file or a frame.

    Args:
        source: .csv, .tsv, .parquet, .jsonl, text also .gz; a frame of polars or pandas; or such a table.
        column: of the item id; "" or one that is missing takes `item`, or the first.

    Raises:
        DataError: unreadable, an item id that is empty, no other column.
    """
    if isinstance(source, ItemTable):
        return source
    if not isinstance(source, str | Path) and as_frame(source) is None:
        raise DataError(f"a table of items is a path or a frame of polars or pandas, not {type(source).__name__}")
    given = None if isinstance(source, str | Path) else as_frame(source)
    file = File(Path(source) if given is None else None)
    frame = read_frame(file, row="an item") if given is None else given
    name = next((each for each in (column, "item", *frame.columns[:1]) if each and each in frame.columns), "")
    if not name:
        raise DataError(f"{file}: the first column has no name, and none is called item. Name it in the first line")
    if frame.width < 2:
        raise DataError(f"{file}: has the column {name!r} only. Give what is known of the items in others")
    for each in frame.get_columns():
        inner = each.dtype.inner if isinstance(each.dtype, pl.List | pl.Array) else each.dtype
        if not is_plain(inner) or (each.name == name and each.dtype.is_nested()):
            raise DataError(f"{file}: column {each.name!r} holds {each.dtype}. Allowed: text, numbers, dates, lists")
    ids = frame[name].cast(pl.String)
    empty = (ids.is_null() | (ids == "")).arg_max()
    if ids.null_count() or (ids == "").any():
        raise DataError(f"{file.place(int(empty or 0))}: no item id in the column {name!r}. Fill it, or remove the row")
    known = frame.drop(name).with_columns(pl.col(pl.String).replace("", None)).with_columns(ids.alias(KEY))
    merged = known.group_by(KEY, maintain_order=True).agg(pl.all().drop_nulls().first())
    return ItemTable(merged[KEY].alias("item"), merged.drop(KEY), len(frame) - len(merged), str(file))


def fit_columns(table: ItemTable, wanted: Sequence[str], ids: pl.Series) -> tuple[list[ItemColumn], list[str]]:
    """Return the columns as the training items have them, and the names of those with one value only, left out.

    Args:
        table: of items.
        wanted: names, each with its kind where it shall not be told from the values: "topics:list".
        ids: the training items.

    Raises:
        DataError: no such column, an unknown kind, a number or date that is none, nothing that varies.
    """
    rows = table.rows_of(ids)
    columns, constant = [], []
    for text in dict.fromkeys(wanted):
        name, kind = _named(text, table)
        column = _fit(rows[name], kind or _told(rows[name]), table)
        if len(column.values) > 1 or column.deviation > 0:
            columns.append(column)
        else:
            constant.append(name)
    if not columns:
        raise DataError(
            f"{table.name}: {', '.join(constant)}: one value, or none, for all {len(ids):,} training items, so nothing "
            "can be learnt from it. Name other columns, or check that the item ids are those of the log"
        )
    return columns, constant


def encode_items(
    columns: Sequence[ItemColumn], table: ItemTable, ids: pl.Series
) -> tuple[sparse.csr_matrix, NDArray[np.float32]]:
    """Return (L, V) weights of values, a row an item, and (L, F) numbers; without what an encoder says.

    Items and values that the table or training lack are zeros. Errors as in `fit_columns`.
    """
    rows = table.rows_of(ids)
    missing = [column.name for column in columns if column.name not in rows.columns]
    if missing:
        raise DataError(
            f"{table.name}: no column {missing[0]!r}, which the run was trained with. Add it, empty perhaps"
        )
    bags: list[Any] = [sparse.csr_matrix(np.empty((len(ids), 0), dtype=np.float32))]
    numbers = [np.empty((len(ids), 0), dtype=np.float32)]
    for column in columns:
        if column.kind in BAGS:
            bag = _bag(column, _parts(rows[column.name], column.kind))
            bags.append(bag)
            numbers.append(_shared(column, bag))
        elif column.kind != "encoder":
            numbers.append(_standardised(column, _as_numbers(rows[column.name], column.kind, table)))
    return sparse.hstack(bags, format="csr", dtype=np.float32), np.hstack(numbers)


def _named(text: str, table: ItemTable) -> tuple[str, Kind | None]:
    name, _, kind = text.rpartition(":")
    if text in table.frame.columns or not name:
        name, kind = text, ""
    if name not in table.frame.columns:
        columns = table.frame.columns
        raise DataError(
            f"{table.name}: no column {name!r}.{did_you_mean(name, columns)} There are {', '.join(columns)}"
        )
    if kind and kind not in get_args(Kind):
        raise DataError(f"{text}: {kind!r} is no kind of column. Allowed: {', '.join(get_args(Kind))}")
    return name, cast(Kind, kind) or None


def _told(values: pl.Series) -> Kind:
    """Return the kind that the values look like."""
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
    if kind in BAGS:
        parts = _parts(values, kind)
        counts = Counter(value for row in parts for value in dict.fromkeys(row)).most_common(MOST_VALUES)
        column = ItemColumn(values.name, kind, dict(counts), items=sum(map(bool, parts)), deviation=0.0)
        found = _log_shared(column, _bag(column, parts)).astype(np.float64)
    elif kind == "encoder":
        return ItemColumn(values.name, kind, deviation=float(values.drop_nulls().n_unique() > 1))
    else:
        column = ItemColumn(values.name, kind)
        found = _as_numbers(values, kind, table)
    known = found[~np.isnan(found)]
    mean, deviation = (float(known.mean()), float(known.std())) if len(known) else (0.0, 0.0)
    return msgspec.structs.replace(column, mean=mean, deviation=deviation if deviation > 1e-9 else 0.0)


def _parts(values: pl.Series, kind: Kind) -> list[list[str]]:
    """Return the values of each item's bag."""
    if isinstance(values.dtype, pl.List | pl.Array):
        return [[str(part) for part in row if part is not None] if row is not None else [] for row in values.to_list()]
    texts = values.cast(pl.String).fill_null("").to_list()
    if kind == "category":
        return [[text.strip()] if text.strip() else [] for text in texts]
    if kind == "text":
        return [_words(text) for text in texts]
    return [[part for part in SEPARATORS.split(text) if part] for text in texts]


def _words(text: str) -> list[str]:
    words = WORDS.findall(text.lower())
    return words + [f"{first} {second}" for first, second in pairwise(words)]


def _bag(column: ItemColumn, parts: list[list[str]]) -> sparse.csr_matrix:
    numbers = {value: number for number, value in enumerate(column.values)}
    counts = [Counter(numbers[value] for value in row if value in numbers) for row in parts]
    indptr = np.cumsum([0, *map(len, counts)])
    indices = np.array([number for row in counts for number in row], dtype=np.int64)
    repeats = np.array([times for row in counts for times in row.values()], dtype=np.float32)
    shape = (len(parts), len(numbers))
    if column.kind == "text":
        idf = np.log((1 + column.items) / (1 + np.array(list(column.values.values())))) + 1
        bag = sparse.csr_matrix(((1 + np.log(repeats)) * idf[indices], indices, indptr), shape=shape, dtype=np.float32)
        lengths = np.sqrt(np.asarray(bag.multiply(bag).sum(1)).ravel())
    else:
        bag = sparse.csr_matrix((np.ones_like(repeats), indices, indptr), shape=shape, dtype=np.float32)
        lengths = np.diff(indptr)
    bag.data /= np.repeat(np.maximum(lengths, 1e-9), np.diff(indptr)).astype(np.float32)
    return bag


def _log_shared(column: ItemColumn, bag: sparse.csr_matrix) -> NDArray[np.float32]:
    """Return (L,) ln(1 + n), n the training items that share a value, averaged over the bag; nan for an empty one."""
    logs = np.log1p(np.array(list(column.values.values()), dtype=np.float32))
    weights = np.asarray(bag.sum(1)).ravel()
    with np.errstate(invalid="ignore", divide="ignore"):
        return cast(NDArray[np.float32], np.asarray(bag @ logs).ravel() / weights)


def _shared(column: ItemColumn, bag: sparse.csr_matrix) -> NDArray[np.float32]:
    return _standardised(column, _log_shared(column, bag)) if column.values else np.zeros((bag.shape[0], 2), np.float32)


def _as_numbers(values: pl.Series, kind: Kind, table: ItemTable) -> NDArray[np.float64]:
    """Return (L,) numbers, nan where one is missing."""
    if kind == "date":
        found = (values if values.dtype in (pl.Date, pl.Datetime) else _dates(values.cast(pl.String))).cast(pl.Date)
        numbers = found.to_physical().cast(pl.Float64)
    else:
        numbers = values.cast(pl.Float64, strict=False)
    wrong = values.is_not_null() & (numbers.is_null() | numbers.is_infinite())
    if wrong.any():
        example = values.filter(wrong)[0]
        raise DataError(
            f"{table.name}: column {values.name!r}: {example!r} is no {kind}; {int(wrong.sum()):,} values are none. "
            f"Correct them, or read the column as another kind, as {values.name}:category"
        )
    return numbers.fill_null(float("nan")).to_numpy()  # squares of large ids overflow float32


def _dates(values: pl.Series) -> pl.Series:
    return values.str.strip_chars().str.slice(0, 10).str.to_date("%Y-%m-%d", strict=False)


def _standardised(column: ItemColumn, values: NDArray[Any]) -> NDArray[np.float32]:
    """Return (L, 2): how many standard deviations above the mean, 0 where it is missing; and whether it is missing."""
    missing = np.isnan(values)
    scaled = np.where(missing, 0, (values - column.mean) / (column.deviation or 1))
    return np.stack([scaled, missing], 1).astype(np.float32)
