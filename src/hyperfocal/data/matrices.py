"""Documents that are a feature matrix: from Python, a .npz file, or a file in the Extreme Classification format."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

import numpy as np
import polars as pl
from numpy.typing import NDArray
from scipy.sparse import csr_matrix, issparse

from hyperfocal.data.compression import READ_ERRORS
from hyperfocal.data.documents import Documents
from hyperfocal.data.extreme import read_extreme
from hyperfocal.data.files import File
from hyperfocal.data.frames import as_frame, is_frame
from hyperfocal.data.input_columns import InputColumns, Matrix
from hyperfocal.data.npz import is_npz, read_npz
from hyperfocal.data.reading import LISTS, PlannedColumn, ReadingPlan
from hyperfocal.errors import DataError

NUMBERS = "biufc"  # kinds of numpy's dtypes; complex numbers are refused as numbers
SCALARS = (bool, int, float, complex, np.number, np.bool_)
SIZES = re.compile(rb"\s*\d+\s+\d+\s+\d+\s*")
EXAMPLE = re.compile(rb"(\d+(,\d+)*)?\s+\d+:\S+(\s.*)?", re.DOTALL)
LINE_BYTES = 2**16


def is_matrix(values: Any) -> bool:
    """Return whether values are a feature matrix: sparse, of two dimensions and numbers, or a frame of numbers.

    Of two dimensions: an array, a tensor, an object that numpy can make an array of, or a list of lists of numbers. The
    first row of lists, or the first value of an array of objects, decides whether they are numbers.

    >>> is_matrix([[0.5, 1], [2, 3]]), is_matrix(["a text"]), is_matrix([["a", "b"]])
    (True, False, False)
    """
    if issparse(values):
        return True
    if is_frame(values):
        columns = _number_frame(values).get_columns()
        return bool(columns) and all(column.dtype.is_numeric() or column.dtype == pl.Boolean for column in columns)
    if hasattr(values, "detach"):
        return len(values.shape) == 2
    if isinstance(values, list | tuple):
        return bool(values) and _is_row(values[0])
    array = np.asarray(values) if hasattr(values, "__array__") else np.empty(0)
    if array.ndim != 2:
        return False
    return array.dtype.kind in NUMBERS or (array.dtype == object and array.size > 0 and not _has_text(array))


def _is_row(row: Any) -> bool:
    """Return whether the first row of a list is one of numbers; a missing number is one, but not alone."""
    if isinstance(row, np.ndarray):
        return row.ndim == 1 and row.dtype.kind in NUMBERS
    if not isinstance(row, list | tuple):
        return False
    return any(isinstance(value, SCALARS) for value in row) and all(
        value is None or isinstance(value, SCALARS) for value in row
    )


def _has_text(array: NDArray[Any]) -> bool:
    return any(isinstance(value, str | bytes) for value in array.flat)


class _TypeOfValueError(DataError, TypeError):
    """A value of a feature matrix is not a number; scikit-learn expects a TypeError."""


def as_matrix(values: Any) -> Matrix:
    """Return a feature matrix as (N, F) float32, dense or CSR.

    Raises:
        DataError: NaN, infinity, complex numbers, a value that is no number, or a matrix without rows or columns, in
            scikit-learn's words.
    """
    from sklearn.utils import check_array  # here, because it takes a second that `inspect` can do without

    if hasattr(values, "detach"):
        values = values.detach().cpu().numpy()
    elif is_frame(values) and not issparse(values):  # a DOK matrix is a dictionary
        values = _number_frame(values).cast(pl.Float64).to_numpy()
    try:
        matrix: Any = check_array(values, accept_sparse="csr", dtype=np.float32, input_name="X")
    except TypeError as error:
        raise _TypeOfValueError(str(error)) from None
    except ValueError as error:
        raise DataError(str(error)) from None
    return cast(Matrix, csr_matrix(cast(Any, matrix)) if issparse(matrix) else matrix)  # a sparse array is one too


def _number_frame(values: Any) -> pl.DataFrame:
    """Return a frame without the index of pandas, which is no feature."""
    return as_frame(values.reset_index(drop=True) if hasattr(values, "reset_index") else values)


def feature_names(values: Any) -> tuple[str, ...]:
    """Return the names of the columns of a frame if all are texts, as scikit-learn's `feature_names_in_`; else ()."""
    if issparse(values) or not is_frame(values):
        return ()
    columns = getattr(values, "columns", ())
    if hasattr(values, "reset_index") and not all(isinstance(name, str) for name in columns):
        return ()
    return tuple(_number_frame(values).columns)


def matrix_documents(
    values: Any, labels: Sequence[Sequence[str]] | None = None, names: tuple[str, ...] = ()
) -> Documents:
    """Return the rows of a feature matrix as documents without texts.

    Args:
        values: (N, F), see `is_matrix`.
        labels: a list per row. None: no labels.
        names: (F,) of the features. (): those of `feature_names`.

    Raises:
        DataError: another number of labels; as in `as_matrix`.
    """
    matrix = as_matrix(values)
    rows = int(matrix.shape[0])
    if labels is not None and len(labels) != rows:
        raise DataError(f"Found input variables with inconsistent numbers of samples: {[rows, len(labels)]}")
    lists = pl.Series("labels", [[]] * rows if labels is None else labels, dtype=pl.List(pl.String))
    plan = ReadingPlan(LISTS, rows, (PlannedColumn("X", "matrix", "number"), PlannedColumn("labels", "labels", "list")))
    ids = pl.Series("id", range(rows), dtype=pl.Int64).cast(pl.String)
    texts = pl.Series("text", [""], dtype=pl.String).new_from_index(0, rows)
    return Documents(ids, texts, lists, None, plan, InputColumns(matrix=matrix, names=names or feature_names(values)))


def is_extreme(source: Any) -> bool:
    """Return whether a path names a text file in the Extreme Classification format, by its first two lines."""
    if not isinstance(source, str | Path):
        return False
    file = File(Path(source))
    if not file.path.is_file() or file.kind != "lines":
        return False
    try:
        with file.open_bytes() as lines:
            first, second = (lines.readline(LINE_BYTES) for _ in range(2))
    except READ_ERRORS:
        return False
    return bool(SIZES.fullmatch(first) and EXAMPLE.fullmatch(second))


def is_matrix_file(source: Any) -> bool:
    """Return whether a path names a file that holds a feature matrix."""
    return is_npz(source) or is_extreme(source)


def file_documents(path: str | Path) -> Documents:
    """Return the examples of a .npz file, or of one in the Extreme Classification format.

    Labels are named by their numbers, except one label per row, which is named by its value. Errors as in `read_npz`
    and `read_extreme`.
    """
    if is_npz(path):
        archive = read_npz(path)
        try:
            return matrix_documents(archive.features, archive.labels)
        except DataError as error:
            raise DataError(f"{path}: {error}") from None
    data = read_extreme(path)
    indptr, names = data.labels.indptr.tolist(), [str(label) for label in data.labels.indices.tolist()]
    labels = [names[start:end] for start, end in pairwise(indptr)]
    return matrix_documents(data.features, labels)


def dense_rows(matrix: Matrix) -> NDArray[np.float32]:
    """Return a matrix as a dense array."""
    return cast(NDArray[np.float32], matrix.toarray() if isinstance(matrix, csr_matrix) else np.asarray(matrix))
