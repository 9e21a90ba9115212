"""Metrics of decided labels: F1, precision and recall over pairs, labels and documents.

    precision   tp / (tp + fp)
    recall      tp / (tp + fn)
    f1          2 tp / (2 tp + fp + fn)

A rate is 0 if its denominator is 0. micro: rate of the counts summed over labels. macro: mean over labels with a true
document; head, medium and tail: the same mean within a bucket. document: mean over all documents. The thresholds that
turn scores into decisions are tuned in `hyperfocal.thresholds`. Documents with weights count as often as their weights
say, and pairs that nobody annotated are left out (see `counted_labels`).
"""

from __future__ import annotations

import torch
from torch import Tensor

from hyperfocal.counted_labels import known_pairs, mean_over, sums_by, total_weight, weighted_counts, weights_of
from hyperfocal.errors import DataError
from hyperfocal.labels import BUCKETS, SparseLabels, bucket_means
from hyperfocal.metrics.average_precision import average_precision, check_counts


def count_decisions(decided: SparseLabels, truth: SparseLabels) -> tuple[Tensor, Tensor, Tensor]:
    """Return true positives, false positives and false negatives, each (L,) documents per label.

    They are int64, or with weights sums of weights, float64.

    Args:
        decided: N rows, L labels that the model decided.
        truth: N rows, L labels that are true.

    Raises:
        DataError: decided and truth differ in their number of rows or labels.

    >>> decided, truth = (SparseLabels.from_lists(rows, num_labels=2) for rows in ([[0, 1]], [[0]]))
    >>> [counts.tolist() for counts in count_decisions(decided, truth)]
    [[1, 0], [0, 1], [0, 0]]
    """
    check_decisions(decided, truth)
    decided = known_pairs(decided, truth)
    right, weights = decided.among(truth), weights_of(truth)
    own = None if weights is None else weights[decided.rows[right]]
    tp = sums_by(decided.indices[right], own, truth.num_labels)
    return tp, weighted_counts(decided, truth) - tp, weighted_counts(truth) - tp


def decision_scores(decided: SparseLabels, truth: SparseLabels, counts: Tensor) -> dict[str, float]:
    """Return every metric of one set of decisions, as name -> value.

    micro_, macro_ and document_ f1, precision and recall; head_f1, medium_f1 and tail_f1; labels_per_document, the
    mean number of decided labels; labels_without_truth, how many labels the macro and bucket means leave out. A mean
    over no label is nan. A document with neither true nor decided labels counts as 0 in the document_ metrics.

    Args:
        decided: N rows, L labels.
        truth: N rows, L labels.
        counts: (L,) training documents of each label, for the buckets.

    Raises:
        DataError: from `count_decisions`; counts have another shape.

    Source: equals scikit-learn's average="micro", "macro" and "samples" with zero_division=0, except that macro
    leaves out labels without a true document.
    """
    check_counts(counts, truth)
    totals, known = count_decisions(decided, truth), truth.counts() > 0
    judged = known_pairs(decided, truth)
    right = torch.bincount(judged.rows[judged.among(truth)], minlength=len(truth))  # of each document
    by_document = _rates(right, judged.lengths - right, truth.lengths - right)
    by_label = {name: values.where(known, torch.nan) for name, values in _rates(*totals).items()}
    by_bucket = bucket_means(by_label["f1"], counts)
    return {
        **_prefixed("micro", _rates(*(total.sum() for total in totals))),
        **_prefixed("macro", {name: values.nanmean() for name, values in by_label.items()}),
        **_prefixed("document", {name: _document_mean(values, truth) for name, values in by_document.items()}),
        **{f"{name}_f1": by_bucket[name].item() for name in BUCKETS},
        "labels_per_document": float(weighted_counts(decided, truth).sum()) / max(total_weight(truth), 1e-12),
        "labels_without_truth": float((~known).sum()),
    }


def label_table(scores: Tensor, decided: SparseLabels, truth: SparseLabels, counts: Tensor) -> dict[str, Tensor]:
    """Return the columns of the report's table of labels, one row per label.

    Args:
        scores: (N, L) float, any real numbers.
        decided, truth, counts: as in `decision_scores`.

    Returns:
        train_documents, true_documents and decided_documents, (L,) int64 numbers of documents, also if they have
        weights, and precision, recall, f1 and average_precision, (L,) float64 in [0, 1], nan for a label without a
        true document: the nanmean of a column is its macro mean.

    Raises:
        DataError: from `decision_scores` and `average_precision`.
    """
    check_counts(counts, truth)
    rates, known = _rates(*count_decisions(decided, truth)), truth.counts() > 0
    return {
        "train_documents": counts.long(),
        "true_documents": truth.counts(),
        "decided_documents": known_pairs(decided, truth).counts(),
        **{name: rates[name].where(known, torch.nan) for name in ("precision", "recall", "f1")},
        "average_precision": average_precision(scores, truth),
    }


def _document_mean(values: Tensor, truth: SparseLabels) -> Tensor:
    return values.mean() if weights_of(truth) is None else mean_over(values, truth)


def f1(tp: Tensor, decided: Tensor, true: Tensor) -> Tensor:
    """Return 2 tp / (decided + true), float64, 0 if nothing is decided and nothing true. decided = tp + fp."""
    return _ratio(2 * tp, decided + true)


def check_decisions(decided: SparseLabels, truth: SparseLabels) -> None:
    """Raise DataError unless both have the same number of rows and labels."""
    ours, theirs = ((len(labels), labels.num_labels) for labels in (decided, truth))
    if ours != theirs:
        raise DataError(f"decided labels: {ours} documents x labels, but the truth has {theirs}. Expected the same")


def _rates(tp: Tensor, fp: Tensor, fn: Tensor) -> dict[str, Tensor]:
    return {"f1": f1(tp, tp + fp, tp + fn), "precision": _ratio(tp, tp + fp), "recall": _ratio(tp, tp + fn)}


def _ratio(numerator: Tensor, denominator: Tensor) -> Tensor:
    return (numerator.double() / denominator.double()).where(denominator > 0, 0.0)


def _prefixed(prefix: str, values: dict[str, Tensor]) -> dict[str, float]:
    return {f"{prefix}_{name}": value.item() for name, value in values.items()}
