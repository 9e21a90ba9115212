"""The documents of a request to the service: texts, objects with the columns of training, or rows of a matrix."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy.sparse import csr_matrix

from hyperfocal.classify.label_model import LabelModel
from hyperfocal.data.documents import as_documents
from hyperfocal.data.input_columns import NO_COLUMNS, InputColumns
from hyperfocal.data.reading import PlannedColumn
from hyperfocal.errors import DataError
from hyperfocal.models.matrix_features import MatrixFeatures
from hyperfocal.serve.messages import LONGEST_TEXT, ClassifyRequest

LARGEST = float(np.finfo(np.float32).max)
MOST_VALUES = 2**26  # of a dense matrix: 256 MiB
INPUTS = ("text", "field", "vector")  # uses of the columns that a model reads


class Given(NamedTuple):
    """The N documents of a request."""

    texts: list[str]
    columns: InputColumns


def sample_of(model: LabelModel) -> ClassifyRequest:
    """Return a request that the model can answer; ConfigError if the service has none for it."""
    columns = model.features.columns
    if reads_matrix(model):
        return ClassifyRequest(rows=[{}])
    if columns is None or model.plan is None:
        return ClassifyRequest(texts=["a text"])
    return ClassifyRequest(texts=[{column.name: None for column in columns_of(model)}])


def example_of(model: LabelModel) -> Any:
    """Return a document as the service takes it: an object or a text; a vector is missing in it, and may be."""
    columns = model.features.columns
    if columns is not None and columns.matrix is not None:
        return {(columns.matrix.names or ("0",))[0]: 0.5}
    if columns is None or model.plan is None:
        return "a text"
    return {each.name: None if each.use == "vector" else _example(each) for each in columns_of(model)}


def reads_matrix(model: LabelModel) -> bool:
    """Return whether a run reads rows of a feature matrix."""
    return model.features.columns is not None and model.features.columns.matrix is not None


def read_request(request: ClassifyRequest, model: LabelModel) -> Given | DataError:
    """Return the documents of a request, or why they cannot be read."""
    try:
        matrix = None if model.features.columns is None else model.features.columns.matrix
        if (request.texts is None) == (request.rows is None):
            raise DataError("texts or rows are needed, and not both. Give one of them")
        if request.texts is None:
            return _read_rows(request.rows or [], matrix)
        if matrix is not None:
            raise DataError(
                f"texts: the run reads rows of a feature matrix with {matrix.num_features:,} features. Send rows, such "
                "as [[0.5, ...]]"
            )
        return _read(request.texts, model)
    except DataError as error:
        return error


def _read_rows(rows: Sequence[Sequence[float] | Mapping[str, float]], features: MatrixFeatures | None) -> Given:
    """Return the rows of a feature matrix, dense or with the values other than 0."""
    if features is None:
        raise DataError("rows: the run reads texts or columns, not a feature matrix. Send texts")
    size, numbers = features.num_features, {name: number for number, name in enumerate(features.names)}
    if not features.sparse and len(rows) * size > MOST_VALUES:
        raise DataError(f"rows: {len(rows):,} rows of {size:,} features are too many at once. Send fewer rows")
    columns, values, lengths = list[int](), list[float](), [0]
    for place, row in enumerate(rows):
        if isinstance(row, Mapping):
            columns += [_feature(name, numbers, size, place) for name in row]
        elif len(row) == size:
            columns += range(size)
        else:
            raise DataError(
                f"rows: row {place + 1} has {len(row):,} values, and the run reads {size:,} features. Give one value "
                "of each"
            )
        values += row.values() if isinstance(row, Mapping) else row
        lengths.append(len(values))
    if not all(abs(value) <= LARGEST for value in values):
        raise DataError("rows: a value is too large for a float32. Scale it as in training")
    matrix = csr_matrix((np.array(values, np.float32), columns, lengths), shape=(len(rows), size))
    matrix.sum_duplicates()
    matrix.eliminate_zeros()
    return Given([""] * len(rows), InputColumns(matrix=matrix if features.sparse else matrix.toarray()))


def _feature(name: str, numbers: Mapping[str, int], size: int, place: int) -> int:
    """Return the number of a feature by its name or number."""
    if name in numbers:
        return numbers[name]
    if not (name.isascii() and name.isdigit() and int(name) < size) or numbers:
        allowed = f"one of its {size:,} names" if numbers else f"0 to {size - 1:,}"
        raise DataError(f"rows: row {place + 1}: {name!r} is no feature of the run. Expected {allowed}")
    return int(name)


def _read(rows: Sequence[str | Mapping[str, Any]], model: LabelModel) -> Given:
    objects = [row for row in rows if not isinstance(row, str)]
    if model.features.columns is not None and len(objects) < len(rows):
        needed = [column.name for column in columns_of(model)]
        example = json.dumps({column.name: _example(column) for column in columns_of(model)}, ensure_ascii=False)
        raise DataError(
            f"texts: the run reads the columns {', '.join(needed)}, and a plain text has none. Send objects with these "
            f"columns, such as {example}"
        )
    if not objects:
        return Given([row for row in rows if isinstance(row, str)], NO_COLUMNS)
    names = dict.fromkeys(name for row in objects for name in row)
    _check_lengths(objects)
    number = _id_column(model)
    frame = {name: [row.get(name) for row in objects] for name in names if name.lower() != number}
    read = as_documents(frame, model.reading, need="texts")
    if model.features.columns is not None:
        model.features.columns.check(read.columns)  # so that this request alone is refused
    texts = iter(read.all_texts().to_list())
    return Given([row if isinstance(row, str) else next(texts) for row in rows], read.columns)


def columns_of(model: LabelModel) -> list[PlannedColumn]:
    """Return the columns that a run reads from the objects of a request; []: it reads texts alone."""
    if model.features.columns is None or model.plan is None:
        return []
    return [column for column in model.plan.columns if column.use in INPUTS]


def _example(column: PlannedColumn) -> Any:
    """Return a value of the kind of a column, none of the training data."""
    if column.use == "vector":
        return [0.5, "..."] if int(column.type) > 1 else [0.5]
    return {"number": 1.5, "date": "2026-01-31", "list": ["a", "b"], "category": "a"}.get(column.type, "a text")


def _id_column(model: LabelModel) -> str:
    """Return the name in lower case of the column of ids, which answers do not need; "": it is read as an input."""
    plan = model.plan
    name = (plan.name("id") if plan is not None else "") or "id"
    inputs = () if plan is None else tuple(column.name for column in plan.columns if column.use in INPUTS)
    return "" if name.lower() in map(str.lower, inputs) else name.lower()


def _check_lengths(objects: Sequence[Mapping[str, Any]]) -> None:
    """Raise DataError for a text of more than LONGEST_TEXT characters, and for an object without a column."""
    if not all(objects):
        raise DataError("texts: an object is empty. Give it the columns of the training documents")
    longest = max(len(value) if isinstance(value, str) else 0 for row in objects for value in row.values())
    if longest > LONGEST_TEXT:
        raise DataError(f"texts: a text has {longest:,} characters. At most {LONGEST_TEXT:,} are allowed")
