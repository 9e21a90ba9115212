"""Metrics of one decided label per document: accuracy, log loss, calibration and confusions.

    accuracy            right documents / documents with a label
    balanced accuracy   mean over classes with a true document of right_l / true_l, its recall
    log loss            mean of -log(probability of the true class)
    calibration error   sum over bins of |right documents - sum of confidences| / N, by the largest probability

Documents whose class training never saw have an empty row in the truth: they count as wrong in the accuracy, and are
left out of everything else. Documents with weights count as often as their weights say (see `counted_labels`).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from hyperfocal.counted_labels import row_weights, sums_by, total_weight, weights_of
from hyperfocal.errors import DataError
from hyperfocal.labels import SparseLabels

BINS = 15
MOST_CLASSES = 20  # of a full confusion table
MOST_PAIRS = 12  # confusions in a list
BLOCK = 32  # resamples at once


def true_classes(truth: SparseLabels) -> tuple[Tensor, Tensor]:
    """Return the rows with a class, and their classes, both (M,) int64.

    Raises:
        DataError: a row with several labels.
    """
    if bool((truth.lengths > 1).any()):
        raise DataError(f"labels: row {int((truth.lengths > 1).int().argmax())} has several. Expected one per document")
    return (truth.lengths == 1).nonzero()[:, 0], truth.indices


def class_scores(decided: SparseLabels, truth: SparseLabels) -> dict[str, float]:
    """Return accuracy and balanced_accuracy of N decided classes; nan without a document.

    Args:
        decided: N rows over L labels, one label each.
        truth: N rows over L labels, at most one label each.

    Source: equals accuracy_score and balanced_accuracy_score of scikit-learn.
    """
    rows, classes = true_classes(truth)
    right, own = decided.indices[rows] == classes, _own_weights(truth, rows)
    true = sums_by(classes, own, truth.num_labels)
    hits = sums_by(classes[right], None if own is None else own[right], truth.num_labels).double()
    recall = hits / true
    number = float(right.sum()) if own is None else float(own[right].sum())
    accuracy = number / total_weight(truth) if len(truth) else float("nan")
    return {"accuracy": accuracy, "balanced_accuracy": recall.nanmean().item()}


def _own_weights(truth: SparseLabels, rows: Tensor) -> Tensor | None:
    """Return the weights of some of the documents; None: each counts 1."""
    weights = weights_of(truth)
    return None if weights is None else weights[rows]


def resampled_class_scores(decided: SparseLabels, truth: SparseLabels, weights: Tensor) -> dict[str, Tensor]:
    """Return accuracy and balanced_accuracy in each resample, (R,) float64; weights are (R, N), `resample_weights`.

    Each document counts as the product of both weights.
    """
    weights = weights if weights_of(truth) is None else weights * row_weights(truth)
    rows, classes = true_classes(truth)
    right = (decided.indices[rows] == classes).double()
    accuracies, recalls = [], []
    for block in weights.double().split(BLOCK):
        own = block[:, rows]
        sums = own.new_zeros(2, len(block), truth.num_labels)
        hits = sums[0].index_add_(1, classes, own * right)
        recalls.append((hits / sums[1].index_add_(1, classes, own)).nanmean(1))
        accuracies.append((own * right).sum(1) / block.sum(1))
    return {"accuracy": torch.cat(accuracies), "balanced_accuracy": torch.cat(recalls)}


def log_loss(probabilities: Tensor, truth: SparseLabels) -> float:
    """Return the mean of -log p over documents with a class, in nats; nan without one. p is at least float's epsilon.

    Source: equals log_loss of scikit-learn.
    """
    rows, classes = true_classes(truth)
    p = probabilities[rows, classes].double()
    losses = -p.clamp(min=torch.finfo(probabilities.dtype).eps, max=1).log()
    own = _own_weights(truth, rows)
    return float(losses.mean() if own is None else (losses * own).sum() / own.sum()) + 0.0  # no -0.0


def class_calibration_error(probabilities: Tensor, truth: SparseLabels, bins: int = BINS) -> float:
    """Return the expected calibration error of the largest probability of each document with a class, in [0, 1].

    Bins have equal width, [i / bins, (i + 1) / bins), and the last one includes 1.

    Source: Guo et al. 2017, equation 3, whose bins are open at the lower end instead.
    """
    rows, classes = true_classes(truth)
    if len(rows) == 0:
        return float("nan")
    confidence, best = probabilities[rows].double().max(1)
    numbers = (confidence * bins).long().clamp(max=bins - 1)
    errors, own = (best == classes).double() - confidence, _own_weights(truth, rows)
    errors = errors if own is None else errors * own
    gaps = torch.zeros(bins, dtype=torch.float64).index_add_(0, numbers, errors)
    return float(gaps.abs().sum() / (len(rows) if own is None else own.sum()))


def confusion_table(decided: SparseLabels, truth: SparseLabels, names: list[str]) -> dict[str, Any]:
    """Return how often each class is mistaken for which other one, JSON-able; all are numbers of documents.

    Args:
        decided: N rows over L labels, one label each.
        truth: N rows over L labels, at most one label each.
        names: of the L labels.

    Returns:
        "pairs": rows of true, decided, documents and true_documents, the most frequent confusions first; with at most
        20 classes also "classes" and "table", whose row i has the numbers of documents of class i by decided class.
    """
    rows, classes = true_classes(truth)
    given, size = decided.indices[rows], len(names)
    keys, numbers = (classes * size + given)[classes != given].unique(return_counts=True)
    order = numbers.argsort(descending=True, stable=True)[:MOST_PAIRS]
    true = torch.bincount(classes, minlength=size).tolist()
    pairs = [
        {
            "true": names[key // size],
            "decided": names[key % size],
            "documents": number,
            "true_documents": true[key // size],
        }
        for key, number in zip(keys[order].tolist(), numbers[order].tolist(), strict=True)
    ]
    if size > MOST_CLASSES:
        return {"pairs": pairs}
    table = torch.bincount(classes * size + given, minlength=size * size).view(size, size)
    return {"pairs": pairs, "classes": names, "table": table.tolist()}
