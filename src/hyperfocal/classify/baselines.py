"""Baselines of a classifier, scored on the same validation documents: without one, a number says little.

    prior   the share of training documents with the label, for every document
    knn     sum over the NEIGHBORS nearest training documents j with the label of cosine(i, j)
    svm     margin of a linear support vector machine for each label (scikit-learn's LinearSVC, C = 1)

Documents with weights count as often as their weights say: in the share, the cosines and the loss of the machines.
`prior` and `svm` leave a document out for its unknown labels, and `knn` counts it as not having them.

`knn` reads the dense features if there are any, and `svm` the sparse ones; each reads the others if there are none.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import csr_matrix
from sklearn.preprocessing import normalize as scale_rows
from sklearn.svm import LinearSVC
from torch import Tensor
from torch.nn.functional import normalize

from hyperfocal.counted_labels import annotated_counts, row_weights, unknown_of, weighted_counts, weights_of
from hyperfocal.distributed import world_size
from hyperfocal.labels import SparseLabels
from hyperfocal.models.text_head import Features, SparseRows

NEIGHBORS = 20
BLOCK = 256  # documents whose neighbors are looked for at a time
MOST_PAIRS = 2_000_000_000  # of documents whose cosines `auto` computes: one or two minutes
MOST_NUMBERS = 500_000_000  # stored numbers times labels from which `auto` fits support vector machines: up to a minute
Scorer = Callable[[Features, SparseLabels, Features], Tensor]  # training features, their labels, others -> (N, L)

logger = logging.getLogger("hyperfocal")


def baseline_scores(
    train: tuple[Features, SparseLabels], valid: Features, asked: str, folds: Tensor | None = None
) -> dict[str, Tensor]:
    """Return the (N, L) scores of each baseline on N validation documents.

    Args:
        train: features and labels of the training documents.
        valid: features of the validation documents.
        asked: "all"; "auto" leaves out what takes long; "off". Several processes that train together have none.
        folds: (N,) int64, the fold of each document under cross-validation, where both are the same documents. None:
            they are not.
    """
    if asked == "off" or world_size() > 1:  # other processes would wait for them
        return {}
    features, labels = train
    scorers: dict[str, Scorer] = {"prior": score_prior, "knn": score_knn, "svm": score_svm}
    times = 1 if folds is None else int(folds.max()) + 1
    svm = _size(features) * labels.num_labels * times
    work = {"knn": (len(features) * len(valid), MOST_PAIRS), "svm": (svm, MOST_NUMBERS)}
    for name, (size, most) in work.items():
        if asked == "auto" and size > most:
            logger.info("baseline %s is left out: it takes long. Ask with `settings={'train.baselines': 'all'}`", name)
            del scorers[name]
    return {name: _crossed(scorer, train, valid, folds) for name, scorer in scorers.items()}


def _crossed(scorer: Scorer, train: tuple[Features, SparseLabels], valid: Features, folds: Tensor | None) -> Tensor:
    features, labels = train
    if folds is None:
        return scorer(features, labels, valid)
    scores = torch.zeros(len(labels), labels.num_labels)
    for fold in range(int(folds.max()) + 1):
        own, others = (folds == fold).nonzero()[:, 0], (folds != fold).nonzero()[:, 0]
        scores[own] = scorer(features.select(others), labels.select(others), features.select(own))
    return scores


def score_prior(features: Features, labels: SparseLabels, others: Features) -> Tensor:
    """Return the share of training documents with each label, the same for each of the other documents."""
    shares = weighted_counts(labels) / annotated_counts(labels).clamp(min=1e-12)
    return shares.float().expand(len(others), -1)


def score_knn(features: Features, labels: SparseLabels, others: Features) -> Tensor:
    """Return the summed cosines of the nearest training documents with each label."""
    inputs, asked = _rows(features, others, sparse=features.dense is None)
    truth, k = _matrix(labels, row_weights(labels)), min(NEIGHBORS, len(features))
    blocks = [torch.zeros(0, labels.num_labels)]
    for start in range(0, len(others), BLOCK):
        product: Any = asked[start : start + BLOCK] @ inputs.T
        cosines = torch.from_numpy(product if isinstance(product, np.ndarray) else product.toarray())
        values, nearest = cosines.topk(k, dim=1)
        ends = np.arange(0, nearest.numel() + 1, k)
        near = csr_matrix(
            (values.flatten().numpy(), nearest.flatten().numpy(), ends), shape=(len(cosines), len(features))
        )
        blocks.append(torch.from_numpy((near @ truth).toarray()).float())
    return torch.cat(blocks)


def score_svm(features: Features, labels: SparseLabels, others: Features) -> Tensor:
    """Return the margin of a linear support vector machine for each label; a label of all or no documents gets 0."""
    inputs, asked = _rows(features, others, sparse=features.sparse is not None)
    scores, truth = torch.zeros(len(others), labels.num_labels), _matrix(labels).tocsc()
    weights, unknown = weights_of(labels), unknown_of(labels)
    left_out = None if unknown is None else _matrix(unknown).tocsc()
    for label, count in enumerate(labels.counts().tolist()):
        known = _known_rows(left_out, label, len(labels))
        if 0 < count < len(known):
            right, own = truth[:, [label]].toarray().ravel()[known], None if weights is None else weights.numpy()[known]
            machine = LinearSVC(random_state=0).fit(inputs if len(known) == len(labels) else inputs[known], right, own)
            scores[:, label] = torch.from_numpy(machine.decision_function(asked)).float()
    return scores


def _known_rows(unknown: Any, label: int, number: int) -> NDArray[np.int64]:
    """Return the documents of which a label is known; `unknown` is (N, L) CSC of ones, None for no pair."""
    rows = np.arange(number)
    return rows if unknown is None else np.setdiff1d(rows, unknown[:, [label]].nonzero()[0])


def _dense_rows(dense: Tensor) -> Any:
    return normalize(dense.float()).numpy()


def _sparse_rows(*parts: SparseRows) -> list[Any]:
    """Return sparse rows as matrices of one width, each row of length 1."""
    width = 1 + max(int(each.columns.max()) if len(each.columns) else 0 for each in parts)
    shapes = [(len(each), width) for each in parts]
    arrays = [(each.values.numpy(), each.columns.numpy(), each.indptr.numpy()) for each in parts]
    return [scale_rows(csr_matrix(array, shape=shape)) for array, shape in zip(arrays, shapes, strict=True)]


def _rows(features: Features, others: Features, *, sparse: bool) -> tuple[Any, Any]:
    """Return the sparse rows of both, or the dense ones, each of length 1; if `sparse`, as sparse matrices."""
    if sparse and features.sparse is not None and others.sparse is not None:
        first, second = _sparse_rows(features.sparse, others.sparse)
        return first, second
    assert features.dense is not None, "features need a sparse or a dense part"
    assert others.dense is not None, "both have the same parts"
    first, second = _dense_rows(features.dense), _dense_rows(others.dense)
    return (csr_matrix(first), csr_matrix(second)) if sparse else (first, second)


def _matrix(labels: SparseLabels, weights: Tensor | None = None) -> csr_matrix[Any]:
    ones = np.ones(labels.num_positives, dtype=np.float32)
    if weights is not None:
        ones = weights[labels.rows].float().numpy()
    return csr_matrix((ones, labels.indices.numpy(), labels.indptr.numpy()), shape=(len(labels), labels.num_labels))


def _size(features: Features) -> int:
    """Return how many numbers the support vector machines read."""
    if features.sparse is not None:
        return len(features.sparse.values)
    return 0 if features.dense is None else int(features.dense.count_nonzero())
