"""What a classifier learns from: documents read, split and numbered, with everything that was left out counted.

Documents larger than memory, made ready to be prepared: their texts in the cache, and their labels in memory.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from torch import Tensor

from hyperfocal.config.classify import ClassifySettings, TextDataSettings
from hyperfocal.data.documents import Documents, as_documents
from hyperfocal.data.stored_documents import stored_documents, stream_documents
from hyperfocal.data.stored_texts import hash_texts
from hyperfocal.data.stratify import check_distinct_groups, split_documents
from hyperfocal.data.taxonomy import Taxonomy, read_taxonomy
from hyperfocal.data.vocabulary import Vocabulary
from hyperfocal.errors import ConfigError, DataError
from hyperfocal.labels import SparseLabels
from hyperfocal.storage.cache import cached_streamed, default_cache, hash_array, hash_of, is_streamed, key_of

BLOCK = 100_000  # documents whose labels are lists at once


@dataclass(frozen=True, eq=False)
class Labelled:
    """Documents with numbered labels.

    Attributes:
        documents: N.
        labels: N rows over the L training labels.
        unseen: label that training never saw -> how many of the documents have it.
    """

    documents: Documents
    labels: SparseLabels
    unseen: dict[str, int]

    def __len__(self) -> int:
        """Return N."""
        return len(self.documents)

    def refuse_unlabelled(self, name: str) -> None:
        """Raise DataError if none of the documents, called `name`, has a label of training: nothing can be scored."""
        if self.labels.num_positives == 0:
            unseen = f"; theirs are others, as {next(iter(self.unseen))!r}" if self.unseen else ""
            raise DataError(
                f"{name}: not one of {len(self):,} has a label that training has{unseen}. "
                "Give documents with labels of training, or more documents"
            )

    def counts(self) -> dict[str, Any]:
        """Return what a report says of the documents."""
        return {**self.documents.counts(), "positives": self.labels.num_positives, "unseen_labels": self.unseen}


@dataclass(frozen=True, eq=False)
class PreparedTexts:
    """Training and validation documents over one vocabulary of labels; under cross-validation they are the same."""

    vocabulary: Vocabulary
    train: Labelled
    valid: Labelled
    taxonomy: Taxonomy | None

    def counts(self) -> dict[str, Any]:
        """Return what a report says of the data."""
        found = self.train.labels.counts()
        everywhere = (found == len(self.train)).nonzero()[:, 0]
        return {
            "labels": len(self.vocabulary),
            "labels_in_every_document": self.vocabulary.decode(everywhere).to_list(),
            "train": self.train.counts(),
            "valid": self.valid.counts(),
            "out_of_fold": self.valid is self.train,
        }

    def fingerprint(self) -> str:
        """Return a checksum of texts, labels, groups, split and taxonomy."""
        parts: list[Any] = [self.vocabulary.ids.to_list(), self.taxonomy and self.taxonomy.to_json()]
        for part in (self.train, self.valid):
            rows, groups = part.labels, part.documents.group_numbers()
            parts += [
                hash_texts(part.documents.texts),
                hash_array(rows.indptr.numpy()),
                hash_array(rows.indices.numpy()),
            ]
            parts.append(None if groups is None else hash_array(groups))
        return hash_of(*parts)


def check_texts(texts: Any) -> list[str | None]:
    """Return texts as a list, after a look at each; None is no text.

    Raises:
        DataError: one text in place of a list; something that is no text.
    """
    if isinstance(texts, str):
        raise DataError("texts: one text was given. Expected a list of texts")
    rows = list(texts)
    wrong = next((place for place, text in enumerate(rows) if not isinstance(text, str | None)), None)
    if wrong is not None:
        raise DataError(
            f"texts: number {wrong} is a {type(rows[wrong]).__name__}, not a text. Expected a list of texts"
        )
    return rows


def prepare_texts(train: Any, valid: Any, settings: ClassifySettings) -> PreparedTexts:
    """Read, split and number; the split is drawn by `settings.seed`.

    Raises:
        DataError: what cannot be read; no document has a label, or in validation none that training has.
        LeakError: a group, or an id, stands in `train` and in `valid`.
        ConfigError: validation documents and cross-validation, which has no use for them; data.stream = "on" for
            documents in memory.
    """
    taxonomy = read_taxonomy(settings.data.taxonomy) if settings.data.taxonomy else None
    documents = as_documents(train, settings.data)
    del train  # of 10 million documents a gigabyte, once they are split
    if settings.data.stream == "on" and isinstance(documents.texts, pl.Series):  # of a fit they are stored by now
        raise ConfigError(
            "data.stream = 'on' is not allowed in a grid: its points share documents in memory. Leave it out"
        )
    if settings.train.folds:
        _refuse_validation(valid)
        others = None
    elif valid is None:
        rows, held_out = split_documents(documents, fraction=settings.data.valid_fraction, seed=settings.seed)
        documents, others = documents.select(rows), documents.select(held_out)
    else:
        others = as_documents(valid, settings.data)
        check_distinct_groups(documents, others, name=str(valid) if isinstance(valid, str | Path) else "valid")
    documents = with_tree_labels(documents, taxonomy, settings.data)
    names = documents.labels.explode().drop_nulls()
    if len(names) == 0:
        raise DataError("no training document has a label. Name the column of the labels with --labels COLUMN")
    vocabulary = Vocabulary.of(names)
    learnt = number(documents, vocabulary)
    if others is None:
        return PreparedTexts(vocabulary, learnt, learnt, taxonomy)
    held = number(with_tree_labels(others, taxonomy, settings.data), vocabulary)
    held.refuse_unlabelled("validation documents")
    return PreparedTexts(vocabulary, learnt, held, taxonomy)


def _refuse_validation(valid: Any) -> None:
    if valid is not None:
        raise ConfigError(
            "train.folds: cross-validation scores every training document and has no use for validation documents. "
            "Leave --valid out, or set train.folds = 0"
        )


def with_tree_labels(documents: Documents, taxonomy: Taxonomy | None, settings: TextDataSettings) -> Documents:
    """Return the documents with labels as ids of the taxonomy, and with their parents if the settings say so.

    Raises:
        DataError: a label that the taxonomy does not have.
    """
    if taxonomy is None:
        return documents
    known = {name: taxonomy.resolve(name) for name in documents.labels.explode().drop_nulls().unique().to_list()}
    missing = sorted(name for name, found in known.items() if found is None)
    if missing:
        raise DataError(
            f"{len(missing):,} labels are not in the taxonomy, first {missing[0]!r}. Labels may be its ids or its "
            "names: correct them, add them to the taxonomy, or leave data.taxonomy out"
        )
    kind = pl.List(pl.Enum(taxonomy.ids))
    blocks = (documents.labels.slice(start, BLOCK) for start in range(0, len(documents), BLOCK))
    found = [_in_tree(block, known, taxonomy, settings).cast(kind) for block in blocks]
    return replace(documents, labels=pl.concat(found) if found else documents.labels)


def _in_tree(labels: pl.Series, known: dict[str, Any], taxonomy: Taxonomy, settings: TextDataSettings) -> pl.Series:
    """Return a block of labels as ids of the taxonomy."""
    rows = [list(dict.fromkeys(known[name] for name in row)) for row in labels.to_list()]
    ids = pl.Series(labels.name, rows, dtype=pl.List(pl.String))
    return taxonomy.add_parents(ids) if settings.add_parents else ids


def with_parents(decided: SparseLabels, vocabulary: Vocabulary, taxonomy: Taxonomy) -> SparseLabels:
    """Return the decisions with the parents of every label, as far as training has them."""
    places = {name: number for number, name in enumerate(vocabulary.ids.to_list())}
    above = [[places[up] for up in taxonomy.ancestors(name) if up in places] for name in places]
    rows, labels = decided.rows.tolist(), decided.indices.tolist()
    pairs = [(row, up) for row, label in zip(rows, labels, strict=True) for up in (label, *above[label])]
    dense = torch.zeros(len(decided), len(places), dtype=torch.bool)
    if pairs:
        dense[tuple(torch.tensor(pairs).T)] = True
    return SparseLabels.from_dense(dense)


def number(documents: Documents, vocabulary: Vocabulary) -> Labelled:
    """Return the documents with their labels numbered, and those that the vocabulary lacks counted."""
    lengths = documents.labels.list.len().fill_null(0).to_numpy()
    names = documents.labels.explode().drop_nulls()
    numbers = vocabulary.encode(names)
    owners = torch.from_numpy(np.repeat(np.arange(len(documents)), lengths))
    known = numbers >= 0
    indptr = torch.searchsorted(owners[known], torch.arange(len(documents) + 1))
    unseen = names.filter(pl.Series((~known).numpy())).value_counts(sort=True)
    labels = SparseLabels.from_csr(indptr, numbers[known], num_labels=len(vocabulary))
    return Labelled(documents, labels, dict(unseen.iter_rows()))


def owners_of(documents: Documents) -> Tensor | None:
    """Return (N,) int64, the group of each document, or None."""
    groups = documents.group_numbers()
    return None if groups is None else torch.tensor(groups)


logger = logging.getLogger("hyperfocal")


def streams_texts(documents: Any, settings: ClassifySettings) -> bool:
    """Return whether documents are streamed: a file, and either asked for, or too large for memory and possible.

    Raises:
        ConfigError: asked for where it is not possible.
    """
    return is_streamed(documents, settings.data.stream, _impossible(documents, settings))


def _impossible(documents: Any, settings: ClassifySettings) -> str:
    """Return why documents cannot be streamed, or ""."""
    if not isinstance(documents, str | Path):
        return "for documents that are in memory already"
    wanted = {
        "train.folds": settings.train.folds,
        "train.refit": settings.train.refit,
        "features.finetune": settings.features.finetune,
    }
    name = next((name for name, value in wanted.items() if value), "")
    return f"with {name}, which needs the features, or the texts, of all documents in memory" if name else ""


def read_streamed(path: str | Path, settings: TextDataSettings) -> Documents:
    """Return what `as_documents` returns, with the texts in the cache.

    Raises:
        DataError: as in `as_documents`.
        RunError: the cache cannot be written.
    """
    folder = default_cache() / "documents"
    logger.info("%s: streamed through mapped files in %s", path, folder)
    columns = [getattr(settings, name) for name in ("text", "labels", "separator", "id", "group")]
    key = key_of(Path(path), columns)
    return stored_documents(cached_streamed(folder, key, lambda work: stream_documents(path, settings, work)))
