"""The end of a grid: fit winner and baseline as runs, and score them on test data once."""

from __future__ import annotations

import shutil
from functools import partial
from pathlib import Path
from typing import Any

from hyperfocal.config.recipes import flat_settings
from hyperfocal.errors import RunError
from hyperfocal.grid.points import Point
from hyperfocal.grid.search import PATIENCE_SECONDS, GridResult
from hyperfocal.storage.lock import LOCK
from hyperfocal.storage.run_folder import MANIFEST, MODEL, RunFolder
from hyperfocal.storage.whole import ASIDE

TEST = "test.json"
KEEPING = "keeping the winner"  # a task that one process at a time may do


def keep_winner(result: GridResult, out: Path) -> dict[str, Any]:
    """Fit winner and baseline with their first seeds, save them as runs in `out`, and return {"winner", "baseline"}.

    The folders `winner` and `baseline` are runs like those of `fit`. A baseline that wins is fitted once and copied:
    both estimators are then the same object. If several processes end the same grid at once, one of them does this;
    the others wait for it and load its runs.
    """
    with result.store.alone(KEEPING):
        return _keep(result, out)


def _keep(result: GridResult, out: Path) -> dict[str, Any]:
    baseline = _load(result, result.baseline, out / "baseline") or _fit(result, result.baseline, out / "baseline")
    winner = _load(result, result.winner, out / "winner")
    if result.winner == result.baseline:
        if winner is None:
            _copy_run(out / "baseline", out / "winner")
        winner = baseline
    return {"winner": winner or _fit(result, result.winner, out / "winner"), "baseline": baseline}


def _load(result: GridResult, name: str, folder: Path) -> Any:
    """Return the estimator in a folder if it is that of the point, else None."""
    if not all((folder / name).is_file() for name in (MODEL, MANIFEST)):  # a process that fitted it was killed
        return None
    with RunFolder(folder).writing(PATIENCE_SECONDS):  # removes what a killed process left
        fitted = result.prepared.load(folder)
    threads = {"train.threads": result.prepared.threads}
    same = flat_settings(fitted.settings_) | threads == _settings(result, name)
    return fitted if same and result.prepared.knows(fitted) else None


def _fit(result: GridResult, name: str, folder: Path) -> Any:
    return result.prepared.fit(_settings(result, name), folder)


def _settings(result: GridResult, name: str) -> dict[str, Any]:
    """Return the settings of a point, with the threads of the grid because these may change the last digits."""
    return flat_settings(_first(result, name).settings) | {"train.threads": result.prepared.threads}


def _copy_run(source: Path, target: Path) -> None:
    """Replace a run by a copy of another one, whole or not at all."""
    run = RunFolder(target)
    run.refuse_taken(overwrite=True)
    with run.writing():
        copy = partial(shutil.copytree, source, dirs_exist_ok=True, ignore=shutil.ignore_patterns(LOCK, f"{ASIDE}*"))
        run.replace_by(copy, or_in_place=True)


def _first(result: GridResult, name: str) -> Point:
    """Return the point with the first of its seeds that is done."""
    seed = result.results[name][0].seed
    return next(point for point in result.points if (point.name, point.seed) == (name, seed))


def score_test(result: GridResult, out: Path, test: Any) -> dict[str, Any]:
    """Return the scores of winner and baseline on test data. They are computed once; later calls read them from `out`.

    Raises:
        RunError: `out` has the scores of another winner or of other data, because test data are not for choosing; or
            a damaged file. The runs of winner and baseline are not changed then.
        DataError: the test data cannot be read or scored.
        LeakError: something was learnt from the test data.
    """
    points = [_first(result, name) for name in (result.winner, result.baseline)]
    tested = result.prepared.read_test(test, points[0].settings)
    keys = [point.key(result.prepared.fingerprint()) for point in points]
    identity = {"winner": result.winner, "baseline": result.baseline, "data": tested.checksum(keys)}
    folder = RunFolder(out)
    with result.store.alone(KEEPING):
        if folder.has(TEST):  # another process was faster, perhaps with another winner
            _refuse_second_look(folder, identity)
        fitted = _keep(result, out)
        if not folder.has(TEST):
            evaluated = {each: tested.evaluate(each) for each in set(fitted.values())}
            folder.write_json(TEST, {"of": identity, **{role: evaluated[each] for role, each in fitted.items()}})
    scores: dict[str, Any] = folder.read_json(TEST)
    return scores


def _refuse_second_look(folder: RunFolder, identity: dict[str, str]) -> None:
    scores = folder.read_json(TEST)
    with folder.guard(TEST):
        before = scores["of"]
        earlier = f"{before['winner']} against {before['baseline']}"
    if before != identity:
        raise RunError(
            f"{folder.path / TEST}: test was scored already, for {earlier}. Scoring {identity['winner']}, or other "
            "data, would choose on test data: remove this file if that is what you want"
        )
