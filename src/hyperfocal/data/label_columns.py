"""Read a column of labels, in any form that files use, as one list of texts per document."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from typing import Any

import numpy as np
import polars as pl

from hyperfocal.data.columns import is_plain, json_text, read_text, text_of
from hyperfocal.data.files import File
from hyperfocal.data.frames import is_missing
from hyperfocal.errors import DataError

SEPARATORS = "|;,"  # in this order: a later one may be part of a label
NESTED = r'^\s*(\[\s*"|\{\s*["}])'  # an object or list among texts, which polars writes as JSON
NUMBERS = (int, float, np.integer, np.floating)
IGNORED = (-1, -100)  # entries that other libraries leave out
BRACKETS = {"[": "]", "(": ")", "{": "}"}
BRACKETED = re.compile(r"\s*(set|frozenset|array)?([\[({])(.*)[\])}]\s*", re.DOTALL)
QUOTED = re.compile(r"[\s,\[({]*['\"]")  # at the start
VALUE = re.compile(
    r"[-+]?(\d[\d_]*(\.\d*)?|\.\d+)(e[-+]?\d+)?|true|false|none|nan|nat|<na>|[-+]?inf|\.\.\.|", re.IGNORECASE
)
BETWEEN = re.compile(r"[\s,:\[\](){}]+")  # values


def read_labels(column: pl.Series, separator: str, file: File) -> tuple[pl.Series, str]:
    """Return the labels of N documents, and the separator that was used; "": all are lists.

    The labels are (N,) List(String), stripped, distinct, in order, none empty.

    Args:
        column: (N,) lists; texts, each a JSON list or labels joined by `separator`; or numbers, each one label.
        separator: of labels in a text; "" finds it as `find_separator` does.
        file: for messages.

    Raises:
        DataError: an object or a list in place of a label; a list in Python syntax; rows of an indicator matrix.
    """
    if isinstance(column.dtype, pl.Array):
        column = column.arr.to_list()
    inner = column.dtype.inner if isinstance(column.dtype, pl.List) else column.dtype
    if not is_plain(inner):
        raise _nested(column, int(column.is_not_null().arg_max() or 0), file)
    if isinstance(column.dtype, pl.List):
        _check_multi_hot(column, file)
        lists = column.list.eval(text_of(pl.element(), inner))
        _check_flat(lists, lists.list.eval(pl.element().str.contains(NESTED)).list.any(), file)
        separator = ""
    else:
        lists, separator = _split(read_text(column, file), separator, file)
    lists = lists.list.eval(pl.element().str.strip_chars()).list.eval(pl.element().filter(pl.element() != ""))
    return lists.list.unique(maintain_order=True).fill_null([]).alias("labels"), separator


def find_separator(values: pl.Series) -> str:
    """Return the first of `|`, `;` and `,` that occurs in a value, else a space.

    >>> find_separator(pl.Series(["Food, drink|Travel", "Travel"]))
    '|'
    """
    return next((mark for mark in SEPARATORS if values.str.contains(mark, literal=True).any()), " ")


def find_column_separator(column: pl.Series, file: File) -> str:
    """Return the separator of a column as `read_labels` finds it; "": all values are lists."""
    if isinstance(column.dtype, pl.List | pl.Array) or not is_plain(column.dtype):
        return ""
    plain = _json_lists(read_text(column, file), file)[1]
    return "" if plain.null_count() == len(plain) else find_separator(plain)


def _split(text: pl.Series, separator: str, file: File) -> tuple[pl.Series, str]:
    """Return the labels of texts, and the separator: the values of a JSON list, or the text between separators."""
    rows, plain = _json_lists(text, file)
    names = [None if row is None else [json_text(value) or "" for value in row] for row in rows]
    json_lists = pl.Series(text.name, names, dtype=pl.List(pl.String))
    if plain.null_count() == len(plain):
        _check_text_rows(rows, json_lists.clear(), text, file)
        return json_lists, ""
    separator = separator or find_separator(plain)
    _check_python(plain, separator, file)
    _check_flat(plain, plain.str.contains(NESTED), file)
    pieces = plain.str.extract_all(r"\S+") if separator.isspace() else plain.str.split(separator)
    _check_text_rows(rows, pieces.drop_nulls(), text, file)
    return json_lists.zip_with(json_lists.is_not_null(), pieces), separator


def _check_python(plain: pl.Series, separator: str, file: File) -> None:
    """Raise DataError for a list, a tuple or a set as Python and numpy print it."""
    for row, text in enumerate(plain.to_list()):
        if text and text.rstrip()[-1:] in "])}" and is_python_list(text, separator):
            raise DataError(
                f"{file.place(row)}: labels {text[:80]} are a list, a tuple or a set in Python syntax. "
                'Write JSON, such as ["a", "b"], or a|b; if the text is the name of one label, write ["(a, b)"]'
            )


def is_python_list(text: str, separator: str) -> bool:
    """Return whether a text is a list, a tuple or a set as Python and numpy print it, and not a label in brackets.

    Quotes and values, such as numbers, show it; so do commas in brackets at which `separator` would split.

    >>> [is_python_list(text, ",") for text in ("['a' 'b']", "[0. 1.]", "(1, 2)", "set()", "(a, b)")]
    [True, True, True, True, True]
    >>> [is_python_list(text, "|") for text in ("[draft] x", "(foo)", "(2)", "(a)|(b)", "(a, b)")]
    [False, False, False, False, False]
    """
    match = BRACKETED.fullmatch(text)
    if not match or text.rstrip()[-1] != (")" if match[1] else BRACKETS[match[2]]):
        return False
    inside = match[3]
    if QUOTED.match(inside) or (match[1] and inside.strip()[:1] in ("", *BRACKETS)):
        return not _is_json(text)
    if not _is_one(text.strip().removeprefix(match[1] or "")):
        return False
    listed = match[2] != "(" or "," in inside or not inside.strip()
    return not _is_json(text) and (
        (listed and all(map(VALUE.fullmatch, BETWEEN.split(inside)))) or ("," in inside and separator == ",")
    )


def _is_one(text: str) -> bool:
    """Return whether the bracket at the start is closed at the end, not earlier, as in (a)|(b)."""
    depth = 0
    for place, mark in enumerate(text):
        depth += (mark in BRACKETS) - (mark in BRACKETS.values())
        if depth <= 0:
            return place == len(text) - 1
    return False


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def _json_lists(text: pl.Series, file: File) -> tuple[list[list[Any] | None], pl.Series]:
    """Return the values of texts that are JSON lists, else None; and the other texts, else null."""
    lists = [_read_list(value, text, row, file) for row, value in enumerate(text.to_list())]
    return lists, text.set(pl.Series([values is not None for values in lists], dtype=pl.Boolean), None)


def _read_list(value: str | None, column: pl.Series, row: int, file: File) -> list[Any] | None:
    """Return the values of a JSON list; None for any other text."""
    if value is None or not value.lstrip().startswith("["):
        return None
    try:
        values: list[Any] = json.loads(value, parse_constant=_not_a_number)
    except (ValueError, RecursionError):  # RecursionError: thousands of brackets
        return None
    if any(isinstance(each, list | dict) for each in values):
        raise _nested(column, row, file)
    return values


def _not_a_number(name: str) -> float | None:
    return None if name == "NaN" else float(name)


def is_multi_hot(lengths: Iterable[int], values: Iterable[Any]) -> bool:
    """Return whether rows look like those of an indicator matrix: with bools, or with numbers and all of one length.

    Args:
        lengths: of all rows but empty ones.
        values: of all rows. Numbers from 0 to 1, -1 and -100 are entries of a matrix, and so are missing values.

    >>> is_multi_hot([2, 2], [0, 1, 1, None]), is_multi_hot([2, 1], [0, 1, 1]), is_multi_hot([2, 2], [0, 1, 1, 7])
    (True, False, False)
    """
    lengths = set(lengths)
    entries, known = len(lengths) == 1 and max(lengths) > 1, False
    for value in values:
        if isinstance(value, bool | np.bool_):
            return True
        if not is_missing(value):
            known = True
            entries = entries and isinstance(value, NUMBERS) and bool(0 <= value <= 1 or value in IGNORED)
    return entries and known


def _check_multi_hot(column: pl.Series, file: File) -> None:
    """Raise DataError if a column of lists holds rows of an indicator matrix."""
    assert isinstance(column.dtype, pl.List)
    inner = column.dtype.inner
    if inner.is_numeric() or inner == pl.Boolean:
        rows = column.filter(column.list.len() > 0)
        values = rows.explode().unique().cast(pl.Float64 if inner.is_numeric() else pl.Boolean)
        if is_multi_hot(rows.list.len().unique(), values.to_list()):
            raise _multi_hot(rows[0].to_list(), column, file)


def _check_text_rows(rows: list[list[Any] | None], pieces: pl.Series, column: pl.Series, file: File) -> None:
    """Raise DataError if texts hold rows of an indicator matrix, as JSON lists or as numbers between separators."""
    split = pieces.filter(pieces.list.len() > 0)
    numbers = split.explode().str.strip_chars().unique().cast(pl.Float64, strict=False)
    plain: list[Any] = [""] if numbers.null_count() else numbers.to_list()
    filled = [row for row in rows if row]
    lengths = {*map(len, filled), *split.list.len().unique()}
    if is_multi_hot(lengths, (value for row in [*filled, plain] for value in row)):
        raise _multi_hot(column.drop_nulls()[0], column, file)


def _multi_hot(row: Any, column: pl.Series, file: File) -> DataError:
    return DataError(
        f"{file}: column '{column.name}' holds multi-hot rows such as {json.dumps(row, default=str)[:80]}, not names "
        'of labels. Write the names of the labels that are right as texts, such as ["sport", "travel"]'
    )


def _check_flat(column: pl.Series, nested: pl.Series, file: File) -> None:
    if nested.any():
        raise _nested(column, int(nested.fill_null(value=False).arg_max() or 0), file)


def _nested(column: pl.Series, row: int, file: File) -> DataError:
    value = json.dumps(column.slice(row, 1).to_list()[0], ensure_ascii=False, default=str)
    return DataError(
        f"{file.place(row)}: column '{column.name}' holds {value[:80]}, but an object or a list is not a label. "
        'Allowed: texts and numbers, such as ["sport", "travel"]'
    )
