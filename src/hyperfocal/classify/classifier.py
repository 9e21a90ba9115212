"""The job `classify`: a text in, its labels out.

Read from top to bottom: how a classifier is fitted, how it predicts, how it is scored, and how its run is
saved. Its documents are prepared in `documents.py`, its features in `features.py`; its head is trained in
`text_training.py`, with the loss of `heads.py`; its files are in `classifier_files.py`.

What `predict_documents` says of each document: the labels that are decided, and the best ones with their scores.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray
from scipy.sparse import csr_matrix
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.exceptions import NotFittedError
from sklearn.utils import Tags
from torch import Tensor

from hyperfocal.classify.evidence import label_evidence
from hyperfocal.classify.files import keep_classifier, restore_classifier
from hyperfocal.classify.finetune import encode, finetune
from hyperfocal.classify.head import (
    Watch,
    cross_scores,
    encoder_to_tune,
    features_of,
    folds_of,
    refit_head,
    score_documents,
    train_and_score,
)
from hyperfocal.classify.indicator import Indicator, as_label_lists
from hyperfocal.classify.prepare import (
    PreparedTexts,
    check_texts,
    number,
    owners_of,
    prepare_texts,
    read_streamed,
    streams_texts,
    with_parents,
    with_tree_labels,
)
from hyperfocal.classify.scores import cross_decided, evaluation, micro_f1, table_of_labels, tier_scores
from hyperfocal.config.classify import ClassifySettings
from hyperfocal.data.documents import Documents, as_documents
from hyperfocal.distributed import refuse_different
from hyperfocal.errors import ConfigError, RunError
from hyperfocal.labels import SparseLabels
from hyperfocal.losses import frequency_bias
from hyperfocal.machine import set_threads
from hyperfocal.models.text_features import Made, TextFeatures, check_training
from hyperfocal.models.text_features import Watch as EncodingWatch
from hyperfocal.models.text_head import Features
from hyperfocal.report.run import EVIDENCE, evidence_of
from hyperfocal.storage.cache import default_cache
from hyperfocal.storage.run_folder import CONFIG, RunFolder
from hyperfocal.thresholds import Decisions, tune_decisions
from hyperfocal.training.run import begin_run, open_run, resolve_settings


class UnfittedError(RunError, NotFittedError):
    """A classifier was asked before it learnt; scikit-learn knows this error too."""


class MultiLabelClassifier(ClassifierMixin, BaseEstimator):
    """Classifies texts into many labels, most of them rare.

    The arguments are the command line's: None is what the recipe says, and without a recipe the defaults.

    Args:
        recipe: path of a TOML file.
        features: "auto", "ngrams", "encoder" or "both".
        loss: "bce", "focal", "asymmetric", "ntr_focal", "balanced" or "softmax".
        gamma: of the focal losses.
        cap: the largest class weight; "off" for no weights, "none" for no cap.
        decide: "half", "global", "per_label" or "top_k".
        seed: of the split, the initial weights and the order of the examples.
        settings: any others by their dotted key, as {"train.epochs": 5}.

    Attributes:
        settings_: everything resolved.
        classes_: (L,) names of the labels, or column numbers if `fit` got an indicator matrix.
        vocabulary_: the labels.
        features_: how texts become features.
        encoder_: the encoder that was fine-tuned, or None.
        head_: the trained head.
        decisions_: how scores become labels.
        fingerprint_: checksum of the data and the split.
        metrics_: scores on the validation documents, or out of fold on all of them, and the counts of the data.
        resamples_: the main metrics in bootstrap resamples of the documents last scored; not saved.
        labels_: a row a label: training and validation documents, precision, recall, F1, average precision.
        history_: a row an epoch.

    Of scikit-learn's `check_estimator`, which cannot try texts itself, these checks do not hold when its numbers are
    turned into words: those that call the labels `y`, that give one label a document or rows of 0 and 1 as lists, or
    that want the decided labels as a dense array and probabilities below 1 in float32.

    >>> texts = ["red wine from France", "white wine", "dark beer", "beer from Belgium"] * 10
    >>> labels = [["wine"], ["wine"], ["beer"], ["beer"]] * 10
    >>> classifier = MultiLabelClassifier(features="ngrams").fit(texts, labels)
    >>> classifier.predict(["a glass of wine", "beer"])
    [['wine'], ['beer']]
    """

    def __init__(
        self,
        recipe: str | Path | None = None,
        *,
        features: str | None = None,
        loss: str | None = None,
        gamma: float | None = None,
        cap: float | str | None = None,
        decide: str | None = None,
        seed: int | None = None,
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        self.recipe = recipe
        self.features = features
        self.loss = loss
        self.gamma = gamma
        self.cap = cap
        self.decide = decide
        self.seed = seed
        self.settings = settings

    def __sklearn_tags__(self) -> Tags:
        """Return what scikit-learn's tools ask: texts in, a matrix or lists of several labels out."""
        tags: Tags = super().__sklearn_tags__()  # type: ignore[no-untyped-call]
        tags.input_tags.string, tags.input_tags.two_d_array = True, False
        tags.target_tags.one_d_labels, tags.target_tags.two_d_labels = False, True
        tags.target_tags.single_output, tags.target_tags.multi_output = False, True
        assert tags.classifier_tags is not None, "ClassifierMixin sets them"
        tags.classifier_tags.multi_class, tags.classifier_tags.multi_label = False, True
        return tags

    def fit(
        self,
        texts: Any,
        labels: Any = None,
        *,
        valid: Any = None,
        out: str | Path | None = None,
        resume: bool = False,
        overwrite: bool = False,
        cache: str | Path | None = None,
        watch: Watch = lambda *_: None,
        watch_encoding: EncodingWatch = lambda *_: None,
    ) -> MultiLabelClassifier:
        """Fit on documents, tune the decisions on validation documents and score both there.

        Args:
            texts: N texts; or a path, a frame or Documents, which bring their labels.
            labels: a list of labels a text, or an (N, L) indicator matrix, dense or sparse; None for documents.
            valid: validation documents as (texts, labels), a path, a frame or Documents; None holds some out, or
                with `train.folds` cross-validates.
            out: run folder; it gets checkpoints while training goes on.
            resume: continue the run in `out`, or start it if there is none.
            overwrite: replace the run in `out`.
            cache: folder in which features are kept for the next time; None keeps none, but for documents that are
                streamed (data.stream), which go through the folder of HYPERFOCAL_CACHE.
            watch: called with (progress, steps an epoch) as training goes on.
            watch_encoding: called with (texts encoded, texts to encode now).

        Raises:
            DataError: the documents cannot be read, or none has a label.
            LeakError: a group stands in training and in validation.
            ConfigError: a setting is wrong, or a resumed run had others.
            RunError: `out` holds another run or cannot be written.
            TrainingError: the loss is no longer a number; another one of several processes is gone.
            KeyboardInterrupt: Ctrl-C, after a checkpoint was written to `out`; of folds, those that are done are kept.

        Inside `hyperfocal.distributed.processes()` all processes train together, and all have the result; the first
        writes `out`.
        """
        run, resume, self.settings_ = open_run(out, self._resolve, resume=resume, overwrite=overwrite)
        set_threads(self.settings_.train.threads)
        self.indicator_ = Indicator.of(labels)
        if self.indicator_ and isinstance(valid, tuple):
            self.indicator_.refuse_other(valid[1])
        kept = None if cache is None else Path(cache)
        documents: Any = texts if labels is None else Documents.from_lists(check_texts(texts), as_label_lists(labels))
        if streams_texts(documents, self.settings_):
            kept = kept or default_cache()
            data = prepare_texts(read_streamed(documents, self.settings_.data), _as_validation(valid), self.settings_)
        else:
            data = prepare_texts(documents, _as_validation(valid), self.settings_)
        self._fit(data, run, resume, kept, watch, watch_encoding)
        return self

    def fit_prepared(
        self,
        data: PreparedTexts,
        *,
        out: Path | None = None,
        overwrite: bool = False,
        cache: Path | None = None,
        watch: Watch = lambda *_: None,
    ) -> MultiLabelClassifier:
        """Fit on documents that are read and split already, as the points of a grid share them; else as `fit`."""
        run = None if out is None else RunFolder(out)
        if run is not None:
            run.refuse_taken(overwrite=overwrite)
        self._take(data)
        self._fit(data, run, False, cache, watch, lambda *_: None)
        return self

    def score_prepared(
        self, data: PreparedTexts, *, cache: Path | None = None, made: Made | None = None
    ) -> MultiLabelClassifier:
        """Do of `fit_prepared` what `metrics_` and `resamples_` need.

        Under cross-validation no head is trained that has seen all documents, so nothing can be predicted.

        Args:
            data: documents that are read and split.
            cache: folder in which features are kept.
            made: the features of these documents by these settings; None takes them from `cache`, or makes them.
        """
        self._take(data)
        if not self.settings_.train.folds:
            self._fit(data, None, False, cache, lambda *_: None, lambda *_: None, made)
            return self
        self.fingerprint_, texts = data.fingerprint(), data.train.documents.texts
        self.features_ = made.how if made else TextFeatures.fit(texts, self.settings_.features, cache)
        features = self._prepare(data, cache, lambda *_: None, made)
        assert features is not None, "an encoder that learns is not cross-validated"
        rows = features[0], data.train.labels
        folds = folds_of(data.train, self.settings_)
        self._decide(data, cross_scores(rows, folds, self.features_.num_sparse, self.settings_))
        return self

    def _take(self, data: PreparedTexts) -> None:
        self.settings_, self.indicator_ = self._resolve(None), None
        if bool(self.settings_.train.folds) != (data.valid is data.train):
            raise ConfigError(
                f"train.folds = {self.settings_.train.folds} is not how these documents were split: with folds the "
                "training documents validate, without others do"
            )
        set_threads(self.settings_.train.threads)

    def _fit(
        self,
        data: PreparedTexts,
        run: RunFolder | None,
        resume: bool,
        cache: Path | None,
        watch: Watch,
        watch_encoding: EncodingWatch,
        made: Made | None = None,
    ) -> None:
        began, texts = perf_counter(), data.train.documents.texts
        self.fingerprint_ = data.fingerprint()
        self.features_ = made.how if made else TextFeatures.fit(texts, self.settings_.features, cache)
        refuse_different("documents or encoders", f"{self.fingerprint_} {self.features_.checksum}")
        if run is not None and resume:
            self._begin(run, resume=True)
        features = self._prepare(data, cache, watch_encoding, made)
        if run is not None and not resume:  # only now: a failure so far costs no run that is to be replaced
            self._begin(run, resume=False)
        scores = self._learn(data, features, run, resume, watch)
        decided = self._decide(data, scores)
        if self.settings_.train.refit:
            self._refit(data, features, watch)
        if run is not None:
            found = label_evidence(scores, decided, data.valid, self._names)
            run.write_json(EVIDENCE, evidence_of("classify", found, began=began))
            keep_classifier(run, self)

    def _begin(self, run: RunFolder, *, resume: bool) -> None:
        begin_run(run, self.settings_, self.fingerprint_, self.features_.checksum, resume=resume)

    def _resolve(self, resumed: RunFolder | None) -> ClassifySettings:
        asked = {
            "features.kind": self.features,
            "loss.name": self.loss,
            "loss.gamma": self.gamma,
            "loss.cap": self.cap,
            "decide.rule": self.decide,
            "seed": self.seed,
            **(self.settings or {}),
        }
        settings = resolve_settings(ClassifySettings, self.recipe, asked, resumed)
        check_training(settings)
        return settings

    def _prepare(
        self, data: PreparedTexts, cache: Path | None, watch_encoding: EncodingWatch, made: Made | None = None
    ) -> tuple[Features, Features] | None:
        """Return the features of training and validation documents; None where an encoder that learns makes them."""
        self.vocabulary_, self.taxonomy_ = data.vocabulary, data.taxonomy
        self.counts_, self.num_documents_ = data.train.labels.counts(), len(data.train)
        self.encoder_ = encoder_to_tune(self.features_, self.settings_)
        if self.encoder_ is not None:
            return None
        return (made.train, made.valid) if made else features_of(self.features_, data, cache, watch_encoding)

    def _learn(
        self,
        data: PreparedTexts,
        features: tuple[Features, Features] | None,
        run: RunFolder | None,
        resume: bool,
        watch: Watch,
    ) -> Tensor:
        """Train the head, or the encoder too, and return the (N, L) scores of the validation documents."""
        settings, width = self.settings_, self.features_.num_sparse
        if features is None:
            train, valid = ((part.documents.all_texts(), part.labels) for part in (data.train, data.valid))
            self.head_, self.history_ = finetune(self.encoder_, train, valid, settings, run, resume=resume, watch=watch)
            return self._scores(data.valid.documents.all_texts())
        self.head_, self.history_, scores = train_and_score(
            features, data, width, settings, run, resume=resume, watch=watch
        )
        return scores

    def _decide(self, data: PreparedTexts, scores: Tensor) -> SparseLabels:
        """Tune the decisions on all validation documents; score them cross-fitted, for they saw their own truth."""
        truth, rule, owners = data.valid.labels, self.settings_.decide, owners_of(data.valid.documents)
        seed = self.settings_.seed
        self.decisions_ = tune_decisions(scores, truth, self.counts_, rule, seed=seed)
        decided = self._completed(cross_decided(scores, truth, self.counts_, rule, owners, seed=seed))
        self.metrics_ = self._scored(scores, truth, decided, owners) | {"data": data.counts()}
        self.labels_ = table_of_labels(scores, decided, truth, self.counts_, self._names)
        return decided

    def _refit(self, data: PreparedTexts, features: tuple[Features, Features] | None, watch: Watch) -> None:
        """Train the head again on all documents, for as many epochs; decisions and scores stay what they are."""
        assert features is not None, "_fit refuses to refit an encoder that learns"
        parts = (features[0], data.train.labels), (features[1], data.valid.labels)
        self.head_ = refit_head(*parts, self.features_.num_sparse, self.settings_, len(self.history_), watch)

    def _scored(
        self, scores: Tensor, truth: SparseLabels, decided: SparseLabels, groups: Tensor | None
    ) -> dict[str, Any]:
        half = self._completed(Decisions(torch.zeros(scores.shape[1])).decide(scores))
        metrics, self.resamples_ = evaluation(
            scores, truth, {"half": half, "tuned": decided}, self.counts_, self.num_documents_, groups=groups
        )
        if self.taxonomy_ is None:
            return metrics
        return metrics | {"tiers": tier_scores(decided, truth, self._names, self.taxonomy_)}

    def _decided(self, scores: Tensor) -> SparseLabels:
        return self._completed(self.decisions_.decide(scores))

    def _completed(self, decided: SparseLabels) -> SparseLabels:
        """Return the decisions with the parents of every label, where the settings ask for it."""
        if self.taxonomy_ is None or not self.settings_.data.consistent:
            return decided
        return with_parents(decided, self.vocabulary_, self.taxonomy_)

    @property
    def _names(self) -> list[str]:
        return self.vocabulary_.ids.to_list()

    @property
    def classes_(self) -> NDArray[Any]:
        """Return (L,) the names of the labels, or the numbers of the columns."""
        return np.arange(self.indicator_.width) if self.indicator_ else np.asarray(self._names)

    def _named(self, decided: SparseLabels) -> list[list[str]]:
        names, places = self._names, decided.indptr.tolist()
        flat = [names[label] for label in decided.indices.tolist()]
        return [flat[start:end] for start, end in pairwise(places)]

    def decision_function(self, texts: Any) -> NDArray[np.float32]:
        """Return (N, L) float32 logits, in the order of `classes_`.

        A column of an indicator matrix that no training document had has the logit of its prior.

        Raises:
            DataError: something else than a list of texts.
        """
        found: NDArray[np.float32] = self._logits(texts).numpy()
        if self.indicator_ is None:
            return found
        prior = frequency_bias(torch.zeros(1), self.num_documents_).item()
        return self.indicator_.widened(found, self._names, prior)

    def _logits(self, texts: Any) -> Tensor:
        self._refuse_unfitted()
        return self._scores(Documents.from_lists(check_texts(texts)).all_texts())

    def _scores(self, texts: pl.Series) -> Tensor:
        if self.encoder_ is None:
            return score_documents(self.head_, self.features_.make(texts))
        vectors = encode(self.encoder_, texts, batch=self.settings_.features.encoder_batch)
        return score_documents(self.head_, Features(None, vectors))

    def predict_proba(self, texts: Any, *, at_least: float | None = None) -> Any:
        """Return (N, L) probabilities, sigmoid(logit); they are calibrated only as far as the loss calibrates.

        Args:
            texts: N texts.
            at_least: gives a scipy CSR matrix with the probabilities from here on; None a dense array.
        """
        probabilities = torch.from_numpy(self.decision_function(texts)).sigmoid().numpy()
        if at_least is None:
            return probabilities
        return csr_matrix(np.where(probabilities >= at_least, probabilities, 0))

    def predict(self, texts: Any) -> Any:
        """Return a list of labels a text, or, if `fit` got an indicator matrix, one of the same width (CSR, int64)."""
        decided = self._decided(self._logits(texts))
        return self.indicator_.matrix(decided, self._names) if self.indicator_ else self._named(decided)

    def score(self, texts: Any, labels: Any, sample_weight: None = None) -> float:
        """Return micro-F1 of `predict`: the share of documents with all labels right, scikit-learn's own, is near 0.

        Args:
            texts: N texts.
            labels: as in `fit`.
            sample_weight: not supported.
        """
        decided = self._named(self._decided(self._logits(texts)))
        documents = Documents.from_lists(check_texts(texts), as_label_lists(labels))
        truth = with_tree_labels(documents, self.taxonomy_, self.settings_.data).labels.to_list()
        return micro_f1(decided, truth)

    def predict_documents(self, documents: Any) -> pl.DataFrame:
        """Return id, labels (decided) and scores (the best 10 labels with their probability) of every document.

        Raises:
            DataError: the documents cannot be read.
            ConfigError: their id has the name of another column of the predictions.
        """
        self._refuse_unfitted()
        found = as_documents(documents, self.settings_.data, need_labels=False)
        if found.id_column in ("labels", "scores"):
            raise ConfigError(f"column {found.id_column}: predictions have one of that name too. Rename the id's")
        scores = self._scores(found.all_texts())
        rows = label_rows(scores, self._named(self._decided(scores)), self._names)
        return pl.DataFrame({found.id_column: found.ids, **rows})

    def evaluate(self, documents: Any) -> dict[str, Any]:
        """Return scores, as `metrics_`, of other documents, and under "labels" a row a label.

        Raises:
            DataError: the documents cannot be read, or none has a label that training has.
        """
        self._refuse_unfitted()
        found = with_tree_labels(as_documents(documents, self.settings_.data), self.taxonomy_, self.settings_.data)
        labelled = number(found, self.vocabulary_)
        labelled.refuse_unlabelled("documents to score")
        scores = self._scores(found.all_texts())
        decided = self._decided(scores)
        metrics = self._scored(scores, labelled.labels, decided, owners_of(found))
        table = table_of_labels(scores, decided, labelled.labels, self.counts_, self._names)
        return metrics | {"data": labelled.counts(), "labels": table}

    def _refuse_unfitted(self) -> None:
        if not hasattr(self, "head_"):
            raise UnfittedError(
                "this classifier has not learnt anything yet: call fit, or MultiLabelClassifier.load(run)"
            )

    def save(self, path: str | Path, *, overwrite: bool = False) -> None:
        """Write a run folder, from which `load` predicts the same.

        Raises:
            RunError: the folder holds another run, or cannot be written.
        """
        run = RunFolder(path)
        self._refuse_unfitted()
        run.refuse_taken(overwrite=overwrite)
        self._begin(run, resume=False)
        keep_classifier(run, self)

    @classmethod
    def load(cls, path: str | Path) -> MultiLabelClassifier:
        """Return the classifier of a run folder.

        Raises:
            RunError: no run, one of the other job, an unfinished one, or a file that is missing or damaged.
            ConfigError: the encoder of the run is not installed.
        """
        run = RunFolder.open(path)
        classifier = cls(run.path / CONFIG)
        restore_classifier(run, classifier)
        return classifier


def _as_validation(valid: Any) -> Any:
    """Return validation documents from (texts, labels), or what else was given."""
    if isinstance(valid, tuple) and len(valid) == 2:
        return Documents.from_lists(check_texts(valid[0]), as_label_lists(valid[1]))
    return valid


BEST = 10  # labels whose scores are written


def label_rows(scores: Tensor, decided: Sequence[Sequence[str]], names: Sequence[str]) -> dict[str, Any]:
    """Return the columns "labels" and "scores" of N documents.

    Args:
        scores: (N, L) logits.
        decided: names of the labels of each document.
        names: of the L labels.
    """
    best = scores.sigmoid().topk(min(BEST, scores.shape[1]), dim=1)
    ranked = [
        {names[label]: round(value, 6) for label, value in zip(labels, values, strict=True)}
        for labels, values in zip(best.indices.tolist(), best.values.tolist(), strict=True)
    ]
    return {"labels": decided, "scores": pl.Series(ranked, dtype=pl.Object)}
