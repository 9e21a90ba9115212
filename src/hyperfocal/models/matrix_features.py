"""Features of the rows of a feature matrix, scaled.

    none       the values as they are
    l2         each row at length 1
    idf_l2     the values times idf = 1 + ln((1 + N) / (1 + n)), n the training rows with the feature; then l2
    standard   standard deviations above the training mean, cut at -20 and 20
    auto       idf_l2 for a sparse matrix, standard for a dense one, unless validation chooses (`classify/scaling.py`)

The rows of a sparse matrix by l2 or idf_l2 go to the wide part, as n-grams do, if they have more than MOST_DENSE
features. Everything else goes to the deep part. With few features, the deep part alone ranks better than both parts.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import csr_matrix, diags, issparse
from sklearn.preprocessing import normalize

from hyperfocal.data.field_columns import is_constant
from hyperfocal.data.input_columns import Matrix
from hyperfocal.data.matrices import dense_rows
from hyperfocal.errors import ConfigError, DataError
from hyperfocal.models.text_head import Features, SparseRows

MOST_DENSE = 5_000  # features
MOST_NAMES = 5  # in a message
LARGEST = 20.0  # standard deviations: a number far from those of training counts as this far
SMALLEST = 1e-30  # standard deviation, so that a factor is a float32
WIDE = ("l2", "idf_l2")


@dataclass(frozen=True, eq=False)
class MatrixFeatures:
    """Scales the rows of a matrix with F features.

    Attributes:
        scaling: "none", "l2", "idf_l2" or "standard".
        sparse: whether the training matrix was sparse.
        shift: (F,) subtracted from each row, before it is multiplied.
        factor: (F,) that each row is multiplied by.
        names: (F,) of the features. (): they have no names.
        beside: whether rows of the deep part are also in the wide part, as in runs of an earlier version.
    """

    scaling: str
    sparse: bool
    shift: NDArray[np.float32]
    factor: NDArray[np.float32]
    names: tuple[str, ...] = ()
    beside: bool = False

    @classmethod
    def fit(cls, matrix: Matrix, scaling: str, names: tuple[str, ...] = ()) -> MatrixFeatures:
        """Fit on the training rows.

        Raises:
            ConfigError: a sparse matrix of more than MOST_DENSE features with a scaling that makes it dense.
        """
        sparse, (rows, width) = issparse(matrix), matrix.shape
        chosen = rule_of(matrix) if scaling == "auto" else scaling
        if sparse and chosen not in WIDE and width > MOST_DENSE:
            raise ConfigError(
                f"data.scaling = {chosen!r} makes a sparse matrix dense, and {width:,} features are too many. Use l2 "
                f"or idf_l2, or at most {MOST_DENSE:,} features"
            )
        shift, factor = np.zeros(width), np.ones(width)
        if chosen == "idf_l2":
            counts = csr_matrix(matrix).getnnz(0)
            factor = 1 + np.log((1 + rows) / (1 + counts))
        elif chosen == "standard":
            dense = dense_rows(matrix).astype(np.float64)
            shift, deviation = dense.mean(0), dense.std(0)
            varies = ~is_constant(shift, deviation, rows)
            factor = np.where(varies, 1 / np.maximum(deviation, SMALLEST), 0)
        return cls(chosen, bool(sparse), shift.astype(np.float32), factor.astype(np.float32), names)

    @property
    def num_features(self) -> int:
        """Return F."""
        return len(self.shift)

    @property
    def num_sparse(self) -> int:
        """Return the number of features in the wide part."""
        wide = self.sparse and self.scaling in WIDE and (self.beside or self.num_features > MOST_DENSE)
        return self.num_features if wide else 0

    @property
    def num_dense(self) -> int:
        """Return the number of features in the deep part."""
        return self.num_features if not self.num_sparse or self.num_features <= MOST_DENSE else 0

    def make(self, matrix: Matrix) -> Features:
        """Return the features of N rows; DataError for another number of features."""
        self.check(matrix)
        sparse = dense = None
        if self.num_sparse:
            scaled = csr_matrix(normalize(csr_matrix(matrix) @ diags(self.factor)), dtype=np.float32)
            scaled.sort_indices()
            arrays = scaled.indptr.astype(np.int64), scaled.indices.astype(np.int32), scaled.data
            sparse = SparseRows(*(torch.from_numpy(array) for array in arrays))
            if self.num_dense:
                dense = scaled.toarray() * np.float32(np.sqrt(self.num_features))
        else:
            dense = self._scaled(matrix)
            if self.scaling in WIDE:
                dense = normalize(dense) * np.float32(np.sqrt(self.num_features))
        return Features(sparse, None if dense is None else torch.from_numpy(dense.astype(np.float32)))

    def _scaled(self, matrix: Matrix) -> NDArray[np.float32]:
        scaled = (dense_rows(matrix).astype(np.float64) - self.shift) * self.factor  # float32 would overflow
        return (scaled.clip(-LARGEST, LARGEST) if self.scaling == "standard" else scaled).astype(np.float32)

    def known(self, matrix: Matrix) -> NDArray[np.bool_]:
        """Return (N,) bool: whether a row says anything: a value that is not 0, or any if 0 is a value as others."""
        if self.sparse or self.scaling in WIDE:
            known: NDArray[np.bool_] = csr_matrix(matrix).getnnz(1) > 0
            return known
        return np.ones(matrix.shape[0], dtype=np.bool_)

    def check(self, matrix: Matrix) -> None:
        """Raise DataError for another number of features, in scikit-learn's words."""
        if matrix.shape[1] != self.num_features:
            raise DataError(
                f"X has {matrix.shape[1]} features, but MultiLabelClassifier is expecting {self.num_features} "
                "features as input"
            )

    def check_names(self, names: tuple[str, ...]) -> None:
        """Raise DataError for features of other names or in another order, in scikit-learn's words.

        Features without names are those of training in their order.
        """
        if not names or not self.names or names == self.names:
            return
        unseen, missing = sorted({*names} - {*self.names}), sorted({*self.names} - {*names})
        listed = _listed("unseen at fit time", unseen) + _listed("seen at fit time, yet now missing", missing)
        raise DataError(
            "The feature names should match those that were passed during fit.\n"
            + (listed or "Feature names must be in the same order as they were in fit.\n")
        )

    def to_json(self) -> dict[str, Any]:
        """Return the value that `from_json` reads."""
        arrays = {"shift": self.shift.tolist(), "factor": self.factor.tolist()}
        value = {"scaling": self.scaling, "sparse": self.sparse, "beside": self.beside} | arrays
        return value | {"names": list(self.names)} if self.names else value

    @classmethod
    def from_json(cls, value: Any) -> MatrixFeatures:
        """Build from `to_json`'s value."""
        shift, factor = (np.asarray(value[name], dtype=np.float32) for name in ("shift", "factor"))
        names, beside = tuple(value.get("names", ())), bool(value.get("beside", True))
        return cls(str(value["scaling"]), bool(value["sparse"]), shift, factor, names, beside)


def rule_of(matrix: Matrix) -> str:
    """Return the scaling of a matrix without validation: "idf_l2" if it is sparse, else "standard"."""
    return "idf_l2" if issparse(matrix) else "standard"


def _listed(problem: str, names: list[str]) -> str:
    lines = [f"- {name}\n" for name in names[:MOST_NAMES]] + ["- ...\n"] * (len(names) > MOST_NAMES)
    return f"Feature names {problem}:\n{''.join(lines)}" if names else ""
