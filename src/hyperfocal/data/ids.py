"""Ids: one text for each, through every door, and back in the type in which they came.

10, 10.0 and "10" are one id. "10.0" is the same id if all ids of the training column are whole numbers; among other
texts, such as the versions "1.0" and "1.1", it stays as it is.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import polars as pl

from hyperfocal.data.columns import read_text
from hyperfocal.data.files import File
from hyperfocal.data.frames import EXACT, plain_text
from hyperfocal.errors import DataError

IdKind = Literal["text", "whole", "integer"]  # whole: whole numbers in a file of text; integer: they came as numbers
EXACT_IN: dict[pl.DataType, int] = {pl.Float16(): 2**11, pl.Float32(): 2**24}  # as `EXACT`, which is for 64 bits
ZEROS = r"^(-?(?:0|[1-9]\d*))\.0+$"  # a whole number with a fraction of zeros


@dataclass
class IdReader:
    """Read a column of ids block by block, as if the column were read at once.

    Args:
        kind: of the ids; None: as the blocks show.
    """

    kind: IdKind | None = None
    shortened: bool = False  # whether a ".0" was removed because all ids so far were whole numbers

    def read(self, column: pl.Series, file: File) -> pl.Series:
        """Return the ids of a block as text; a missing or empty one is null.

        Raises:
            DataError: a column of lists or objects; a float too large to be exact.
            NotWhole: an id of this block is no whole number, but ids of earlier blocks lost their ".0".
        """
        ids = read_text(column, file)
        empty = ids == ""
        ids = ids.set(empty, None) if empty.any() else ids
        if column.dtype.is_float():
            _check_exact(column, file)
        if ids.null_count() == len(ids):
            return ids
        short, own = _shortened(ids, column.dtype) if self.kind != "text" else (ids, "text")
        self.kind = kind = _common(self.kind, own)
        if kind == "text" and self.shortened:
            raise NotWhole
        self.shortened |= kind != "text" and short is not ids
        return ids if kind == "text" else short


class NotWhole(Exception):  # noqa: N818 - a signal, not an error
    """Ids that were read as whole numbers are texts: read the column again with kind "text"."""


def read_ids(column: pl.Series, file: File, advice: str, kind: IdKind | None = None) -> tuple[pl.Series, IdKind]:
    """Return a column of ids as text, and their kind.

    Args:
        column: of any dtype.
        file: for messages.
        advice: the end of the message about a missing id. "": a missing or empty id is null.
        kind: of the training ids, if the column is to be compared with them. None: as the column shows.

    Raises:
        DataError: as in `IdReader.read`; an id is missing, and `advice` is given.
    """
    reader = IdReader(None if kind is None else "text")
    ids = reader.read(column, file)
    if advice and ids.null_count():
        row = int(ids.is_null().arg_max() or 0)
        raise DataError(f"{file.place(row)}: no value in column '{column.name}'{file.fields(row)}. {advice}")
    if kind is None:
        return ids, reader.kind or "text"
    own = _shortened(ids, column.dtype)[1]
    return (ids if kind == "text" else ids.str.replace(ZEROS, "$1")), own


def typed(ids: pl.Series, kind: IdKind) -> pl.Series:
    """Return ids as integers if they came as integers, else as they are."""
    if kind != "integer":
        return ids
    for dtype in (pl.Int64, pl.UInt64):
        numbers = ids.cast(dtype, strict=False)
        if not numbers.null_count():
            return numbers
    return ids


def id_text(value: Any, kind: IdKind) -> str:
    """Return the text of one id, to be compared with ids of a kind.

    >>> id_text(10.0, "text"), id_text("10.0", "whole"), id_text("1.0", "text")
    ('10', '10', '1.0')
    """
    if isinstance(value, bytes | list | tuple | dict | set):
        raise DataError(f"{value!r:.60} is not an item id. Give one text or number per item")
    if isinstance(value, float | np.floating) and abs(value) >= 2 ** (np.finfo(type(value)).nmant + 1):
        raise DataError(f"id {value!r} is a float too large to be exact. Write the id as an integer or a text")
    text = value if isinstance(value, str) else plain_text(value)
    return text if kind == "text" else re.sub(ZEROS, r"\1", text)


def is_whole(ids: pl.Series) -> bool:
    """Return whether all ids are written as 64-bit integers are, without leading zeros."""
    smallest: Any = ids.min()  # as texts "+1" < "-1" < "01" < "1"
    for dtype in (pl.Int64, pl.UInt64):
        numbers = ids.cast(dtype, strict=False)
        if not numbers.null_count():
            return smallest is None or smallest >= "1" or bool((numbers.cast(pl.String) == ids).all())
    return False


def _common(one: IdKind | None, other: IdKind) -> IdKind:
    """Return the kind of the ids of two blocks."""
    if one in (None, other):
        return other
    return "text" if "text" in (one, other) else "whole"


def _shortened(ids: pl.Series, dtype: pl.DataType) -> tuple[pl.Series, IdKind]:
    """Return the texts of ids of a dtype without ".0" if all are whole numbers, and their kind."""
    if dtype.is_integer():
        return ids, "integer"
    known = ids.drop_nulls() if ids.null_count() else ids
    if dtype == pl.Boolean or dtype.is_temporal() or not is_whole(known.head(1).str.replace(ZEROS, "$1")):
        return ids, "text"
    if is_whole(known):
        return ids, "integer" if dtype.is_float() else "whole"
    short = ids.str.replace(ZEROS, "$1")
    return (short, "whole") if is_whole(short.drop_nulls()) else (ids, "text")


def _check_exact(column: pl.Series, file: File) -> None:
    """Raise DataError for ids that may have been rounded: two integers from 2**53 on can be the same 64-bit float."""
    large = column.fill_nan(None).abs() >= EXACT_IN.get(column.dtype, EXACT)
    if large.any():
        row = int(large.arg_max() or 0)
        name = f"{column.dtype}" if column.dtype in EXACT_IN else "float"
        raise DataError(
            f"{file.place(row)}: column '{column.name}' holds {column[row]!r}, a {name} too large to be an exact id. "
            "Read the column as integers (in pandas with dtype='Int64') or as text"
        )
