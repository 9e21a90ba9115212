"""Indicator matrices, scikit-learn's format of labels: one column per label."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix, issparse

from hyperfocal.data.frames import is_missing, plain_text
from hyperfocal.data.label_columns import is_multi_hot
from hyperfocal.errors import DataError
from hyperfocal.labels import SparseLabels, check_matrix

MOST_COLUMNS = 2**31 - 1  # of a scipy matrix that counts in int32
NUMBERS = (int, float, np.integer, np.floating, np.bool_)


@dataclass(frozen=True)
class Indicator:
    """The indicator matrix that `fit` got; `predict` returns one of the same width.

    The labels are named by the numbers of its columns. A dense matrix and a sparse one of the same width are equal.

    Attributes:
        width: number of columns.
        sparse: whether `predict` returns a CSR matrix; if not, a numpy array.
    """

    width: int
    sparse: bool = field(default=True, compare=False)

    @classmethod
    def of(cls, labels: Any) -> Indicator | None:
        """Return the indicator of labels; None for lists of labels."""
        return cls(labels.shape[1], bool(issparse(labels))) if is_indicator(labels) else None

    @classmethod
    def from_json(cls, width: Any, names: list[str], *, sparse: Any = True) -> Indicator:
        """Return the indicator of a run whose labels have these names.

        Args:
            width: number of columns.
            names: of the labels, which are numbers of columns.
            sparse: whether `predict` returns a CSR matrix; runs of earlier versions, which do not say so, do.

        Raises:
            DataError: `width` is not the width of a matrix with a column for each label.
        """
        if not isinstance(width, int) or not all(0 <= int(name) < width <= MOST_COLUMNS for name in names):
            raise DataError(
                f"an indicator matrix of {width!r:.20} columns cannot have the labels {', '.join(names[:3])}"
            )
        return cls(width, bool(sparse))

    def widened(self, scores: NDArray[np.float32], names: list[str], fill: float) -> NDArray[np.float32]:
        """Return (N, width): the (N, L) scores in the columns that `names` gives, and `fill` in all other columns."""
        wide = np.full((len(scores), self.width), fill, dtype=np.float32)
        wide[:, [int(name) for name in names]] = scores
        return wide

    def matrix(self, decided: SparseLabels, names: list[str]) -> csr_matrix[np.int64] | NDArray[np.int64]:
        """Return (N, width) int64, CSR or dense, with ones at the decided labels, whose names are column numbers."""
        columns = np.asarray([int(name) for name in names], dtype=np.int64)[decided.indices.numpy()]
        ones = np.ones(len(columns), dtype=np.int64)
        matrix = csr_matrix((ones, columns, decided.indptr.numpy()), shape=(len(decided), self.width))
        return matrix if self.sparse else matrix.toarray()


def is_indicator(labels: Any) -> bool:
    """Return whether labels are a sparse matrix, or an array, tensor or frame of two dimensions."""
    return bool(issparse(labels) or len(getattr(labels, "shape", ())) == 2)


def as_indicator(labels: Any) -> Any:
    """Return equally long lists of two or more 0 and 1 as an (N, L) matrix, and any other labels unchanged."""
    if not isinstance(labels, list | tuple) or not all(isinstance(row, list | tuple | np.ndarray) for row in labels):
        return labels
    rows = [row.tolist() if isinstance(row, np.ndarray) else list(row) for row in labels]
    one_width = len({len(row) for row in rows}) == 1
    numbers = all(isinstance(value, NUMBERS) and value in (0, 1) for row in rows for value in row)
    return np.asarray(rows) if one_width and len(rows[0]) > 1 and numbers else labels


def check_form(labels: Any, fitted: Indicator | None, name: str) -> None:
    """Check that labels, called `name`, have the form of the training labels.

    Args:
        labels: of other texts.
        fitted: the indicator of the training labels. None: they were lists of labels.

    Raises:
        DataError: a matrix in place of lists, lists in place of a matrix, or a matrix of another width.
    """
    given = Indicator.of(labels)
    if given != fitted:
        fix = "Give a matrix with the same columns" if fitted else "Give a list of labels per text, as in training"
        raise DataError(f"{name}: training labels are {_form(fitted)} and these are {_form(given)}. {fix}")


def _form(indicator: Indicator | None) -> str:
    return f"an indicator matrix of {indicator.width:,} columns" if indicator else "lists of labels"


def as_label_lists(labels: Any) -> Sequence[Sequence[str]]:
    """Return a list of labels per document, from such lists or from an indicator matrix; a missing list is empty.

    Raises:
        DataError: an indicator matrix that holds other values than 0, 1 and NaN, which `unknown_columns` returns; a row
            that is not a list; rows that may be those of an indicator matrix.
    """
    if is_indicator(labels):
        return _columns(labels)
    if labels is None or isinstance(labels, str | bytes | Mapping):
        raise DataError(f"labels: {labels!r:.50} is not one list of labels per text. Give such lists, or a matrix")
    values = labels.to_pylist() if hasattr(labels, "to_pylist") else labels  # an array of pyarrow
    rows = [[] if is_missing(row) else _label_list(row) for row in values]
    _refuse_disguised([row for row in rows if row])
    return [[plain_text(name) for name in row if not is_missing(name)] for row in rows]


def _columns(labels: Any) -> list[list[str]]:
    """Return the numbers of the columns that are 1 in each row of an indicator matrix."""
    matrix: Any = labels if issparse(labels) else _as_numbers(np.asarray(labels))
    if matrix.dtype.kind not in "biuf":
        raise DataError(
            f"Unknown label type: a matrix of {matrix.dtype}. "
            "Give an indicator matrix with one column per label, or lists of labels"
        )
    stored: Any = _without_unknown(matrix if issparse(matrix) else csr_matrix(matrix))
    try:
        check_matrix(stored)
    except DataError as error:
        raise DataError(f"Unknown label type: {error}") from None
    ones = csr_matrix(stored, copy=True)  # eliminate_zeros writes into it
    ones.eliminate_zeros()
    return [[str(column) for column in ones.indices[start:end]] for start, end in pairwise(ones.indptr)]


def unknown_columns(labels: Any) -> list[list[str]] | None:
    """Return the numbers of the columns that are NaN in each row of an indicator matrix: nobody annotated them.

    None: there is no NaN, or the labels are not a matrix.
    """
    if not is_indicator(labels):
        return None
    matrix: Any = labels if issparse(labels) else _as_numbers(np.asarray(labels))
    if matrix.dtype.kind != "f":
        return None
    stored: Any = csr_matrix(matrix)
    unknown = np.isnan(stored.data)
    if not unknown.any():
        return None
    columns = [str(column) for column in stored.indices[unknown]]
    ends = np.concatenate([[0], np.cumsum(unknown)])[stored.indptr]
    return [columns[start:end] for start, end in pairwise(ends)]


def _without_unknown(stored: Any) -> Any:
    """Return a sparse matrix with 0 in place of NaN."""
    if stored.dtype.kind != "f" or stored.format not in ("csr", "csc", "coo") or not np.isnan(stored.data).any():
        return stored
    copy = stored.copy()
    copy.data[np.isnan(copy.data)] = 0
    return copy


def _as_numbers(matrix: NDArray[Any]) -> NDArray[Any]:
    """Return a matrix of objects that are all numbers, as nullable columns give, as floats; missing ones are NaN."""
    if matrix.dtype.kind != "O" or not all(isinstance(value, NUMBERS) or is_missing(value) for value in matrix.flat):
        return matrix
    numbers = [math.nan if is_missing(value) else float(value) for value in matrix.flat]
    return np.asarray(numbers).reshape(matrix.shape)


def _label_list(row: Any) -> list[Any]:
    """Return a row of labels as a list."""
    no_list = isinstance(row, str | bytes | Mapping) or not isinstance(row, Iterable) or getattr(row, "shape", 1) == ()
    if no_list:
        raise DataError(
            f"Unknown label type: {str(row)!r} is not a list of labels. "
            f"Give a list of labels per document, as [{str(row)!r}], or an indicator matrix with one column per label"
        )
    values = row.tolist() if hasattr(row, "tolist") else list(row)
    nested = [value for value in values if not isinstance(value, str) and isinstance(value, Iterable)]
    if nested:
        raise DataError(f"Unknown label type: {nested[0]!r:.50} in place of a label. Give one flat list per document")
    return values


def _refuse_disguised(rows: list[list[Any]]) -> None:
    """Raise DataError for lists that look like rows of an indicator matrix."""
    if is_multi_hot(map(len, rows), (value for row in rows for value in row)):
        raise DataError(
            "labels: lists of bools, or of numbers from 0 to 1 and all of equal length, may be labels or rows of an "
            "indicator matrix. Give the matrix as a numpy array, or the labels as texts"
        )
