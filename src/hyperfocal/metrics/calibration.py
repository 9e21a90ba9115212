"""Calibration error, the reliability of probabilities, and F1 as a curve over one threshold for all labels."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

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
    true = torch.bincount(_bins(probabilities[truth.rows, truth.indices], bins), minlength=bins)
    expected = torch.zeros(bins, dtype=torch.float64)
    for block in probabilities.flatten().split(BLOCK_NUMBERS):
        expected += torch.bincount(_bins(block, bins), weights=block.double(), minlength=bins)
    return float((expected - true).abs().sum() / probabilities.numel())


def _bins(probabilities: Tensor, bins: int) -> Tensor:
    return (probabilities.double() * bins).long().clamp_(max=bins - 1)


def reliability(probabilities: Tensor, truth: SparseLabels, edges: Tensor) -> list[dict[str, float]]:
    """Return the number of pairs and the frequency of true pairs in each bin of probabilities that is not empty.

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
    pairs, sums = torch.zeros(bins, dtype=torch.int64), torch.zeros(bins, dtype=torch.float64)
    for block in _row_blocks(probabilities):
        bin_numbers = torch.bucketize(block.flatten(), inner, right=True)
        pairs += torch.bincount(bin_numbers, minlength=bins)
        sums += torch.bincount(bin_numbers, weights=block.flatten().double(), minlength=bins)
    true_bins = torch.bucketize(probabilities[truth.rows, truth.indices].contiguous(), inner, right=True)
    true = torch.bincount(true_bins, minlength=bins)
    columns = zip(edges.tolist(), edges.tolist()[1:], pairs.tolist(), sums.tolist(), true.tolist(), strict=False)
    return [
        {"low": low, "high": high, "pairs": number, "mean": total / number, "frequency": hits / number}
        for low, high, number, total, hits in columns
        if number
    ]


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
    for block in _row_blocks(scores):
        decided += _count_reached(labels.expand_as(block).flatten(), block.flatten(), thresholds, decided.shape)
    true_scores = scores[truth.rows, truth.indices].contiguous()
    tp = _at_or_above(_count_reached(truth.indices, true_scores, thresholds, decided.shape))
    decided, true = _at_or_above(decided), truth.counts()[:, None].expand_as(tp)
    by_label = f1(tp, decided, true).where(true > 0, torch.nan)
    micro = f1(tp.sum(0), decided.sum(0), true.sum(0))
    return {"micro_f1": micro.tolist(), "macro_f1": by_label.nanmean(0).tolist()}


def _row_blocks(scores: Tensor) -> Iterator[Tensor]:
    """Yield contiguous blocks of rows."""
    yield from (block.contiguous() for block in scores.split(max(BLOCK_NUMBERS // max(scores.shape[1], 1), 1)))


def _count_reached(labels: Tensor, scores: Tensor, thresholds: Tensor, shape: torch.Size) -> Tensor:
    """Return (L, T + 1), how many of the scores of each label reach exactly 0, 1, ... T thresholds."""
    reached = torch.bucketize(scores, thresholds, right=True)
    return torch.bincount(labels * shape[1] + reached, minlength=shape.numel()).view(shape)


def _at_or_above(reached: Tensor) -> Tensor:
    """Return (L, T), how many scores of each label are at each threshold or above, from `_count_reached`."""
    return reached.flip(1).cumsum(1).flip(1)[:, 1:]
