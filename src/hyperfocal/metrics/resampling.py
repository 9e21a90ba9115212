"""Multi-label metrics in bootstrap resamples of the documents.

The Poisson bootstrap: in resample r document i counts w_ri ~ Poisson(1) times. Two models that are scored with the
same weights can be compared resample by resample: subtract their vectors and take quantiles.

    f1                  2 sum(w tp) / (sum(w decided) + sum(w true)) of one label, or of all labels together
    average precision   sum over positives i of w_i * TP_i / W_i,  divided by the sum of w_i over positives,
                        TP_i and W_i the weight of the positives and of all documents with score >= s_i

Means over labels are over labels with a true document of weight above 0 in the same resample. The weight of a document
itself, if it has one, multiplies w_ri; pairs that nobody annotated are left out (see `counted_labels`).

Cost: R x (documents down to the last positive, summed over all labels) additions. The weights of these documents are
added once, in one bag per positive.

Source: Chamandy et al. 2012, Estimating Uncertainty for Massive Data Streams; Field and Welsh 2007 (clusters).
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import embedding_bag

from hyperfocal.counted_labels import known_pairs, row_weights, weights_of
from hyperfocal.errors import ConfigError, DataError
from hyperfocal.labels import SparseLabels, bucket_means
from hyperfocal.metrics.average_precision import Steps, check_counts, ranked_positives
from hyperfocal.metrics.decisions import check_decisions, f1

RESAMPLES_PER_BLOCK = 64  # the weights of 5,000 documents in a block fit in a core's cache


def resample_weights(
    num_documents: int, *, groups: Tensor | None = None, resamples: int = 500, seed: int = 0
) -> Tensor:
    """Return (R, N) float32 weights, Poisson(1) each; the documents of a group share their weight.

    The same arguments give the same weights. With few documents all weights of a resample may be 0.

    Args:
        num_documents: N.
        groups: (N,) int64, the group of each document (its source, its duplicates). None: each is its own group.
        resamples: R, 1 or more.
        seed: of the weights.

    Raises:
        ConfigError: resamples is below 1.
        DataError: groups have another shape.
    """
    if resamples < 1:
        raise ConfigError(f"resamples = {resamples} is not allowed. Expected 1 or more")
    generator = torch.Generator().manual_seed(seed)
    if groups is None:
        return torch.poisson(torch.ones(resamples, num_documents), generator=generator)
    if tuple(groups.shape) != (num_documents,):
        raise DataError(f"groups: expected ({num_documents},), one for each document, got {tuple(groups.shape)}")
    names, members = groups.unique(return_inverse=True)
    return torch.poisson(torch.ones(resamples, len(names)), generator=generator)[:, members]


def resampled_f1(decided: SparseLabels, truth: SparseLabels, counts: Tensor, weights: Tensor) -> dict[str, Tensor]:
    """Return micro_f1, macro_f1, head_f1, medium_f1 and tail_f1 in each resample.

    Args:
        decided: N rows, L labels.
        truth: N rows, L labels.
        counts: (L,) training documents of each label, for the buckets.
        weights: (R, N) float, 0 or more, from `resample_weights`; exact up to sums of 2^24 in float32.

    Returns:
        name -> (R,) float64 in [0, 1]; nan if no label of the bucket has a true document of weight above 0.

    Raises:
        DataError: shapes do not match; a weight is negative or not a number.
    """
    check_decisions(decided, truth)
    check_counts(counts, truth)
    check_weights(weights, truth)
    decided, weights = known_pairs(decided, truth), _with_own(weights, truth)
    table, right = weights.T.contiguous(), decided.among(truth)
    tp = _label_sums(table, decided.rows[right], decided.indices[right], truth.num_labels)
    positive, true = (_label_sums(table, each.rows, each.indices, truth.num_labels) for each in (decided, truth))
    means = bucket_means(f1(tp, positive, true).where(true > 0, torch.nan).T, counts)
    micro = f1(tp.sum(0), positive.sum(0), true.sum(0))
    return {"micro_f1": micro, **{f"{name}_f1": mean for name, mean in means.items()}}


def resampled_ap(scores: Tensor, truth: SparseLabels, counts: Tensor, weights: Tensor) -> dict[str, Tensor]:
    """Return macro_ap, head_ap, medium_ap and tail_ap in each resample.

    With weights of 1 they are the means of `average_precision`. With integer weights they are the means over the data
    in which each document is repeated as often as its weight says.

    Args:
        scores: (N, L) float, any real numbers.
        truth, counts, weights, and the returned values: as in `resampled_f1`.

    Raises:
        DataError: from `resampled_f1`; scores hold nan.
    """
    check_counts(counts, truth)
    check_weights(weights, truth)
    tables = [block.T.contiguous() for block in _with_own(weights, truth).split(RESAMPLES_PER_BLOCK)]
    values = torch.full((len(weights), truth.num_labels), torch.nan, dtype=torch.float64)
    for labels, steps in ranked_positives(scores, truth):
        documents, bags = _bags(steps)
        blocks = [_weighted_ap(table, steps, embedding_bag(documents, table, bags, mode="sum")) for table in tables]
        values[:, labels] = torch.cat(blocks, 1).T
    return {f"{name}_ap": mean for name, mean in bucket_means(values, counts).items()}


def _with_own(weights: Tensor, truth: SparseLabels) -> Tensor:
    """Return (R, N) weights of resamples times those of the documents."""
    return weights if weights_of(truth) is None else weights * row_weights(truth).to(weights)


def _bags(steps: Steps) -> tuple[Tensor, Tensor]:
    """Return the documents of each label down to its last positive, and the start of each positive's bag.

    The bag of a positive holds the documents after the previous positive's end, up to its own end. Of tied positives
    the first gets all their documents.
    """
    num_labels, length = steps.order.shape
    depths = steps.ends.new_zeros(num_labels).scatter_reduce_(0, steps.labels, steps.ends, "amax")
    documents = steps.order[torch.arange(length) < depths[:, None]]
    stops = (depths.cumsum(0) - depths)[steps.labels] + steps.ends
    return documents, torch.cat([stops.new_zeros(1), stops[:-1]])


def _weighted_ap(table: Tensor, steps: Steps, bags: Tensor) -> Tensor:
    """Return (M, r) float64 from (N, r) weights and the (P, r) sums of the positives' bags; nan without weight."""
    own = table[steps.documents].double()
    true, above = _sums_within(own, steps.firsts)[steps.lasts], _sums_within(bags.double(), steps.firsts)
    terms = own * true / above.clamp(min=torch.finfo(torch.float64).tiny)  # no weight above: own is 0 too
    labels = steps.labels[:, None].expand_as(own)  # index_add_ would start threads for every row
    sums = own.new_zeros(2, len(steps.order), own.shape[1])
    return sums[0].scatter_add_(0, labels, terms) / sums[1].scatter_add_(0, labels, own)


def _sums_within(values: Tensor, firsts: Tensor) -> Tensor:
    """Return the running sums over (P, r) values, restarted at the first positive of each label."""
    sums = torch.cat([values.new_zeros(1, values.shape[1]), values.cumsum(0)])
    return sums[1:] - sums[firsts]


def _label_sums(table: Tensor, documents: Tensor, labels: Tensor, num_labels: int) -> Tensor:
    """Return (L, R) float64, the summed (N, R) weights of the documents of each label, from P pairs."""
    sizes = torch.bincount(labels, minlength=num_labels)
    starts = sizes.cumsum(0) - sizes
    return embedding_bag(documents[labels.argsort(stable=True)], table, starts, mode="sum").double()


def check_weights(weights: Tensor, truth: SparseLabels) -> None:
    """Raise DataError unless weights are (R, N) float, finite and not negative, for the N rows of the truth."""
    if weights.ndim != 2 or weights.shape[1] != len(truth) or not weights.is_floating_point():
        raise DataError(f"weights: expected (R, {len(truth)}) float, got {tuple(weights.shape)} {weights.dtype}")
    if not ((weights >= 0) & weights.isfinite()).all():
        raise DataError("weights: a weight is negative, infinite or nan. Expected 0 or more; see resample_weights")
