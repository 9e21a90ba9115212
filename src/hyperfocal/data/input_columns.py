"""Columns of documents in addition to their texts: fields and vectors, read from a frame.

A field is a column of one of DOCUMENT_KINDS. A vector column holds a list of numbers per document, all of one length,
such as the embedding of an image. A missing field counts as no value, and a missing vector is zeros.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any, cast

import numpy as np
import polars as pl
from numpy.typing import NDArray
from scipy.sparse import csr_matrix, issparse, vstack

from hyperfocal.data.field_columns import (
    BAGS,
    Kind,
    as_numbers,
    bag_values,
    check_plain,
    guess_kind,
)
from hyperfocal.data.files import File
from hyperfocal.errors import DataError

DOCUMENT_KINDS: tuple[Kind, ...] = ("category", "list", "number", "date")
logger = logging.getLogger("hyperfocal")
BETWEEN_NUMBERS = r"[\s,;|]+"  # of a vector that is written as text
Vectors = Mapping[str, NDArray[np.float32]]
Matrix = NDArray[np.float32] | csr_matrix


@dataclass(frozen=True, eq=False)
class InputColumns:
    """What is known of N documents in addition to their texts.

    Attributes:
        kinds: field -> its kind.
        fields: (N, F) a column per field: a list of texts for category and list, [] if missing; a float for number and
            date (days since 1970), nan if missing.
        vectors: column -> (N, D) float32, zeros if missing.
        matrix: (N, F) float32, a feature matrix in place of texts, fields and vectors. None: there is none.
        names: (F,) of the features of the matrix. (): they have no names.
    """

    kinds: Mapping[str, Kind] = field(default_factory=dict)
    fields: pl.DataFrame = field(default_factory=pl.DataFrame)
    vectors: Vectors = field(default_factory=dict)
    matrix: Matrix | None = None
    names: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        """Return whether there is any column."""
        return bool(self.kinds or self.vectors) or self.matrix is not None

    def select(self, rows: NDArray[np.int64]) -> InputColumns:
        """Return the columns of the given row numbers, in that order."""
        fields = self.fields[rows] if self.kinds else self.fields
        vectors = {name: values[rows] for name, values in self.vectors.items()}
        matrix = None if self.matrix is None else self.matrix[rows]
        return InputColumns(self.kinds, fields, vectors, matrix, self.names)

    def checksum(self) -> str:
        """Return a checksum of names, kinds and values."""
        digest = sha256(repr([*self.kinds.items(), *self.vectors]).encode())
        for column in self.fields.get_columns():
            digest.update(repr(column.to_list()).encode())
        for values in self.vectors.values():
            digest.update(repr(values.shape).encode() + np.ascontiguousarray(values).tobytes())
        if self.matrix is not None:
            stored = csr_matrix(self.matrix)
            parts = (stored.indptr.astype(np.int64), stored.indices.astype(np.int64), stored.data)
            digest.update(repr(self.matrix.shape).encode() + b"".join(part.tobytes() for part in parts))
        return digest.hexdigest()


NO_COLUMNS = InputColumns()


def joined_columns(parts: Sequence[InputColumns]) -> InputColumns:
    """Return the columns of several sources, one after the other; a source without columns counts for none."""
    first, *rest = [part for part in parts if part] or [NO_COLUMNS]
    if not rest:
        return first
    every = [first, *rest]
    if first.matrix is not None:
        matrices: Any = [part.matrix for part in every]
        return InputColumns(
            matrix=vstack(matrices, format="csr") if issparse(first.matrix) else np.concatenate(matrices)
        )
    vectors = {name: np.concatenate([part.vectors[name] for part in every]) for name in first.vectors}
    return InputColumns(first.kinds, pl.concat([part.fields for part in every]), vectors)


def as_names(names: str | Sequence[str] | None) -> Sequence[str] | None:
    """Return names of columns as a list, also one name."""
    return [names] if isinstance(names, str) else names


def read_columns(
    frame: pl.DataFrame,
    fields: Sequence[tuple[str, str]],
    vectors: Sequence[tuple[str, int]],
    file: File,
    *,
    planned: bool = False,
) -> InputColumns:
    """Return the fields and vectors of documents.

    Args:
        frame: the rows of a file.
        fields: names and kinds. "": the kind that the values suggest.
        vectors: names and lengths. 0: the length of the first vector.
        file: for messages.
        planned: whether a run gives the kinds, so that no other kind can be advised.

    Raises:
        DataError: a field that looks like text, or whose values are not of its kind; a vector of another length, or
            with a value that is not a finite number. The message names file and row.
    """
    given = {name: _without_empty(frame[name]) for name, _ in fields}
    kinds = {name: _kind(given[name], kind, file) for name, kind in fields}
    values = [_field(given[name], kind, file, planned=planned) for name, kind in kinds.items()]
    read = {name: read_vectors(frame[name], length, file) for name, length in vectors}
    return InputColumns(kinds, pl.DataFrame(values), read)


def _without_empty(column: pl.Series) -> pl.Series:
    return column.set(column.str.strip_chars() == "", None) if column.dtype == pl.String else column


def _kind(values: pl.Series, kind: str, file: File) -> Kind:
    check_plain(values, str(file))
    if kind:
        return cast(Kind, kind)
    guessed = "category" if values.dtype == pl.Boolean else guess_kind(values)  # as in CSV, where true is a text
    if guessed not in DOCUMENT_KINDS:
        raise DataError(
            f"{file}: column '{values.name}' holds texts, not a field. Read it as a text (`text=`), or give its kind, "
            f"one of {', '.join(DOCUMENT_KINDS)}, such as {values.name}:list"
        )
    _warn_of_numbers(values, guessed, file)
    return guessed


def _warn_of_numbers(values: pl.Series, guessed: Kind, file: File) -> None:
    """Log that most values of a column are numbers, but not all, so that it is no number."""
    if guessed in ("number", "date") or values.dtype != pl.String:
        return
    others = values.is_not_null() & values.cast(pl.Float64, strict=False).is_null()
    numbers, known = len(values) - values.null_count() - int(others.sum()), len(values) - values.null_count()
    if others.any() and 2 * numbers > known:
        logger.warning(
            "%s: column '%s' is read as a %s because of values such as %r, but %s of %s values are numbers. Correct "
            "the others and name it %s:number",
            file.place(int(others.arg_max() or 0)),
            values.name,
            guessed,
            values.filter(others)[0],
            f"{numbers:,}",
            f"{known:,}",
            values.name,
        )


def _field(values: pl.Series, kind: Kind, file: File, *, planned: bool) -> pl.Series:
    if kind in BAGS:
        return pl.Series(values.name, bag_values(values, kind), dtype=pl.List(pl.String))
    if isinstance(values.dtype, pl.List | pl.Array):
        raise DataError(f"{file}: column '{values.name}' holds lists, not a {kind}. Use {values.name}:list")
    return pl.Series(values.name, as_numbers(values, kind, file, planned=planned), dtype=pl.Float64)


def read_vectors(column: pl.Series, length: int, file: File) -> NDArray[np.float32]:
    """Return (N, D) float32 of a column of lists of numbers, or of texts such as "[0.5, 1]" or "0.5 1".

    Args:
        column: N vectors; a missing one, or an empty one, is zeros.
        length: D. 0: the length of the first vector.
        file: for messages.

    Raises:
        DataError: a vector of another length, or with a value that is not a finite number, with file and row; no
            vector at all.
    """
    lists = _as_lists(column, file)
    lengths = lists.list.len().fill_null(0).to_numpy()
    given = lengths > 0
    if not length:
        if not given.any():
            raise DataError(f"{file}: column '{column.name}' has no vector. Name another column with `vectors=`")
        length = int(lengths[given][0])
    wrong = given & (lengths != length)
    if wrong.any():
        row = int(wrong.argmax())
        raise DataError(
            f"{file.place(row)}: column '{column.name}' has a vector of {lengths[row]} numbers, and the others have "
            f"{length}. Give vectors of one length"
        )
    vectors = np.zeros((len(column), length), dtype=np.float32)
    numbers = lists.filter(pl.Series(given)).explode().cast(pl.Float64, strict=False).fill_null(float("nan"))
    with np.errstate(over="ignore"):
        vectors[given] = numbers.to_numpy().reshape(-1, length)
    bad = ~np.isfinite(vectors).all(1)
    if bad.any():
        raise DataError(
            f"{file.place(int(bad.argmax()))}: column '{column.name}' has a vector with a value that is not a finite "
            "number. Replace NaN and infinity, or leave the vector out"
        )
    return vectors


def _as_lists(column: pl.Series, file: File) -> pl.Series:
    if isinstance(column.dtype, pl.Array):
        column = column.cast(pl.List(cast(Any, column.dtype).inner))
    if column.dtype == pl.String:
        texts = column.str.strip_chars("[]() \t").replace("", None)
        return texts.str.replace_all(BETWEEN_NUMBERS, " ").str.split(" ")
    if column.dtype == pl.Null:
        return column.cast(pl.List(pl.Float64))
    inner = column.dtype.inner if isinstance(column.dtype, pl.List) else None
    if inner is None or not (inner.is_numeric() or inner in (pl.Null, pl.String)):  # texts: 1 and 0.5 in one column
        raise DataError(
            f"{file}: column '{column.name}' holds {column.dtype}, not vectors. Give a list of numbers in each row"
        )
    return column
