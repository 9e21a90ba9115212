"""Differences between the points of a grid and its baseline, with p-values.

A point was trained with some seeds, and each training was scored on the same documents. Two things vary: documents and
trainings (crossed random effects). With x_s the value of seed s, X_s(r) its value in resample r of the documents, and S
seeds, a mean over seeds varies by

    Var_r(mean_s X_s(r))  +  max(0, v - c) / S
    v = Var_s(x_s)                                    from training to training
    c = S / (S - 1) mean_s Var_r(X_s - mean_s X_s)    the part of v that documents add, which the first term has too

`c` is the interaction of documents and trainings. Counted twice, it makes intervals up to 1.4 times too wide. Without
the second term they are too narrow if trainings differ.

Source: Searle, Casella and McCulloch 1992, Variance Components, chapter 4 (the crossed two-way model).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from scipy import stats
from torch import Tensor

from hyperfocal.errors import DataError
from hyperfocal.metrics.intervals import ROUNDING, Interval

LEVEL = 0.05  # a difference is significant if its corrected p is below
PRIOR = (
    2.0  # weight of the mean variance of all points in the variance of one point; three seeds of its own weigh as much
)


@dataclass(frozen=True, eq=False)
class Outcome:
    """The metrics of one point with one seed.

    All outcomes of a grid share the resamples, so subtracting two outcomes pairs them by document.
    """

    seed: int
    values: dict[str, float]  # metric -> its value on all validation documents; nan if it is undefined
    resamples: dict[str, Tensor]  # metric -> (R,) float, its value in each bootstrap resample of the documents


@dataclass(frozen=True)
class Difference:
    """The difference between a point and the baseline in one metric."""

    ours: float = math.nan  # mean of the point's values over its seeds
    theirs: float = math.nan  # mean of the baseline's values
    mean: float = math.nan  # ours - theirs
    low: float = math.nan  # lower end of its 95% interval
    high: float = math.nan  # upper end
    p: float = math.nan  # two-sided p-value for no difference
    adjusted: float = math.nan  # p corrected for all that is tested, to compare with LEVEL; `verdicts` sets it
    seeds: int = 0  # the smaller number of seeds of the two; 0: one of them has no value
    repeated: bool = False  # whether the interval covers the variance from training to training

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


class Trainings(NamedTuple):
    """The trainings of one point in one metric."""

    values: Tensor  # (S,) float64, of the seeds that have a value
    resamples: Tensor  # (S, R) float64


class Moments(NamedTuple):
    """How much the trainings of one point vary: S, v and c of the module's formulas; v = c = 0 for one seed."""

    seeds: int
    variance: float
    documents: float

    @property
    def fixed(self) -> bool:
        """Whether several trainings are all the same, because the model has no randomness."""
        return self.seeds > 1 and max(self.variance, self.documents) <= ROUNDING**2


class Spread(NamedTuple):
    """The variance of a difference from training to training."""

    variance: float  # of the difference of two means over seeds
    documents: float  # the part of it that the documents add
    freedom: float  # degrees of freedom of `variance`; 0: no point has two seeds that differ


def compare_outcomes(
    points: Mapping[str, Sequence[Outcome]],
    baseline: str,
    metric: str,
    *,
    units: float = math.inf,
    earlier: Sequence[Sequence[Outcome]] = (),
) -> dict[str, Difference]:
    """Return the difference of each point from the baseline in one metric; the baseline's own is 0.

    With X(r) the difference of the two means over seeds in resample r, n the units, and v, c and f of the difference
    from `spread_of`:

        SE^2 = D + max(0, v - c)    with D = Var_r(X(r))
        nu   = (D + max(0, w - c))^2 / (D^2 / (n - 1)  +  w^2 / f, the last term if w > c)    with w = v (1 + 2 / f)
        low, high = mean -+ t(0.975, nu) SE;  p = P(|t_nu| >= |mean| / SE)

    Satterthwaite's nu has v in place of w. If v is small by chance, SE and the last term are then too small at the same
    time, so that with two or three seeds an interval covers as little as 92% or 93%. 2 / f is the relative variance of
    v. If SE is 0, p is 1: a difference that is equal in every resample is no evidence. If no point has two seeds, v = c
    = 0: the interval is of these trainings, not of their settings.

    Args:
        points: name -> its outcomes, one per seed. A seed without a value is left out.
        baseline: name of a point.
        metric: a key of `values` and `resamples`.
        units: documents, groups of documents or users that were resampled.
        earlier: outcomes of further points on the same data, which show how much trainings vary.

    Raises:
        DataError: the outcomes do not share their resamples.

    Source: Satterthwaite 1946, equation 17; w from simulation, benchmarks/verdict_calibration.py.
    """
    trainings = {name: _trainings(outcomes, metric) for name, outcomes in points.items()}
    others = [_trainings(outcomes, metric) for outcomes in earlier]
    _check_resamples([*trainings.values(), *others], metric)
    known = {name: each for name, each in trainings.items() if len(each.values)}
    if baseline not in known:
        return dict.fromkeys(points, Difference())
    names, theirs = list(known), known[baseline]
    moments = [_moments(each) for each in (*known.values(), *others) if len(each.values)]
    differences = {
        name: _difference(ours, theirs, spread_of(moments, names.index(name), names.index(baseline)), units)
        for name, ours in known.items()
        if name != baseline
    }
    mean = float(theirs.values.mean())
    own = Difference(mean, mean, 0.0, 0.0, 0.0, p=1.0, seeds=len(theirs.values))
    return {name: own if name == baseline else differences.get(name, Difference()) for name in points}


def spread_of(moments: Sequence[Moments], point: int, baseline: int) -> Spread:
    """Return the variance of the difference between two points from training to training.

    Few seeds say little about their own variance, and some points agree by chance. So the variance of a point is

        (PRIOR * mean over all points + (S - 1) * its own) / (PRIOR + S - 1)

    where the mean has the weights S - 1. The variance of the difference is the sum over both points, each divided by
    its S. With c_q the coefficient of point q's own variance in this sum, f = (sum c_q)^2 / sum(c_q^2 / (S_q - 1)).
    Points without randomness, such as `popularity`, have variance 0 and are left out of the mean. The seeds are not
    paired: trainings that share a seed are hardly more alike than others.

    Args:
        moments: of all points.
        point: place of a point among them.
        baseline: place of another.

    Source: Smyth 2004, Linear Models and Empirical Bayes Methods (variances shrunk towards their mean). There the
    weight of the mean is estimated too, which a handful of points is too few for.
    """
    counts = np.array([each.seeds for each in moments])
    freedom = np.array([0.0 if each.fixed else each.seeds - 1.0 for each in moments])
    if freedom.sum() == 0:
        return Spread(0.0, 0.0, 0.0)
    share = np.zeros(len(moments))
    for place in (point, baseline):
        if not moments[place].fixed:
            own = freedom[place] / (PRIOR + freedom[place])
            share += (1 - own) * freedom / freedom.sum() / counts[place]
            share[place] += own / counts[place]
    if not share.any():
        return Spread(0.0, 0.0, 0.0)
    several = freedom > 0
    freedom_of_sum = share.sum() ** 2 / (share[several] ** 2 / freedom[several]).sum()
    variance, documents = (share @ np.array([each[1:] for each in moments])).tolist()
    return Spread(variance, documents, float(freedom_of_sum))


def _trainings(outcomes: Sequence[Outcome], metric: str) -> Trainings:
    known = [outcome for outcome in outcomes if math.isfinite(outcome.values.get(metric, math.nan))]
    missing = [outcome.seed for outcome in known if metric not in outcome.resamples]
    if missing:
        raise DataError(
            f"'{metric}', seed {missing[0]}: has a value and no resamples. Compute both from the same documents"
        )
    values = torch.tensor([outcome.values[metric] for outcome in known], dtype=torch.float64)
    resamples = [outcome.resamples[metric].double() for outcome in known]
    if len({each.shape for each in resamples}) > 1:
        raise DataError(f"'{metric}': its seeds have resamples of different shapes. Expected the same (R,)")
    return Trainings(values, torch.stack(resamples) if resamples else torch.empty(0, 0))


def _check_resamples(trainings: Sequence[Trainings], metric: str) -> None:
    shapes = {tuple(each.resamples.shape[1:]) for each in trainings if len(each.values)}
    if len(shapes) > 1 or any(len(shape) != 1 for shape in shapes):
        raise DataError(f"'{metric}': resamples of {' and '.join(map(str, sorted(shapes)))}. Expected the same (R,)")


def _moments(trainings: Trainings) -> Moments:
    seeds = len(trainings.values)
    if seeds < 2:
        return Moments(seeds, 0.0, 0.0)
    known = trainings.resamples[:, trainings.resamples.isfinite().all(0)]
    inside = float((known - known.mean(0)).var(1).sum()) / (seeds - 1) if known.shape[1] > 1 else 0.0
    return Moments(seeds, float(trainings.values.var()), inside)


def _difference(ours: Trainings, theirs: Trainings, spread: Spread, units: float) -> Difference:
    resampled = ours.resamples.mean(0) - theirs.resamples.mean(0)
    known = resampled[resampled.isfinite()]  # the metric is defined there
    of_documents = known.var().item() if len(known) > 1 else math.nan
    error = math.sqrt(of_documents + max(0.0, spread.variance - spread.documents))
    our_mean, their_mean = float(ours.values.mean()), float(theirs.values.mean())
    freedom = _freedom(of_documents, spread, units)
    seeds = min(len(ours.values), len(theirs.values))
    student = _student(our_mean - their_mean, error, freedom)
    return Difference(our_mean, their_mean, *student, seeds=seeds, repeated=spread.freedom > 0 or seeds > 1)


def _freedom(of_documents: float, spread: Spread, units: float) -> float:
    """Return nu of `compare_outcomes`."""
    unsure, whole = of_documents**2 / max(1.0, units - 1), of_documents
    if spread.freedom > 0:
        cautious = spread.variance * (1 + 2 / spread.freedom)
        if cautious > spread.documents:
            unsure += cautious**2 / spread.freedom
            whole += cautious - spread.documents
    return whole**2 / unsure if unsure > 0 else math.inf


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
