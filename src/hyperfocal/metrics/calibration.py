"""Calibration error, the reliability of probabilities, and F1 as a curve over one threshold for all labels.

Pairs count as the weight of their document, and not at all if nobody annotated them (see `counted_labels`).
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from hyperfocal.counted_labels import pair_weights, sums_by, weighted_counts, weights_of
from hyperfocal.errors import ConfigError, DataError
from hyperfocal.labels import SparseLabels
from hyperfocal.metrics.average_precision import check_scores
from hyperfocal.metrics.decisions import f1

BLOCK_NUMBERS = 2**20  # probabilities per block: 8 MiB in float64


def calibration_error(probabilities: Tensor, truth: SparseLabels, bins: int = 15) -> float:
    """Return the expected calibration error over all N x L pairs, in [0, 1]; nan without a pair.

    sum over bins of |sum of probabilities - true pairs| / (N L), which is the mean of |confidence - frequency|
    over bins, each weighted by its number of pairs. Bins have equal width, [i / bins, (i + 1) / bins), and the last
    one includes 1. With few true pairs nearly all pairs lie in the first bin.

    Args:
        probabilities: (N, L) float in [0, 1].
        truth: N rows, L labels.
        bins: 1 or more.

    Raises:
        DataError: probabilities have another shape or dtype, or lie outside [0, 1].
        ConfigError: bins is below 1.

    Source: Naeini, Cooper and Hauskrecht 2015; Guo et al. 2017, whose bins are open at the lower end instead.
    """
    check_scores(probabilities, truth)
    if bins < 1:
        raise ConfigError(f"bins = {bins} is not allowed. Expected 1 or more")
    if not ((probabilities >= 0) & (probabilities <= 1)).all():
        raise DataError("probabilities: expected numbers in [0, 1]; apply a sigmoid to the scores first")
    true = sums_by(_bins(probabilities[truth.rows, truth.indices], bins), _true_weights(truth), bins)
    expected, shares = torch.zeros(bins, dtype=torch.float64), pair_weights(truth)
    weighted = probabilities if shares is None else probabilities * shares
    blocks = zip(*(each.flatten().split(BLOCK_NUMBERS) for each in (probabilities, weighted)), strict=True)
    for block, weights in blocks:
        expected += torch.bincount(_bins(block, bins), weights=weights.double(), minlength=bins)
    total = probabilities.numel() if shares is None else float(shares.sum(dtype=torch.float64))
    return float((expected - true).abs().sum() / total)


def _true_weights(truth: SparseLabels) -> Tensor | None:
    """Return (P,) the weight of each true pair; None: each counts 1."""
    weights = weights_of(truth)
    return None if weights is None else weights[truth.rows]


def _bins(probabilities: Tensor, bins: int) -> Tensor:
    return (probabilities.double() * bins).long().clamp_(max=bins - 1)


def reliability(probabilities: Tensor, truth: SparseLabels, edges: Tensor) -> list[dict[str, float]]:
    """Return the number of pairs and the frequency of true pairs in each bin of probabilities that is not empty.

    Mean and frequency are weighted; the number of pairs is not.

    Args:
        probabilities: (N, L) float in [0, 1].
        truth: N rows, L labels.
        edges: (B + 1,) float, ascending from 0 to 1. A bin includes its lower edge; the last one includes 1 too.

    Returns:
        Rows of low, high, pairs, mean (of the probabilities) and frequency (true pairs / pairs).

    >>> truth = SparseLabels.from_lists([[0], []], num_labels=1)
    >>> reliability(torch.tensor([[0.75], [0.75]]), truth, torch.tensor([0.0, 0.5, 1.0]))
    [{'low': 0.5, 'high': 1.0, 'pairs': 2, 'mean': 0.75, 'frequency': 0.5}]
    """
    check_scores(probabilities, truth)
    inner, bins = edges[1:-1].contiguous(), len(edges) - 1
    shares = pair_weights(truth)
    pairs, sums = torch.zeros(bins, dtype=torch.int64), torch.zeros(bins, dtype=torch.float64)
    mass = pairs if shares is None else torch.zeros_like(sums)
    for block, weights in zip(_row_blocks(probabilities), _share_blocks(shares, probabilities), strict=True):
        counted, own = (block.flatten(), None) if weights is None else _counted(block, weights)
        bin_numbers = torch.bucketize(counted, inner, right=True)
        pairs += torch.bincount(bin_numbers, minlength=bins)
        values = counted.double() if own is None else counted.double() * own
        sums += torch.bincount(bin_numbers, weights=values, minlength=bins)
        if own is not None:
            mass += torch.bincount(bin_numbers, weights=own, minlength=bins)
    true_bins = torch.bucketize(probabilities[truth.rows, truth.indices].contiguous(), inner, right=True)
    true = sums_by(true_bins, _true_weights(truth), bins)
    columns = (each.tolist() for each in (edges, edges[1:], pairs, mass, sums, true))
    return [
        {"low": low, "high": high, "pairs": number, "mean": total / weight, "frequency": hits / weight}
        for low, high, number, weight, total, hits in zip(*columns, strict=False)
        if number
    ]


def _share_blocks(shares: Tensor | None, probabilities: Tensor) -> Iterator[Tensor | None]:
    """Yield the weights of pairs in the blocks of `_row_blocks`; None for each block if every pair counts 1."""
    yield from _row_blocks(shares) if shares is not None else (None for _ in _row_blocks(probabilities))


def _counted(block: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Return the probabilities that count, and their weights, float64."""
    counts = weights > 0
    return block[counts], weights[counts].double()


def decision_curve(scores: Tensor, truth: SparseLabels, thresholds: Tensor) -> dict[str, list[float]]:
    """Return micro- and macro-F1 of deciding every label whose score reaches one threshold, for each threshold.

    micro_f1    2 sum(tp) / (sum(decided) + sum(true)) over all pairs
    macro_f1    the mean of 2 tp / (decided + true) over labels with a true document, nan without one

    Args:
        scores: (N, L) float.
        truth: N rows, L labels.
        thresholds: (T,) float, ascending.

    Returns:
        name -> T values in [0, 1].

    Raises:
        DataError: scores have another shape or dtype, or hold nan.

    >>> truth = SparseLabels.from_lists([[0], []], num_labels=1)
    >>> decision_curve(torch.tensor([[2.0], [1.0]]), truth, torch.tensor([1.0, 2.0]))["micro_f1"]
    [0.6666666666666666, 1.0]
    """
    check_scores(scores, truth)
    labels = torch.arange(truth.num_labels)
    decided = torch.zeros(truth.num_labels, len(thresholds) + 1, dtype=torch.int64)
    shares = pair_weights(truth)
    decided = decided if shares is None else decided.double()
    for block, weights in zip(_row_blocks(scores), _share_blocks(shares, scores), strict=True):
        own = None if weights is None else weights.flatten().double()
        decided += _count_reached(labels.expand_as(block).flatten(), block.flatten(), thresholds, decided.shape, own)
    true_scores = scores[truth.rows, truth.indices].contiguous()
    tp = _at_or_above(_count_reached(truth.indices, true_scores, thresholds, decided.shape, _true_weights(truth)))
    decided, true = _at_or_above(decided), weighted_counts(truth)[:, None].expand_as(tp)
    by_label = f1(tp, decided, true).where(true > 0, torch.nan)
    micro = f1(tp.sum(0), decided.sum(0), true.sum(0))
    return {"micro_f1": micro.tolist(), "macro_f1": by_label.nanmean(0).tolist()}


def _row_blocks(scores: Tensor) -> Iterator[Tensor]:
    """Yield contiguous blocks of rows."""
    yield from (block.contiguous() for block in scores.split(max(BLOCK_NUMBERS // max(scores.shape[1], 1), 1)))


def _count_reached(
    labels: Tensor, scores: Tensor, thresholds: Tensor, shape: torch.Size, weights: Tensor | None = None
) -> Tensor:
    """Return (L, T + 1), the scores of each label, or their weights, that reach exactly 0, 1, ... T thresholds."""
    reached = torch.bucketize(scores, thresholds, right=True)
    return sums_by(labels * shape[1] + reached, weights, shape.numel()).view(shape)


def _at_or_above(reached: Tensor) -> Tensor:
    """Return (L, T), how many scores of each label are at each threshold or above, from `_count_reached`."""
    return reached.flip(1).cumsum(1).flip(1)[:, 1:]
