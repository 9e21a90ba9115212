"""Read a column of labels, in any form that files use, as one list of texts per document."""

from __future__ import annotations

import json

import polars as pl

from hyperfocal.data.columns import is_plain, json_text, read_text, text_of
from hyperfocal.data.files import File
from hyperfocal.errors import DataError

SEPARATORS = "|;,"  # in this order: a later one may be part of a label
NESTED = r'^\s*[\[{]\s*"'  # an object or list among texts, which polars writes as JSON
MULTI_HOT = r"^\s*\[\s*(0|1|true|false)(\s*,\s*(0|1|true|false))+\s*\]\s*$"
PYTHON_LIST = r"""(?s)^\s*(\[\s*'.*'\s*,?\s*\]|\(\s*['"].*['"]\s*,?\s*\)|\{\s*('.*'|"[^:]*")\s*\}|set\(\)|\(\))\s*$"""


def read_labels(column: pl.Series, separator: str, file: File) -> tuple[pl.Series, str]:
    """Return the labels of N documents, and the separator that was used; "": all are lists.

    The labels are (N,) List(String), stripped, distinct, in order, none empty.

    Args:
        column: (N,) lists; texts, each a JSON list or labels joined by `separator`; or numbers, each one label.
        separator: of labels in a text; "" finds it as `find_separator` does.
        file: for messages.

    Raises:
        DataError: an object or a list in place of a label; a list in Python syntax; multi-hot rows.
    """
    if isinstance(column.dtype, pl.Array):
        column = column.arr.to_list()
    inner = column.dtype.inner if isinstance(column.dtype, pl.List) else column.dtype
    if not is_plain(inner):
        raise _nested(column, int(column.is_not_null().arg_max() or 0), file)
    if isinstance(column.dtype, pl.List):
        lists = column.list.eval(text_of(pl.element(), inner))
        _check_flat(lists, lists.list.eval(pl.element().str.contains(NESTED)).list.any(), file)
        separator = ""
    else:
        lists, separator = _split(read_text(column, file), separator, file)
    _check_multi_hot(lists, column, file)
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
    json_lists, plain = _json_lists(text, file)
    if plain.null_count() == len(plain):
        return json_lists, ""
    _check_python(plain, file)
    _check_flat(plain, plain.str.contains(NESTED), file)
    separator = separator or find_separator(plain)
    pieces = plain.str.extract_all(r"\S+") if separator.isspace() else plain.str.split(separator)
    return json_lists.zip_with(json_lists.is_not_null(), pieces), separator


def _check_python(plain: pl.Series, file: File) -> None:
    """Raise DataError for a list, a tuple or a set as Python prints it."""
    python = plain.str.contains(PYTHON_LIST).fill_null(value=False)
    if python.any():
        row = int(python.arg_max() or 0)
        raise DataError(
            f"{file.place(row)}: labels {plain[row][:80]} are a list, a tuple or a set in Python syntax. "
            'Write JSON, such as ["a", "b"], or a|b'
        )


def _json_lists(text: pl.Series, file: File) -> tuple[pl.Series, pl.Series]:
    """Return the labels of texts that are JSON lists, else null; and the other texts, else null."""
    lists = [_read_list(value, text, row, file) for row, value in enumerate(text.to_list())]
    json_lists = pl.Series(text.name, lists, dtype=pl.List(pl.String))
    return json_lists, text.set(json_lists.is_not_null(), None)


def _read_list(value: str | None, column: pl.Series, row: int, file: File) -> list[str] | None:
    """Return the labels of a JSON list; None for any other text."""
    if value is None or not value.lstrip().startswith("["):
        return None
    try:
        items = json.loads(value)
    except (ValueError, RecursionError):  # RecursionError: thousands of brackets
        return None
    if any(isinstance(item, list | dict) for item in items):
        raise _nested(column, row, file)
    return [json_text(item) or "" for item in items]


def _check_multi_hot(lists: pl.Series, column: pl.Series, file: File) -> None:
    """Raise DataError if the rows are lists of numbers 0 and 1, all of one length above 1: columns, not names."""
    rows = lists.drop_nulls()
    if column.dtype == pl.String:
        numbers = bool(column.drop_nulls().str.contains(MULTI_HOT).all())
    else:
        inner = column.dtype.inner if isinstance(column.dtype, pl.List) else column.dtype
        numbers = isinstance(column.dtype, pl.List) and (inner.is_numeric() or inner == pl.Boolean)
    values = set(rows.explode().unique().to_list()) if numbers and rows.list.len().n_unique() == 1 else set()
    if len(values) > 1 and values <= {"0", "1", "false", "true"}:
        first = json.dumps(column.drop_nulls().head(1).to_list()[0])
        raise DataError(
            f"{file}: column '{column.name}' holds multi-hot rows such as {first[:80]}, not names of labels. "
            'Write the names of the labels that are right, such as ["sport", "travel"]'
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
