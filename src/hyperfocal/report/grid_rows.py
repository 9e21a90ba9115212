"""A row a point of a grid, over its seeds: what the printed table and the files show."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from hyperfocal.metrics.paired import Difference
from hyperfocal.metrics.verdict import Verdict

BY = "tuned.macro_f1"


class Ended(Protocol):
    """What the table reads of a `grid.store.Result`."""

    @property
    def name(self) -> str:
        """Of the point."""

    @property
    def seed(self) -> int:
        """Of the training."""

    @property
    def error(self) -> str:
        """Why it failed, or ""."""

    @property
    def values(self) -> dict[str, float]:
        """Metric -> number."""

    @property
    def seconds(self) -> float:
        """That it took."""


@dataclass(frozen=True)
class Row:
    """One point of a grid, over its seeds.

    Attributes:
        configuration: the point's name.
        winner: whether it is the one that was chosen.
        baseline: whether it is the one that the others are compared with.
        seeds: how many of its trainings are done.
        errors: seed -> why that training failed.
        means: metric -> mean over the done seeds; nan where a seed has none.
        spreads: metric -> standard deviation over the done seeds; nan with fewer than two.
        seconds: mean of a done training; nan without one.
        verdict: against the baseline; None where there is none, as for a point that failed.
    """

    configuration: str
    winner: bool
    baseline: bool
    seeds: int
    errors: dict[int, str]
    means: dict[str, float]
    spreads: dict[str, float]
    seconds: float
    verdict: Verdict | None

    @property
    def words(self) -> str:
        """The verdict in a few words."""
        return self.verdict.words if self.verdict else "not compared" if self.seeds else "failed"

    def change(self, metric: str) -> Difference:
        """Return the difference from the baseline; all nan where it is not known."""
        return self.verdict.differences.get(metric, Difference()) if self.verdict else Difference()


def grid_rows(
    results: Mapping[str, Sequence[Ended]],
    failed: Sequence[Ended],
    verdicts: Mapping[str, Verdict],
    baseline: str,
    winner: str,
    *,
    by: str = BY,
) -> list[Row]:
    """Return a row a point: best first, then those without a value, those of which nothing is done last.

    Args:
        results: name -> what is done, one a seed.
        failed: what failed, of the same points or of others.
        verdicts: from `metrics.verdict.verdicts`.
        baseline: name of the point that the others are compared with.
        winner: name of the point that was chosen.
        by: the metric that puts them in order.
    """
    ended = {name: list(done) for name, done in results.items()}
    for each in failed:
        ended.setdefault(each.name, []).append(each)
    rows = [
        _row(name, found, verdicts.get(name), winner=name == winner, baseline=name == baseline)
        for name, found in ended.items()
    ]
    return sorted(rows, key=lambda row: _place(row, by))


def _place(row: Row, by: str) -> tuple[bool, bool, float]:
    mean = row.means.get(by, math.nan)
    return not row.seeds, math.isnan(mean), 0.0 if math.isnan(mean) else -mean


def _row(name: str, ended: Sequence[Ended], verdict: Verdict | None, *, winner: bool, baseline: bool) -> Row:
    done = _done(ended)
    metrics = list(done[0].values) if done else []
    errors = {each.seed: each.error for each in ended if each.error}
    means = {metric: _mean(done, metric) for metric in metrics}
    several = len(done) > 1
    spreads = {metric: float(np.std(_values(done, metric), ddof=1)) if several else math.nan for metric in metrics}
    seconds = sum(each.seconds for each in done) / len(done) if done else math.nan
    return Row(name, winner, baseline, len(done), errors, means, spreads, seconds, verdict)


def _done(ended: Sequence[Ended]) -> list[Ended]:
    return [each for each in ended if not each.error]


def _values(done: Sequence[Ended], metric: str) -> list[float]:
    return [each.values.get(metric, math.nan) for each in done]


def _mean(done: Sequence[Ended], metric: str) -> float:
    return sum(_values(done, metric)) / len(done)
