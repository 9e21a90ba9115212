"""Metrics of the best k of L labels for each of N documents, and every threshold-free metric of one model.

    precision@k         true labels among a document's best k / k
    ndcg@k              sum over r <= k of h_r / log2(r + 1),  divided by the same sum with hits in the first min(k, n)
    psp@k               sum of h_r / propensity over all documents,  divided by the largest possible sum

h_r = 1 if rank r holds a true label, else 0; n is the document's number of true labels. The propensity of a label is
the probability that an annotator notices it where it is true. Means are over documents with a true label. Of labels
with equal scores, the lower number is ranked first. Documents with weights count as often as their weights say, and
labels that nobody annotated are taken out of a document's ranking (see `counted_labels`). Tensors are on the CPU.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from hyperfocal.counted_labels import known_scores, mean_over, row_weights, weights_of
from hyperfocal.errors import ConfigError, DataError
from hyperfocal.labels import BUCKETS, SparseLabels, bucket_means
from hyperfocal.metrics.average_precision import average_precision, check_counts, check_scores, micro_average_precision
from hyperfocal.metrics.calibration import calibration_error
from hyperfocal.metrics.ranking import NO_ITEM, find_hits, order_within_rows, score_ranking, stable_top_k

DEPTHS = (1, 3, 5)


def ranking_scores(scores: Tensor, truth: SparseLabels, counts: Tensor, num_examples: int) -> dict[str, float]:
    """Return every threshold-free metric of one model, as name -> value.

    macro_ap, head_ap, medium_ap and tail_ap are means over labels with a true document; micro_ap is over all pairs;
    precision@k and ndcg@k are means over documents with a true label; calibration_error is of sigmoid(scores). A mean
    over nothing is nan.

    Args:
        scores: (N, L) float logits.
        truth: N rows, L labels.
        counts: (L,) training documents of each label.
        num_examples: training documents.

    Raises:
        DataError: from `average_precision` and `propensities`; counts have another shape.
    """
    check_counts(counts, truth)
    means = bucket_means(average_precision(scores, truth), counts)
    ranked = best_labels(known_scores(scores, truth), max(DEPTHS))
    chances = propensities(counts, num_examples)
    return {
        "macro_ap": means["macro"].item(),
        "micro_ap": micro_average_precision(scores, truth),
        **{f"{name}_ap": means[name].item() for name in BUCKETS},
        **{f"precision@{k}": mean_over(_precision(ranked, truth, k), truth).item() for k in DEPTHS},
        "ndcg@5": mean_over(_ndcg(ranked, truth, 5), truth).item(),
        **{f"psp@{k}": propensity_scored_precision(ranked, truth, chances, k) for k in DEPTHS},
        "calibration_error": calibration_error(scores.float().sigmoid(), truth),
    }


def best_labels(scores: Tensor, k: int) -> Tensor:
    """Return (N, k) int64, the best k labels of each document, best first; -1 fills ranks beyond L.

    Raises:
        ConfigError: k is below 1.

    >>> best_labels(torch.tensor([[1.0, 2.0, 2.0]]), 4).tolist()
    [[1, 2, 0, -1]]
    """
    if k < 1:
        raise ConfigError(f"k = {k} is not allowed. Expected 1 or more")
    _, labels = stable_top_k(scores, min(k, scores.shape[1]))
    return torch.nn.functional.pad(labels, (0, k - labels.shape[1]), value=NO_ITEM)


def precision_at_k(scores: Tensor, truth: SparseLabels, k: int) -> Tensor:
    """Return (N,) float64, the true labels among each document's best k, divided by k.

    The value is nan for a document without a true label. If there are fewer than k labels, missing ranks are misses.

    Args:
        scores: (N, L) float, any real numbers.
        truth: N rows, L labels.
        k: 1 or more.

    Raises:
        DataError: scores have another shape or dtype, or hold nan.
        ConfigError: k is below 1.
    """
    check_scores(scores, truth)
    return _precision(best_labels(known_scores(scores, truth), k), truth, k)


def _precision(ranked: Tensor, truth: SparseLabels, k: int) -> Tensor:
    hits = find_hits(ranked[:, :k], truth).sum(1).double()
    return (hits / k).where(truth.lengths > 0, torch.nan)


def ndcg_at_k(scores: Tensor, truth: SparseLabels, k: int) -> Tensor:
    """Return (N,) float64, ndcg@k of each document; nan for a document without a true label.

    The ideal has hits in the first min(k, n) ranks. Arguments and errors are those of `precision_at_k`.
    """
    check_scores(scores, truth)
    return _ndcg(best_labels(known_scores(scores, truth), k), truth, k)


def _ndcg(ranked: Tensor, truth: SparseLabels, k: int) -> Tensor:
    values = torch.full((len(truth),), torch.nan, dtype=torch.float64)
    values[truth.lengths > 0] = score_ranking(ranked, truth, [f"ndcg@{k}"])[f"ndcg@{k}"]
    return values


def propensity_scored_precision(ranked: Tensor, truth: SparseLabels, propensities: Tensor, k: int) -> float:
    """Return psp@k in [0, 1]: hits weighted by 1 / propensity, so rare labels count more; nan without a positive.

    psp@k = sum over documents and r <= k of h_r / p_(label at r)
            / sum over documents of their k largest 1 / p_l among the true labels l

    The normalization divides the totals, not each document's sum.

    Args:
        ranked: (N, k or more) int64, from `best_labels`.
        truth: N rows, L labels.
        propensities: (L,) above 0, from `propensities`.
        k: 1 or more.

    Raises:
        DataError: propensities have another shape, or are not above 0.

    Source: Jain, Prabhu and Varma 2016; normalized as in the Extreme Classification Repository's pyxclib.
    """
    check_counts(propensities, truth)
    if not (propensities > 0).all():
        raise DataError(f"propensities: {propensities.min()} is not allowed. Expected numbers above 0")
    gains, ranked = 1 / propensities.double(), ranked[:, :k]
    hits = find_hits(ranked, truth)
    order = order_within_rows(truth.rows, gains[truth.indices])  # the best order of the true labels
    rank = torch.arange(truth.num_positives) - truth.indptr[truth.rows]
    best, gained = gains[truth.indices[order]], gains[ranked[hits]]
    if weights_of(truth) is not None:
        weights = row_weights(truth)
        best, gained = best * weights[truth.rows], gained * weights[hits.nonzero()[:, 0]]
    return float(gained.sum() / best[rank < k].sum())


def propensities(counts: Tensor, num_examples: int, a: float = 0.55, b: float = 1.5) -> Tensor:
    """Return (L,) float64 in (0, 1), the probability that a true label is noticed, estimated from its frequency.

    p_l = 1 / (1 + C * (N_l + b)^-a),  C = (log(num_examples) - 1) * (b + 1)^a

    Args:
        counts: (L,) training documents of each label, N_l.
        num_examples: training documents, 3 or more (below e, C is negative).
        a: parameter of the data set; 0.55 unless it was fitted.
        b: parameter of the data set; 1.5 unless it was fitted.

    Raises:
        DataError: num_examples is below 3 or below a label's count.

    Source: Jain, Prabhu and Varma 2016, Extreme Multi-label Loss Functions, section 4 and its constants.
    """
    least = max([3, *counts.tolist()])
    if num_examples < least:
        raise DataError(
            f"num_examples = {num_examples} is not allowed. Expected {least} or more: 3, and any label's count"
        )
    scale = (math.log(num_examples) - 1) * math.pow(b + 1, a)
    return (1 + scale * (counts.double() + b).pow(-a)).reciprocal()
