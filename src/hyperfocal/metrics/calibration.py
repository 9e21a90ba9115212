"""Calibration: whether the labels that a model gives 30% are true in 30 of 100 documents.

How decisions change with one threshold for all labels, and how often what is given 30% is true.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from hyperfocal.errors import ConfigError, DataError
from hyperfocal.labels import SparseLabels
from hyperfocal.metrics.average_precision import check_scores
from hyperfocal.metrics.decisions import f1

BLOCK_NUMBERS = 2**20  # probabilities a block: in float64, 8 MiB


def calibration_error(probabilities: Tensor, truth: SparseLabels, bins: int = 15) -> float:
    """Return the expected calibration error over all N x L pairs, in [0, 1]; nan without a pair.

    sum over bins of |sum of probabilities - true pairs| / (N L), which is the mean of |confidence - frequency|
    over bins, each weighted by its pairs. Bins are equally wide, [i / bins, (i + 1) / bins), the last with 1.
    With few true pairs nearly all pairs lie in the first bin.

    Args:
        probabilities: (N, L) float in [0, 1].
        truth: N rows, L labels.
        bins: 1 or more.

    Raises:
        DataError: probabilities of another shape or dtype, or outside [0, 1].
        ConfigError: bins below 1.

    Source: Naeini, Cooper and Hauskrecht 2015; Guo et al. 2017, whose bins are open below instead of above.
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


def decision_curve(scores: Tensor, truth: SparseLabels, thresholds: Tensor) -> dict[str, list[float]]:
    """Return micro- and macro-F1 of deciding every label whose score is at a threshold or above.

    micro_f1    2 sum(tp) / (sum(decided) + sum(true)) over all pairs
    macro_f1    the mean of 2 tp / (decided + true) over labels with a true document, nan without one

    Args:
        scores: (N, L) float.
        truth: N rows, L labels.
        thresholds: (T,) float, ascending.

    Returns:
        name -> T values in [0, 1].

    Raises:
        DataError: scores of another shape or dtype, or with nan.

    >>> truth = SparseLabels.from_lists([[0], []], num_labels=1)
    >>> decision_curve(torch.tensor([[2.0], [1.0]]), truth, torch.tensor([1.0, 2.0]))["micro_f1"]
    [0.6666666666666666, 1.0]
    """
    check_scores(scores, truth)
    decided = torch.zeros(truth.num_labels, len(thresholds) + 1, dtype=torch.int64)
    for block in _row_blocks(scores):
        decided += _binned(block, thresholds)
    reached = torch.bucketize(scores[truth.rows, truth.indices].contiguous(), thresholds, right=True)
    hits = _counted(truth.indices, reached, *decided.shape)
    decided, hits = (_from_above(part) for part in (decided, hits))
    true = truth.counts()[:, None].expand_as(hits)
    known = f1(hits, decided, true).where(true > 0, torch.nan)
    micro = f1(hits.sum(0), decided.sum(0), true.sum(0))
    return {"micro_f1": micro.tolist(), "macro_f1": known.nanmean(0).tolist()}


def reliability(probabilities: Tensor, truth: SparseLabels, edges: Tensor) -> list[dict[str, float]]:
    """Return for each bin of probabilities that is not empty how many pairs it has and how many of them are true.

    Args:
        probabilities: (N, L) float in [0, 1].
        truth: N rows, L labels.
        edges: (B + 1,) float, ascending from 0 to 1; a bin holds its lower edge, the last one 1 too.

    Returns:
        Rows of low, high, pairs, mean (of the probabilities) and frequency (the share of true pairs).

    >>> truth = SparseLabels.from_lists([[0], []], num_labels=1)
    >>> reliability(torch.tensor([[0.75], [0.75]]), truth, torch.tensor([0.0, 0.5, 1.0]))
    [{'low': 0.5, 'high': 1.0, 'pairs': 2, 'mean': 0.75, 'frequency': 0.5}]
    """
    check_scores(probabilities, truth)
    inner, bins = edges[1:-1].contiguous(), len(edges) - 1
    pairs, sums = torch.zeros(bins, dtype=torch.int64), torch.zeros(bins, dtype=torch.float64)
    for block in _row_blocks(probabilities):
        places = torch.bucketize(block.flatten(), inner, right=True)
        pairs += torch.bincount(places, minlength=bins)
        sums += torch.bincount(places, weights=block.flatten().double(), minlength=bins)
    own = torch.bucketize(probabilities[truth.rows, truth.indices].contiguous(), inner, right=True)
    true = torch.bincount(own, minlength=bins)
    columns = zip(edges.tolist(), edges.tolist()[1:], pairs.tolist(), sums.tolist(), true.tolist(), strict=False)
    return [
        {"low": low, "high": high, "pairs": number, "mean": total / number, "frequency": hits / number}
        for low, high, number, total, hits in columns
        if number
    ]


def _row_blocks(scores: Tensor) -> Iterator[Tensor]:
    """Yield contiguous blocks of rows."""
    yield from (block.contiguous() for block in scores.split(max(BLOCK_NUMBERS // max(scores.shape[1], 1), 1)))


def _binned(scores: Tensor, thresholds: Tensor) -> Tensor:
    """Return (L, T + 1) how many scores of each label reach so many thresholds."""
    reached = torch.bucketize(scores, thresholds, right=True)
    labels = torch.arange(scores.shape[1]).expand_as(scores)
    return _counted(labels.flatten(), reached.flatten(), scores.shape[1], len(thresholds) + 1)


def _counted(labels: Tensor, reached: Tensor, num_labels: int, width: int) -> Tensor:
    return torch.bincount(labels * width + reached, minlength=num_labels * width).view(num_labels, width)


def _from_above(binned: Tensor) -> Tensor:
    """Return (L, T) how many reach each threshold or more."""
    return binned.flip(1).cumsum(1).flip(1)[:, 1:]
