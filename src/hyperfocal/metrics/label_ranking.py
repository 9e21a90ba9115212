"""Metrics of the best k of L labels for each of N documents, and every threshold-free metric of one model.

    precision@k         true labels among a document's best k / k
    ndcg@k              sum over r <= k of h_r / log2(r + 1),  divided by that of hits in the first min(k, n) ranks
    psp@k               sum of h_r / propensity over all documents,  divided by the largest such sum

h_r = 1 where rank r holds a true label, n is the document's number of true labels. Means are over documents
with a true label. Of labels with equal scores, the lower number is ranked first. Tensors are on the CPU.

Propensities: how likely a true label is to have been noticed by those who labelled the documents.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from hyperfocal.errors import ConfigError, DataError
from hyperfocal.labels import SparseLabels
from hyperfocal.metrics.average_precision import (
    average_precision,
    bucket_means,
    check_counts,
    check_scores,
    micro_average_precision,
)
from hyperfocal.metrics.calibration import calibration_error
from hyperfocal.metrics.ranking import NO_ITEM, find_hits, score_ranking, top_k

DEPTHS = (1, 3, 5)


def best_labels(scores: Tensor, k: int) -> Tensor:
    """Return (N, k) int64, the best k labels of each document, best first; -1 where k exceeds L.

    Raises:
        ConfigError: k below 1.

    >>> best_labels(torch.tensor([[1.0, 2.0, 2.0]]), 4).tolist()
    [[1, 2, 0, -1]]
    """
    if k < 1:
        raise ConfigError(f"k = {k} is not allowed. Expected 1 or more")
    ranked = scores.new_full((len(scores), k), NO_ITEM, dtype=torch.int64)
    width = min(k, scores.shape[1])
    if len(scores) == 0 or width == 0:
        return ranked
    lowest = top_k(scores, width)[0][:, -1:]
    rows, labels = (scores >= lowest).nonzero(as_tuple=True)  # the best k, and ties with the last
    order = _fall_within(rows, scores[rows, labels])
    ranked[:, :width] = labels[
        order[torch.searchsorted(rows, torch.arange(len(scores)))[:, None] + torch.arange(width)]
    ]
    return ranked


def _fall_within(rows: Tensor, values: Tensor) -> Tensor:
    """Return the order that sorts by row, then by falling value, then by place."""
    order = values.argsort(descending=True, stable=True)
    return order[rows[order].argsort(stable=True)]


def precision_at_k(scores: Tensor, truth: SparseLabels, k: int) -> Tensor:
    """Return (N,) float64, the true labels among each document's best k, divided by k.

    nan for a document without a true label. With fewer than k labels in all, the missing ranks are misses.

    Args:
        scores: (N, L) float, any real numbers.
        truth: N rows, L labels.
        k: 1 or more.

    Raises:
        DataError: scores of another shape or dtype, or nan.
        ConfigError: k below 1.
    """
    check_scores(scores, truth)
    return _precision(best_labels(scores, k), truth, k)


def _precision(ranked: Tensor, truth: SparseLabels, k: int) -> Tensor:
    hits = find_hits(ranked[:, :k], truth).sum(1).double()
    return (hits / k).where(truth.lengths > 0, torch.nan)


def ndcg_at_k(scores: Tensor, truth: SparseLabels, k: int) -> Tensor:
    """Return (N,) float64, ndcg@k of each document, nan for one without a true label.

    The ideal has hits in the first min(k, n) ranks. Args and errors: as `precision_at_k`.
    """
    check_scores(scores, truth)
    return _ndcg(best_labels(scores, k), truth, k)


def _ndcg(ranked: Tensor, truth: SparseLabels, k: int) -> Tensor:
    values = torch.full((len(truth),), torch.nan, dtype=torch.float64)
    values[truth.lengths > 0] = score_ranking(ranked, truth, [f"ndcg@{k}"])[f"ndcg@{k}"]
    return values


def propensity_scored_precision_at_k(scores: Tensor, truth: SparseLabels, propensities: Tensor, k: int) -> float:
    """Return psp@k in [0, 1]: hits weighted by 1 / propensity, so that rare labels count more; nan without a positive.

    psp@k = sum over documents and r <= k of h_r / p_(label at r)
            / sum over documents of their k largest 1 / p_l among the true labels l

    The division by the best possible is of the totals, not document by document.

    Args:
        scores: (N, L) float, any real numbers.
        truth: N rows, L labels.
        propensities: (L,) above 0, from `propensities`.
        k: 1 or more.

    Raises:
        DataError: scores of another shape or dtype, or nan; propensities of another shape, or not above 0.
        ConfigError: k below 1.

    Source: Jain, Prabhu and Varma 2016; normalised as in the Extreme Classification Repository's pyxclib.
    """
    check_scores(scores, truth)
    check_counts(propensities, truth)
    if not (propensities > 0).all():
        raise DataError(f"propensities: {propensities.min()} is not allowed. Expected numbers above 0")
    return _psp(best_labels(scores, k), truth, 1 / propensities.double(), k)


def _psp(ranked: Tensor, truth: SparseLabels, gains: Tensor, k: int) -> float:
    ranked = ranked[:, :k]
    hits = find_hits(ranked, truth)
    order = _fall_within(truth.rows, gains[truth.indices])  # the best order of the true labels
    depth = torch.arange(truth.num_positives) - truth.indptr[truth.rows]
    best = gains[truth.indices[order]][depth < k].sum()
    return float(gains[ranked[hits]].sum() / best)


def ranking_scores(scores: Tensor, truth: SparseLabels, counts: Tensor, num_examples: int) -> dict[str, float]:
    """Return every threshold-free metric of one model, as name -> value.

    macro_ap, head_ap, medium_ap and tail_ap are means over labels with a true document, micro_ap is over all
    pairs, precision@k and ndcg@k are means over documents with a true label, calibration_error is that of
    sigmoid(scores). nan where there is nothing to average.

    Args:
        scores: (N, L) float logits.
        truth: N rows, L labels.
        counts: (L,) training documents of each label.
        num_examples: training documents.

    Raises:
        DataError: as `average_precision` and `propensities`; counts of another shape.
    """
    check_counts(counts, truth)
    means = bucket_means(average_precision(scores, truth), counts)
    ranked = best_labels(scores, max(DEPTHS))
    gains = 1 / propensities(counts, num_examples)
    return {
        "macro_ap": means["macro"].item(),
        "micro_ap": micro_average_precision(scores, truth),
        **{f"{name}_ap": means[name].item() for name in ("head", "medium", "tail")},
        **{f"precision@{k}": _precision(ranked, truth, k).nanmean().item() for k in DEPTHS},
        "ndcg@5": _ndcg(ranked, truth, 5).nanmean().item(),
        **{f"psp@{k}": _psp(ranked, truth, gains, k) for k in DEPTHS},
        "calibration_error": calibration_error(scores.float().sigmoid(), truth),
    }


def propensities(counts: Tensor, num_examples: int, a: float = 0.55, b: float = 1.5) -> Tensor:
    """Return (L,) float64 in (0, 1): how likely a true label is to have been noticed, from its frequency.

    p_l = 1 / (1 + C * (N_l + b)^-a),  C = (log(num_examples) - 1) * (b + 1)^a

    Args:
        counts: (L,) training documents of each label, N_l.
        num_examples: training documents, 3 or more (below e, C is negative).
        a: of the data set; 0.55 where nobody has fitted it.
        b: of the data set; 1.5 where nobody has fitted it.

    Raises:
        DataError: num_examples below 3 or below a label's count.

    Source: Jain, Prabhu and Varma 2016, Extreme Multi-label Loss Functions, section 4 and its constants.
    """
    least = max([3, *counts.tolist()])
    if num_examples < least:
        raise DataError(
            f"num_examples = {num_examples} is not allowed. Expected {least} or more: 3, and any label's count"
        )
    scale = (math.log(num_examples) - 1) * math.pow(b + 1, a)
    return (1 + scale * (counts.double() + b).pow(-a)).reciprocal()
