"""Columns of a frame: their values as text, and checks of their names."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

import polars as pl
from polars.datatypes import DataTypeClass

from hyperfocal.data.files import File
from hyperfocal.errors import DataError, columns_of, did_you_mean

DType = pl.DataType | DataTypeClass


def is_plain(dtype: DType) -> bool:
    """Return whether the values of a column are texts, numbers, dates, times or booleans, which have a text form."""
    texts = (pl.String, pl.Categorical, pl.Enum, pl.Boolean, pl.Null)
    return dtype in texts or dtype.is_numeric() or (dtype.is_temporal() and dtype != pl.Duration)


def text_of(values: pl.Expr, dtype: DType) -> pl.Expr:
    """Return plain values as text, whole numbers without a ".0"; null and NaN stay null."""
    if dtype.is_float():
        values = values.fill_nan(None) + 0.0  # -0.0 is 0
        return values.cast(pl.String).str.strip_suffix(".0")
    return values.cast(pl.String)


def json_text(value: Any) -> str | None:
    """Return a JSON value as text, numbers as `text_of` writes them."""
    if value is None or isinstance(value, str):
        return value
    text = json.dumps(value, ensure_ascii=False)
    return text.removesuffix(".0") if isinstance(value, float) else text


def read_text(column: pl.Series, file: File) -> pl.Series:
    """Return a column as text, see `text_of`.

    Raises:
        DataError: a column of lists, objects or bytes.
    """
    if not is_plain(column.dtype):
        raise DataError(f"{file}: column '{column.name}' holds {column.dtype}. Allowed: text and numbers")
    return column.to_frame().select(text_of(pl.col(column.name), column.dtype)).to_series()


def check_column(name: str, header: list[str], file: File | str, option: str = "") -> None:
    """Raise DataError if a file has no column of this name, which `option` asked for."""
    if name not in header:
        asked = f" ({option})" if option else ""
        hint = did_you_mean(name, header)
        raise DataError(f"{file}: no column '{name}'{asked}.{hint} {columns_of(header)}")


def check_unique(names: Iterable[str], header: list[str], file: File) -> None:
    """Raise DataError if the header has one of the names twice."""
    for name in names:
        if f"{name}_duplicated_0" in header:  # polars renames the second column
            raise DataError(f"{file}: the header has column '{name}' twice. Rename one of them")
