"""Features of fields and vectors: tokens in the sparse part, numbers in the dense part.

    category, list   a token per value, of the value TOKEN: never cut by max_features, and without idf
    number           standard deviations above the training mean, cut at -20 and 20, 0 if missing; and whether it is
                     missing
    date             as number, in days; and sine and cosine of its place in the year and in the week
    vector           scaled to a mean square of 1, as the vectors of a sentence encoder

A value that training never saw counts as none. A value that every training document has, and a number that is always
the same, distinguish nothing and are left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray
from scipy import sparse

from hyperfocal.data.field_columns import BAGS, FieldColumn, count_bags, fit_bag, standardize, with_moments
from hyperfocal.data.input_columns import InputColumns
from hyperfocal.errors import DataError
from hyperfocal.models.matrix_features import LARGEST, MatrixFeatures
from hyperfocal.models.text_head import Features, SparseRows

YEAR, WEEK = 365.25, 7.0  # days
DATE_WIDTH = 6
TOKEN = 0.3  # plain SGD with the rate of n-grams oscillates at 1: Debtags with its section, macro AP .429 and .453
NUMBER_WIDTH = 2


@dataclass(frozen=True, eq=False)
class ColumnFeatures:
    """Turns fields and vectors into features.

    Attributes:
        fields: fitted on the training documents.
        vectors: column -> its length.
        matrix: of a feature matrix. None: there is none.
    """

    fields: tuple[FieldColumn, ...]
    vectors: Mapping[str, int]
    matrix: MatrixFeatures | None = None

    @classmethod
    def fit(cls, columns: InputColumns, scaling: str = "auto") -> ColumnFeatures:
        """Fit on the columns of training documents; errors as in `MatrixFeatures.fit`."""
        if columns.matrix is not None:
            return cls((), {}, MatrixFeatures.fit(columns.matrix, scaling, columns.names))
        fields = tuple(_fit(name, columns) for name in columns.kinds)
        return cls(fields, {name: values.shape[1] for name, values in columns.vectors.items()})

    @property
    def num_sparse(self) -> int:
        """Return the number of tokens."""
        if self.matrix is not None:
            return self.matrix.num_sparse
        return sum(len(column.values) for column in self.fields)

    @property
    def num_dense(self) -> int:
        """Return the width of the dense part."""
        if self.matrix is not None:
            return self.matrix.num_dense
        numbers = sum(_width(column) for column in self.fields)
        return numbers + sum(self.vectors.values())

    def make(self, columns: InputColumns, num_rows: int) -> Features:
        """Return the features of N documents.

        Raises:
            DataError: the documents lack a field or vector, or a vector has another length than in training.
        """
        self.check(columns)
        if self.matrix is not None and columns.matrix is not None:
            return self.matrix.make(columns.matrix)
        bags = [_tokens(count_bags(column, _rows(columns, column))) for column in self.fields if column.kind in BAGS]
        numbers = [_numbers(column, _values(columns, column)) for column in self.fields if column.kind not in BAGS]
        numbers += [_scaled(columns.vectors[name]) for name in self.vectors]
        tokens = _sparse_rows(bags, num_rows) if self.num_sparse else None
        return Features(tokens, torch.from_numpy(np.hstack(numbers)) if self.num_dense else None)

    def check(self, columns: InputColumns) -> None:
        """Raise DataError if documents lack a field or vector, or if a vector has another length than in training."""
        if (self.matrix is None) != (columns.matrix is None):
            given, needed = ("texts", "a feature matrix") if self.matrix else ("a feature matrix", "texts or columns")
            raise DataError(f"X: the model was fitted on {needed}, and not on {given}. Give X as in training")
        if self.matrix is not None:
            self.matrix.check_names(columns.names)
        missing = [column.name for column in self.fields if column.name not in columns.kinds]
        missing += [name for name in self.vectors if name not in columns.vectors]
        if missing:
            raise DataError(
                f"documents: no column '{missing[0]}', which the run was trained with. Give a file, or a frame, with "
                "the columns of training"
            )
        for name, length in self.vectors.items():
            if columns.vectors[name].shape[1] != length:
                raise DataError(
                    f"documents: the vectors of column '{name}' have {columns.vectors[name].shape[1]} numbers, and "
                    f"those of training {length}. Give vectors of the same model"
                )

    def known(self, columns: InputColumns, num_rows: int) -> NDArray[np.bool_]:
        """Return (N,) bool: whether a document has a known value, a number or a vector that is not zero."""
        known = np.zeros(num_rows, dtype=np.bool_)
        if columns.matrix is not None:
            known |= self.matrix is not None and self.matrix.known(columns.matrix)
        for column in self.fields:
            if column.kind in BAGS:
                known |= np.array([any(value in column.values for value in row) for row in _rows(columns, column)])
            else:
                known |= ~np.isnan(_values(columns, column))
        for name in self.vectors:
            known |= columns.vectors[name].any(1)
        return known

    def unseen(self, columns: InputColumns) -> dict[str, int]:
        """Return field -> number of documents that have a value that is no token; fields without such are left out."""
        counts = {
            column.name: sum(any(value not in column.values for value in row) for row in _rows(columns, column))
            for column in self.fields
            if column.kind in BAGS and column.values
        }
        return {name: count for name, count in counts.items() if count}

    def to_json(self) -> dict[str, Any]:
        """Return the value that `from_json` reads."""
        value = {"fields": msgspec.to_builtins(self.fields), "vectors": dict(self.vectors)}
        return value if self.matrix is None else value | {"matrix": self.matrix.to_json()}

    @classmethod
    def from_json(cls, value: Any) -> ColumnFeatures:
        """Build from `to_json`'s value."""
        fields = msgspec.convert(value["fields"], tuple[FieldColumn, ...])
        matrix = MatrixFeatures.from_json(value["matrix"]) if "matrix" in value else None
        return cls(fields, msgspec.convert(value["vectors"], dict[str, int]), matrix)


def _fit(name: str, columns: InputColumns) -> FieldColumn:
    kind = columns.kinds[name]
    if kind not in BAGS:
        return with_moments(FieldColumn(name, kind), columns.fields[name].to_numpy())
    column = fit_bag(name, kind, columns.fields[name].to_list())
    informative = {value: count for value, count in column.values.items() if count < columns.fields.height}
    return msgspec.structs.replace(column, values=informative)


def _rows(columns: InputColumns, column: FieldColumn) -> list[list[str]]:
    return columns.fields[column.name].to_list()


def _values(columns: InputColumns, column: FieldColumn) -> NDArray[np.float64]:
    return columns.fields[column.name].to_numpy()


def _width(column: FieldColumn) -> int:
    return {"number": NUMBER_WIDTH, "date": DATE_WIDTH}.get(column.kind, 0)


def _numbers(column: FieldColumn, values: NDArray[np.float64]) -> NDArray[np.float32]:
    """Return (N, 2) of numbers, or (N, 6) of dates."""
    standard = standardize(column, values).clip(-LARGEST, LARGEST)
    if not column.deviation:
        standard[:, 0] = 0
    if column.kind == "number":
        return standard
    angles = [2 * np.pi * values / period for period in (YEAR, WEEK)]
    parts = np.stack([function(angle) for angle in angles for function in (np.sin, np.cos)], 1)
    return np.hstack([standard, np.nan_to_num(parts).astype(np.float32)])


def _scaled(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return (N, D) vectors, each with a mean square of 1, or of zeros."""
    scale = np.sqrt((vectors.astype(np.float64) ** 2).mean(1, keepdims=True))
    scaled: NDArray[np.float32] = (vectors / np.maximum(scale, 1e-12)).astype(np.float32)
    return scaled


def _tokens(bag: sparse.csr_matrix) -> sparse.csr_matrix:
    bag.data[:] = TOKEN
    return bag


def _sparse_rows(bags: list[sparse.csr_matrix], num_rows: int) -> SparseRows:
    matrix = sparse.hstack(bags, format="csr", dtype=np.float32)
    assert matrix.shape[0] == num_rows, "every field has a row per document"
    pointers, places = matrix.indptr.astype(np.int64), matrix.indices.astype(np.int32)
    return SparseRows(*(torch.from_numpy(array) for array in (pointers, places, matrix.data.astype(np.float32))))
