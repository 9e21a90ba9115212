"""Prepare documents for training: read or stream, split, number the labels, and count everything that is left out."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from scipy.sparse import issparse
from torch import Tensor

from hyperfocal.classify.counted_documents import check_counting, counting_facts, with_counting
from hyperfocal.classify.indicator import Indicator, as_indicator, as_label_lists, check_form, is_indicator
from hyperfocal.classify.label_texts import check_label_texts
from hyperfocal.classify.one_label import (
    Classes,
    check_classes,
    check_one_label,
    check_target,
    is_one_label,
    only_labelled,
    read_classes,
)
from hyperfocal.classify.streaming import no_stream, read_streamed
from hyperfocal.config.classify import ClassifySettings, TextDataSettings
from hyperfocal.data.counting import check_apart
from hyperfocal.data.documents import Documents, as_documents, mean_weight, only_counted
from hyperfocal.data.frames import is_frame, is_missing
from hyperfocal.data.matrices import (
    as_matrix,
    feature_names,
    file_documents,
    is_matrix,
    is_matrix_file,
    matrix_documents,
)
from hyperfocal.data.reading import ReadingPlan, plan_words, reading_of
from hyperfocal.data.stored_texts import hash_texts
from hyperfocal.data.stratify import ALGORITHM, check_distinct_groups, split_documents
from hyperfocal.data.taxonomy import Taxonomy, read_taxonomy
from hyperfocal.data.vocabulary import Vocabulary
from hyperfocal.errors import ConfigError, DataError
from hyperfocal.labels import SparseLabels
from hyperfocal.machine import is_streamed
from hyperfocal.storage.cache import hash_array, hash_of

BLOCK = 100_000  # documents whose labels are lists at the same time

logger = logging.getLogger("hyperfocal")


@dataclass(frozen=True, eq=False)
class Labelled:
    """Documents with numbered labels.

    Attributes:
        documents: N.
        labels: N rows over the L training labels.
        unseen: label that training never saw -> number of these documents that have it.
    """

    documents: Documents
    labels: SparseLabels
    unseen: dict[str, int]

    def __len__(self) -> int:
        """Return N."""
        return len(self.documents)

    def refuse_unlabelled(self, name: str) -> None:
        """Raise DataError if no document, called `name`, has a training label: nothing can be scored."""
        if self.labels.num_positives == 0:
            unseen = f"; they have other labels, such as {next(iter(self.unseen))!r}" if self.unseen else ""
            raise DataError(
                f"{name}: not one of {len(self):,} has a label that training has{unseen}. "
                "Give documents with training labels, or more documents"
            )

    def counts(self) -> dict[str, Any]:
        """Return the counts that a report shows."""
        counts = {**self.documents.counts(), "positives": self.labels.num_positives, "unseen_labels": self.unseen}
        return counts | counting_facts(self.labels)


@dataclass(frozen=True, eq=False)
class PreparedTexts:
    """Training and validation documents over one vocabulary of labels.

    Under cross-validation both are the same documents.
    """

    vocabulary: Vocabulary
    train: Labelled
    valid: Labelled
    taxonomy: Taxonomy | None
    single: dict[str, int] | None = None  # with one label per document: counts of oddities. None: any number of labels
    zero_weights: int = 0  # documents that are left out because their weight is 0

    @property
    def plan(self) -> ReadingPlan:
        """How the training documents were read."""
        return self.train.documents.plan

    def counts(self) -> dict[str, Any]:
        """Return the counts that a report shows."""
        everywhere = (self.train.labels.counts() == len(self.train)).nonzero()[:, 0]
        return (
            {
                "labels": len(self.vocabulary),
                "labels_in_every_document": self.vocabulary.decode(everywhere).to_list(),
                "train": self.train.counts(),
                "valid": self.valid.counts(),
                "out_of_fold": self.valid is self.train,
            }
            | ({} if self.single is None else {"single": self.single})
            | ({"zero_weights": self.zero_weights} if self.zero_weights else {})
        )

    def fingerprint(self) -> str:
        """Return a checksum of texts, labels, groups, split and taxonomy."""
        hashes: list[Any] = [self.vocabulary.ids.to_list(), self.taxonomy and self.taxonomy.to_json()]
        for labelled in (self.train, self.valid):
            documents, rows, groups = labelled.documents, labelled.labels, labelled.documents.group_numbers()
            hashes += [hash_texts(documents.texts), hash_array(rows.indptr.numpy()), hash_array(rows.indices.numpy())]
            hashes.append(None if groups is None else hash_array(groups))
            hashes += [documents.columns.checksum()] if documents.columns else []
            hashes += documents.counting.checksums()
        if self.valid is self.train:  # the folds are computed again by a run that is resumed
            hashes.append(f"folds {ALGORITHM}")
        return hash_of(*hashes)


def prepare(
    train: Any, valid: Any, settings: ClassifySettings, planned: Callable[[ReadingPlan], None] = lambda plan: None
) -> PreparedTexts:
    """Read, split and number documents; the split is drawn by `settings.seed`.

    Args:
        train: a path, a frame or Documents. A file is streamed if `settings.data.stream` asks for it, or if it is too
            large for memory and can be streamed.
        valid: a path, a frame or Documents. None: some of `train` is held out, or cross-validated.
        settings: all of them.
        planned: called with the plan of `train` once it is read.

    Raises:
        DataError: documents or label texts cannot be read; no document has a label, or no validation document a
            training label.
        LeakError: a group, or an id, is in `train` and in `valid`.
        ConfigError: validation documents together with cross-validation; data.stream = "on" for documents that cannot
            be streamed.
    """
    train, valid = (file_documents(each) if is_matrix_file(each) else each for each in (train, valid))
    streamed = is_streamed(train, settings.data.stream, no_stream(train, settings))
    taxonomy = read_taxonomy(settings.data.taxonomy) if settings.data.taxonomy else None
    check_label_texts(settings.features.label_texts)
    documents = read_streamed(train, settings.data) if streamed else as_documents(train, settings.data)
    check_counting(documents, settings.data)
    left_out = 0
    if settings.data.single:
        documents, left_out = only_labelled(documents, train, "training documents")
    weight = mean_weight(documents)
    documents, zero_weights = only_counted(documents, "training documents")
    del train  # frees a gigabyte of 10 million documents once they are split
    check_columns(documents, settings.data)
    logger.info("training documents: %s", plan_words(documents.plan))
    planned(documents.plan)
    others = None
    if settings.train.folds and valid is not None:
        raise ConfigError(
            "train.folds: cross-validation scores every training document and has no use for validation documents. "
            "Leave `valid=` out, or give `settings={'train.folds': 0}`"
        )
    if valid is None and not settings.train.folds:
        rows, held_out = split_documents(documents, fraction=settings.data.valid_fraction, seed=settings.seed)
        documents, others = documents.select(rows), documents.select(held_out)
    elif valid is not None:
        others = as_documents(valid, reading_of(documents.plan, settings.data))
        if settings.data.single:
            others, more = only_labelled(others, valid, "validation documents")
            left_out += more
        others, zeros = only_counted(others, "validation documents", weight)
        zero_weights += zeros
        check_distinct_groups(documents, others, name=str(valid) if isinstance(valid, str | Path) else "valid")
    documents = with_tree_labels(documents, taxonomy, settings.data)
    names = documents.labels.explode().drop_nulls()
    if len(names) == 0:
        raise DataError("no training document has a label. Name the column of the labels with `labels=`")
    vocabulary = Vocabulary.of(names)
    labelled = number(documents, vocabulary)
    single = check_classes(vocabulary.names, labelled.labels.counts()) if settings.data.single else None
    if single is not None:
        single |= {"left_out": left_out}
    if others is None:
        return PreparedTexts(vocabulary, labelled, labelled, taxonomy, single, zero_weights)
    held = number(with_tree_labels(others, taxonomy, settings.data), vocabulary)
    held.refuse_unlabelled("validation documents")
    return PreparedTexts(vocabulary, labelled, held, taxonomy, single, zero_weights)


def check_columns(documents: Documents, settings: TextDataSettings) -> None:
    """Raise DataError if the settings name fields or vectors that documents made of lists do not have."""
    names = [*settings.fields, *settings.vectors]
    if names and documents.columns.matrix is not None:
        raise DataError(
            f"`fields=` or `vectors=` names column '{names[0]}', but these documents are a feature matrix, whose "
            "columns are all read. Leave the name out"
        )
    if names and not documents.columns:
        raise DataError(
            f"`fields=` or `vectors=` names column '{names[0]}', but these documents are lists, which have no columns. "
            "Give a file or a frame"
        )


def check_training(settings: ClassifySettings) -> None:
    """Raise ConfigError if settings of `train` exclude each other, or a fine-tuned encoder."""
    check_one_label(settings)
    train = settings.train
    if settings.features.finetune and (train.refit or train.folds):
        name = "train.refit" if train.refit else "train.folds"
        raise ConfigError(f"{name} works with a frozen encoder or n-grams only. Leave it out with features.finetune")
    if train.folds == 1:
        raise ConfigError("train.folds = 1 is not allowed. Expected 2 or more, or 0 for no cross-validation")
    if train.folds and train.refit:
        raise ConfigError(
            "train.refit adds nothing to train.folds, whose head has already trained on all documents. Set only one"
        )


def from_lists(texts: Any, labels: Any, weights: Any = None) -> Documents:
    """Return documents from texts, or a feature matrix, and their labels; weights as in `with_counting`.

    Labels are lists, an indicator matrix, or one label per document; errors of all forms.
    """
    return with_counting(_documents(texts, labels, single=is_one_label(labels)), labels, weights)


def _documents(inputs: Any, labels: Any, *, single: bool) -> Documents:
    values = as_matrix(inputs) if is_matrix(inputs) else check_texts(inputs)
    lists = read_classes(labels)[0] if single else as_label_lists(labels)
    if isinstance(values, list):
        return Documents.from_lists(values, lists)
    return matrix_documents(values, lists, feature_names(inputs))


def from_pair(documents: Any, fitted: Indicator | Classes | None, name: str) -> Any:
    """Return documents from (texts, labels) or (texts, labels, weights), and anything else unchanged.

    Errors and other arguments as in `check_form`, `with_counting`.
    """
    if not isinstance(documents, tuple) or len(documents) not in (2, 3):
        return documents
    texts, labels, weights = documents if len(documents) == 3 else (*documents, None)
    labels = as_target(texts, labels)
    if isinstance(fitted, Classes):
        check_target(labels, fitted, name)
        return from_lists(texts, labels, weights)
    check_form(labels, fitted, name)
    return with_counting(_documents(texts, labels, single=False), labels, weights)


def as_target(inputs: Any, labels: Any) -> Any:
    """Return the labels of inputs, where equally long lists of 0 and 1 for a feature matrix become an indicator matrix.

    Raises:
        DataError: a feature matrix without labels.
    """
    if labels is None and is_frame(inputs) and not issparse(inputs):
        return None
    if not is_matrix(inputs):
        return labels
    if labels is None:
        raise DataError("MultiLabelClassifier requires y to be passed, but the target y is None")
    return as_indicator(labels)


def target_of(labels: Any, *, single: bool) -> Indicator | Classes | None:
    """Return the form of the labels that `fit` got: None for lists of labels, and for those of a file.

    Args:
        labels: of `fit`. None: the documents have them.
        single: whether each document has one label.

    Raises:
        DataError: an indicator matrix of documents with one label each; errors as in `read_classes`.
    """
    if not single:
        return Indicator.of(labels)
    if is_one_label(labels):
        return Classes((), read_classes(labels)[1])
    if is_indicator(labels):
        raise DataError("labels: data.single expects one label per text, not a matrix. Give an array of one dimension")
    return Classes(())


def check_texts(texts: Any) -> list[str | None]:
    """Return texts as a list; a missing one is None, an empty text.

    Raises:
        DataError: one text, a frame or a set in place of a list; an element that is not a text.
    """
    if isinstance(texts, str):
        raise DataError("texts: one text was given. Expected a list of texts")
    if is_frame(texts) or isinstance(texts, AbstractSet):
        raise DataError(
            f"texts: a {type(texts).__name__} was given. Expected a list of texts, such as one column of a frame; "
            "`predict_documents` and `evaluate` read whole frames"
        )
    if not isinstance(texts, Iterable) or getattr(texts, "ndim", 1) == 0 or isinstance(texts, bytes):
        raise DataError(f"texts: {texts!r:.60} is not a list. Expected a list of texts")
    values = texts.to_pylist() if hasattr(texts, "to_pylist") else texts  # an array of pyarrow
    rows = [None if is_missing(text) else text for text in values]
    wrong = next((place for place, text in enumerate(rows) if not isinstance(text, str | None)), None)
    if wrong is not None:
        raise DataError(
            f"texts: number {wrong} is a {type(rows[wrong]).__name__}, not a text. Expected a list of texts"
        )
    return rows


def with_tree_labels(
    documents: Documents, taxonomy: Taxonomy | None, settings: TextDataSettings, others: Collection[str] = ()
) -> Documents:
    """Return the documents with labels as ids of the taxonomy, and with their parents if the settings say so.

    Args:
        documents: N.
        taxonomy: the tree. None: the documents are returned as they are.
        settings: say whether parents are added.
        others: labels that need not be in the tree.

    Raises:
        DataError: a label is not in the taxonomy.
    """
    if taxonomy is None:
        return documents
    free, names = set(others), documents.labels.explode().drop_nulls().unique().to_list()
    names = sorted({*names, *documents.counting.names()})
    ids = {name: name if name in free else taxonomy.resolve(name) for name in names}
    missing = sorted(name for name, resolved in ids.items() if resolved is None)
    if missing:
        raise DataError(
            f"{len(missing):,} labels are not in the taxonomy, first {missing[0]!r}. Labels may be its ids or its "
            "names: correct them, add them to the taxonomy, or leave data.taxonomy out"
        )
    kind = pl.List(pl.Enum([*dict.fromkeys([*taxonomy.ids, *others])]))
    blocks = (documents.labels.slice(start, BLOCK) for start in range(0, len(documents), BLOCK))
    resolved = [_resolve_block(block, ids, taxonomy, settings).cast(kind) for block in blocks]
    counting = documents.counting.renamed(ids.get)
    if counting.unknown is not None:
        known = documents.labels.list.eval(pl.element().replace_strict(ids, return_dtype=pl.String))
        check_apart(known, counting.unknown, lambda row: f"document {documents.ids[row]}")
    return replace(documents, labels=pl.concat(resolved) if resolved else documents.labels, counting=counting)


def _resolve_block(labels: pl.Series, ids: dict[str, Any], taxonomy: Taxonomy, settings: TextDataSettings) -> pl.Series:
    rows = [list(dict.fromkeys(ids[name] for name in row)) for row in labels.to_list()]
    series = pl.Series(labels.name, rows, dtype=pl.List(pl.String))
    return taxonomy.add_parents(series) if settings.add_parents else series


def number(documents: Documents, vocabulary: Vocabulary) -> Labelled:
    """Return the documents with their labels numbered, and labels that are not in the vocabulary counted."""
    lengths = documents.labels.list.len().fill_null(0).to_numpy()
    names = documents.labels.explode().drop_nulls()
    numbers = vocabulary.encode(names)
    owners = torch.from_numpy(np.repeat(np.arange(len(documents)), lengths))
    known = numbers >= 0
    indptr = torch.searchsorted(owners[known], torch.arange(len(documents) + 1))
    unseen = names.filter(pl.Series((~known).numpy())).value_counts(sort=True)
    labels = SparseLabels.from_csr(indptr, numbers[known], num_labels=len(vocabulary))
    return Labelled(documents, documents.counting.rows(labels, vocabulary), dict(unseen.iter_rows()))


def owners_of(documents: Documents) -> Tensor | None:
    """Return (N,) int64, the group of each document, or None."""
    groups = documents.group_numbers()
    return None if groups is None else torch.tensor(groups)
