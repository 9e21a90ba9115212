"""Differences between the points of a grid and its baseline: paired by seed and by document, with p-values."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from scipy import stats
from torch import Tensor

from hyperfocal.errors import DataError
from hyperfocal.metrics.intervals import ROUNDING, Interval

LEVEL = 0.05  # a difference is significant if its corrected p is below


@dataclass(frozen=True, eq=False)
class Outcome:
    """The metrics of one point with one seed.

    All outcomes of a grid share the resamples, so subtracting two outcomes pairs them by document.
    """

    seed: int  # pairs the outcome with one of the baseline
    values: dict[str, float]  # metric -> its value on all validation documents; nan if it is undefined
    resamples: dict[str, Tensor]  # metric -> (R,) float, its value in each bootstrap resample of the documents


@dataclass(frozen=True)
class Difference:
    """The difference between a point and the baseline in one metric, over the seeds that both have."""

    ours: float = math.nan  # mean of the point's values
    theirs: float = math.nan  # mean of the baseline's values
    mean: float = math.nan  # ours - theirs
    low: float = math.nan  # lower end of its 95% interval
    high: float = math.nan  # upper end
    p: float = math.nan  # two-sided p-value for no difference
    adjusted: float = math.nan  # p corrected for the number of points; `verdicts` sets it
    seeds: int = 0  # number of pairs

    @property
    def percent(self) -> Interval:
        """The difference and its interval in percent of the baseline's mean; nan unless that mean is above 0."""
        scale = 100 / self.theirs if self.theirs > 0 else math.nan
        return Interval(scale * self.mean, scale * self.low, scale * self.high)

    @property
    def sign(self) -> int | None:
        """1: significantly better. -1: significantly worse. 0: not significant. None: not known."""
        if math.isnan(self.adjusted):
            return None
        return int(math.copysign(1, self.mean)) if self.adjusted < LEVEL else 0


class Spread(NamedTuple):
    """The variance of a difference from seed to seed, and its degrees of freedom."""

    variance: float
    freedom: float


def compare_outcomes(
    point: list[Outcome], baseline: list[Outcome], metric: str, *, spread: Spread | None = None
) -> Difference:
    """Return the difference between a point and the baseline, paired by seed and by document.

    With d_s the difference for seed s on all documents, and S seeds that both sides have:

        mean  = mean_s d_s
        SE^2  = Var_r(mean_s of the difference in resample r)  +  Var_s(d_s) / S, the last term for S >= 2
        nu    = SE^4 / ((Var_s(d_s) / S)^2 / (S - 1))
        low, high = mean -+ t(0.975, nu) SE;  p = P(|t_nu| >= |mean| / SE)

    The document term has practically infinite degrees of freedom, so t is the normal distribution with one seed and
    with seeds that agree. If SE is 0, p is 1: a difference that is equal in every resample is no evidence.

    Args:
        point: outcomes of the point, one per seed.
        baseline: outcomes of the baseline, one per seed. A seed is left out if one side lacks it or its metric is nan.
        metric: a key of `values` and `resamples`.
        spread: of the grid, from `pooled_spread`. Var_s(d_s) is then at least its variance, and its degrees of
            freedom replace S - 1, because two or three seeds can agree by chance. None: the seeds of this point alone.

    Returns:
        The difference; all nan without a common seed, or with fewer than two resamples.

    Raises:
        DataError: the outcomes do not share their resamples.

    Source: Welch 1947, The generalization of 'Student's' problem; Satterthwaite 1946, equation 17.
    """
    pairs = _pairs(point, baseline, metric)
    if not pairs:
        return Difference()
    values = torch.tensor([[ours.values[metric], other.values[metric]] for ours, other in pairs], dtype=torch.float64)
    apart, count = values[:, 0] - values[:, 1], len(pairs)
    resampled = torch.stack([_subtract(ours, other, metric) for ours, other in pairs]).mean(0)
    own = Spread(apart.var().item() if count > 1 else 0.0, count - 1)
    seeds = Spread(max(own.variance, spread.variance), spread.freedom) if spread else own
    of_seeds = seeds.variance / count
    known = resampled[resampled.isfinite()]  # the metric is defined there
    of_documents = known.var().item() if len(known) > 1 else math.nan
    error = math.sqrt(of_documents + of_seeds)
    freedom = error**4 / (of_seeds**2 / seeds.freedom) if of_seeds > 0 else math.inf
    ours_mean, their_mean = values.mean(0).tolist()
    return Difference(ours_mean, their_mean, *_student(apart.mean().item(), error, freedom), seeds=count)


def pooled_spread(points: list[list[Outcome]], baseline: list[Outcome], metric: str) -> Spread | None:
    """Return the mean of Var_s(d_s) over the points; None if no point has two seeds.

    With k points of S seeds each, the variance has (S - 1) k / (1 + (k - 1) / 4) degrees of freedom instead of
    (S - 1) k: all differences share the baseline, so they correlate by 1/2 and their variances by 1/4.
    """
    pairs = [_pairs(point, baseline, metric) for point in points]
    apart = [[ours.values[metric] - other.values[metric] for ours, other in each] for each in pairs if len(each) > 1]
    if not apart:
        return None
    freedom = sum(len(each) - 1 for each in apart)
    squares = sum(torch.tensor(each, dtype=torch.float64).var().item() * (len(each) - 1) for each in apart)
    return Spread(squares / freedom, freedom / (1 + (len(apart) - 1) / 4))


def _pairs(point: list[Outcome], baseline: list[Outcome], metric: str) -> list[tuple[Outcome, Outcome]]:
    theirs = {outcome.seed: outcome for outcome in baseline if _knows(outcome, metric)}
    return [(ours, theirs[ours.seed]) for ours in point if ours.seed in theirs and _knows(ours, metric)]


def _knows(outcome: Outcome, metric: str) -> bool:
    return math.isfinite(outcome.values.get(metric, math.nan))


def _subtract(ours: Outcome, theirs: Outcome, metric: str) -> Tensor:
    if metric not in ours.resamples or metric not in theirs.resamples:
        raise DataError(
            f"'{metric}', seed {ours.seed}: has a value and no resamples. Compute both from the same documents"
        )
    left, right = ours.resamples[metric], theirs.resamples[metric]
    if left.shape != right.shape or left.ndim != 1:
        shapes = f"{tuple(left.shape)} and {tuple(right.shape)}"
        raise DataError(f"'{metric}', seed {ours.seed}: resamples of {shapes}. Expected the same (R,)")
    return left.double() - right.double()


def _student(mean: float, error: float, freedom: float) -> tuple[float, float, float, float]:
    """Return mean, low, high and p."""
    if error <= ROUNDING:
        return mean, mean, mean, 1.0
    reach = error * float(stats.t.ppf(0.975, freedom))
    return mean, mean - reach, mean + reach, 2 * float(stats.t.sf(abs(mean) / error, freedom))


def holm(p_values: Sequence[float]) -> list[float]:
    """Return the p-values corrected for multiple tests, in the same order.

    With p_(1) <= ... <= p_(m):  adjusted_(i) = max over j <= i of min(1, (m - j + 1) p_(j)). The probability of
    any false positive among the m tests stays below the level. A nan stays nan and does not count as a test.

    Source: Holm 1979, A simple sequentially rejective multiple test procedure.

    >>> holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]
    """
    known = sorted((p, index) for index, p in enumerate(p_values) if not math.isnan(p))
    adjusted, largest = [math.nan] * len(p_values), 0.0
    for rank, (p, index) in enumerate(known):
        largest = max(largest, min(1.0, (len(known) - rank) * p))
        adjusted[index] = largest
    return adjusted
