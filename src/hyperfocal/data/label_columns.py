"""A column of labels, in whatever form a file holds it, as one list of texts a document."""

from __future__ import annotations

import json

import polars as pl
from polars.datatypes import DataTypeClass

from hyperfocal.data.files import File, is_plain
from hyperfocal.errors import DataError

SEPARATORS = "|;,"  # in this order: what comes later may stand inside a label
NESTED = r'^\s*[\[{]\s*"'  # how an object or list looks where texts were expected; polars writes them as JSON
PYTHON_LIST = r"(?s)^\s*\[\s*'.*'\s*\]\s*$"


def read_labels(column: pl.Series, separator: str, file: File) -> pl.Series:
    """Return (N,) List(String): the labels of each document, stripped, distinct, in their order, none empty.

    Args:
        column: (N,) lists, or texts, each a JSON list or labels parted by `separator`, or numbers, each one label.
        separator: of texts; "" finds it, see `find_separator`.
        file: for messages.

    Raises:
        DataError: an object or a list where a label was expected, with its place; a list in Python's spelling.
    """
    if isinstance(column.dtype, pl.Array):
        column = column.arr.to_list()
    inner = column.dtype.inner if isinstance(column.dtype, pl.List) else column.dtype
    if not is_plain(inner):
        raise _nested(column, int(column.is_not_null().arg_max() or 0), file)
    if isinstance(column.dtype, pl.List):
        lists = column.list.eval(_text(pl.element(), inner))
        _refuse_nested(lists, lists.list.eval(pl.element().str.contains(NESTED)).list.any(), file)
    else:
        lists = _split(column.to_frame().select(_text(pl.col(column.name), inner)).to_series(), separator, file)
    lists = lists.list.eval(pl.element().str.strip_chars()).list.eval(pl.element().filter(pl.element() != ""))
    return lists.list.unique(maintain_order=True).fill_null([]).alias("labels")


def find_separator(values: pl.Series) -> str:
    """Return the first of `|`, `;` and `,` that occurs in a value, else a space.

    >>> find_separator(pl.Series(["Food, drink|Travel", "Travel"]))
    '|'
    """
    return next((mark for mark in SEPARATORS if values.str.contains(mark, literal=True).any()), " ")


def find_separator_in(column: pl.Series, file: File) -> str:
    """Return `find_separator` of a column as `read_labels` gets it: lists, JSON ones too, need none."""
    if isinstance(column.dtype, pl.List | pl.Array) or not is_plain(column.dtype):
        return " "
    return find_separator(_json_lists(as_text(column), file)[1])


def as_text(column: pl.Series) -> pl.Series:
    """Return the values of a flat column as text, whole numbers without a ".0"."""
    return column.to_frame().select(_text(pl.col(column.name), column.dtype)).to_series()


def _text(values: pl.Expr, dtype: pl.DataType | DataTypeClass) -> pl.Expr:
    if dtype.is_float():
        return values.fill_nan(None).cast(pl.String).str.strip_suffix(".0")
    return values.cast(pl.String)


def _split(text: pl.Series, separator: str, file: File) -> pl.Series:
    """Return the labels of texts: of JSON lists, and of the others the parts between separators."""
    json_lists, plain = _json_lists(text, file)
    _refuse_nested(plain, plain.str.contains(NESTED), file)
    separator = separator or find_separator(plain)
    parts = plain.str.extract_all(r"\S+") if separator.isspace() else plain.str.split(separator)
    return json_lists.zip_with(json_lists.is_not_null(), parts)


def _json_lists(text: pl.Series, file: File) -> tuple[pl.Series, pl.Series]:
    """Return the labels of the texts that are JSON lists, and the other texts; null is each where the other is not."""
    listed = [_read_list(value, text, row, file) for row, value in enumerate(text.to_list())]
    json_lists = pl.Series(text.name, listed, dtype=pl.List(pl.String))
    return json_lists, text.set(json_lists.is_not_null(), None)


def _read_list(value: str | None, column: pl.Series, row: int, file: File) -> list[str] | None:
    """Return the labels of a JSON list, None for a text that is none."""
    if value is None or not value.lstrip().startswith("["):
        return None
    try:
        items = json.loads(value)
    except (ValueError, RecursionError):  # the latter of thousands of brackets
        if pl.Series([value]).str.contains(PYTHON_LIST).item():
            raise DataError(
                f"{file.place(row)}: labels {value[:80]} are a list in Python's spelling. "
                'Write JSON, as ["a", "b"], or a|b'
            ) from None
        return None
    if any(isinstance(item, list | dict) for item in items):
        raise _nested(column, row, file)
    return [_name(item) for item in items]


def _name(item: str | float | bool | None) -> str:
    """Return a value of JSON as a label."""
    if isinstance(item, str):
        return item
    return "" if item is None else json.dumps(item).removesuffix(".0")


def _refuse_nested(column: pl.Series, nested: pl.Series, file: File) -> None:
    if nested.any():
        raise _nested(column, int(nested.fill_null(value=False).arg_max() or 0), file)


def _nested(column: pl.Series, row: int, file: File) -> DataError:
    value = json.dumps(column.slice(row, 1).to_list()[0], ensure_ascii=False, default=str)
    return DataError(
        f"{file.place(row)}: column '{column.name}' holds {value[:80]}: an object or a list inside is no label. "
        'Allowed: texts and numbers, as ["sport", "travel"]'
    )
