"""How sure a mean is: bootstrap intervals over users, and over differences between two models."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

RESAMPLES = 1_000
GROUPS = 5_000  # more users than this are resampled in random groups, so that the cost stays flat
FEWEST = 20  # users or documents; a bootstrap of fewer is too sure of itself
ROUNDING = 1e-12  # a spread, or a difference, below this is none
TOO_FEW = "too few"


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
    if len(values) == 0 or values.shape[1] == 0:
        return [Interval(float("nan"), float("nan"), float("nan"))] * values.shape[1]
    grouped, weights = _resamples(values, seed)
    quantiles = torch.tensor([0.025, 0.975], dtype=torch.float64)
    low, high = _means(weights @ grouped).nanquantile(quantiles, dim=0)
    means = _means(grouped.sum(0, keepdim=True))[0]
    return [Interval(*row) for row in torch.stack([means, low, high], 1).tolist()]


def resampled_means(values: Tensor, *, seed: int = 0) -> Tensor:
    """Return (1,000, M) float64, the mean of each of M columns in each resample of `mean_intervals`.

    The same number of users and the same seed give the same resamples, so that the columns of two models that are
    scored on the same users can be subtracted resample by resample.

    Args:
        values: (U, M) float, a row a user, U from 1; nan (or inf) where a column says nothing of a user.
        seed: of the resamples.
    """
    grouped, weights = _resamples(values, seed)
    return _means(weights @ grouped)


def _resamples(values: Tensor, seed: int) -> tuple[Tensor, Tensor]:
    """Return (G, 2 M) sums and counts of each group of users, and (1,000, G) how often each resample has it."""
    generator = torch.Generator().manual_seed(seed)
    count = min(len(values), GROUPS)
    known = values.isfinite()
    group = torch.randperm(len(values), generator=generator) % count
    both = torch.cat([values.double().where(known, 0), known.double()], 1)
    grouped = torch.zeros(count, both.shape[1], dtype=torch.float64).index_add_(0, group, both)
    return grouped, torch.poisson(torch.ones(RESAMPLES, count), generator=generator).double()


def _means(both: Tensor) -> Tensor:
    sums, sizes = both.chunk(2, 1)
    return sums / sizes


def paired_difference(ours: Tensor, theirs: Tensor, *, seed: int = 0) -> Interval:
    """Return the mean of ours - theirs, (U,) values of the same users, with its 95% bootstrap interval."""
    return mean_intervals((ours.double() - theirs.double())[:, None], seed=seed)[0]


def too_few(number: int, unit: str = "users") -> str:
    """Return why nothing can be said about so many users or documents, or "" where something can.

    >>> too_few(7), too_few(20)
    ('too few users (7) to tell', '')
    """
    return f"{TOO_FEW} {unit} ({number:,}) to tell" if number < FEWEST else ""


def shown_sign(difference: Interval, number: int) -> int:
    """Return 1 or -1 where a difference is shown to be above or below 0, and 0 where it is not.

    It is not where chance explains it, where fewer than 20 users were compared, and where all of them differ by the
    same: the interval then has no width, and says nothing about chance.

    Args:
        difference: from `paired_difference`.
        number: of the users.
    """
    if too_few(number) or difference.high - difference.low <= ROUNDING:
        return 0
    return 1 if difference.low > 0 else -1 if difference.high < 0 else 0


def intervals(values: dict[str, float], resamples: dict[str, Tensor]) -> dict[str, Interval]:
    """Return for each resampled metric its value and 95% interval.

    Percentiles 2.5 and 97.5 of the resamples, moved so that their mean is the value: a rare label that a resample
    lacks is left out of its macro mean, which moves all of them. They end at 0 and 1, as the metrics do.
    """
    quantiles = torch.tensor([0.025, 0.975], dtype=torch.float64)
    found = {}
    for name, resampled in resamples.items():
        centred = resampled.double() - resampled.double().nanmean() + values[name]
        low, high = centred.nanquantile(quantiles).clamp(0, 1).tolist()
        found[name] = Interval(values[name], low, high)
    return found
