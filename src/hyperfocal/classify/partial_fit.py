"""The methods of a classifier that continue its fit."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

from hyperfocal.classify.update import update, with_classes
from hyperfocal.classify.views import FitViews
from hyperfocal.errors import DataError
from hyperfocal.training.watch import SILENT, Watch, check_watch


class PartialFit(FitViews):
    """Has the methods of `MultiLabelClassifier` that continue its fit: `update`, and scikit-learn's `partial_fit`."""

    fit: Callable[..., Any]

    def update(
        self,
        X: Any,  # noqa: N803 - the name that scikit-learn's tools use
        y: Any = None,
        *,
        sample_weight: Any = None,
        epochs: int = 3,
        again: bool = False,
        label_texts: str | Path | None = None,
        watch: Watch = SILENT,
    ) -> Self:
        """Continue from what was learnt, with new documents and new labels.

        Labels that training never saw get rows of the output layer, and all documents are counted. The features stay as
        they were fitted: n-grams that training never saw are not learnt. Earlier documents are not stored, so the
        learning rates are a third of those of the fit.

        Of 20 documents or more, a fraction (`data.valid_fraction`) is held out. It chooses the epoch. If it has 50
        labels or more, thresholds become means of the earlier ones and those tuned on it, weighted by the documents of
        each label. `metrics_["data"]["update"]` has the scores of earlier labels on it, before and after the update,
        and those of the new labels.

        Args:
            X: new documents, as in `fit`.
            y: their labels, as in `fit`; an indicator matrix has the same columns. None: `X` has the labels.
            sample_weight: (N,) numbers, 0 or more, by which documents count, as in `fit`. None: each counts 1.
            epochs: passes at most; the best one counts.
            again: whether documents are allowed that the fit has already.
            label_texts: path of a table with the texts of the new labels. None: their names or, if `fit` got a table,
                that table.
            watch: as in `fit`.

        Raises:
            DataError: the documents cannot be read, have no label, are of another form than those of `fit`, or repeat
                them.
            RunError: not fitted, made by `with_new_labels`, or the encoder was fine-tuned.
            ConfigError: `epochs` is not a whole number of 1 or more; `label_texts` for a run without label texts.
            TrainingError: the loss is not a number anymore.
        """
        check_watch(watch)
        fit = self._fit_for("update")

        self.fit_ = update(
            fit,
            X,
            y,
            sample_weight=sample_weight,
            epochs=epochs,
            again=again,
            label_texts=label_texts,
            watch=watch,
        )
        return self

    def partial_fit(
        self,
        X: Any,  # noqa: N803
        y: Any = None,
        classes: Any = None,
        sample_weight: Any = None,
    ) -> Self:
        """Fit, or continue a fit as `update` does with `again=True`.

        Args:
            X: documents, as in `fit`; later the same features.
            y: their labels, as in `fit`. Labels may come later that earlier calls did not have.
            classes: labels that get a row of the output layer even if no document has them yet; in any call. None: only
                those of the documents. Of an indicator matrix: its column numbers, which change nothing.
            sample_weight: as in `fit`.

        Raises:
            DataError: as in `fit` and `update`; the first documents have only one class.
        """
        if hasattr(self, "fit_"):
            fit = self._fit_for("partial_fit")
            self.fit_ = update(fit, X, y, sample_weight=sample_weight, classes=classes, again=True)
            return self
        self.fit(X, y, sample_weight=sample_weight)
        try:
            self.fit_ = with_classes(self.fit_, classes)
        except DataError:
            del self.fit_  # nothing is fitted by a call that fails
            raise
        return self
