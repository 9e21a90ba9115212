"""RecBole's atomic files: a header `user_id:token<TAB>genres:token_seq`, with lists separated by spaces."""

from __future__ import annotations

import polars as pl

from hyperfocal.data.files import File
from hyperfocal.errors import DataError

TYPES = ("token", "token_seq", "float", "float_seq")


def without_types(frame: pl.DataFrame, file: File) -> pl.DataFrame:
    """Return a table with the names and lists that a typed header describes; any other table unchanged.

    Raises:
        DataError: two columns have the same name and different types.
    """
    pairs = [name.rpartition(":") for name in frame.columns]
    if not pairs or not all(name and kind in TYPES for name, _, kind in pairs):
        return frame
    names = [name for name, _, _ in pairs]
    twice = next((name for name in names if names.count(name) > 1), "")
    if twice:
        raise DataError(f"{file}: the header has column '{twice}' with two types. Rename one of them")
    return frame.select(
        (_list(column) if kind.endswith("_seq") else pl.col(column)).alias(name)
        for column, (name, _, kind) in zip(frame.columns, pairs, strict=True)
    )


def _list(column: str) -> pl.Expr:
    return pl.col(column).str.split(" ").list.filter(pl.element() != "")
