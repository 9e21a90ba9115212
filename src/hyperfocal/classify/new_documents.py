"""Read the documents of an update as those of the fit were read, and divide them into training and held-out ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from hyperfocal.classify.counted_documents import weighted_source
from hyperfocal.classify.label_model import Fit, LabelModel
from hyperfocal.classify.one_label import is_one_label, only_labelled, read_classes
from hyperfocal.classify.predictions import check_names, read_documents
from hyperfocal.classify.prepare import Labelled, PreparedTexts, as_target, from_pair, number
from hyperfocal.classify.repeated import check_new, count_repeated, documents_checksum
from hyperfocal.data.documents import Documents
from hyperfocal.data.frames import is_missing, plain_text
from hyperfocal.data.stratify import split_documents
from hyperfocal.errors import DataError

FEWEST = 20  # documents of which some are held out


@dataclass(frozen=True, eq=False)
class NewDocuments:
    """The documents of an update.

    Attributes:
        data: over the labels of the run, then the new ones. `valid` is `train` if no documents are held out.
        names: M new labels.
        checksum: of all documents.
        repeated: how many have the text of a training document of the run.
        left_out: how many had no label, if each document needs one.
    """

    data: PreparedTexts
    names: list[str]
    checksum: str
    repeated: int
    left_out: int

    @property
    def held_out(self) -> Labelled | None:
        """The held-out documents, or None."""
        return None if self.data.valid is self.data.train else self.data.valid


def read_new(
    fit: Fit,
    inputs: Any,
    labels: Any = None,
    classes: Any = None,
    *,
    weights: Any = None,
    again: bool = False,
    seed: int = 0,
) -> NewDocuments:
    """Return the documents of an update.

    Args:
        fit: of the documents before.
        inputs: as `X` of `MultiLabelClassifier.update`.
        labels: as its `y`.
        classes: labels that get a row of the output layer even if no document has them. None: none.
        weights: as its `sample_weight`.
        again: whether documents that the fit has already are allowed.
        seed: draws the documents that are held out.

    Raises:
        DataError: the documents cannot be read, are of another form than in training, have no label, or repeat those
            of the fit; a new label that the run cannot have.
    """
    model = fit.model
    documents, left_out = _read(model, inputs, labels, weights)
    rows, held = _divide(documents, model.settings.data.valid_fraction, seed)
    documents = model.resolve_labels(documents)
    if again:
        checksum, repeated = documents_checksum(documents), count_repeated(fit, documents)
    else:
        checksum, repeated = check_new(fit, documents)
    train, others = documents.select(rows), documents.select(held)
    names = _new_names(model, train, class_names(model, classes))
    vocabulary = model.labels.vocabulary.extended(pl.Series(names, dtype=pl.String))
    trained, scored = number(train, vocabulary), number(others, vocabulary)
    valid = scored if scored.labels.num_positives else trained
    if valid is trained and len(held):
        trained = valid = number(documents, vocabulary)
    data = PreparedTexts(vocabulary, trained, valid, model.labels.taxonomy)
    return NewDocuments(data, names, checksum, repeated, left_out)


def _read(model: LabelModel, inputs: Any, labels: Any, weights: Any) -> tuple[Documents, int]:
    """Return documents with labels, and how many without a label are left out."""
    target = as_target(inputs, labels)
    check_names(model, inputs)  # before the values, as scikit-learn expects
    given = weighted_source(inputs, weights, model.reading) if target is None else (inputs, target, weights)
    pair = from_pair(given, model.indicator or model.classes, "labels")
    documents = read_documents(pair, model.reading, "all")
    _check_inputs(model, documents)
    left_out = 0
    if model.classes is not None:
        documents, left_out = only_labelled(documents, inputs, "new documents")
    if documents.labels.list.len().fill_null(0).sum() == 0:
        raise DataError("new documents: none has a label. Give documents with labels")
    return documents, left_out


def _check_inputs(model: LabelModel, documents: Documents) -> None:
    """Raise DataError for texts in place of a feature matrix or the reverse, and for another number of features."""
    columns, matrix = model.features.columns, documents.columns.matrix
    fitted = None if columns is None else columns.matrix
    if fitted is not None and matrix is not None:
        fitted.check(matrix)
    elif fitted is not None or matrix is not None:
        before, now = ("a feature matrix", "texts") if fitted is not None else ("texts", "a feature matrix")
        raise DataError(f"new documents: training read {before} and these are {now}. Give the same form as in training")
    if model.features.text is not None and not documents.has_texts:
        raise DataError("new documents: training read texts and these have none. Name their column with `text=`")


def _divide(documents: Documents, fraction: float, seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the rows to train on, and those held out: none of fewer than FEWEST, or if no division is possible."""
    everything = np.arange(len(documents))
    if len(documents) < FEWEST:
        return everything, everything[:0]
    try:
        return split_documents(documents, fraction=fraction, seed=seed)
    except DataError:  # one group, or each is the only one of a label
        return everything, everything[:0]


def _new_names(model: LabelModel, documents: Documents, classes: Sequence[str]) -> list[str]:
    """Return the labels that the model does not have, sorted, so that the order of documents does not matter."""
    known = model.labels.vocabulary.numbers
    given = documents.labels.explode().drop_nulls().cast(pl.String).unique().to_list()
    names = sorted({*given, *classes} - known.keys())
    if model.indicator is not None:
        width = model.indicator.width
        wrong = [name for name in names if not _is_column(name, width)]
        if wrong:
            raise DataError(
                f"labels: {wrong[0]!r} is not the number of one of the {width:,} columns of the indicator matrix of "
                "training. Give a matrix with the same columns"
            )
    return names


def _is_column(name: str, width: int) -> bool:
    return name.isascii() and name.isdigit() and str(int(name)) == name and int(name) < width


def class_names(model: LabelModel, classes: Any) -> list[str]:
    """Return the names of `classes` of `partial_fit`; [] for None and for column numbers of an indicator matrix.

    Raises:
        DataError: one text in place of a list; of other types than the training labels; not columns of the indicator.
    """
    if classes is None:
        return []
    if isinstance(classes, str | bytes | Path) or not hasattr(classes, "__iter__"):
        raise DataError(f"classes: {classes!r:.60} is not a list of labels. Give a list or an array")
    names = [plain_text(name) for name in list(classes) if not is_missing(name)]
    if model.indicator is not None:
        wrong = [name for name in names if not _is_column(name, model.indicator.width)]
        if wrong:
            raise DataError(
                f"classes: {wrong[0]!r} is not the number of one of the {model.indicator.width:,} columns of the "
                "indicator matrix of training. Leave it out"
            )
        return []  # a column without a document has no row, and the probability of its prior
    if model.classes is not None and is_one_label(classes):
        _check_kind(model, classes)
    return list(dict.fromkeys(names))


def _check_kind(model: LabelModel, classes: Any) -> None:
    assert model.classes is not None, "one label per document"
    kind = read_classes(classes)[1]
    if model.classes.kind not in ("text", kind):
        raise DataError(
            f"classes: the training labels are of type {model.classes.kind} and these of type {kind}. "
            "Give labels of one type"
        )
