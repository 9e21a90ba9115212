"""Labels of examples that do not all count the same: examples with weights, and pairs that nobody annotated.

Metrics, decisions and trainings read both through the functions of this file, which take any SparseLabels. A pair
(example, label) counts as the weight of its example, and 0 if it is unknown.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from hyperfocal.labels import SparseLabels


@dataclass(frozen=True, eq=False)
class CountedLabels(SparseLabels):
    """The labels of B examples with weights, unknown pairs, or both.

    Attributes:
        weights: (B,) float64, above 0. None: every example counts 1.
        unknown: B rows over L labels, the pairs that nobody annotated; none of them is a positive. None: no pair.
    """

    weights: Tensor | None = None
    unknown: SparseLabels | None = None

    def select(self, examples: Tensor) -> CountedLabels:
        """Return the labels of the given examples, with their weights and unknown pairs."""
        weights = None if self.weights is None else self.weights[examples]
        unknown = None if self.unknown is None else self.unknown.select(examples)
        return _counted(super().select(examples), weights, unknown)

    def followed_by(self, others: SparseLabels) -> CountedLabels:
        """Return the labels of these examples followed by the labels of the others."""
        weights, unknown = None, None
        if self.weights is not None or weights_of(others) is not None:
            weights = torch.cat([row_weights(self), row_weights(others)])
        if self.unknown is not None or unknown_of(others) is not None:
            unknown = (self.unknown or _nothing(self)).followed_by(unknown_of(others) or _nothing(others))
        return _counted(super().followed_by(others), weights, unknown)


def counted(labels: SparseLabels, weights: Tensor | None, unknown: SparseLabels | None) -> SparseLabels:
    """Return labels with weights and unknown pairs; the labels themselves without either. A true pair is known."""
    if weights is None and unknown is None:
        return labels
    return _counted(labels, weights, None if unknown is None else unknown.without(labels))


def counted_as(labels: SparseLabels, others: SparseLabels) -> SparseLabels:
    """Return labels with the weights and the unknown pairs of other labels of the same examples."""
    return counted(labels, weights_of(others), unknown_of(others))


def followed(labels: SparseLabels, others: SparseLabels) -> SparseLabels:
    """Return the labels of examples followed by the labels of others, with the weights and unknown pairs of both."""
    if weights_of(others) is None and unknown_of(others) is None:
        return labels.followed_by(others)
    return _counted(labels, weights_of(labels), unknown_of(labels)).followed_by(others)


def weights_of(labels: SparseLabels) -> Tensor | None:
    """Return (B,) float64 the weights of the examples; None if every example counts 1."""
    return labels.weights if isinstance(labels, CountedLabels) else None


def unknown_of(labels: SparseLabels) -> SparseLabels | None:
    """Return the pairs that nobody annotated; None if there are none."""
    return labels.unknown if isinstance(labels, CountedLabels) else None


def row_weights(labels: SparseLabels) -> Tensor:
    """Return (B,) float64 the weights of the examples, ones if there are none."""
    weights = weights_of(labels)
    return torch.ones(len(labels), dtype=torch.float64) if weights is None else weights


def total_weight(labels: SparseLabels) -> Any:
    """Return the number of examples, or the sum of their weights."""
    weights = weights_of(labels)
    return len(labels) if weights is None else float(weights.sum())


def weighted_counts(pairs: SparseLabels, labels: SparseLabels | None = None) -> Tensor:
    """Return (L,) the examples of each label: their number, int64, or with weights their sum, float64.

    Args:
        pairs: of B examples and L labels.
        labels: of the same examples, whose weights count. None: those of `pairs`.
    """
    weights = weights_of(pairs if labels is None else labels)
    return sums_by(pairs.indices, None if weights is None else weights[pairs.rows], pairs.num_labels)


def sums_by(numbers: Tensor, weights: Tensor | None, length: int) -> Tensor:
    """Return (length,) how often each number occurs, int64, or the sum of its weights, float64."""
    return torch.bincount(numbers, weights=weights, minlength=length)


def annotated_counts(labels: SparseLabels) -> Tensor:
    """Return (L,) the examples, or their weights, of which each label is known."""
    unknown, total = unknown_of(labels), total_weight(labels)
    dtype = torch.float64 if isinstance(total, float) else torch.int64
    whole = torch.full((labels.num_labels,), total, dtype=dtype)
    if unknown is None:
        return whole
    return torch.maximum(whole - weighted_counts(unknown, labels), weighted_counts(labels))  # rounding


def known_pairs(pairs: SparseLabels, labels: SparseLabels) -> SparseLabels:
    """Return the pairs that are not unknown in the labels of the same examples."""
    unknown = unknown_of(labels)
    return pairs if unknown is None else pairs.without(unknown)


def known_scores(scores: Tensor, labels: SparseLabels, fill: float = -torch.inf) -> Tensor:
    """Return (B, L) scores in which unknown pairs are `fill`; -inf ranks them last."""
    unknown = unknown_of(labels)
    if unknown is None:
        return scores
    scores = scores.clone()
    scores[unknown.rows, unknown.indices] = fill
    return scores


def pair_weights(labels: SparseLabels) -> Tensor | None:
    """Return (B, L) float32 the weight of each pair, 0 if it is unknown; None if every pair counts 1."""
    weights, unknown = weights_of(labels), unknown_of(labels)
    if weights is None and unknown is None:
        return None
    pairs = row_weights(labels).float()[:, None].repeat(1, labels.num_labels)
    if unknown is not None:
        pairs[unknown.rows, unknown.indices] = 0
    return pairs


def mean_over(values: Tensor, labels: SparseLabels) -> Tensor:
    """Return the mean of the (B,) values of examples, weighted; nan leaves an example out."""
    weights = weights_of(labels)
    if weights is None:
        return values.nanmean()
    known = ~values.isnan()
    return (values.double() * weights)[known].sum() / weights[known].sum()


def _counted(labels: SparseLabels, weights: Tensor | None, unknown: SparseLabels | None) -> CountedLabels:
    return CountedLabels(labels.indptr, labels.indices, labels.num_labels, weights, unknown)


def _nothing(labels: SparseLabels) -> SparseLabels:
    return SparseLabels(torch.zeros(len(labels) + 1, dtype=torch.int64), labels.indices[:0], labels.num_labels)
