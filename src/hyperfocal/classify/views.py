"""The attributes of a fitted classifier: read-only views of its fit."""

from __future__ import annotations

from operator import attrgetter
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from hyperfocal.classify.finetune import Encoder
from hyperfocal.classify.label_model import Fit, LabelModel
from hyperfocal.config.classify import ClassifySettings
from hyperfocal.data.taxonomy import Taxonomy
from hyperfocal.data.vocabulary import Vocabulary
from hyperfocal.errors import RunError
from hyperfocal.models.example_features import ExampleFeatures
from hyperfocal.models.matrix_features import MatrixFeatures
from hyperfocal.models.text_head import TextHead
from hyperfocal.thresholds import Decisions
from hyperfocal.training.run import Origin, UnfittedError


def _view(path: str) -> Any:
    """Return a read-only property with a value inside the estimator's fit."""
    return property(attrgetter(f"_fit.{path}"))


class FitViews:
    """Has the attributes of `MultiLabelClassifier` that `fit` sets."""

    fit_: Fit
    _origin: Origin | None = None  # the run folder that the fit was read from or written to
    settings_: ClassifySettings = _view("model.settings")
    vocabulary_: Vocabulary = _view("model.labels.vocabulary")
    taxonomy_: Taxonomy | None = _view("model.labels.taxonomy")
    counts_: Tensor = _view("model.labels.counts")
    num_documents_: int = _view("model.labels.num_documents")
    features_: ExampleFeatures = _view("model.features")
    encoder_: Encoder | None = _view("model.encoder")
    head_: TextHead = _view("model.head")
    decisions_: Decisions = _view("model.decisions")
    fingerprint_: str = _view("fingerprint")
    metrics_: dict[str, Any] = _view("metrics")
    resamples_: dict[str, Tensor] = _view("resamples")
    labels_: list[dict[str, Any]] = _view("label_table")
    history_: list[dict[str, float]] = _view("history")

    @property
    def classes_(self) -> NDArray[Any]:
        """Return (L,) names of the labels, or column numbers if `fit` got an indicator matrix."""
        return self._model.class_values()

    @property
    def n_features_in_(self) -> int:
        """Return F, the features of the matrix that `fit` got; AttributeError if it got no matrix."""
        return self._matrix.num_features

    @property
    def feature_names_in_(self) -> NDArray[np.object_]:
        """Return (F,) the columns of the frame of numbers that `fit` got; AttributeError if it got none."""
        if not self._matrix.names:
            raise AttributeError("feature_names_in_: `fit` got features without names")
        return np.asarray(self._matrix.names, dtype=object)

    @property
    def _matrix(self) -> MatrixFeatures:
        columns = self._model.features.columns
        if columns is None or columns.matrix is None:
            raise AttributeError("n_features_in_: `fit` got no feature matrix")
        return columns.matrix

    @property
    def _fit(self) -> Fit:
        if not hasattr(self, "fit_"):
            raise UnfittedError("this classifier is not fitted. Call fit, or MultiLabelClassifier.load(run)")
        return self.fit_

    def _fit_for(self, method: str) -> Fit:
        """Return the fit; raise RunError if it has labels that training never saw."""
        if self._fit.model.new is not None:
            raise RunError(f"{method} is not allowed after with_new_labels. Call it on the classifier that was fitted")
        return self._fit

    @property
    def _model(self) -> LabelModel:
        return self._fit.model
