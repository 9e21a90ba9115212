"""The vectors before the output layer, as a transformer of scikit-learn returns them."""

from __future__ import annotations

from typing import Any

from sklearn.base import ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils import Tags

from hyperfocal.classify.predictions import read_inputs
from hyperfocal.classify.views import FitViews


class HiddenVectors(FitViews, ClassNamePrefixFeaturesOutMixin, TransformerMixin):
    """Has the methods of `MultiLabelClassifier` that return vectors: `transform`, and those of scikit-learn."""

    def transform(self, X: Any) -> Any:  # noqa: N803 - the name that scikit-learn's tools use
        """Return h, the (N, W) float32 vectors before the output layer: logits = h @ weight.T + x @ wide + bias.

        h is the hidden layer, or the dense features themselves with the setting head.name = "linear". x are the sparse
        features, (N, V). Features without a dense part, such as n-grams alone, have no h: then x is returned, as CSR.

        `get_feature_names_out` names the columns multilabelclassifier0, multilabelclassifier1 and so on.
        `set_output(transform="pandas")`, or "polars", returns h as a frame with these names; x cannot be one.

        Args:
            X: N texts, a frame or a feature matrix, as `fit` got them.

        Raises:
            DataError: `X` is neither a list of texts nor, as in training, a frame or a matrix of F features.
        """
        model = self._model
        documents = read_inputs(model, X)
        return model.hidden(documents.all_texts(), documents.columns)

    @property
    def _n_features_out(self) -> int:
        return self._model.head.num_hidden

    def __sklearn_tags__(self) -> Tags:
        """Return scikit-learn's tags: vectors are float32, whatever the type of X."""
        tags: Tags = super().__sklearn_tags__()  # type: ignore[no-untyped-call]
        assert tags.transformer_tags is not None, "TransformerMixin sets them"
        tags.transformer_tags.preserves_dtype = []
        return tags
