"""The end of a grid: winner and baseline kept as runs, and scored on test once."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import msgspec

from hyperfocal.cache import hash_of
from hyperfocal.errors import RunError
from hyperfocal.grid.points import Point, flatten
from hyperfocal.grid.search import GridResult
from hyperfocal.grid.training import check_test
from hyperfocal.runs import CONFIG, DATA, MODEL, RunFolder, whole_file
from hyperfocal.tasks.classify import MultiLabelClassifier
from hyperfocal.tasks.documents import as_documents

TEST = "test.json"
COPIED_FIRST = (DATA, CONFIG)  # what makes a folder a run, as in `fit`; MODEL, which makes it a finished one, is last


def keep_winner(result: GridResult, out: Path) -> dict[str, MultiLabelClassifier]:
    """Return the classifiers of winner and baseline, fitted with the first seed and kept as runs in `out`.

    Their folders, `winner` and `baseline`, are for `predict` and `evaluate` as those of `fit`. A baseline that wins is
    trained once and copied: both are then the same classifier.
    """
    baseline = _kept(result, result.baseline, out / "baseline") or _fitted(result, result.baseline, out / "baseline")
    winner = _kept(result, result.winner, out / "winner")
    if result.winner == result.baseline:
        if winner is None:
            _copy_run(out / "baseline", out / "winner")
        winner = baseline
    return {"winner": winner or _fitted(result, result.winner, out / "winner"), "baseline": baseline}


def _kept(result: GridResult, name: str, folder: Path) -> MultiLabelClassifier | None:
    """Return the classifier in a folder if it is that of the point."""
    if not (folder / MODEL).is_file():
        return None
    kept = MultiLabelClassifier.load(folder)
    threads = {"train.threads": result.material.threads}
    same = flatten(msgspec.to_builtins(kept.settings_)) | threads == _settings(result, name)
    return kept if same and kept.fingerprint_ == result.material.data.fingerprint() else None


def _fitted(result: GridResult, name: str, folder: Path) -> MultiLabelClassifier:
    classifier = MultiLabelClassifier(settings=_settings(result, name))
    return classifier.fit_prepared(result.material.data, out=folder, overwrite=True, cache=result.material.cache)


def _settings(result: GridResult, name: str) -> dict[str, Any]:
    """Return the settings of a point, with the threads of the grid: they may change the last digits."""
    return flatten(msgspec.to_builtins(_first(result, name).settings)) | {"train.threads": result.material.threads}


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
    """Return the scores on test documents of winner and baseline, once: later calls give what was kept.

    Raises:
        RunError: `out` has kept scores of another winner, or on other documents: test is not for choosing; or what
            it has kept is damaged. The runs of winner and baseline stay as they are.
        DataError: the documents cannot be read, or as in `check_test`.
        LeakError: as in `check_test`.
    """
    points = [_first(result, name) for name in (result.winner, result.baseline)]
    documents = as_documents(test, points[0].settings.data)
    check_test(result.material.data, documents, points[0].settings.data)
    content = [documents.texts.to_list(), documents.labels.to_list()]
    refitted = points[0].settings.train.refit
    identity = {
        "winner": result.winner,
        "baseline": result.baseline,
        "data": hash_of(*content, *(point.key(result.material.fingerprint()) for point in points), refitted),
    }
    folder = RunFolder(out)
    if folder.has(TEST):
        _refuse_second_look(folder, identity)
    fitted = keep_winner(result, out)
    if not folder.has(TEST):
        evaluated = {each: _without_labels(each.evaluate(documents)) for each in set(fitted.values())}
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
            "or on other documents, would choose on test. Remove this file if that is what you want"
        )


def _without_labels(metrics: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in metrics.items() if name != "labels"}
