"""A grid from the documents to the winner: points run, and compared on validation documents."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from hyperfocal.config.classify import ClassifySettings
from hyperfocal.errors import ConfigError, RunError, did_you_mean
from hyperfocal.grid.adaptive import BASELINE, Range, check_ranges, search_points
from hyperfocal.grid.local import GridWatch, run_points
from hyperfocal.grid.points import Point, baseline_name
from hyperfocal.grid.results import Result, outcomes
from hyperfocal.grid.store import Store
from hyperfocal.grid.training import Material, check_test, check_workers, prepare_grid
from hyperfocal.labels import SparseLabels
from hyperfocal.metrics.verdict import Verdict, verdicts
from hyperfocal.runs import CONFIG, DATA
from hyperfocal.tasks.documents import as_documents, prepare_texts
from hyperfocal.tasks.label_scores import score_labels
from hyperfocal.train import count_cores

STORE = "grid.sqlite"
WINNER_BY = "tuned.macro_f1"
NOT_BETTER = ("calibration_error", "labels_per_document", "labels_without_truth")  # where more is not better


@dataclass(frozen=True, eq=False)
class GridResult:
    """What a grid found on the validation documents.

    Attributes:
        results: name -> what its seeds reached, in the order of the seeds; failed ones apart.
        failed: points that failed.
        verdicts: name -> how it differs from the baseline.
        baseline: the point that the others are compared with.
        winner: the best by the mean over seeds of `by`, among those with as many seeds as any other.
        by: the metric that chose it.
        material: documents and features.
        points: of the grid.
    """

    results: dict[str, list[Result]]
    failed: list[Result]
    verdicts: dict[str, Verdict]
    baseline: str
    winner: str
    by: str
    material: Material
    points: Sequence[Point]


@dataclass(frozen=True, eq=False)
class GridJob:
    """What a grid or a search works on, and how.

    Attributes:
        train: documents: a path, a frame or Documents.
        valid: the same, or None to hold some out.
        base: settings that the points share; its seed splits.
        out: folder of the store.
        cache: folder of the features.
        watch: told what happens.
        workers: processes.
        threads: CPU threads of each; 0 takes those of the base settings, but no more than its share of the cores.
        by: metric that chooses the winner.
        retry: whether points that failed before are tried again.
        watch_encoding: called with (texts encoded, texts in all).
        test: documents that will be scored at the end, looked at before the first point trains; or None.
    """

    train: Any
    valid: Any
    base: ClassifySettings
    out: Path
    cache: Path
    watch: GridWatch
    workers: int = 1
    threads: int = 0
    by: str = WINNER_BY
    retry: bool = False
    watch_encoding: Callable[[int, int], None] = lambda *_: None
    test: Any = None

    def prepare(self, points: Sequence[Point]) -> tuple[Material, Store]:
        """Return the documents and features that the points need, and the store.

        Raises:
            ConfigError: `by` is no metric that grows better; or as in `check_workers` and `prepare_grid`.
            DataError, LeakError: as in `prepare_texts` and `check_test`.
            RunError: `out` holds a run of `fit`; or as in `Store.open`.
        """
        check_metric(self.by)
        _refuse_run(self.out)
        threads = self.threads or self._share()
        data = prepare_texts(self.train, self.valid, self.base)
        if self.test is not None:
            check_test(data, as_documents(self.test, self.base.data), self.base.data)
        material = prepare_grid(data, points, self.base, cache=self.cache, threads=threads, watch=self.watch_encoding)
        about = material.data.counts()
        kept = {"documents": about["train"]["documents"], "labels": about["labels"]}
        path = self.out / STORE
        return material, Store.open(path, fingerprint=material.fingerprint(), settings=self.base, about=kept)

    def _share(self) -> int:
        share = check_workers(self.workers, count_cores())
        return min(self.base.train.threads or share, share)


def _refuse_run(out: Path) -> None:
    """Raise RunError if the folder holds a run: its files and those of the grid would mix."""
    if (out / CONFIG).is_file() and (out / DATA).is_file():
        raise RunError(f"grid {out}: it holds a run, as `fit` writes it ({CONFIG}, {DATA}). Choose another --out")


def check_metric(by: str) -> None:
    """Raise ConfigError unless trainings are scored by this metric, and more of it is better."""
    few = SparseLabels.from_lists([[0], [], []], num_labels=1)
    values, _ = score_labels(torch.zeros(3, 1), few, {"half": few, "tuned": few}, few.counts(), len(few))
    allowed = [name for name in values if name.split(".")[-1] not in NOT_BETTER]
    if by not in allowed:
        raise ConfigError(
            f"--by {by}: no metric that chooses a winner.{did_you_mean(by, allowed)} Allowed: {', '.join(allowed)}"
        )


def run_grid(job: GridJob, points: Sequence[Point], baseline: str) -> GridResult:
    """Train what is missing of a grid, and compare all of it on the validation documents.

    Args:
        job: documents, store, workers.
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
    run_points(material, points, store, job.watch, workers=job.workers, retry=job.retry)
    return _compare(material, points, store, baseline, job.by)


def run_search(job: GridJob, ranges: Mapping[str, Range], trials: int) -> GridResult:
    """Let optuna propose points, the base settings being the baseline; else as `run_grid`."""
    check_ranges(ranges, job.base)
    if trials < 1:
        raise ConfigError(f"--trials {trials} is not allowed. Expected 1 or more")
    material, store = job.prepare([Point(BASELINE, job.base.seed, job.base)])

    def run(points: list[Point]) -> Store:
        run_points(material, points, store, job.watch, workers=min(job.workers, len(points) or 1), retry=job.retry)
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
    if len(found) < len(names):
        raise RunError(
            f"grid {store.path.parent}: {len(names) - len(found)} of {len(names)} points are with another process. "
            "Give the same command again when that has ended: a winner is chosen among all"
        )
    found_verdicts = verdicts(outcomes(done), baseline)
    return GridResult(results, failed, found_verdicts, baseline, _winner(results, by), by, material, points)


def _winner(results: dict[str, list[Result]], by: str) -> str:
    """Return the first of the best; a point that lost a seed does not compete, for it could win by that."""
    most = max(map(len, results.values()))
    means = {name: sum(row.values[by] for row in rows) / most for name, rows in results.items() if len(rows) == most}
    known = {name: mean for name, mean in means.items() if not math.isnan(mean)}
    if not known:
        raise RunError(f"--by {by}: no point has a value on these documents. Choose by another metric")
    return max(known, key=lambda name: known[name])
