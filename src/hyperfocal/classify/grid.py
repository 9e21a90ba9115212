"""A grid of the job `classify`: documents prepared once, and how one of its points is trained, kept and tested."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from hyperfocal.classify.classifier import MultiLabelClassifier
from hyperfocal.classify.prepare import PreparedTexts, number, prepare_texts, with_tree_labels
from hyperfocal.classify.scores import score_labels
from hyperfocal.config.classify import ClassifySettings, FeatureSettings, TextDataSettings
from hyperfocal.config.rules import flat_settings
from hyperfocal.config.sections import Section
from hyperfocal.data.documents import Documents, as_documents
from hyperfocal.data.stratify import check_distinct_groups
from hyperfocal.grid.adaptive import Range
from hyperfocal.grid.job import Reached
from hyperfocal.grid.points import Point
from hyperfocal.labels import SparseLabels
from hyperfocal.machine import set_threads
from hyperfocal.metrics.verdict import LABELS, Families
from hyperfocal.models.sentence_encoder import find_encoder
from hyperfocal.models.text_features import Made, TextFeatures, check_training, resolve_kind
from hyperfocal.storage.cache import hash_of

NOT_BETTER = ("calibration_error", "labels_per_document", "labels_without_truth")  # where more is not better


@dataclass(frozen=True, eq=False)
class TextSource:
    """Documents: each a path, a frame or Documents.

    Attributes:
        train: to learn from.
        valid: to compare points on; None holds some out.
        cache: folder of the features.
        test: scored at the end, and looked at before the first point trains; or None.
        watch: called with (texts encoded, texts in all).
    """

    train: Any
    valid: Any
    cache: Path
    test: Any = None
    watch: Callable[[int, int], None] = lambda *_: None

    def metrics(self, base: Section) -> list[str]:
        """Return the metrics that trainings are scored by and of which more is better."""
        few = SparseLabels.from_lists([[0], [], []], num_labels=1)
        values, _ = score_labels(torch.zeros(3, 1), few, {"half": few, "tuned": few}, few.counts(), len(few))
        return [name for name in values if name.split(".")[-1] not in NOT_BETTER]

    def prepare(self, points: Sequence[Point], base: Section, threads: int) -> Material:
        """Return documents and features.

        Raises:
            ConfigError: as in `prepare_grid`.
            DataError, LeakError: as in `prepare_texts` and `check_test`.
        """
        base = _texts(base)
        data = prepare_texts(self.train, self.valid, base)
        if self.test is not None:
            check_test(data, as_documents(self.test, base.data), base.data)
        return prepare_grid(data, points, base, cache=self.cache, threads=threads, watch=self.watch)


@dataclass(frozen=True, eq=False)
class Material:
    """The documents of a grid, split by the base settings' seed, and where their features are kept.

    Attributes:
        data: training and validation documents.
        cache: folder of the features.
        threads: CPU threads of one training; 0 is one a core, in a worker process 1.
        encoder: checksum of the encoder, "" without.
        kinds: the settings of the features of all points.
        made: features that are at hand; others are read from the cache.
    """

    data: PreparedTexts
    cache: Path
    threads: int
    encoder: str
    kinds: frozenset[FeatureSettings]
    made: Mapping[FeatureSettings, Made] = field(default_factory=dict)

    @property
    def families(self) -> Families:
        """What verdicts look at."""
        return LABELS

    def fingerprint(self) -> str:
        """Return a checksum of the documents, their labels and split, and the encoder."""
        return hash_of(self.data.fingerprint(), self.encoder)

    def about(self) -> dict[str, Any]:
        """Return how many documents and labels there are, and how many documents, or groups of them, are scored."""
        counts, valid = self.data.counts(), self.data.valid
        found = {"documents": counts["train"]["documents"], "labels": counts["labels"]}
        groups = valid.documents.group_numbers()
        grouped = {} if groups is None else {"validation groups": len(set(groups.tolist()))}
        return found | {"validation documents": len(valid)} | grouped

    def portable(self) -> Material:
        """Return the material with its features at hand, but for those that an encoder makes as it learns."""
        made = {kind: _from_cache(self.data, kind, self.cache) for kind in self.kinds if not kind.finetune}
        return replace(self, made=made)

    def train(self, point: Point) -> Reached:
        """Return what `train_point` does."""
        return train_point(self, point)

    def fit(self, settings: dict[str, Any], folder: Path) -> MultiLabelClassifier:
        """Return a classifier with these settings, kept as a run."""
        classifier = MultiLabelClassifier(settings=settings)
        return classifier.fit_prepared(self.data, out=folder, overwrite=True, cache=self.cache)

    def load(self, folder: Path) -> MultiLabelClassifier:
        """Return the classifier of a run."""
        return MultiLabelClassifier.load(folder)

    def knows(self, fitted: Any) -> bool:
        """Return whether a classifier was fitted on these documents."""
        return bool(fitted.fingerprint_ == self.data.fingerprint())

    def read_test(self, test: Any, settings: Section) -> TextTest:
        """Return test documents; errors as in `check_test`."""
        read = _texts(settings)
        documents = as_documents(test, read.data)
        check_test(self.data, documents, read.data)
        return TextTest(documents, read.train.refit)


@dataclass(frozen=True, eq=False)
class TextTest:
    """Test documents, for heads that were refitted or not."""

    documents: Documents
    refitted: bool

    def checksum(self, keys: Sequence[str]) -> str:
        """Return a checksum of texts, labels and the points that are scored on them."""
        return hash_of(self.documents.all_texts().to_list(), self.documents.labels.to_list(), *keys, self.refitted)

    def evaluate(self, fitted: MultiLabelClassifier) -> dict[str, Any]:
        """Return the scores, but those of each label."""
        return {name: value for name, value in fitted.evaluate(self.documents).items() if name != "labels"}


def _texts(settings: Section) -> ClassifySettings:
    assert isinstance(settings, ClassifySettings), "a grid has the settings of its job"
    return settings


def prepare_grid(
    data: PreparedTexts,
    points: Sequence[Point],
    base: ClassifySettings,
    *,
    cache: Path,
    threads: int = 0,
    watch: Callable[[int, int], None] = lambda *_: None,
) -> Material:
    """Compute all features that the points need, so that each finds them.

    Raises:
        ConfigError: features that are not to be had.
    """
    set_threads(base.train.threads)
    wanted = [_texts(point.settings) for point in points]
    for settings in wanted:
        check_training(settings)
    used = {resolve_kind(settings.features) for settings in wanted}
    for features in used:
        found = TextFeatures.fit(data.train.documents.texts, features, cache)
        for part in () if features.finetune else (data.train, data.valid):  # that makes its own as it learns
            found.make(part.documents.texts, cache, watch)
    encoders = {features.encoder for features in used if features.kind != "ngrams"}
    sources = [find_encoder(name) for name in sorted(encoders)]
    checksum = hash_of(*[source.checksum for source in sources if source]) if sources else ""
    return Material(data, cache, threads, checksum, frozenset(settings.features for settings in wanted))


def _from_cache(data: PreparedTexts, settings: FeatureSettings, cache: Path) -> Made:
    how = TextFeatures.fit(data.train.documents.texts, settings, cache)
    train = how.make(data.train.documents.texts, cache)
    return Made(how, train, train if data.valid is data.train else how.make(data.valid.documents.texts, cache))


def check_test(data: PreparedTexts, test: Documents, settings: TextDataSettings) -> None:
    """Make sure that test documents can be scored, and that nothing was learnt from them.

    Raises:
        DataError: a label that the taxonomy lacks; no label that training has.
        LeakError: a group, or an id, stands in test and in training or validation.
    """
    for part in (data.train, data.valid):
        check_distinct_groups(part.documents, test, name="test")
    number(with_tree_labels(test, data.taxonomy, settings), data.vocabulary).refuse_unlabelled("test documents")


def train_point(material: Material, point: Point) -> Reached:
    """Train one point; return every metric on the validation documents, and the main ones in resamples.

    The documents are split by the base settings, whatever the point's seed.
    """
    made = material.made.get(_texts(point.settings).features)
    settings = flat_settings(point.settings)
    settings |= {"train.threads": material.threads, "train.refit": False}  # the winner is refitted, once
    classifier = MultiLabelClassifier(settings=settings)
    classifier.score_prepared(material.data, cache=material.cache, made=made)
    return classifier.metrics_["values"], classifier.resamples_


RANGES: dict[str, Range] = {  # of an adaptive search
    "loss.name": ["bce", "focal", "asymmetric", "ntr_focal", "balanced"],
    "loss.gamma": {"low": 0.5, "high": 4.0},
    "loss.alpha": ["none", 0.25, 0.5, 0.75],
    "loss.cap": ["off", 2.0, 4.0, 6.0, 8.0, 12.0],
    "train.learning_rate": {"low": 2e-4, "high": 5e-3, "log": True},
    "train.sparse_learning_rate": {"low": 100.0, "high": 2_000.0, "log": True},
    "head.width": [256, 512, 1_024],
    "head.dropout": {"low": 0.0, "high": 0.7},
}
