"""Opinions: scores of (document, label) pairs that need no training, because they read the labels' texts.

text          share of the label's name in the text, see `NameMatcher`
first_line    share of the label's name in the first line of the text, which often is a title
similarity    10 (cosine of the encoder's vectors of text and label text - its mean over training documents)
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import numpy as np
import polars as pl
import torch
from scipy.sparse import csr_matrix
from torch import Tensor
from torch.nn.functional import normalize

from hyperfocal.classify.label_texts import LabelTexts
from hyperfocal.data.stored_texts import Texts, text_blocks
from hyperfocal.models.name_matching import NameMatcher
from hyperfocal.models.text_features import TextFeatures

ALL = TEXT, FIRST_LINE, SIMILARITY = "text", "first_line", "similarity"
SCALE = 10.0  # of cosines, whose differences are small
BLOCK = 4_096  # documents


class Opinion(Protocol):
    """Scores of N documents and L labels; their values are not all kept."""

    def at(self, rows: Tensor, labels: Tensor) -> Tensor:
        """Return the (M,) float64 scores of M pairs."""

    def select(self, rows: Tensor) -> Opinion:
        """Return the scores of the given documents."""

    def add_to(self, scores: Tensor, weight: float) -> None:
        """Add the scores, times a weight, to (N, L) scores in place."""


@dataclass(frozen=True, eq=False)
class Shares:
    """An opinion that is 0 for most pairs."""

    matrix: csr_matrix[np.float32]  # (N, L)

    def at(self, rows: Tensor, labels: Tensor) -> Tensor:
        """Return the (M,) float64 scores of M pairs."""
        entries, width = self.matrix.tocoo(), self.matrix.shape[1]
        numbers = torch.from_numpy(entries.row.astype(np.int64) * width + entries.col)
        order, wanted = numbers.argsort(), rows * width + labels
        sorted_numbers = torch.cat([numbers[order], torch.tensor([-1])])  # the last: after all
        places = torch.searchsorted(sorted_numbers[:-1], wanted)
        values = torch.cat([torch.from_numpy(entries.data)[order].double(), torch.zeros(1, dtype=torch.float64)])
        return torch.where(sorted_numbers[places] == wanted, values[places], 0.0)

    def select(self, rows: Tensor) -> Shares:
        """Return the scores of the given documents."""
        return Shares(self.matrix[rows.numpy()])

    def add_to(self, scores: Tensor, weight: float) -> None:
        """Add the scores, times a weight, to (N, L) scores in place."""
        for start in range(0, len(scores), BLOCK):
            entries = self.matrix[start : start + BLOCK].tocoo()
            rows, labels = torch.from_numpy(entries.row).long() + start, torch.from_numpy(entries.col).long()
            scores[rows, labels] += weight * torch.from_numpy(entries.data)


@dataclass(frozen=True, eq=False)
class Similarities:
    """The opinion of an encoder."""

    documents: Tensor  # (N, D) float32, of length 1
    labels: Tensor  # (L, D) float32, of length 1
    means: Tensor  # (L,) float32, mean cosine over training documents

    def at(self, rows: Tensor, labels: Tensor) -> Tensor:
        """Return the (M,) float64 scores of M pairs."""
        pairs = zip(rows.split(BLOCK), labels.split(BLOCK), strict=True)
        blocks = [(self.documents[row] * self.labels[label]).sum(1) - self.means[label] for row, label in pairs]
        return SCALE * torch.cat(blocks).double() if blocks else torch.zeros(0, dtype=torch.float64)

    def select(self, rows: Tensor) -> Similarities:
        """Return the scores of the given documents."""
        return Similarities(self.documents[rows], self.labels, self.means)

    def add_to(self, scores: Tensor, weight: float) -> None:
        """Add the scores, times a weight, to (N, L) scores in place."""
        for block, vectors in zip(scores.split(BLOCK), self.documents.split(BLOCK), strict=True):
            block += weight * SCALE * (vectors @ self.labels.T - self.means)


Opinions = Mapping[str, Opinion]  # by name


@dataclass(frozen=True, eq=False)
class LabelReader:
    """Gives opinions about the L labels, by what their texts say.

    Attributes:
        texts: of the labels.
        matcher: of their names.
        vectors: (L, D) float32 of length 1, the encoder's vectors of the label texts. None: no frozen encoder.
        center: (D,) float32, mean of the training documents' vectors, each of length 1. None: no frozen encoder.
    """

    texts: LabelTexts
    matcher: NameMatcher
    vectors: Tensor | None = None
    center: Tensor | None = None

    @classmethod
    def fit(
        cls, texts: LabelTexts, features: TextFeatures, dense: Tensor | None, cache: Path | None = None
    ) -> LabelReader:
        """Return the reader of label texts.

        Args:
            texts: of the L labels.
            features: of the documents; a frozen encoder among them reads the label texts too.
            dense: (N, D) the encoder's vectors of the training documents. None: no frozen encoder.
            cache: folder of the encoder's vectors. None: they are not cached.
        """
        matcher = NameMatcher.of(texts.names)
        if dense is None or features.encoder is None:
            return cls(texts, matcher)
        return cls(texts, matcher, _encode(texts, features, cache), _center(dense))

    def of_new(self, texts: LabelTexts, features: TextFeatures) -> LabelReader:
        """Return the reader of other labels' texts, which `features` of the documents encode."""
        matcher = NameMatcher.of(texts.names, self.texts.names)
        vectors = None if self.center is None else _encode(texts, features)
        return LabelReader(texts, matcher, vectors, self.center)

    def of(self, texts: Texts, dense: Tensor | None, only: Collection[str] = ALL) -> dict[str, Opinion]:
        """Return the opinions about N texts.

        Args:
            texts: N.
            dense: (N, D) the encoder's vectors of the texts. None: no frozen encoder.
            only: names of the opinions to return.
        """
        opinions: dict[str, Opinion] = {}
        if TEXT in only:
            opinions[TEXT] = Shares(self.matcher.match(_lists(texts)))
        if FIRST_LINE in only:
            opinions[FIRST_LINE] = Shares(self.matcher.match(_first_lines(texts)))
        if SIMILARITY in only and self.vectors is not None and self.center is not None and dense is not None:
            opinions[SIMILARITY] = Similarities(normalize(dense.float()), self.vectors, self.vectors @ self.center)
        return opinions


def select(opinions: Opinions, rows: Tensor) -> dict[str, Opinion]:
    """Return the opinions about some of the documents."""
    return {name: opinion.select(rows) for name, opinion in opinions.items()}


def _encode(texts: LabelTexts, features: TextFeatures, cache: Path | None = None) -> Tensor:
    series = pl.Series("text", texts.whole, dtype=pl.String)
    encoded = replace(features, ngrams=None).make(series, cache).dense
    assert encoded is not None, "an encoder makes dense features"
    return normalize(encoded)


def _center(dense: Tensor) -> Tensor:
    total = torch.zeros(dense.shape[1], dtype=torch.float64)
    for block in dense.split(BLOCK):
        total += normalize(block.float()).double().sum(0)
    return (total / max(len(dense), 1)).float()


def _lists(texts: Texts) -> Iterator[Sequence[str]]:
    for block in text_blocks(texts):
        yield [text or "" for text in block.to_list()]


def _first_lines(texts: Texts) -> Iterator[Sequence[str]]:
    for rows in _lists(texts):
        yield [text.split("\n", 1)[0] for text in rows]
