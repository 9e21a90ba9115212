"""Metrics of decided labels: F1, precision and recall over pairs, labels and documents.

    precision   tp / (tp + fp)
    recall      tp / (tp + fn)
    f1          2 tp / (2 tp + fp + fn)

each 0 where its denominator is 0. micro: of the counts summed over labels. macro: mean over labels with at
least one true document; head, medium and tail likewise within a bucket. document: mean over all documents.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from hyperfocal.errors import DataError
from hyperfocal.labels import SparseLabels
from hyperfocal.metrics.average_precision import average_precision, bucket_means, check_counts


class LabelCounts(NamedTuple):
    """Right and wrong decisions.

    Attributes:
        tp: (L,) int64, documents of each label that have it and were decided to.
        fp: (L,) int64, that were decided to have it and do not.
        fn: (L,) int64, that have it and were not decided to.
    """

    tp: Tensor
    fp: Tensor
    fn: Tensor


def count_decisions(decided: SparseLabels, truth: SparseLabels) -> LabelCounts:
    """Return true positives, false positives and false negatives of each label, without an N x L matrix.

    Args:
        decided: N rows, L labels, what the model decided.
        truth: N rows, L labels, what is true.

    Raises:
        DataError: another number of rows or labels in one than in the other.

    >>> decided, truth = (SparseLabels.from_lists(rows, num_labels=2) for rows in ([[0, 1]], [[0]]))
    >>> [part.tolist() for part in count_decisions(decided, truth)]
    [[1, 0], [0, 1], [0, 0]]
    """
    check_decisions(decided, truth)
    tp = torch.bincount(decided.indices[decided.among(truth)], minlength=truth.num_labels)
    return LabelCounts(tp, decided.counts() - tp, truth.counts() - tp)


def decision_scores(decided: SparseLabels, truth: SparseLabels, counts: Tensor) -> dict[str, float]:
    """Return every metric of one set of decisions, as name -> value.

    micro_, macro_ and document_ f1, precision and recall; head_f1, medium_f1 and tail_f1 (nan for a bucket
    without a label that has a true document, as macro_ without any); labels_per_document, the mean number
    of decided labels; labels_without_truth, how many labels macro and buckets leave out. A document
    with neither true nor decided labels counts 0 in document_f1, document_precision and document_recall.

    Args:
        decided: N rows, L labels.
        truth: N rows, L labels.
        counts: (L,) training documents of each label, for the buckets.

    Raises:
        DataError: as `count_decisions`; counts of another shape.

    Source: as scikit-learn's average="micro", "macro" and "samples" with zero_division=0, but that macro
    leaves out labels without a true document.
    """
    check_counts(counts, truth)
    totals = count_decisions(decided, truth)
    known = totals.tp + totals.fn > 0
    by_label = {name: values.where(known, torch.nan) for name, values in _rates(*totals).items()}
    by_bucket = bucket_means(by_label["f1"], counts)
    return {
        **_prefixed("micro", _rates(*(part.sum() for part in totals))),
        **_prefixed("macro", {name: values.nanmean() for name, values in by_label.items()}),
        **_prefixed("document", {name: values.mean() for name, values in _document_rates(decided, truth).items()}),
        **{f"{name}_f1": by_bucket[name].item() for name in ("head", "medium", "tail")},
        "labels_per_document": decided.num_positives / max(len(decided), 1),
        "labels_without_truth": float((~known).sum()),
    }


def label_table(scores: Tensor, decided: SparseLabels, truth: SparseLabels, counts: Tensor) -> dict[str, Tensor]:
    """Return the columns of a table with a row for each label, for a report.

    Args:
        scores: (N, L) float, any real numbers.
        decided: N rows, L labels.
        truth: N rows, L labels.
        counts: (L,) training documents of each label.

    Returns:
        train_documents, true_documents and decided_documents, (L,) int64, and precision, recall, f1 and
        average_precision, (L,) float64 in [0, 1], nan for a label without a true document. So the nanmean
        of a column is the macro mean.

    Raises:
        DataError: as `decision_scores` and `average_precision`.
    """
    check_counts(counts, truth)
    rates, known = _rates(*count_decisions(decided, truth)), truth.counts() > 0
    return {
        "train_documents": counts.long(),
        "true_documents": truth.counts(),
        "decided_documents": decided.counts(),
        **{name: rates[name].where(known, torch.nan) for name in ("precision", "recall", "f1")},
        "average_precision": average_precision(scores, truth),
    }


def f1(tp: Tensor, decided: Tensor, true: Tensor) -> Tensor:
    """Return 2 tp / (decided + true), float64, 0 where nothing is decided and nothing true. decided = tp + fp."""
    return _ratio(2 * tp, decided + true)


def check_decisions(decided: SparseLabels, truth: SparseLabels) -> None:
    """Raise DataError unless both have the same number of rows and labels."""
    ours, theirs = ((len(labels), labels.num_labels) for labels in (decided, truth))
    if ours != theirs:
        raise DataError(f"decided labels: {ours} documents x labels, but the truth has {theirs}. Expected the same")


def _rates(tp: Tensor, fp: Tensor, fn: Tensor) -> dict[str, Tensor]:
    return {"f1": f1(tp, tp + fp, tp + fn), "precision": _ratio(tp, tp + fp), "recall": _ratio(tp, tp + fn)}


def _document_rates(decided: SparseLabels, truth: SparseLabels) -> dict[str, Tensor]:
    tp = torch.bincount(decided.rows[decided.among(truth)], minlength=len(truth))
    return _rates(tp, decided.lengths - tp, truth.lengths - tp)


def _ratio(part: Tensor, whole: Tensor) -> Tensor:
    return (part.double() / whole.double()).where(whole > 0, 0.0)


def _prefixed(prefix: str, values: dict[str, Tensor]) -> dict[str, float]:
    return {f"{prefix}_{name}": value.item() for name, value in values.items()}
