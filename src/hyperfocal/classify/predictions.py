"""Read the documents that a fitted model scores, and return its predictions as a table."""

from __future__ import annotations

import logging
from typing import Any

import polars as pl
from torch import Tensor

from hyperfocal.classify.files import with_pairs
from hyperfocal.classify.label_model import KNOWN, LabelModel, warn_of_unknown, warn_of_unseen
from hyperfocal.classify.prepare import check_texts
from hyperfocal.data.documents import Documents, as_documents, only_counted
from hyperfocal.data.frames import holds_objects, is_frame, to_library
from hyperfocal.data.ids import typed
from hyperfocal.data.matrices import feature_names, file_documents, is_matrix_file, matrix_documents
from hyperfocal.data.text_columns import Need, TextReading
from hyperfocal.errors import ConfigError

logger = logging.getLogger("hyperfocal")


def read_inputs(model: LabelModel, texts: Any) -> Documents:
    """Return documents to score: Documents; a list of texts; as in training, a frame with columns or a feature matrix.

    Raises:
        DataError: `texts` is neither; a column that the run reads is missing.
    """
    if isinstance(texts, Documents):
        return texts
    if model.features.columns is not None and model.features.columns.matrix is not None:
        check_names(model, texts)
        return matrix_documents(texts)
    if model.features.columns is not None and is_frame(texts):
        return as_documents(texts, model.reading, need="texts")
    return Documents.from_lists(check_texts(texts))


def check_names(model: LabelModel, inputs: Any) -> None:
    """Raise DataError for a frame of other features than those of training, before its values are looked at."""
    columns = model.features.columns
    if columns is not None and columns.matrix is not None and columns.matrix.names:
        columns.matrix.check_names(feature_names(inputs))


def read_documents(source: Any, reading: TextReading, need: Need) -> Documents:
    """Return documents as `as_documents` does, also those of a file in the Extreme Classification format.

    To score them, documents with the weight 0 are left out.
    """
    documents = file_documents(source) if is_matrix_file(source) else as_documents(source, reading, need=need)
    if need == "texts":
        return documents
    documents, left_out = only_counted(documents, "documents to score")
    if left_out:
        logger.warning("%s documents with the weight 0 are left out", f"{left_out:,}")
    return documents


def score_inputs(model: LabelModel, texts: Any) -> Tensor:
    """Return (N, L) logits; log what is not known of the documents. Errors as in `read_inputs`."""
    documents = read_inputs(model, texts)
    scores, known, _ = model.answer(documents.all_texts(), documents.columns)
    warn_of_unknown(known, matrix=documents.columns.matrix is not None)
    warn_of_unseen(model.features.unseen(documents.columns))
    return scores


def table_of_predictions(model: LabelModel, documents: Any) -> Any:
    """Return id, labels, scores and known of every document; arguments and errors as in `predict_documents`."""
    read = read_documents(documents, model.reading, "texts")
    if read.id_column in (model.column, "scores", KNOWN):
        raise ConfigError(f"column {read.id_column}: predictions have such a column too. Rename the id's column")
    warn_of_unseen(model.features.unseen(read.columns))
    ids = typed(read.ids, read.plan.kind("id"))
    frame = pl.DataFrame({read.id_column: ids, **model.rows(read.all_texts(), read.columns)})
    return to_library(frame if holds_objects(documents) else with_pairs(frame), documents)
