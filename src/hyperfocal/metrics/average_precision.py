"""Average precision of each label and of all pairs, and the steps of the ranking that it is summed over.

    average precision   sum over thresholds t of (R_t - R_{t-1}) * P_t, over the N documents of one label

P_t and R_t are precision and recall of the documents that score at least t. A label without a true document gets
nan, which means over labels leave out. Documents with weights count as often as their weights say, and pairs that
nobody annotated are left out (see `counted_labels`). Tensors are on the CPU.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from hyperfocal.counted_labels import known_scores, weights_of
from hyperfocal.errors import DataError
from hyperfocal.labels import SparseLabels

BLOCK_NUMBERS = 2**20  # scores per block: sorting them takes about 30 MiB


class Steps(NamedTuple):
    """The P positives of M labels: label by label, each in falling order of score."""

    order: Tensor  # (M, N) int64, all documents for each label, in falling order of score
    labels: Tensor  # (P,) int64 in [0, M), the label of each positive
    documents: Tensor  # (P,) int64 in [0, N), the document of each positive
    ends: Tensor  # (P,) int64 in [1, N], how many documents score at least as high for the positive's label
    firsts: Tensor  # (P,) int64 in [0, P), the first positive of the same label
    lasts: Tensor  # (P,) int64 in [0, P), the last positive of the same label with the same score


def average_precision(scores: Tensor, truth: SparseLabels) -> Tensor:
    """Return the average precision of each label; documents with equal scores form one step.

    AP = sum over positives i of (positives with score >= s_i) / (documents with score >= s_i), / positives

    Args:
        scores: (N, L) float, any real numbers.
        truth: N rows, L labels.

    Returns:
        (L,) float64 in (0, 1], nan for a label without a true document.

    Raises:
        DataError: scores have another shape or dtype, or hold nan.

    Source: equals scikit-learn's average_precision_score, without interpolation; with weights that of its
    sample_weight.

    >>> truth = SparseLabels.from_lists([[0], [], [0]], num_labels=1)
    >>> average_precision(torch.tensor([[3.0], [2.0], [1.0]]), truth).item() == (1 / 1 + 2 / 3) / 2
    True
    """
    values = torch.full((truth.num_labels,), torch.nan, dtype=torch.float64)
    for labels, steps in ranked_positives(scores, truth):
        values[labels] = _average_precision(steps, weights_of(truth))
    return values


def micro_average_precision(scores: Tensor, truth: SparseLabels) -> float:
    """Return the average precision over all N x L pairs, as if they were documents of one label.

    The value is nan without a positive. Arguments and errors are those of `average_precision`. Needs memory for about
    6 copies of the scores.
    """
    check_scores(scores, truth)
    hits = torch.zeros(1, scores.numel(), dtype=torch.bool)
    hits[0, truth.keys] = True
    weights = weights_of(truth)
    pairs = None if weights is None else weights.repeat_interleave(truth.num_labels)
    return _average_precision(_steps(known_scores(scores, truth).reshape(1, -1), hits), pairs).item()


def ranked_positives(scores: Tensor, truth: SparseLabels) -> Iterator[tuple[Tensor, Steps]]:
    """Yield blocks of (M,) label numbers and their steps, over all labels with a true document.

    Arguments and errors are those of `average_precision`.
    """
    check_scores(scores, truth)
    scores = known_scores(scores, truth)  # after all positives an unknown pair changes nothing
    hits = torch.zeros(truth.num_labels, len(truth), dtype=torch.bool)
    hits[truth.indices, truth.rows] = True
    with_truth = truth.counts().nonzero().flatten()
    for labels in with_truth.split(max(BLOCK_NUMBERS // max(len(truth), 1), 1)):
        if len(labels):
            yield labels, _steps(scores[:, labels].T.contiguous(), hits[labels])


def _steps(columns: Tensor, hits: Tensor) -> Steps:
    """Return the steps of M labels from (M, N) scores and (M, N) hits. Positions count through all M rows."""
    length = columns.shape[1]
    values, order = columns.sort(1, descending=True)
    positions = hits.gather(1, order).flatten().nonzero().flatten()  # of the positives
    changes = torch.ones_like(hits)
    changes[:, :-1] = values[:, 1:] != values[:, :-1]
    steps = changes.flatten().nonzero().flatten()  # the last position of each group of ties
    ends = steps[torch.searchsorted(steps, positions)]
    labels = positions // max(length, 1)
    return Steps(
        order=order,
        labels=labels,
        documents=order.flatten()[positions],
        ends=ends + 1 - labels * length,
        firsts=torch.searchsorted(labels, labels),
        lasts=torch.searchsorted(positions, ends, right=True) - 1,
    )


def _average_precision(steps: Steps, weights: Tensor | None = None) -> Tensor:
    if weights is not None:
        return _weighted_average_precision(steps, weights)
    precisions = (steps.lasts + 1 - steps.firsts).double() / steps.ends
    num_labels = len(steps.order)
    sums = torch.bincount(steps.labels, weights=precisions, minlength=num_labels)
    return sums / torch.bincount(steps.labels, minlength=num_labels)


def _weighted_average_precision(steps: Steps, weights: Tensor) -> Tensor:
    """Return (M,) the average precision of documents with weights, (N,) float64."""
    own = weights[steps.documents]
    sums = torch.cat([own.new_zeros(1), own.cumsum(0)])
    true = sums[steps.lasts + 1] - sums[steps.firsts]
    above = weights[steps.order].cumsum(1)[steps.labels, steps.ends - 1]
    num_labels = len(steps.order)
    terms = torch.bincount(steps.labels, weights=own * true / above, minlength=num_labels)
    return terms / torch.bincount(steps.labels, weights=own, minlength=num_labels)


def check_scores(scores: Tensor, truth: SparseLabels) -> None:
    """Raise DataError unless scores are (N, L) float without nan, for the N rows and L labels of the truth."""
    expected = (len(truth), truth.num_labels)
    if tuple(scores.shape) != expected or not scores.is_floating_point():
        raise DataError(f"scores: expected {expected} float, as the truth, got {tuple(scores.shape)} {scores.dtype}")
    if scores.isnan().any():
        row, label = scores.isnan().nonzero()[0].tolist()
        raise DataError(f"scores: row {row} has nan for label {label}. Expected real numbers; did training diverge?")


def check_counts(counts: Tensor, truth: SparseLabels) -> None:
    """Raise DataError unless counts hold one number for each label of the truth."""
    if tuple(counts.shape) != (truth.num_labels,):
        raise DataError(f"counts: expected ({truth.num_labels},), one for each label, got {tuple(counts.shape)}")
