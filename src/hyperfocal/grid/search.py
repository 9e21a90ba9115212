"""A grid from the data to the winner: points run, and compared on validation data."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from hyperfocal.config.rules import flat_settings
from hyperfocal.config.sections import Section
from hyperfocal.errors import ConfigError, RunError, did_you_mean
from hyperfocal.grid.adaptive import BASELINE, Range, check_ranges, search_points
from hyperfocal.grid.job import Material, Source, why_untold
from hyperfocal.grid.local import GridWatch, Train, check_workers, run_points
from hyperfocal.grid.points import Point, baseline_name
from hyperfocal.grid.store import Result, Store, keep_plan, outcomes
from hyperfocal.machine import allowed_threads, count_cores
from hyperfocal.metrics.verdict import Verdict, verdicts
from hyperfocal.storage.run_folder import CONFIG, DATA

STORE = "grid.sqlite"
WINNER_BY = "tuned.macro_f1"


@dataclass(frozen=True, eq=False)
class GridResult:
    """What a grid found on the validation data.

    Attributes:
        results: name -> what its seeds reached, in the order of the seeds; failed ones apart.
        failed: points that failed.
        verdicts: name -> how it differs from the baseline.
        baseline: the point that the others are compared with.
        winner: the best by the mean over seeds of `by`, among those with as many seeds as any other.
        by: the metric that chose it.
        material: what the points share; Any, for each job has its own.
        points: of the grid.
        store: of the results.
    """

    results: dict[str, list[Result]]
    failed: list[Result]
    verdicts: dict[str, Verdict]
    baseline: str
    winner: str
    by: str
    material: Any
    points: Sequence[Point]
    store: Store


@dataclass(frozen=True, eq=False)
class GridJob:
    """What a grid or a search works on, and how.

    Attributes:
        source: of the data.
        base: settings that the points share; its seed splits.
        out: folder of the store.
        watch: told what happens.
        workers: processes.
        threads: CPU threads of each; 0 takes those of the base settings, but no more than its share of the cores.
        by: metric that chooses the winner.
        retry: whether points that failed before are tried again.
        train: trains points elsewhere, in place of `workers` processes here; then `threads` have to be given.
    """

    source: Source
    base: Section
    out: Path
    watch: GridWatch
    workers: int = 1
    threads: int = 0
    by: str = WINNER_BY
    retry: bool = False
    train: Train | None = None

    def run(self, material: Material, points: Sequence[Point], store: Store) -> None:
        """Train what is missing of the points; errors as in `run_points`."""
        workers, retry = min(self.workers, len(points) or 1), self.retry
        run_points(material, points, store, self.watch, workers=workers, retry=retry, train=self.train)

    def prepare(self, points: Sequence[Point]) -> tuple[Material, Store]:
        """Return what the points share, and the store.

        Raises:
            ConfigError: `by` is no metric that grows better; or as in `check_workers` and in `prepare` of the source.
            DataError, LeakError: as in `prepare` of the source.
            RunError: `out` holds a run of `fit`; or as in `Store.open`.
        """
        check_metric(self.by, self.source.metrics(self.base))
        _refuse_run(self.out)
        material = self.source.prepare(points, self.base, self.threads or self._share())
        path, about = self.out / STORE, material.about()
        return material, Store.open(path, fingerprint=material.fingerprint(), settings=self.base, about=about)

    def _share(self) -> int:
        share = min(check_workers(self.workers, count_cores()), allowed_threads())
        return min(flat_settings(self.base)["train.threads"] or share, share)


def _refuse_run(out: Path) -> None:
    """Raise RunError if the folder holds a run: its files and those of the grid would mix."""
    if (out / CONFIG).is_file() and (out / DATA).is_file():
        raise RunError(f"grid {out}: it holds a run, as `fit` writes it ({CONFIG}, {DATA}). Choose another --out")


def check_metric(by: str, allowed: Sequence[str]) -> None:
    """Raise ConfigError unless a metric is one of those that may choose."""
    if by not in allowed:
        hint = did_you_mean(by, list(allowed))
        raise ConfigError(f"--by {by}: no metric that chooses a winner.{hint} Allowed: {', '.join(allowed)}")


def run_grid(job: GridJob, points: Sequence[Point], baseline: str) -> GridResult:
    """Train what is missing of a grid, and compare all of it on the validation data.

    Args:
        job: data, store, workers.
        points: of the grid.
        baseline: name of a point.

    Raises:
        DataError, LeakError, ConfigError: as in `GridJob.prepare`; `baseline` is no point.
        RunError: `out` holds a grid of other data or settings; a damaged store; no result for any point, for the
            baseline, or in the metric that chooses.
        KeyboardInterrupt: Ctrl-C; the same call goes on from there.
    """
    baseline_name(list(points), baseline)
    material, store = job.prepare(points)
    keep_plan(job.out, points, baseline, job.by, store.fingerprint)
    job.run(material, points, store)
    return _compare(material, points, store, baseline, job.by)


def run_search(job: GridJob, ranges: Mapping[str, Range], trials: int) -> GridResult:
    """Let optuna propose points, the base settings being the baseline; else as `run_grid`."""
    check_ranges(ranges, job.base)
    if trials < 1:
        raise ConfigError(f"--trials {trials} is not allowed. Expected 1 or more")
    material, store = job.prepare([Point(BASELINE, flat_settings(job.base)["seed"], job.base)])

    planned: list[Point] = []

    def run(points: list[Point], unproposed: int) -> Store:
        planned.extend(points)
        keep_plan(job.out, planned, BASELINE, job.by, store.fingerprint, unproposed=unproposed)
        job.run(material, points, store)
        return store

    points = search_points(job.base, ranges, trials, run, job.by)
    return _compare(material, points, store, BASELINE, job.by)


def _compare(material: Material, points: Sequence[Point], store: Store, baseline: str, by: str) -> GridResult:
    names = {point.key(store.fingerprint): point.name for point in points}  # another grid may have named it otherwise
    found = [replace(result, name=names[result.key]) for result in store.results() if result.key in names]
    done = sorted((result for result in found if result.done), key=lambda result: result.seed)
    failed = [result for result in found if not result.done]
    if not done:
        reason = f": {failed[0].error}" if failed else ", or another process is still at them"
        raise RunError(f"grid {store.path.parent}: no point has a result; all {len(failed)} failed{reason}")
    results = {point.name: [result for result in done if result.name == point.name] for point in points}
    results = {name: rows for name, rows in results.items() if rows}
    if baseline not in results:
        raise RunError(
            f"grid {store.path.parent}: the baseline {baseline} has no result, so nothing can be compared. "
            "Run it again with --retry, or choose another with --baseline"
        )
    untold = why_untold(material.about())
    found_verdicts = verdicts(outcomes(done), baseline, material.families, too_few=untold)
    winner = choose_winner(results, by)
    return GridResult(results, failed, found_verdicts, baseline, winner, by, material, points, store)


def choose_winner(results: dict[str, list[Result]], by: str) -> str:
    """Return the first of the best; a point that lost a seed does not compete, for it could win by that."""
    most = max(map(len, results.values()))
    means = {
        name: sum(row.values.get(by, math.nan) for row in rows) / most
        for name, rows in results.items()
        if len(rows) == most
    }
    known = {name: mean for name, mean in means.items() if not math.isnan(mean)}
    if not known:
        raise RunError(f"--by {by}: no point has a value on these validation data. Choose by another metric")
    return max(known, key=lambda name: known[name])
