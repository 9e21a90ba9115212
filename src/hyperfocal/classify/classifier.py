"""The estimator of the job `classify`: texts in, their labels out.

In reading order: `prepare.py` reads, splits and numbers documents; `training.py` fits on them, with the head of
`head.py` or the encoder of `finetune.py`; `validation.py` tunes the decisions and `scores.py` scores them;
`label_model.py` holds the result; `files.py` writes it to a run folder and reads it back. `update.py` continues it with
new documents and labels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, ClassifierMixin, clone
from sklearn.utils import Tags
from torch import Tensor

from hyperfocal.classify.counted_documents import weighted_source
from hyperfocal.classify.files import read_fit, write_fit
from hyperfocal.classify.hidden_vectors import HiddenVectors
from hyperfocal.classify.one_label import is_one_label
from hyperfocal.classify.partial_fit import PartialFit
from hyperfocal.classify.predictions import check_names, read_documents, score_inputs, table_of_predictions
from hyperfocal.classify.prepare import (
    PreparedTexts,
    as_target,
    check_training,
    from_lists,
    from_pair,
    prepare,
    target_of,
)
from hyperfocal.classify.scores import evaluate, score
from hyperfocal.classify.training import fit_prepared
from hyperfocal.config.classify import ClassifySettings
from hyperfocal.config.numbers import as_share
from hyperfocal.data.input_columns import as_names
from hyperfocal.storage.run_folder import CONFIG, RunFolder, read_stable
from hyperfocal.training.run import (
    data_facts,
    open_run,
    origin_of,
    resolve_settings,
    write_identity,
    write_run,
)
from hyperfocal.training.watch import SILENT, Watch, check_watch

COLUMNS = ("labels", "separator", "group", "weight", "unknown", "id")  # settings of data

COLUMNS = ("labels", "separator", "group", "weight", "unknown", "id")  # settings of data


class MultiLabelClassifier(ClassifierMixin, PartialFit, HiddenVectors, BaseEstimator):
    """Classifies texts into many labels, most of them rare, or each text into one class.

    The parameters are those of the command line. None: the recipe's value, without a recipe the default. `settings`
    wins over a parameter, and a parameter wins over the recipe.

    Args:
        recipe: path of a TOML file.
        text: column of the text in a file or a frame, or a list of columns that are joined. None: one of a known name,
            such as text.
        fields: columns beside the text, each optionally with its kind, as ["section", "tags:list"]; the kinds are
            category, list, number and date. None: no fields.
        vectors: columns of lists of numbers of one length, such as embeddings of images. None: no vectors.
        labels: column of the labels. None: one of a known name, such as labels or tags.
        separator: of the labels in one field. None: the first of | ; , that occurs, else spaces.
        group: column of groups of near-duplicates, which stay on the same side of a split. None: no groups.
        weight: column of weights, 0 or more, as `sample_weight` of `fit`. None: every document counts 1.
        unknown: column of labels that nobody annotated: neither right nor wrong. None: all are annotated.
        id: column of the document's id. None: id, or the row number without such a column.
        features: "auto", "ngrams", "encoder" or "both".
        loss: "bce", "focal", "asymmetric", "ntr_focal", "balanced", "softmax" or "softmax_focal".
        gamma: of the focal losses.
        cap: the largest class weight; "off" for no weights, "none" for no cap.
        decide: "half", "global", "per_label" or "top_k"; of one label per document "argmax" or "balanced". "half" tunes
            nothing: `predict` is `decision_function` > 0, and with one label per document the same as "argmax".
        label_texts: "names", "off", or the path of a table with the columns label, name and description.
        seed: of the split, the initial weights and the order of the examples.
        settings: any other settings by their dotted key, as {"train.epochs": 5}.

    Attributes:
        fit_: the result of `fit` or `load`, a frozen value; the other attributes are read-only views of it.
        settings_: all settings, resolved.
        classes_: (L,) names of the labels, or column numbers if `fit` got an indicator matrix.
        n_features_in_: F, columns of the feature matrix; missing if `fit` got none.
        feature_names_in_: (F,) their names, if it was a frame whose names are texts.
        vocabulary_: the labels.
        taxonomy_: the label tree, or None.
        counts_: (L,) int64, training documents of each label.
        num_documents_: training documents.
        features_: turns documents into features.
        encoder_: the encoder that was fine-tuned, or None.
        head_: the trained head.
        decisions_: turns scores into labels.
        fingerprint_: checksum of the data and the split.
        metrics_: scores on the validation documents, or out of fold on all documents, and the counts of the data.
        resamples_: the main metrics in bootstrap resamples of the validation documents; empty after `load`.
        labels_: one row per label: training and validation documents, precision, recall, F1, average precision.
        history_: one row per epoch.

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
        text: str | Sequence[str] | None = None,
        fields: str | Sequence[str] | None = None,
        vectors: str | Sequence[str] | None = None,
        labels: str | None = None,
        separator: str | None = None,
        group: str | None = None,
        weight: str | None = None,
        unknown: str | None = None,
        id: str | None = None,
        features: str | None = None,
        loss: str | None = None,
        gamma: float | None = None,
        cap: float | str | None = None,
        decide: str | None = None,
        label_texts: str | None = None,
        seed: int | None = None,
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        self.recipe = recipe
        self.text = text
        self.fields = fields
        self.vectors = vectors
        self.labels = labels
        self.separator = separator
        self.group = group
        self.weight = weight
        self.unknown = unknown
        self.id = id
        self.features = features
        self.loss = loss
        self.gamma = gamma
        self.cap = cap
        self.decide = decide
        self.label_texts = label_texts
        self.seed = seed
        self.settings = settings

    def __sklearn_tags__(self) -> Tags:
        """Return what scikit-learn's tools ask, of feature matrices: they have no tag for lists of texts."""
        tags: Tags = super().__sklearn_tags__()  # type: ignore[no-untyped-call]
        tags.input_tags.sparse = True
        tags.target_tags.one_d_labels = tags.target_tags.two_d_labels = tags.target_tags.multi_output = True
        assert tags.classifier_tags is not None, "ClassifierMixin sets them"
        tags.classifier_tags.multi_label = True
        return tags

    def fit(
        self,
        X: Any,  # noqa: N803 - the name that scikit-learn's tools use
        y: Any = None,
        sample_weight: Any = None,
        *,
        valid: Any = None,
        out: str | Path | None = None,
        resume: bool = False,
        overwrite: bool = False,
        cache: str | Path | None = None,
        watch: Watch = SILENT,
    ) -> MultiLabelClassifier:
        """Fit on documents, tune the decisions on validation documents and score both there.

        Args:
            X: N texts; an (N, F) feature matrix: an array, lists of numbers, a scipy sparse matrix, a torch tensor or a
                frame of numbers; or a path, a frame or Documents, which include their labels, fields and vectors.
            y: a list of labels per text; an (N, L) indicator matrix, dense or sparse; or (N,) labels, one per text (of
                a file: `settings={'data.single': True}`). With a feature matrix, equally long lists of 0 and 1 are an
                indicator matrix too. NaN in a matrix: nobody annotated it, and it counts neither as 0 nor as 1. None:
                `X` has the labels.
            sample_weight: (N,) numbers, 0 or more, by which documents count in the loss and in scores: 2 as two equal
                documents, and 0 leaves a document out. None: every document counts 1.
            valid: validation documents as (X, y), (X, y, sample_weight), a path, a frame or Documents. None: some
                documents are held out or, with `train.folds`, all are cross-validated.
            out: run folder; it gets checkpoints during training.
            resume: continue the run in `out`, or start it if there is none.
            overwrite: replace the run in `out`.
            cache: folder in which features are cached. None: they are not cached, except those of documents that are
                streamed (data.stream), which go to the folder of HYPERFOCAL_CACHE.
            watch: shows or tracks progress: a `Watch` whose `begun`, `encoded` and `stepped` are called.

        Raises:
            DataError: the documents cannot be read, or none has a label.
            LeakError: a group is in training and in validation.
            ConfigError: a setting is wrong, or differs from the run to resume.
            RunError: `out` holds another run or cannot be written.
            TrainingError: the loss is not a number anymore; another one of several processes has ended.
            KeyboardInterrupt: Ctrl-C, after a checkpoint was written to `out`; finished folds are kept.

        Inside `hyperfocal.distributed.processes()` all processes train together and get the same result; the first one
        writes `out`.
        """
        check_watch(watch)
        y = as_target(X, y)
        resolve = partial(self.resolve, single=is_one_label(y))
        with open_run(out, resolve, resume=resume, overwrite=overwrite) as (run, resumed, settings):
            watch.begun(settings)
            target = target_of(y, single=settings.data.single)
            given = weighted_source(X, sample_weight, settings.data) if y is None else from_lists(X, y, sample_weight)
            data = prepare(given, from_pair(valid, target, "valid"), settings, watch.planned)
            folder = None if cache is None else Path(cache)
            self.fit_ = fit_prepared(data, settings, run, target=target, resume=resumed, cache=folder, watch=watch)
            self._origin = origin_of(run)
        return self

    def fit_prepared(
        self, data: PreparedTexts, *, out: Path | None = None, overwrite: bool = False, cache: Path | None = None
    ) -> MultiLabelClassifier:
        """Fit on documents that are already read and split, as the points of a grid share them; otherwise as `fit`.

        data.scaling = "auto" is then the fixed rule: idf_l2 for a sparse matrix, standard for a dense one.
        """
        with open_run(out, self.resolve, resume=False, overwrite=overwrite) as (run, _, settings):
            self.fit_ = fit_prepared(data, settings, run, cache=cache, compare_scalings=False)
            self._origin = origin_of(run)
        return self

    def resolve(self, resumed: RunFolder | None = None, *, single: bool = False) -> ClassifySettings:
        """Return the settings of `fit`: recipe, arguments and defaults combined.

        Args:
            resumed: the run that `fit` is to resume, whose settings must be the same. None: a new run.
            single: whether `fit` got one label per document.

        Raises:
            ConfigError: a setting is wrong, or differs from the run to resume.
        """
        asked = {
            **{f"data.{name}": as_names(getattr(self, name)) for name in ("text", "fields", "vectors")},
            "data.single": single or None,
            **{f"data.{name}": getattr(self, name) for name in COLUMNS},
            "features.kind": self.features,
            "loss.name": self.loss,
            "loss.gamma": self.gamma,
            "loss.cap": self.cap,
            "decide.rule": self.decide,
            "features.label_texts": self.label_texts,
            "seed": self.seed,
        }
        settings = resolve_settings(ClassifySettings, self.recipe, asked, resumed, self.settings)
        check_training(settings)
        return settings

    def decision_function(self, X: Any) -> NDArray[np.float32]:  # noqa: N803
        """Return (N, L) float32 logits, in the order of `classes_`; (N,) for two classes of one label per document.

        A column of an indicator matrix that no training document has gets the logit of its prior.

        Raises:
            DataError: `X` is neither a list of texts nor, as in training, a frame or a matrix of F features.
        """
        return self._model.widen(self._scores(X))

    def predict_proba(self, X: Any, *, at_least: float | None = None) -> Any:  # noqa: N803
        """Return (N, L) probabilities, sigmoid(logit); they are only as calibrated as the loss makes them.

        With one label per document: softmax(logits / temperature), a row sums to 1; validation documents calibrate it.

        Args:
            X: N texts, a frame or a feature matrix, as `fit` got them.
            at_least: smaller probabilities become 0, in a scipy CSR matrix. None: a dense array of all.

        Raises:
            ConfigError: `at_least` is not a number from 0 to 1.
        """
        return self._model.probabilities(self._scores(X), as_share("at_least", at_least))

    def predict(self, X: Any) -> Any:  # noqa: N803
        """Return a list of labels per text; if `fit` got an indicator matrix, one of the same width.

        It is of int64: a numpy array, or a CSR matrix if that of `fit` was sparse.

        With one label per document: (N,) labels, in the type of those that `fit` got.
        One warning in the log `hyperfocal` counts the texts of which the features know no part; see `known_texts`.
        """
        return self._model.predictions(self._scores(X))

    def score(self, X: Any, y: Any = None, sample_weight: Any = None) -> float:  # noqa: N803
        """Return micro-F1 of `predict`; with one label per document its accuracy.

        scikit-learn's usual score, the share of documents whose labels are all right, is near 0 with many labels.

        Args:
            X: N texts or a feature matrix; or a path, a frame or Documents, which include their labels.
            y: lists of labels, or a matrix with the same columns, as `fit` got them. None: `X` has the labels.
            sample_weight: (N,) numbers, 0 or more, by which documents count. None: as in `fit`.

        Raises:
            DataError: labels of another form, or of which training has none; as in `evaluate`.
        """
        model = self._model
        check_names(model, X)
        given = weighted_source(X, sample_weight, model.reading) if y is None else (X, y, sample_weight)
        pair = from_pair(given, model.indicator or model.classes, "labels")
        documents = read_documents(pair, model.reading, "labels")
        return score(model, documents, self._scores(documents))

    def predict_documents(self, documents: Any) -> Any:
        """Return id, labels (decided), scores (the best 10 labels with their probability) and known of every document.

        With one label per document the column is label, not labels. known is False for a text of which the features
        know no part, such as an empty one; see `known_texts`.

        The frame is of the library of `documents`: scores are dictionaries in pandas and polars, and lists of (label,
        probability) in Arrow. The rows of a path, Documents or a dictionary are a polars frame.

        Raises:
            DataError: the documents cannot be read.
            ConfigError: the column of their ids has the name of another column of the predictions.
        """
        return table_of_predictions(self._model, documents)

    def evaluate(self, documents: Any) -> dict[str, Any]:
        """Return scores of other documents, as in `metrics_`, and under "labels" one row per label.

        `["data"]["training_documents"]` is the number of these documents whose text is one of the training texts.
        None: the run does not know its training texts (streamed, or of an earlier version).

        Args:
            documents: (X, y) in the form that `fit` got, (X, y, sample_weight), a path, a frame or Documents.

        Raises:
            DataError: the documents cannot be read, none has a label that training has, or labels of another form.
        """
        model = self._model
        pair = from_pair(documents, model.indicator or model.classes, "labels")
        return evaluate(model, read_documents(pair, model.reading, "labels"), self._fit.texts, documents)

    def with_new_labels(self, labels: Any, *, boost: float = 0.0) -> MultiLabelClassifier:
        """Return a classifier that also scores labels that training never saw.

        They are scored by what their texts say: `label_texts` describes how. The result shares the weights and cannot
        be saved.

        Args:
            labels: path or frame with a column label and a column name, description or both; or a list of names.
            boost: added to their scores; 1 makes them 2.7 times as likely.

        Raises:
            ConfigError: the run was fitted without label texts; `boost` is not a finite number.
            DataError: a label that training has, one without a word, or one that is there twice; no label at all.
        """
        fit = self._fit
        wider: MultiLabelClassifier = clone(self)
        wider.fit_ = replace(fit, model=fit.model.with_new(labels, boost))
        return wider

    def save(self, path: str | Path, *, overwrite: bool = False) -> None:
        """Write a run folder, from which `load` predicts the same; a run that is there is replaced in one step.

        Raises:
            RunError: the folder holds another run, cannot be written, or another process writes to it; it holds another
                run than when this one was loaded from it; the classifier is from `with_new_labels`.
        """
        self._fit_for("save")
        self._origin = write_run(path, self.write_into, overwrite=overwrite, origin=self._origin)

    def write_into(self, run: RunFolder) -> None:
        """Write everything that `load` reads into an empty folder, whose only writer this process is.

        Raises:
            RunError: it cannot be written; the classifier is from `with_new_labels`.
        """
        fit = self._fit_for("save")
        facts = data_facts(fit.model.plan, fit.metrics["data"], fit.logs)
        write_identity(run, fit.model.settings, fit.fingerprint, fit.model.features.checksum, facts=facts)
        write_fit(run, fit)

    @classmethod
    def load(cls, path: str | Path) -> MultiLabelClassifier:
        """Return the classifier of a run folder.

        Raises:
            RunError: there is no run, it belongs to the other job or is unfinished, or a file is missing or damaged.
            ConfigError: the encoder of the run is not installed.
        """
        fit, origin = read_stable(path, lambda run: (read_fit(run), origin_of(run)))
        classifier = cls(Path(path) / CONFIG)
        classifier.fit_, classifier._origin = fit, origin
        return classifier

    def _scores(self, X: Any) -> Tensor:  # noqa: N803
        return score_inputs(self._model, X)  # refuses an unfitted classifier before it reads the texts
