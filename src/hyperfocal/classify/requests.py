"""The documents of a request to the service: plain texts, or objects with the columns of the training documents."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from hyperfocal.classify.label_model import LabelModel
from hyperfocal.data.documents import as_documents
from hyperfocal.data.input_columns import NO_COLUMNS, InputColumns
from hyperfocal.errors import ConfigError, DataError
from hyperfocal.serve.messages import LONGEST_TEXT, ClassifyRequest


class Given(NamedTuple):
    """The N documents of a request."""

    texts: list[str]
    columns: InputColumns


def sample_of(model: LabelModel) -> ClassifyRequest:
    """Return a request that the model can answer; ConfigError if the service has none for it."""
    columns = model.features.columns
    if columns is not None and columns.matrix is not None:
        raise ConfigError(
            "the run reads a feature matrix, and the service takes texts, fields and vectors only. Predict from Python "
            "or with `hyperfocal classify predict`"
        )
    if columns is None or model.plan is None:
        return ClassifyRequest(texts=["a text"])
    inputs = ("text", "field", "vector")
    return ClassifyRequest(texts=[{column.name: None for column in model.plan.columns if column.use in inputs}])


def read_request(request: ClassifyRequest, model: LabelModel) -> Given | DataError:
    """Return the documents of a request, or why they cannot be read."""
    try:
        return _read(request.texts, model)
    except DataError as error:
        return error


def _read(rows: Sequence[str | Mapping[str, Any]], model: LabelModel) -> Given:
    objects = [row for row in rows if not isinstance(row, str)]
    if model.features.columns is not None and len(objects) < len(rows):
        needed = [*model.features.columns.vectors, *(column.name for column in model.features.columns.fields)]
        raise DataError(
            f"texts: the run reads the columns {', '.join(needed)}, and a plain text has none. Send objects with these "
            'columns, such as {"text": "a text", "section": "games"}'
        )
    if not objects:
        return Given([row for row in rows if isinstance(row, str)], NO_COLUMNS)
    names = dict.fromkeys(name for row in objects for name in row)
    _check_lengths(objects)
    read = as_documents({name: [row.get(name) for row in objects] for name in names}, model.reading, need="texts")
    texts = iter(read.all_texts().to_list())
    return Given([row if isinstance(row, str) else next(texts) for row in rows], read.columns)


def _check_lengths(objects: Sequence[Mapping[str, Any]]) -> None:
    """Raise DataError for a text of more than LONGEST_TEXT characters, and for an object without a column."""
    if not all(objects):
        raise DataError("texts: an object is empty. Give it the columns of the training documents")
    longest = max(len(value) if isinstance(value, str) else 0 for row in objects for value in row.values())
    if longest > LONGEST_TEXT:
        raise DataError(f"texts: a text has {longest:,} characters. At most {LONGEST_TEXT:,} are allowed")
