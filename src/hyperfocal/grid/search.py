"""A grid from the data to the winner: train its points, and compare them on validation data."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from hyperfocal.config.recipes import flat_settings
from hyperfocal.config.sections import Section
from hyperfocal.errors import ConfigError, RunError, did_you_mean
from hyperfocal.grid.adaptive import BASELINE, Range, check_ranges, search_points
from hyperfocal.grid.job import Prepared, Source, units_of, why_too_few
from hyperfocal.grid.points import Point, baseline_name
from hyperfocal.grid.pool import Pool, run_points
from hyperfocal.grid.store import Result, Store, earlier_outcomes, outcomes, write_plan
from hyperfocal.metrics.differences import Outcome
from hyperfocal.metrics.verdict import Families, Verdict, verdicts
from hyperfocal.storage.lock import FolderLock
from hyperfocal.storage.run_folder import CONFIG, DATA
from hyperfocal.training.watch import Watch

STORE = "grid.sqlite"
PATIENCE_SECONDS = 10.0  # to wait for other processes that open the same grid
WINNER_BY = "tuned.macro_f1"


@dataclass(frozen=True, eq=False)
class GridResult:
    """The results of a grid on the validation data."""

    results: dict[str, list[Result]]  # name -> results of its seeds that are done, by seed
    failed: list[Result]
    verdicts: dict[str, Verdict]  # name -> how it differs from the baseline
    baseline: str  # name of the point that the others are compared with
    winner: str  # the best by the mean of `by` over seeds, among the points that have the most seeds
    by: str  # the metric that chose it
    prepared: Any  # what the points share; each job has its own
    points: Sequence[Point]  # of the grid
    store: Store


@dataclass(frozen=True, eq=False)
class GridJob:
    """The task of a grid or a search."""

    source: Source  # of the data
    base: Section  # settings that the points share; its seed splits the data
    out: Path  # folder of the store
    watch: Watch  # called as the grid proceeds
    pool: Pool  # trains the points
    by: str = WINNER_BY  # metric that chooses the winner
    retry: bool = False  # whether points that failed before are trained again

    def prepare(self, points: Sequence[Point]) -> tuple[Prepared, Store]:
        """Return what the points share, and the store.

        Raises:
            ConfigError: `by` is no metric that may choose a winner; or as in `prepare` of the source.
            DataError, LeakError: as in `prepare` of the source.
            RunError: `out` holds a run of `fit`; or as in `Store.open`.
        """
        check_metric(self.by, self.source.metrics(self.base))
        _refuse_run(self.out)
        threads = self.pool.threads(flat_settings(self.base)["train.threads"])
        prepared = self.source.prepare(points, self.base, threads, self.watch)
        path, about = self.out / STORE, prepared.about()
        with FolderLock(Path(os.path.realpath(self.out)), PATIENCE_SECONDS):  # a `fit` holds it much longer
            _refuse_run(self.out)
            store = Store.open(path, fingerprint=prepared.fingerprint(), settings=self.base, about=about)
        return prepared, store

    def run(self, prepared: Prepared, points: Sequence[Point], store: Store) -> None:
        """Train the points that are not done; errors as in `run_points`."""
        run_points(prepared, points, store, self.watch, self.pool, retry=self.retry)


def _refuse_run(out: Path) -> None:
    """Raise RunError if the folder holds a run, whose files would mix with those of the grid."""
    if (out / CONFIG).is_file() and (out / DATA).is_file():
        raise RunError(f"grid {out}: holds a run of `fit` ({CONFIG}, {DATA}). Choose another --out")


def check_metric(by: str, allowed: Sequence[str]) -> None:
    """Raise ConfigError unless a metric is one of those that may choose a winner."""
    if by not in allowed:
        hint = did_you_mean(by, list(allowed))
        raise ConfigError(f"--by {by}: no metric that chooses a winner.{hint} Allowed: {', '.join(allowed)}")


def run_grid(job: GridJob, points: Sequence[Point], baseline: str) -> GridResult:
    """Train the points of a grid that are not done, and compare all of them on the validation data.

    Args:
        job: data, store, pool.
        points: of the grid.
        baseline: name of a point.

    Raises:
        DataError, LeakError, ConfigError: as in `GridJob.prepare`; `baseline` is no point.
        RunError: `out` holds a grid of other data or settings; a damaged store; no result for any point, for the
            baseline, or in the metric that chooses.
        KeyboardInterrupt: Ctrl-C; the same call continues the grid.
    """
    baseline_name(list(points), baseline)
    prepared, store = job.prepare(points)
    write_plan(job.out, points, baseline, job.by, store.fingerprint)
    job.run(prepared, points, store)
    return _compare(prepared, points, store, baseline, job.by)


def run_search(job: GridJob, ranges: Mapping[str, Range], trials: int) -> GridResult:
    """Train points that optuna proposes, and compare them with the base settings; otherwise like `run_grid`."""
    check_ranges(ranges, job.base)
    if trials < 1:
        raise ConfigError(f"--trials {trials} is not allowed. Expected 1 or more")
    prepared, store = job.prepare([Point(BASELINE, flat_settings(job.base)["seed"], job.base)])
    planned: list[Point] = []

    def run(points: list[Point], unproposed: int) -> Store:
        planned.extend(points)
        write_plan(job.out, planned, BASELINE, job.by, store.fingerprint, unproposed=unproposed)
        job.run(prepared, points, store)
        return store

    points = search_points(job.base, ranges, trials, run, job.by)
    return _compare(prepared, points, store, BASELINE, job.by)


def _compare(prepared: Prepared, points: Sequence[Point], store: Store, baseline: str, by: str) -> GridResult:
    names = {point.key(store.fingerprint): point.name for point in points}  # another grid may have named it otherwise
    everything = store.results()
    ended = [replace(result, name=names[result.key]) for result in everything if result.key in names]
    done = sorted((result for result in ended if result.done), key=lambda result: result.seed)
    failed = [result for result in ended if not result.done]
    if not done:
        reason = f": {failed[0].error}" if failed else ", or another process is still at them"
        raise RunError(f"grid {store.path.parent}: no point has a result; all {len(failed)} failed{reason}")
    results = {point.name: [result for result in done if result.name == point.name] for point in points}
    results = {name: rows for name, rows in results.items() if rows}
    if baseline not in results:
        raise RunError(
            f"grid {store.path.parent}: the baseline {baseline} has no result to compare with. "
            "Run it again with --retry, or choose another with --baseline"
        )
    others = earlier_outcomes(everything, names)
    compared = compare(outcomes(done), baseline, prepared.families, by, about=prepared.about(), earlier=others)
    return GridResult(results, failed, compared, baseline, choose_winner(results, by), by, prepared, points, store)


def compare(
    points: Mapping[str, Sequence[Outcome]],
    baseline: str,
    families: Families,
    by: str,
    *,
    about: Mapping[str, Any],
    earlier: Sequence[Sequence[Outcome]],
) -> dict[str, Verdict]:
    """Return the verdict on each point.

    Args:
        points: name -> its outcomes.
        baseline: name of a point.
        families: metrics of the job.
        by: the metric that chooses the winner. It decides the verdicts too, if it is resampled on enough data.
        about: description of the data.
        earlier: outcomes of points that earlier commands trained on the same data.
    """
    resamples = [outcome.resamples.get(by) for each in points.values() for outcome in each]
    if all(each is not None and bool(each.isfinite().any()) for each in resamples):
        families = families.decided_by(by)
    return verdicts(
        points,
        baseline,
        families,
        units=units_of(about),
        earlier=earlier,
        too_few=why_too_few(about),
    )


def choose_winner(results: dict[str, list[Result]], by: str) -> str:
    """Return the name with the best mean; a point that lost a seed does not compete, because that could help it."""
    most = max(map(len, results.values()))
    means = {
        name: sum(row.values.get(by, math.nan) for row in rows) / most
        for name, rows in results.items()
        if len(rows) == most
    }
    known = {name: mean for name, mean in means.items() if not math.isnan(mean)}
    if not known:
        raise RunError(f"--by {by}: no point has a value on these validation data. Choose another metric")
    return max(known, key=lambda name: known[name])
