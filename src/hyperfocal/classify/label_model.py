"""A fitted classifier as frozen values: the labels, the model that scores and decides, and the content of a run."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray
from scipy.sparse import csr_matrix
from torch import Tensor

from hyperfocal.classify.combination import Combination
from hyperfocal.classify.finetune import Encoder, encode
from hyperfocal.classify.head import hidden_documents, score_documents
from hyperfocal.classify.indicator import Indicator
from hyperfocal.classify.new_labels import Headless, NewLabels, check_boost, new_texts
from hyperfocal.classify.one_label import Classes
from hyperfocal.classify.opinions import LabelReader
from hyperfocal.classify.prepare import PreparedTexts, with_tree_labels
from hyperfocal.config.classify import ClassifySettings
from hyperfocal.data.documents import Documents
from hyperfocal.data.input_columns import NO_COLUMNS, InputColumns
from hyperfocal.data.reading import ReadingPlan, reading_of
from hyperfocal.data.stored_texts import Texts
from hyperfocal.data.taxonomy import Taxonomy
from hyperfocal.data.text_columns import TextReading
from hyperfocal.data.vocabulary import Vocabulary
from hyperfocal.errors import ConfigError
from hyperfocal.labels import SparseLabels
from hyperfocal.losses import frequency_bias
from hyperfocal.models.example_features import ExampleFeatures
from hyperfocal.models.text_head import Features, TextHead
from hyperfocal.thresholds import Decisions

KNOWN = "known"  # column of predictions: whether any part of the text is known
BEST = 10  # labels per document whose scores are written

logger = logging.getLogger("hyperfocal")


@dataclass(frozen=True, eq=False)
class LabelSpace:
    """The L labels of the training documents.

    Attributes:
        vocabulary: their names.
        taxonomy: the label tree, or None.
        counts: (L,) int64, training documents of each label.
        num_documents: training documents.
        consistent: whether a decided label brings its parents in the tree.
    """

    vocabulary: Vocabulary
    taxonomy: Taxonomy | None
    counts: Tensor
    num_documents: int
    consistent: bool

    @classmethod
    def of(cls, data: PreparedTexts, settings: ClassifySettings) -> LabelSpace:
        """Return the labels of prepared documents."""
        counts, consistent = data.train.labels.counts(), settings.data.consistent
        return cls(data.vocabulary, data.taxonomy, counts, len(data.train), consistent)

    def complete(self, decided: SparseLabels) -> SparseLabels:
        """Return the decided labels with their parents in the tree if `consistent`; unchanged without a tree."""
        if self.taxonomy is None or not self.consistent:
            return decided
        return with_parents(decided, self.vocabulary, self.taxonomy)

    def extended(self, names: Sequence[str]) -> LabelSpace:
        """Return the labels followed by other ones, without a training document."""
        counts = torch.cat([self.counts, self.counts.new_zeros(len(names))])
        return replace(self, vocabulary=self.vocabulary.extended(pl.Series(names, dtype=pl.String)), counts=counts)


def with_parents(decided: SparseLabels, vocabulary: Vocabulary, taxonomy: Taxonomy) -> SparseLabels:
    """Return the decided labels and all their ancestors that are in the vocabulary."""
    numbers = vocabulary.numbers
    inside = set(taxonomy.ids)  # a label that training never saw need not be
    above = [taxonomy.ancestors(name) if name in inside else [] for name in vocabulary.names]
    ancestors = [[numbers[up] for up in each if up in numbers] for each in above]
    rows, labels = decided.rows.tolist(), decided.indices.tolist()
    pairs = [(row, up) for row, label in zip(rows, labels, strict=True) for up in (label, *ancestors[label])]
    dense = torch.zeros(len(decided), len(vocabulary), dtype=torch.bool)
    if pairs:
        dense[tuple(torch.tensor(pairs).T)] = True
    return SparseLabels.from_dense(dense)


class Answer(NamedTuple):
    """The answer of a model to N texts."""

    scores: Tensor  # (N, L): the logits of the head, combined with opinions if validation accepted them
    known: Tensor  # (N,) bool: whether any part of the text is known, see `known_texts`
    logits: Tensor  # (N, L) of the head alone


@dataclass(frozen=True, eq=False)
class LabelModel:
    """Everything that scores texts and decides their labels.

    Attributes:
        settings: all of them, resolved.
        labels: the L labels.
        features: turns documents into features.
        encoder: the fine-tuned encoder, or None.
        head: turns features into logits.
        decisions: turn logits into labels.
        indicator: the width of the indicator matrix that `fit` got, or None.
        plan: how the training documents were read. None: the run is of an earlier version without a plan.
        reader: reads the label texts. None: the labels have no texts.
        combination: of logits and opinions; without weights if validation did not accept opinions.
        headless: scores labels that training never saw. None: the labels have no texts.
        new: labels that training never saw, the last ones of `labels`. None: there are none.
    """

    settings: ClassifySettings
    labels: LabelSpace
    features: ExampleFeatures
    encoder: Encoder | None
    head: TextHead
    decisions: Decisions
    indicator: Indicator | None = None
    plan: ReadingPlan | None = None
    reader: LabelReader | None = None
    combination: Combination = field(default_factory=Combination)
    headless: Headless | None = None
    new: NewLabels | None = None
    classes: Classes | None = None  # of one label per document. None: any number of labels

    @property
    def column(self) -> str:
        """The column of predictions with what is decided."""
        return "labels" if self.classes is None else "label"

    @property
    def reading(self) -> TextReading:
        """How other documents are read."""
        return reading_of(self.plan, self.settings.data)

    def scores(self, texts: pl.Series, columns: InputColumns = NO_COLUMNS) -> Tensor:
        """Return (N, L) scores of N texts, with their fields and vectors."""
        return self.answer(texts, columns).scores

    def answer(self, texts: pl.Series, columns: InputColumns = NO_COLUMNS) -> Answer:
        """Return the scores of N texts, of labels that training never saw too, and what they are made of.

        Raises:
            DataError: the run reads fields, vectors or a matrix that `columns` lacks.
        """
        features = self._features_of(texts, columns)
        scores, logits = self.scored(features, texts)
        if self.new is not None:
            added = self.new.scores(texts, self.features.text_vectors(features))
            logits, scores = torch.cat([logits, added], 1), torch.cat([scores, added], 1)
        return Answer(scores, self.features.known(texts, columns, features), logits)

    def scored(self, features: Features, texts: Texts) -> tuple[Tensor, Tensor]:
        """Return (N, L) scores, and the logits of the head alone, for features of N texts; without new labels."""
        logits = score_documents(self.head, features)
        return self._combine(logits, texts, self.features.text_vectors(features)), logits

    def hidden(self, texts: pl.Series, columns: InputColumns = NO_COLUMNS) -> Any:
        """Return the input of the output layer for N texts, see `hidden_documents`; errors as in `answer`."""
        return hidden_documents(self.head, self._features_of(texts, columns))

    def _features_of(self, texts: pl.Series, columns: InputColumns) -> Features:
        if self.encoder is None:
            return self.features.make(texts, columns)
        return Features(None, encode(self.encoder, texts, batch=self.settings.features.encoder_batch))

    def _combine(self, logits: Tensor, texts: Texts, dense: Tensor | None) -> Tensor:
        if self.reader is None or not self.combination.weights:
            return logits
        opinions = self.reader.of(texts, dense, self.combination.weights.keys())
        return self.combination.apply(logits, opinions, self.labels.counts[: logits.shape[1]])

    def with_new(self, labels: Any, boost: float = 0.0) -> LabelModel:
        """Return a model that also scores labels that training never saw; arguments as in `with_new_labels`.

        Raises:
            ConfigError: the labels of training have no texts; `boost` is not a finite number; the model has new labels
                already, or the columns of an indicator matrix as labels.
            DataError: as in `new_texts`.
        """
        if self.new is not None:
            raise ConfigError("new labels: this classifier has some already. Give all to the one that was fitted")
        if self.indicator is not None:
            raise ConfigError("new labels: the labels are columns of a matrix. Fit again with lists of labels")
        if self.reader is None or self.headless is None or self.features.text is None:
            raise ConfigError(
                "new labels are scored by their texts, and this run was fitted without label texts. Fit again with "
                "`label_texts='names'` and labels that are words"
            )
        names, texts = new_texts(labels, self.labels.vocabulary.numbers)
        reader = self.reader.of_new(texts, self.features.text)
        classes = None if self.classes is None else self.classes.extended(names)
        thresholds = torch.cat([self.decisions.thresholds, torch.full((len(names),), self.headless.threshold)])
        return replace(
            self,
            labels=self.labels.extended(names),
            decisions=replace(self.decisions, thresholds=thresholds),
            new=NewLabels(names, reader, self.headless, check_boost(boost)),
            classes=classes,
        )

    def decide(self, scores: Tensor, decisions: Decisions | None = None) -> SparseLabels:
        """Return the labels decided from (N, L) logits, by the model's decisions or others, with their parents."""
        return self.labels.complete((decisions or self.decisions).decide(scores))

    def resolve_labels(self, documents: Documents) -> Documents:
        """Return the documents with labels as ids of the tree, as in training; errors as in `with_tree_labels`."""
        new = () if self.new is None else self.new.names
        return with_tree_labels(documents, self.labels.taxonomy, self.settings.data, new)

    def name(self, decided: SparseLabels) -> list[list[str]]:
        """Return the names of the decided labels, one list per document."""
        names = self.labels.vocabulary.names
        flat = [names[label] for label in decided.indices.tolist()]
        return [flat[start:end] for start, end in pairwise(decided.indptr.tolist())]

    def widen(self, scores: Tensor) -> NDArray[Any]:
        """Return (N, width) float32 logits, a column per column of the indicator matrix; (N, L) without one.

        With one label per document: see `Classes.decision`; the largest score, less its offset, is decided.
        A column that no training document has gets the logit of its prior.
        """
        if self.classes is not None:
            return self.classes.decision(scores - self.decisions.applied)
        logits: NDArray[Any] = scores.numpy()
        if self.indicator is None:
            return logits
        prior = frequency_bias(torch.zeros(1), self.labels.num_documents).item()
        return self.indicator.widened(logits, self.labels.vocabulary.names, prior)

    def rows(self, texts: pl.Series, columns: InputColumns = NO_COLUMNS) -> dict[str, Any]:
        """Return columns of N texts: `column` (decided), "scores" (the best 10 with their probability), "known"."""
        scores, known, _ = self.answer(texts, columns)
        best = _best(self.decisions.probabilities(scores), self.labels.vocabulary.names)
        decided = self.name(self.decide(scores))
        named = decided if self.classes is None else [names[0] for names in decided]
        return {self.column: named, "scores": best, KNOWN: known.numpy()}

    def predictions(self, scores: Tensor) -> Any:
        """Return what `predict` returns for (N, L) logits: classes, an indicator matrix, or lists of labels."""
        decided = self.decide(scores)
        if self.classes is not None:
            return self.classes.take(decided.indices)
        return self.indicator.matrix(decided, self.labels.vocabulary.names) if self.indicator else self.name(decided)

    def probabilities(self, scores: Tensor, at_least: float | None = None) -> Any:
        """Return (N, L) or (N, width) probabilities for (N, L) logits, in the order of `class_values`.

        Args:
            scores: (N, L) logits.
            at_least: smaller probabilities become 0, in a scipy CSR matrix. None: a dense array of all.
        """
        if self.classes is not None:
            dense = self.classes.sorted(self.decisions.probabilities(scores))
        else:
            dense = torch.from_numpy(self.widen(scores)).sigmoid().numpy()
        return dense if at_least is None else csr_matrix(np.where(dense >= at_least, dense, 0))

    def class_values(self) -> NDArray[Any]:
        """Return (L,) the labels in the type and order of predictions, or the column numbers of the indicator."""
        if self.classes is not None:
            return self.classes.values
        return np.arange(self.indicator.width) if self.indicator else np.asarray(self.labels.vocabulary.names)


def _best(probabilities: Tensor, names: Sequence[str]) -> pl.Series:
    """Return label -> probability of the best labels of each document, the best first."""
    best = probabilities.topk(min(BEST, probabilities.shape[1]), dim=1)
    ranked = [
        {names[label]: round(value, 6) for label, value in zip(labels, values, strict=True)}
        for labels, values in zip(best.indices.tolist(), best.values.tolist(), strict=True)
    ]
    return pl.Series(ranked, dtype=pl.Object)


def warn_of_unknown(known: Tensor, *, matrix: bool = False) -> None:
    """Log one warning with the number of texts, or rows of a matrix, that are not known; `known` is (N,) bool."""
    if unknown := int((~known).sum()):
        what = "rows of X are all zeros" if matrix else "texts have no known n-gram or word"
        logger.warning(
            f"%s of %s {what}; their labels are unreliable. predict_documents says which",
            f"{unknown:,}",
            f"{len(known):,}",
        )


def warn_of_unseen(unseen: Mapping[str, int]) -> None:
    """Log one warning with the fields whose values training never saw, from `ExampleFeatures.unseen`."""
    if unseen:
        listed = ", ".join(f"{name} ({count:,} documents)" for name, count in unseen.items())
        logger.warning("values that training never saw count as none, in the fields %s", listed)


@dataclass(frozen=True, eq=False)
class Fit:
    """The content of a run folder.

    Attributes:
        model: scores and decides.
        fingerprint: checksum of the data and the split.
        metrics: scores on the validation documents, or out of fold on all documents, and the counts of the data.
        label_table: one row per label: training and validation documents, precision, recall, F1, average precision.
        history: one row per epoch.
        resamples: the main metrics in bootstrap resamples of the validation documents; empty after loading.
        texts: distinct checksums of the training texts, from `hash_each`, to know them again. None: the documents were
            streamed, or the run is of a version that kept none.
        evidence: data of the report, of an update; None after loading.
        logs: checksums of the documents of the fit and of updates, from `repeated.py`.
    """

    model: LabelModel
    fingerprint: str
    metrics: dict[str, Any]
    label_table: list[dict[str, Any]]
    history: list[dict[str, float]]
    resamples: dict[str, Tensor] = field(default_factory=dict)
    texts: Tensor | None = None
    evidence: dict[str, Any] | None = None
    logs: tuple[str, ...] = ()
