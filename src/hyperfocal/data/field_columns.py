"""Columns of items and of documents as numbers: their kinds, their values, and their standardized numbers.

    category   one value, such as a language or a section
    list       several values, such as topics: a list, or a text with separators: spaces , ; |
    text       any number of words; of items only
    number     standardized; if it is missing, 0; and a second number: whether it is missing
    date       as number, in days
    encoder    text for a sentence encoder; of items only

`item_table.py` encodes the columns of items with these functions, and `document_columns.py` those of documents.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Literal, cast, get_args

import msgspec
import numpy as np
import polars as pl
from numpy.typing import NDArray
from scipy import sparse

from hyperfocal.data.columns import check_column, is_plain
from hyperfocal.data.files import File
from hyperfocal.data.frames import EXACT, is_missing, plain_text
from hyperfocal.errors import DataError

Kind = Literal["category", "list", "text", "number", "date", "encoder"]
BAGS = ("category", "list", "text")
SEPARATORS = re.compile(r"[\s,;|]+")
WORDS = re.compile(r"\w+")
TEXT_WORDS = 8  # words per value, on average, from which a column is text
MOST_VALUES = 20_000  # per column; the most frequent are used


class FieldColumn(msgspec.Struct, frozen=True):
    """A column, fitted on the training rows."""

    name: str  # of the column
    kind: Kind  # of its values
    values: dict[str, int] = {}  # of a bag: value -> number of training rows that have it, the most frequent first
    items: int = 0  # number of training rows that have any value; words are weighted by it
    mean: float = 0.0  # of a number; of an item's bag, the mean of ln(1 + n)
    deviation: float = 1.0  # standard deviation of the same
    checksum: str = ""  # of the encoder's files


def split_kind(text: str, header: Sequence[str], name: str, kinds: Sequence[str] = get_args(Kind)) -> tuple[str, str]:
    """Return the name and the kind of "topics:list"; "": no kind.

    Args:
        text: the name of a column, optionally with a kind.
        header: names of all columns. A column whose name has a colon needs no kind.
        name: of the file, for messages.
        kinds: that are allowed.

    Raises:
        DataError: no such column, or an unknown kind.
    """
    column, _, kind = text.rpartition(":")
    if text in header or not column:
        column, kind = text, ""
    check_column(column, list(header), name)
    if kind and kind not in kinds:
        raise DataError(f"{text}: {kind!r} is not a kind of column. Allowed: {', '.join(kinds)}")
    return column, kind


def check_plain(column: pl.Series, name: str) -> None:
    """Raise DataError for a column of other values than texts, numbers, dates and lists of them."""
    dtype = column.dtype
    if not is_plain(dtype.inner if isinstance(dtype, pl.List | pl.Array) else dtype):
        raise DataError(f"{name}: column {column.name!r} holds {dtype}. Allowed: text, numbers, dates, lists")


def guess_kind(values: pl.Series) -> Kind:
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


def fit_bag(name: str, kind: Kind, rows: Sequence[Sequence[str]]) -> FieldColumn:
    """Return the column of bags with the most frequent MOST_VALUES of their values, before any standardizing."""
    counts = Counter(value for row in rows for value in dict.fromkeys(row)).most_common(MOST_VALUES)
    return FieldColumn(name, kind, dict(counts), items=sum(map(bool, rows)))


def with_moments(column: FieldColumn, numbers: NDArray[Any]) -> FieldColumn:
    """Return the column with mean and standard deviation of the numbers that are not nan."""
    known = numbers[~np.isnan(numbers)]
    mean, deviation = (float(known.mean()), float(known.std())) if len(known) else (0.0, 0.0)
    constant = is_constant(np.array(mean), np.array(deviation), len(known))
    return msgspec.structs.replace(column, mean=mean, deviation=0.0 if constant else deviation)


def is_constant(mean: NDArray[Any], deviation: NDArray[Any], rows: int) -> NDArray[np.bool_]:
    """Return whether N numbers differ by no more than rounding: variance <= N eps variance + (N eps mean)^2.

    The bound is that of scikit-learn's StandardScaler, with eps of float64.
    """
    bound = rows * np.finfo(np.float64).eps
    constant: NDArray[np.bool_] = deviation**2 <= bound * deviation**2 + (bound * mean) ** 2
    return constant


def bag_values(values: pl.Series, kind: Kind) -> list[list[str]]:
    """Return the values in the bag of each row, whole numbers without ".0"."""
    if isinstance(values.dtype, pl.List | pl.Array):
        return [[_as_text(value) for value in row or [] if not is_missing(value)] for row in values.to_list()]
    texts = _as_texts(values).fill_null("").to_list()
    if kind == "category":
        return [[text.strip()] if text.strip() else [] for text in texts]
    if kind == "text":
        return [_words(text) for text in texts]
    return [[value for value in SEPARATORS.split(text) if value] for text in texts]


def _as_text(value: Any) -> str:
    return plain_text(value) if isinstance(value, float) else str(value)


def _as_texts(values: pl.Series) -> pl.Series:
    """Return values as texts; a whole number is written alike as integer and as float."""
    texts = values.cast(pl.String)
    if not values.dtype.is_float():
        return texts
    whole = values.cast(pl.Int64, strict=False)
    same = (whole.cast(values.dtype) == values) & (values.abs() < EXACT)
    return whole.cast(pl.String).zip_with(same.fill_null(value=False), texts)


def _words(text: str) -> list[str]:
    words = WORDS.findall(text.lower())
    return words + [f"{first} {second}" for first, second in pairwise(words)]


def count_bags(column: FieldColumn, rows: Sequence[Sequence[str]]) -> sparse.csr_matrix:
    """Return (N, V) float32: how often the bag of each row has each value of the column; other values count as none."""
    numbers = {value: number for number, value in enumerate(column.values)}
    counts = [Counter(numbers[value] for value in row if value in numbers) for row in rows]
    indptr = np.cumsum([0, *map(len, counts)])
    indices = np.array([number for row in counts for number in row], dtype=np.int64)
    repeats = np.array([times for row in counts for times in row.values()], dtype=np.float32)
    return sparse.csr_matrix((repeats, indices, indptr), shape=(len(rows), len(numbers)))


def as_numbers(values: pl.Series, kind: Kind, file: File | str, *, planned: bool = False) -> NDArray[np.float64]:
    """Return (N,) numbers, of a date in days, nan for missing ones.

    Raises:
        DataError: a value is not a number, or not a date; infinity. The message names the row of a File, and if the
            kind is not `planned` by a run, another kind.
    """
    if kind == "date":
        dates = (values if values.dtype in (pl.Date, pl.Datetime) else _dates(values.cast(pl.String))).cast(pl.Date)
        numbers = dates.to_physical().cast(pl.Float64)
    else:
        numbers = values.cast(pl.Float64, strict=False)
    wrong = values.is_not_null() & (numbers.is_null() | numbers.is_infinite())
    if wrong.any():
        count, row = int(wrong.sum()), int(wrong.arg_max() or 0)
        place = file if isinstance(file, str) else file.place(row)
        are = f"1 value is not a {kind}" if count == 1 else f"{count:,} values are not a {kind}"
        advice = "" if planned else f", or read the column as another kind, such as {values.name}:category"
        raise DataError(
            f"{place}: column {values.name!r}: {are}, such as {values[row]!r}. "
            f"Correct {'it' if count == 1 else 'them'}{advice}"
        )
    return cast(NDArray[np.float64], numbers.fill_null(float("nan")).to_numpy())  # squares of ids overflow float32


def _dates(values: pl.Series) -> pl.Series:
    return values.str.strip_chars().str.slice(0, 10).str.to_date("%Y-%m-%d", strict=False)


def standardize(column: FieldColumn, values: NDArray[Any]) -> NDArray[np.float32]:
    """Return (N, 2): standard deviations above the mean, 0 if missing; and whether the value is missing."""
    missing = np.isnan(values)
    scaled = np.where(missing, 0, (values - column.mean) / (column.deviation or 1))
    return np.stack([scaled, missing], 1).astype(np.float32)
