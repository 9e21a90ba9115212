"""How sure a mean is: bootstrap intervals over users, and over differences between two models."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

RESAMPLES = 1_000
GROUPS = 5_000  # more users than this are resampled in random groups, so that the cost stays flat


class Interval(NamedTuple):
    """A mean and its 95% interval."""

    mean: float
    low: float
    high: float


def mean_intervals(values: Tensor, *, seed: int = 0) -> list[Interval]:
    """Return the mean of each column over users and its 95% bootstrap interval (percentiles 2.5 and 97.5).

    The Poisson bootstrap: in each of 1,000 resamples user u counts w_u ~ Poisson(1) times,
    mean = sum(w * x) / sum(w). All columns share the resamples, so columns can be compared.

    Args:
        values: (U, M) float, a row a user; nan (or inf) where a column says nothing of a user. A
            column without a value gives nan.
        seed: of the resamples.

    Source: Efron 1979; Chamandy et al. 2012, Estimating Uncertainty for Massive Data Streams.
    """
    generator = torch.Generator().manual_seed(seed)
    count = min(len(values), GROUPS)
    known = values.isfinite()
    if count == 0 or values.shape[1] == 0:
        return [Interval(float("nan"), float("nan"), float("nan"))] * values.shape[1]
    group = torch.randperm(len(values), generator=generator) % count
    both = torch.cat([values.double().where(known, 0), known.double()], 1)
    grouped = torch.zeros(count, both.shape[1], dtype=torch.float64).index_add_(0, group, both)
    weights = torch.poisson(torch.ones(RESAMPLES, count), generator=generator).double()
    sums, sizes = (weights @ grouped).chunk(2, 1)
    quantiles = torch.tensor([0.025, 0.975], dtype=torch.float64)
    low, high = (sums / sizes).nanquantile(quantiles, dim=0)
    totals, sizes = grouped.sum(0).chunk(2)
    return [Interval(*row) for row in torch.stack([totals / sizes, low, high], 1).tolist()]


def paired_difference(ours: Tensor, theirs: Tensor, *, seed: int = 0) -> Interval:
    """Return the mean of ours - theirs, (U,) values of the same users, with its 95% bootstrap interval."""
    return mean_intervals((ours.double() - theirs.double())[:, None], seed=seed)[0]
