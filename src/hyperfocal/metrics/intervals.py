"""Confidence intervals of means over users, of differences between two models, and of resampled metrics."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from scipy import stats
from torch import Tensor

RESAMPLES = 1_000
GROUPS = 5_000  # more users than this are resampled in random groups, which bounds the cost
FEWEST = 20  # users or documents; with fewer, bootstrap intervals are too narrow
ROUNDING = 1e-12  # a standard error or an interval's width at most this counts as 0
TOO_FEW = "too few"


class Interval(NamedTuple):
    """A mean and its 95% interval."""

    mean: float
    low: float
    high: float


def mean_intervals(values: Tensor, *, seed: int = 0) -> list[Interval]:
    """Return the mean of each column over users and its 95% bootstrap interval (percentiles 2.5 and 97.5).

    The Poisson bootstrap: in each of 1,000 resamples user u counts w_u ~ Poisson(1) times,
    mean = sum(w * x) / sum(w). All columns share the resamples, so they can be compared.

    Args:
        values: (U, M) float, a row per user; nan or inf leaves a user out of a column. A column without a value
            gives nan.
        seed: of the resamples.

    Source: Efron 1979; Chamandy et al. 2012, Estimating Uncertainty for Massive Data Streams.
    """
    if len(values) == 0 or values.shape[1] == 0:
        return [Interval(float("nan"), float("nan"), float("nan"))] * values.shape[1]
    grouped, weights = _resamples(values, seed)
    quantiles = torch.tensor([0.025, 0.975], dtype=torch.float64)
    low, high = _means(weights @ grouped).nanquantile(quantiles, dim=0)
    means = _means(grouped.sum(0, keepdim=True))[0]
    return [Interval(*row) for row in torch.stack([means, low, high], 1).tolist()]


def resampled_means(values: Tensor, *, seed: int = 0) -> Tensor:
    """Return (1,000, M) float64, the mean of each of M columns in each resample of `mean_intervals`.

    The same number of users and the same seed give the same resamples. So the columns of two models that are scored
    on the same users can be subtracted resample by resample.

    Args:
        values: (U, M) float, a row per user, U >= 1; nan or inf leaves a user out of a column.
        seed: of the resamples.
    """
    grouped, weights = _resamples(values, seed)
    return _means(weights @ grouped)


def _resamples(values: Tensor, seed: int) -> tuple[Tensor, Tensor]:
    """Return (G, 2 M) sums and counts per group of users, and the (1,000, G) weights of the groups per resample."""
    generator = torch.Generator().manual_seed(seed)
    count = min(len(values), GROUPS)
    known = values.isfinite()
    group = torch.randperm(len(values), generator=generator) % count
    sums_and_counts = torch.cat([values.double().where(known, 0), known.double()], 1)
    grouped = torch.zeros(count, 2 * values.shape[1], dtype=torch.float64).index_add_(0, group, sums_and_counts)
    return grouped, torch.poisson(torch.ones(RESAMPLES, count), generator=generator).double()


def _means(sums_and_counts: Tensor) -> Tensor:
    sums, counts = sums_and_counts.chunk(2, 1)
    return sums / counts


def paired_difference(ours: Tensor, theirs: Tensor) -> Interval:
    """Return the mean of d = ours - theirs, (U,) values of the same users, with its 95% interval.

    mean -+ t(0.975, U - 1) sd(d) / sqrt(U), Student's paired interval; it is nan with fewer than two users.
    """
    apart = ours.double() - theirs.double()
    mean = float(apart.mean())
    if len(apart) < 2:
        return Interval(mean, math.nan, math.nan)
    reach = float(stats.t.ppf(0.975, len(apart) - 1)) * float(apart.std()) / math.sqrt(len(apart))
    return Interval(mean, mean - reach, mean + reach)


def too_few(number: int, unit: str = "users") -> str:
    """Return why a comparison over this number of users or documents shows nothing; "" if there are enough.

    >>> too_few(7), too_few(20)
    ('too few users (7) to compare', '')
    """
    return f"{TOO_FEW} {unit} ({number:,}) to compare" if number < FEWEST else ""


def shown_sign(difference: Interval, number: int) -> int:
    """Return 1 or -1 if a difference is significantly above or below 0, else 0.

    It is not significant if the interval holds 0, with fewer than 20 users, and if all users differ by the same
    amount: the interval then has no width.
    """
    if too_few(number) or difference.high - difference.low <= ROUNDING:
        return 0
    return 1 if difference.low > 0 else -1 if difference.high < 0 else 0


def intervals(values: dict[str, float], resamples: dict[str, Tensor]) -> dict[str, Interval]:
    """Return the value and 95% interval of each resampled metric.

    Percentiles 2.5 and 97.5 of the resamples, shifted so that their mean is the value, and limited to [0, 1]. The
    shift is needed because a resample without a document of a rare label leaves that label out of its macro mean.

    Args:
        values: metric -> its value on all documents.
        resamples: metric -> (R,) float, its value in each resample.
    """
    return {name: _around(values[name], resampled.double()) for name, resampled in resamples.items()}


def _around(value: float, resampled: Tensor) -> Interval:
    quantiles = torch.tensor([0.025, 0.975], dtype=torch.float64)
    low, high = (resampled - resampled.nanmean() + value).nanquantile(quantiles).clamp(0, 1).tolist()
    return Interval(value, low, high)
