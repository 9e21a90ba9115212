"""Labels as scikit-learn has them: an indicator matrix with a column a label."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.sparse import csr_matrix, issparse

from hyperfocal.errors import DataError
from hyperfocal.labels import SparseLabels


@dataclass(frozen=True)
class Indicator:
    """That `fit` got an indicator matrix, so that `predict` gives one; labels are the numbers of its columns.

    Attributes:
        width: its columns.
    """

    width: int

    @classmethod
    def of(cls, labels: Any) -> Indicator | None:
        """Return the width of an indicator matrix; None for lists of labels."""
        return cls(labels.shape[1]) if is_indicator(labels) else None

    def matrix(self, decided: SparseLabels, names: list[str]) -> csr_matrix[np.int64]:
        """Return (N, width) ones at the decided labels, whose names are numbers of columns."""
        columns = np.asarray([int(name) for name in names], dtype=np.int64)[decided.indices.numpy()]
        ones = np.ones(len(columns), dtype=np.int64)
        return csr_matrix((ones, columns, decided.indptr.numpy()), shape=(len(decided), self.width))


def is_indicator(labels: Any) -> bool:
    """Return whether labels are a two-dimensional array or a sparse matrix."""
    return bool(issparse(labels) or (isinstance(labels, np.ndarray) and labels.ndim == 2))


def as_label_lists(labels: Any) -> Sequence[Sequence[str]]:
    """Return a list of labels a document, from such lists or from an indicator matrix.

    Raises:
        DataError: an indicator matrix that holds other numbers than 0 and 1.
    """
    if not is_indicator(labels):
        return [[str(name) for name in row] if not isinstance(row, str) else row for row in labels]
    rows = csr_matrix(labels)
    rows.eliminate_zeros()
    if not np.isin(rows.data, (0, 1)).all():
        raise DataError("labels: an indicator matrix holds only 0 and 1. Give lists of labels, or such a matrix")
    return [
        [str(column) for column in rows.indices[start:end]]
        for start, end in zip(rows.indptr[:-1], rows.indptr[1:], strict=True)
    ]  # fmt: skip
