"""A grid of the job `classify`: documents and features prepared once, and one training per point."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import msgspec
import torch

from hyperfocal.classify.classifier import MultiLabelClassifier
from hyperfocal.classify.label_texts import NAMES, OFF, read_label_texts
from hyperfocal.classify.one_scores import one_label_values
from hyperfocal.classify.predictions import read_documents
from hyperfocal.classify.prepare import PreparedTexts, check_training, number, prepare, with_tree_labels
from hyperfocal.classify.scores import comparable, score_labels
from hyperfocal.classify.training import Inputs, make_inputs, score_prepared
from hyperfocal.config.classify import ClassifySettings, FeatureSettings, TextDataSettings
from hyperfocal.config.sections import Section
from hyperfocal.data.documents import Documents
from hyperfocal.data.reading import reading_of
from hyperfocal.data.stratify import check_distinct_groups
from hyperfocal.errors import ConfigError
from hyperfocal.grid.adaptive import Range
from hyperfocal.grid.job import Reached
from hyperfocal.grid.points import Point
from hyperfocal.labels import SparseLabels
from hyperfocal.machine import set_threads
from hyperfocal.metrics.verdict import CLASSES, LABELS, Families
from hyperfocal.models.example_features import ExampleFeatures
from hyperfocal.models.sentence_encoder import find_encoder
from hyperfocal.models.text_features import resolve_kind
from hyperfocal.storage.cache import hash_of
from hyperfocal.training.watch import SILENT, Watch

NOT_BETTER = ("calibration_error", "labels_per_document", "labels_without_truth")  # more of these metrics is not better
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
ONE_LOSSES: dict[str, Range] = {"loss.name": ["softmax", "softmax_focal"], "loss.adjust": {"low": 0.0, "high": 1.0}}
SIGMOID_ONLY = ("loss.alpha",)


def ranges_of(base: ClassifySettings) -> dict[str, Range]:
    """Return the ranges of an adaptive search; with one label per document those of the softmax losses."""
    if not base.data.single:
        return RANGES
    return {key: values for key, values in RANGES.items() if key not in SIGMOID_ONLY} | ONE_LOSSES


@dataclass(frozen=True, eq=False)
class TextSource:
    """Documents, each given as a path, a frame or Documents.

    Attributes:
        train: training documents.
        valid: documents on which points are compared. None: some training documents are held out.
        cache: folder of the features.
        test: documents that are scored at the end, and checked before the first point trains; or None.
    """

    train: Any
    valid: Any
    cache: Path
    test: Any = None

    def metrics(self, base: Section) -> list[str]:
        """Return the metrics of a training of which more is better."""
        one = _settings(base).data.single
        few = SparseLabels.from_lists([[0], [0], [0]] if one else [[0], [], []], num_labels=1)
        both = {"argmax" if one else "half": [few], "tuned": [few]}
        values, _ = score_labels(torch.zeros(3, 1), few, both, few.counts(), len(few))
        own = one_label_values(both, few, torch.ones(1, 3))[0] if one else {}
        return [name for name in values | own if name.split(".")[-1] not in NOT_BETTER]

    def prepare(self, points: Sequence[Point], base: Section, threads: int, watch: Watch) -> SharedTexts:
        """Return documents and features.

        Raises:
            ConfigError: data.stream = "on"; errors as in `prepare_grid`.
            DataError, LeakError: as in `prepare` and `check_test`.
        """
        settings = _settings(base)
        data = prepare(self.train, self.valid, _in_memory(settings), watch.planned)
        if self.test is not None:
            test = read_documents(self.test, reading_of(data.plan, settings.data), "all")
            check_test(data, test, settings.data)
        return prepare_grid(data, points, settings, cache=self.cache, threads=threads, watch=watch)


def _settings(settings: Section) -> ClassifySettings:
    assert isinstance(settings, ClassifySettings), "a grid has the settings of its job"
    return settings


def _in_memory(settings: ClassifySettings) -> ClassifySettings:
    """Return settings that stream nothing: worker processes share documents in memory."""
    if settings.data.stream == "on":
        raise ConfigError(
            "data.stream = 'on' is not allowed in a grid: its points share documents in memory. Leave it out"
        )
    return msgspec.structs.replace(settings, data=msgspec.structs.replace(settings.data, stream="off"))


@dataclass(frozen=True, eq=False)
class SharedTexts:
    """Documents and features that all points of a grid share; the base settings' seed has split the documents.

    Attributes:
        data: training and validation documents.
        cache: folder of the features.
        threads: CPU threads of one training. 0: one per core, or 1 in a worker process.
        encoder: checksum of the encoder, and of the files of label texts. "": neither.
        kinds: the feature settings of all points.
        inputs: features in memory; others are read from the cache.
        scaling: of a feature matrix, by the base settings.
    """

    data: PreparedTexts
    cache: Path
    threads: int
    encoder: str
    kinds: frozenset[FeatureSettings]
    inputs: Mapping[FeatureSettings, Inputs] = field(default_factory=dict)
    scaling: str = "auto"

    @property
    def families(self) -> Families:
        """Return the families of metrics on which a verdict is based."""
        return LABELS if self.data.single is None else CLASSES

    def fingerprint(self) -> str:
        """Return a checksum of the documents, their labels and split, the encoder and the files of label texts."""
        matrix = self.data.train.documents.columns.matrix
        return hash_of(self.data.fingerprint(), self.encoder, *([] if matrix is None else [self.scaling]))

    def about(self) -> dict[str, Any]:
        """Return the numbers of documents, labels, and documents, or groups of documents, that are scored."""
        counts, valid = self.data.counts(), self.data.valid
        sizes = {"documents": counts["train"]["documents"], "labels": counts["labels"]}
        groups = valid.documents.group_numbers()
        grouped = {} if groups is None else {"validation groups": len(set(groups.tolist()))}
        return sizes | {"validation documents": len(valid)} | grouped

    def portable(self) -> SharedTexts:
        """Return this value with all features in memory, except those of an encoder that is fine-tuned."""
        documents, kinds = self.data.train.documents, [kind for kind in self.kinds if not kind.finetune]
        features = {kind: ExampleFeatures.fit(documents, kind, self.cache, self.scaling) for kind in kinds}
        return replace(self, inputs={kind: make_inputs(self.data, features[kind], self.cache) for kind in kinds})

    def train(self, point: Point) -> Reached:
        """Train one point; return every metric on the validation documents, and the main ones in resamples.

        The documents are split by the base settings, whatever the point's seed. Only the winner is refitted.
        """
        settings = _settings(point.settings)
        train = msgspec.structs.replace(settings.train, threads=self.threads, refit=False)
        settings = msgspec.structs.replace(settings, train=train)
        check_training(settings)  # a search makes points that `prepare_grid` has not seen
        inputs = self.inputs.get(settings.features)
        evaluation = score_prepared(self.data, settings, cache=self.cache, inputs=inputs)
        resamples = comparable(evaluation.resamples, self.data.valid, self.data.train.labels.counts())
        return evaluation.metrics["values"], resamples

    def fit(self, settings: dict[str, Any], folder: Path) -> MultiLabelClassifier:
        """Return a classifier with these settings, saved as a run."""
        untrained = MultiLabelClassifier(settings=settings)
        return untrained.fit_prepared(self.data, out=folder, overwrite=True, cache=self.cache)

    def load(self, folder: Path) -> MultiLabelClassifier:
        """Return the classifier of a run."""
        return MultiLabelClassifier.load(folder)

    def knows(self, fitted: Any) -> bool:
        """Return whether a classifier was fitted on these documents."""
        return bool(fitted.fingerprint_ == self.data.fingerprint())

    def read_test(self, test: Any, settings: Section) -> TextTest:
        """Return test documents; errors as in `check_test`."""
        read = _settings(settings)
        documents = read_documents(test, reading_of(self.data.plan, read.data), "all")
        check_test(self.data, documents, read.data)
        return TextTest(documents, read.train.refit)


@dataclass(frozen=True, eq=False)
class TextTest:
    """Test documents, and whether the heads that they score are refitted."""

    documents: Documents
    refitted: bool

    def checksum(self, keys: Sequence[str]) -> str:
        """Return a checksum of texts, labels and the points that are scored on them."""
        documents = self.documents
        columns = [documents.columns.checksum()] if documents.columns else []
        columns += documents.counting.checksums()
        return hash_of(documents.all_texts().to_list(), documents.labels.to_list(), *columns, *keys, self.refitted)

    def evaluate(self, fitted: MultiLabelClassifier) -> dict[str, Any]:
        """Return the scores, without those of each label."""
        return {name: value for name, value in fitted.evaluate(self.documents).items() if name != "labels"}


def prepare_grid(
    data: PreparedTexts,
    points: Sequence[Point],
    base: ClassifySettings,
    *,
    cache: Path,
    threads: int = 0,
    watch: Watch = SILENT,
) -> SharedTexts:
    """Compute all features that the points need, so that each point reads them from the cache.

    Raises:
        ConfigError: features that are not available; settings that exclude each other.
    """
    set_threads(base.train.threads)
    settings = [_settings(point.settings) for point in points]
    for each in settings:
        check_training(each)
    used = {resolve_kind(each.features) for each in settings}
    for kind in used:
        features = ExampleFeatures.fit(data.train.documents, kind, cache, base.data.scaling)
        if not kind.finetune:  # which computes its features during training
            for documents in (data.train.documents, data.valid.documents):
                features.make(documents.texts, documents.columns, cache, watch.encoded)
    encoders = {kind.encoder for kind in used if kind.kind != "ngrams"}
    sources = [find_encoder(name) for name in sorted(encoders)]
    checksum = hash_of(*[source.checksum for source in sources if source]) if sources else ""
    files = sorted({kind.label_texts for kind in used} - {NAMES, OFF})
    if files:
        checksum = hash_of(checksum, [sorted(read_label_texts(file).items()) for file in files])
    return SharedTexts(
        data, cache, threads, checksum, frozenset(each.features for each in settings), scaling=base.data.scaling
    )


def check_test(data: PreparedTexts, test: Documents, settings: TextDataSettings) -> None:
    """Raise an error if test documents cannot be scored, or if anything was learned from them.

    Raises:
        DataError: a label is not in the taxonomy; no label that training has.
        LeakError: a group, or an id, is in test and in training or validation.
    """
    for labelled in (data.train, data.valid):
        check_distinct_groups(labelled.documents, test, name="test")
    number(with_tree_labels(test, data.taxonomy, settings), data.vocabulary).refuse_unlabelled("test documents")
