"""The end of a grid: winner and baseline kept as runs, and scored on test once."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from hyperfocal.config.rules import flat_settings
from hyperfocal.errors import RunError
from hyperfocal.grid.points import Point
from hyperfocal.grid.search import GridResult
from hyperfocal.storage.run_folder import CONFIG, DATA, MODEL, RunFolder, whole_file

TEST = "test.json"
KEEPING = "keeping the winner"
COPIED_FIRST = (DATA, CONFIG)  # what makes a folder a run, as in `fit`; MODEL, which makes it a finished one, is last


def keep_winner(result: GridResult, out: Path) -> dict[str, Any]:
    """Return the classifiers, or recommenders, of winner and baseline, fitted with the first seed and kept in `out`.

    Their folders, `winner` and `baseline`, are runs for `predict` and `evaluate` as those of `fit`. A baseline that
    wins is trained once and copied: both are then the same. Of several processes that end the same grid at once one
    does this; the others wait for it and read what it kept.
    """
    with result.store.alone(KEEPING):
        return _keep(result, out)


def _keep(result: GridResult, out: Path) -> dict[str, Any]:
    baseline = _kept(result, result.baseline, out / "baseline") or _fitted(result, result.baseline, out / "baseline")
    winner = _kept(result, result.winner, out / "winner")
    if result.winner == result.baseline:
        if winner is None:
            _copy_run(out / "baseline", out / "winner")
        winner = baseline
    return {"winner": winner or _fitted(result, result.winner, out / "winner"), "baseline": baseline}


def _kept(result: GridResult, name: str, folder: Path) -> Any:
    """Return what a folder holds if it is that of the point, else None."""
    if not (folder / MODEL).is_file():
        return None
    kept = result.material.load(folder)
    threads = {"train.threads": result.material.threads}
    same = flat_settings(kept.settings_) | threads == _settings(result, name)
    return kept if same and result.material.knows(kept) else None


def _fitted(result: GridResult, name: str, folder: Path) -> Any:
    return result.material.fit(_settings(result, name), folder)


def _settings(result: GridResult, name: str) -> dict[str, Any]:
    """Return the settings of a point, with the threads of the grid: they may change the last digits."""
    return flat_settings(_first(result, name).settings) | {"train.threads": result.material.threads}


def _copy_run(source: Path, target: Path) -> None:
    """Put a copy of a run in place of the one that is there, each file whole or not at all."""
    run = RunFolder(target)
    run.refuse_taken(overwrite=True)
    run.clear()
    names = {str(path.relative_to(source)) for path in source.rglob("*") if path.is_file()}
    between = sorted(names - {*COPIED_FIRST, MODEL})
    for name in (*COPIED_FIRST, *between, MODEL):
        with whole_file(target / name) as aside:
            shutil.copyfile(source / name, aside)


def _first(result: GridResult, name: str) -> Point:
    """Return the point with the first seed that is done."""
    seed = result.results[name][0].seed
    return next(point for point in result.points if (point.name, point.seed) == (name, seed))


def score_test(result: GridResult, out: Path, test: Any) -> dict[str, Any]:
    """Return the scores on test data of winner and baseline, once: later calls give what was kept.

    Raises:
        RunError: `out` has kept scores of another winner, or on other data: test is not for choosing; or what
            it has kept is damaged. The runs of winner and baseline stay as they are.
        DataError: the data cannot be read or scored.
        LeakError: something was learnt from them.
    """
    points = [_first(result, name) for name in (result.winner, result.baseline)]
    tested = result.material.read_test(test, points[0].settings)
    keys = [point.key(result.material.fingerprint()) for point in points]
    identity = {"winner": result.winner, "baseline": result.baseline, "data": tested.checksum(keys)}
    folder = RunFolder(out)
    with result.store.alone(KEEPING):
        if folder.has(TEST):  # another process was faster, perhaps with another winner
            _refuse_second_look(folder, identity)
        fitted = _keep(result, out)
        if not folder.has(TEST):
            evaluated = {each: tested.evaluate(each) for each in set(fitted.values())}
            folder.write_json(TEST, {"of": identity, **{role: evaluated[each] for role, each in fitted.items()}})
    found: dict[str, Any] = folder.read_json(TEST)
    return found


def _refuse_second_look(folder: RunFolder, identity: dict[str, str]) -> None:
    kept = folder.read_json(TEST)
    with folder.guard(TEST):
        before = kept["of"]
        earlier = f"{before['winner']} against {before['baseline']}"
    if before != identity:
        raise RunError(
            f"{folder.path / TEST}: test was scored already, for {earlier}. Scoring it again for {identity['winner']}, "
            "or on other data, would choose on test. Remove this file if that is what you want"
        )
