"""Calibration: whether the labels that a model gives 30% are true in 30 of 100 documents."""

from __future__ import annotations

import torch
from torch import Tensor

from hyperfocal.errors import ConfigError, DataError
from hyperfocal.labels import SparseLabels
from hyperfocal.metrics.average_precision import check_scores

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
