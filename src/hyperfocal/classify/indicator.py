"""Indicator matrices, scikit-learn's format of labels: one column per label."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix, issparse

from hyperfocal.data.frames import is_missing, plain_text
from hyperfocal.errors import DataError
from hyperfocal.labels import SparseLabels

MOST_COLUMNS = 2**31 - 1  # of a scipy matrix that counts in int32


@dataclass(frozen=True)
class Indicator:
    """The indicator matrix that `fit` got; `predict` returns one of the same width.

    The labels are named by the numbers of its columns.
    """

    width: int  # number of columns

    @classmethod
    def of(cls, labels: Any) -> Indicator | None:
        """Return the indicator of labels; None for lists of labels."""
        return cls(labels.shape[1]) if is_indicator(labels) else None

    @classmethod
    def from_json(cls, width: Any, names: list[str]) -> Indicator:
        """Return the indicator of a run whose labels have these names.

        Raises:
            DataError: `width` is not the width of a matrix with a column for each label.
        """
        if not isinstance(width, int) or not all(0 <= int(name) < width <= MOST_COLUMNS for name in names):
            raise DataError(
                f"an indicator matrix of {width!r:.20} columns cannot have the labels {', '.join(names[:3])}"
            )
        return cls(width)

    def refuse_other(self, labels: Any) -> None:
        """Raise DataError unless the validation labels are a matrix with the same number of columns."""
        other = Indicator.of(labels)
        if other != self:
            kind = f"one of {other.width:,}" if other else "lists of labels"
            raise DataError(
                f"valid: training labels are an indicator matrix of {self.width:,} columns and these are {kind}. "
                "Give a matrix with the same columns"
            )

    def widened(self, scores: NDArray[np.float32], names: list[str], fill: float) -> NDArray[np.float32]:
        """Return (N, width): the (N, L) scores in the columns that `names` gives, and `fill` in all other columns."""
        wide = np.full((len(scores), self.width), fill, dtype=np.float32)
        wide[:, [int(name) for name in names]] = scores
        return wide

    def matrix(self, decided: SparseLabels, names: list[str]) -> csr_matrix[np.int64]:
        """Return (N, width) with ones at the decided labels, whose names are column numbers."""
        columns = np.asarray([int(name) for name in names], dtype=np.int64)[decided.indices.numpy()]
        ones = np.ones(len(columns), dtype=np.int64)
        return csr_matrix((ones, columns, decided.indptr.numpy()), shape=(len(decided), self.width))


def is_indicator(labels: Any) -> bool:
    """Return whether labels are a sparse matrix, or an array, tensor or frame of two dimensions."""
    return bool(issparse(labels) or len(getattr(labels, "shape", ())) == 2)


def as_label_lists(labels: Any) -> Sequence[Sequence[str]]:
    """Return a list of labels per document, from such lists or from an indicator matrix.

    Raises:
        DataError: an indicator matrix that holds other values than 0 and 1; a row that is not a list.
    """
    if not is_indicator(labels):
        rows = [_label_list(row) for row in labels]
        _refuse_disguised(rows)
        return [[plain_text(name) for name in row if not is_missing(name)] for row in rows]
    matrix: Any = labels if issparse(labels) else np.asarray(labels)
    if matrix.dtype.kind not in "biuf" or not np.isin(csr_matrix(matrix).data, (0, 1)).all():
        raise DataError(
            f"Unknown label type: a matrix of {matrix.dtype} that holds more than 0 and 1. "
            "Give an indicator matrix with one column per label, or lists of labels"
        )
    ones = csr_matrix(matrix, copy=True)  # eliminate_zeros writes into it
    ones.eliminate_zeros()
    return [[str(column) for column in ones.indices[start:end]] for start, end in pairwise(ones.indptr)]


def _label_list(row: Any) -> list[Any]:
    if isinstance(row, str) or not isinstance(row, Iterable):
        raise DataError(
            f"Unknown label type: {str(row)!r} is not a list of labels. "
            f"Give a list of labels per document, as [{str(row)!r}], or an indicator matrix with one column per label"
        )
    return list(row)


def _refuse_disguised(rows: list[list[Any]]) -> None:
    """Raise DataError for lists that look like rows of an indicator matrix: of equal length, all 0 and 1."""
    binary = (isinstance(value, int | np.integer) and value in (0, 1) for row in rows for value in row)
    if rows and len(rows[0]) > 1 and len(set(map(len, rows))) == 1 and all(binary):
        raise DataError(
            "labels: lists of 0 and 1, all of equal length, may be labels or an indicator matrix. "
            "Give the matrix as a numpy array, or the labels as texts"
        )
