"""A grid from the documents to the winner: points run, compared on validation, the winner scored on test once."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from hyperfocal.cache import hash_of
from hyperfocal.config.classify import ClassifySettings
from hyperfocal.errors import RunError
from hyperfocal.grid.adaptive import BASELINE, Range, check_ranges, search_points
from hyperfocal.grid.local import GridWatch, run_points
from hyperfocal.grid.points import Point, flatten
from hyperfocal.grid.store import Result, Store, outcomes
from hyperfocal.grid.training import Material, prepare_grid
from hyperfocal.metrics.verdict import Verdict, verdicts
from hyperfocal.runs import RunFolder
from hyperfocal.tasks.classify import MultiLabelClassifier
from hyperfocal.tasks.documents import as_documents

STORE = "grid.sqlite"
TEST = "test.json"
WINNER_BY = "tuned.macro_f1"


@dataclass(frozen=True, eq=False)
class GridResult:
    """What a grid found on the validation documents.

    Attributes:
        results: name -> what its seeds reached, in the order of the seeds; failed ones apart.
        failed: points that failed.
        verdicts: name -> how it differs from the baseline.
        baseline: the point that the others are compared with.
        winner: the best by the mean over seeds of `by`.
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
        threads: CPU threads of each; 0 is one a core.
        by: metric that chooses the winner.
        retry: whether points that failed before are tried again.
        watch_encoding: called with (texts encoded, texts in all).
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

    def prepare(self, points: Sequence[Point]) -> tuple[Material, Store]:
        """Return the documents and features that the points need, and the store."""
        material = prepare_grid(
            self.train, self.valid, points, self.base, cache=self.cache, threads=self.threads, watch=self.watch_encoding
        )
        about = material.data.counts()
        kept = {"documents": about["train"]["documents"], "labels": about["labels"]}
        path = self.out / STORE
        return material, Store.open(path, fingerprint=material.fingerprint(), settings=self.base, about=kept)


def run_grid(job: GridJob, points: Sequence[Point], baseline: str) -> GridResult:
    """Train what is missing of a grid, and compare all of it on the validation documents.

    Args:
        job: documents, store, workers.
        points: of the grid.
        baseline: name of a point.

    Raises:
        DataError, LeakError, ConfigError: as in `prepare_grid`.
        RunError: `out` holds a grid of other data or settings; a damaged store; every point failed.
        KeyboardInterrupt: Ctrl-C; the same call goes on from there.
    """
    material, store = job.prepare(points)
    run_points(material, points, store, job.watch, workers=job.workers, retry=job.retry)
    return _compare(material, points, store, baseline, job.by)


def run_search(job: GridJob, ranges: Mapping[str, Range], trials: int) -> GridResult:
    """Let optuna propose points, the base settings being the baseline; else as `run_grid`."""
    check_ranges(ranges, job.base)
    material, store = job.prepare([Point(BASELINE, job.base.seed, job.base)])

    def run(points: list[Point]) -> Store:
        run_points(material, points, store, job.watch, workers=min(job.workers, len(points) or 1), retry=job.retry)
        return store

    points = search_points(job.base, ranges, trials, run, job.by)
    return _compare(material, points, store, BASELINE, job.by)


def _compare(material: Material, points: Sequence[Point], store: Store, baseline: str, by: str) -> GridResult:
    keys = {point.key(store.fingerprint) for point in points}
    found = [result for result in store.results() if result.key in keys]
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
    winner = max(results, key=lambda name: sum(row.values[by] for row in results[name]) / len(results[name]))
    found_verdicts = verdicts(outcomes(done), baseline)
    return GridResult(results, failed, found_verdicts, baseline, winner, by, material, points)


def keep_winner(result: GridResult, out: Path) -> dict[str, MultiLabelClassifier]:
    """Return the classifiers of winner and baseline, fitted with the first seed and kept as runs in `out`.

    Their folders, `winner` and `baseline`, are for `predict` and `evaluate` as those of `fit`.
    """
    chosen = {"winner": result.winner, "baseline": result.baseline}
    return {role: _fitted(result, name, out / role) for role, name in chosen.items()}


def _fitted(result: GridResult, name: str, folder: Path) -> MultiLabelClassifier:
    point = next(point for point in result.points if point.name == name)
    settings = flatten(msgspec.to_builtins(point.settings))
    if (folder / "model.safetensors").is_file():
        kept = MultiLabelClassifier.load(folder)
        same = flatten(msgspec.to_builtins(kept.settings_)) == settings
        if same and kept.fingerprint_ == result.material.data.fingerprint():
            return kept
    classifier = MultiLabelClassifier(settings=settings)
    classifier.fit_prepared(result.material.data, out=folder, overwrite=True, cache=result.material.cache)
    return classifier


def score_test(result: GridResult, out: Path, test: Any) -> dict[str, Any]:
    """Return the scores on test documents of winner and baseline, once: later calls give what was kept.

    Raises:
        RunError: `out` has kept scores of another winner, or on other documents: test is not for choosing.
        DataError: the documents cannot be read.
    """
    fitted = keep_winner(result, out)
    documents = as_documents(test, fitted["winner"].settings_.data)
    identity = {
        "winner": result.winner,
        "baseline": result.baseline,
        "data": hash_of(result.material.fingerprint(), documents.texts.to_list(), documents.labels.to_list()),
    }
    path = out / TEST
    if path.is_file():
        kept: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if kept["of"] == identity:
            return kept
        raise RunError(
            f"{path}: test was scored already, for {kept['of']['winner']} against {kept['of']['baseline']}. Scoring "
            f"it again for {result.winner} would choose on test. Remove this file if that is what you want"
        )
    scores = {role: _without_labels(classifier.evaluate(documents)) for role, classifier in fitted.items()}
    found = {"of": identity, **scores}
    RunFolder(out).write_json(TEST, found)
    return found


def _without_labels(metrics: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in metrics.items() if name != "labels"}
