"""How far one point of a grid is from another, paired by seed and by document, and whether chance explains it."""

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

LEVEL = 0.05  # a corrected p below this counts as a difference


@dataclass(frozen=True, eq=False)
class Outcome:
    """What one point reached with one seed.

    Attributes:
        seed: what pairs it with an outcome of the baseline.
        values: metric -> its value on all validation documents; nan where it says nothing.
        resamples: metric -> (R,) float, its value in each bootstrap resample of the documents. All
            outcomes of a grid share the resamples, so that subtracting pairs the documents.
    """

    seed: int
    values: dict[str, float]
    resamples: dict[str, Tensor]


@dataclass(frozen=True)
class Difference:
    """A point against the baseline in one metric, over the seeds that both have.

    Attributes:
        ours: mean of the point's values.
        theirs: mean of the baseline's values.
        mean: ours - theirs.
        low: lower end of its 95% interval.
        high: upper end.
        p: two-sided p-value of no difference.
        adjusted: p, corrected for the number of points; `verdicts` fills it.
        seeds: how many pairs there were.
    """

    ours: float = math.nan
    theirs: float = math.nan
    mean: float = math.nan
    low: float = math.nan
    high: float = math.nan
    p: float = math.nan
    adjusted: float = math.nan
    seeds: int = 0

    @property
    def percent(self) -> Interval:
        """The difference and its interval in percent of the baseline's mean; nan where that is not above 0."""
        scale = 100 / self.theirs if self.theirs > 0 else math.nan
        return Interval(scale * self.mean, scale * self.low, scale * self.high)

    @property
    def sign(self) -> int | None:
        """1 better, -1 worse, 0 no difference shown, None not known."""
        if math.isnan(self.adjusted):
            return None
        return int(math.copysign(1, self.mean)) if self.adjusted < LEVEL else 0


class Spread(NamedTuple):
    """How much the difference varies from seed to seed over a whole grid, and how well that is known."""

    variance: float
    freedom: float


def paired(point: list[Outcome], baseline: list[Outcome], metric: str, *, spread: Spread | None = None) -> Difference:
    """Return how far a point is from the baseline, paired by seed and by document.

    With d_s the difference with seed s on all documents, and S seeds that both sides have:

        mean  = mean_s d_s
        SE^2  = Var_r(mean_s of the difference in resample r)  +  Var_s(d_s) / S, the last for S >= 2
        nu    = SE^4 / ((Var_s(d_s) / S)^2 / (S - 1))
        low, high = mean -+ t(0.975, nu) SE;  p = P(|t_nu| >= |mean| / SE)

    The document term has as good as infinitely many degrees of freedom, so with one seed, or seeds
    that agree, t is the normal. Without spread p is 1: what is the same in every
    resample says nothing about chance.

    Args:
        point: outcomes, one a seed.
        baseline: likewise. A seed that one side lacks, or where the metric is nan, is left out.
        metric: a key of `values` and `resamples`.
        spread: of the grid, from `pooled_spread`: Var_s(d_s) is then at least its variance, with its degrees of
            freedom in place of S - 1. Two or three seeds alone can agree by chance.

    Returns:
        The difference; all nan without a common seed, or with fewer than two resamples.

    Raises:
        DataError: outcomes that do not share their resamples.

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
    of_documents = _variance(resampled)
    error = math.sqrt(of_documents + of_seeds)
    freedom = error**4 / (of_seeds**2 / seeds.freedom) if of_seeds > 0 else math.inf
    ours_mean, their_mean = values.mean(0).tolist()
    return Difference(ours_mean, their_mean, *_student(apart.mean().item(), error, freedom), seeds=count)


def pooled_spread(points: list[list[Outcome]], baseline: list[Outcome], metric: str) -> Spread | None:
    """Return the mean over the points of Var_s(d_s); None where no point has two seeds.

    With k points of S seeds the variances count as (S - 1) k / (1 + (k - 1) / 4) degrees of freedom, not
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
        raise DataError(f"'{metric}', seed {ours.seed}: has a value and no resamples. Compute both from one list")
    left, right = ours.resamples[metric], theirs.resamples[metric]
    if left.shape != right.shape or left.ndim != 1:
        shapes = f"{tuple(left.shape)} and {tuple(right.shape)}"
        raise DataError(f"'{metric}', seed {ours.seed}: resamples of {shapes}. Expected the same (R,), of one draw")
    return left.double() - right.double()


def _variance(resampled: Tensor) -> float:
    """Return the variance over the resamples in which the metric says something."""
    known = resampled[resampled.isfinite()]
    return known.var().item() if len(known) > 1 else math.nan


def _student(mean: float, error: float, freedom: float) -> tuple[float, float, float, float]:
    """Return mean, low, high and p."""
    if error <= ROUNDING:
        return mean, mean, mean, 1.0
    reach = error * float(stats.t.ppf(0.975, freedom))
    return mean, mean - reach, mean + reach, 2 * float(stats.t.sf(abs(mean) / error, freedom))


def holm(p_values: Sequence[float]) -> list[float]:
    """Return the p-values corrected for their number, in the same order.

    With p_(1) <= ... <= p_(m):  adjusted_(i) = max over j <= i of min(1, (m - j + 1) p_(j)). The chance of
    one or more false differences among the m stays below the level. A nan stays and does not count.

    Source: Holm 1979, A simple sequentially rejective multiple test procedure.

    >>> holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]
    """
    known = sorted((p, place) for place, p in enumerate(p_values) if not math.isnan(p))
    adjusted, largest = [math.nan] * len(p_values), 0.0
    for rank, (p, place) in enumerate(known):
        largest = max(largest, min(1.0, (len(known) - rank) * p))
        adjusted[place] = largest
    return adjusted
