"""Adaptive search: optuna proposes settings from what the earlier points reached; same store, same verdict.

The sampler is seeded and asked for BATCH points at a time, whatever the workers. So the same command proposes the
same points again, finds those that are done in the store, and goes on from there.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec

from hyperfocal.config.classify import ClassifySettings
from hyperfocal.config.recipes import resolve
from hyperfocal.errors import ConfigError
from hyperfocal.grid.points import Point, flatten, normalised
from hyperfocal.grid.store import Store

BATCH = 4  # points proposed before the next look at results
BASELINE = "baseline"
FAMILIES = ["bce", "focal", "asymmetric", "ntr_focal", "balanced"]
Range = Mapping[str, Any] | Sequence[Any]
RANGES: dict[str, Range] = {
    "loss.name": FAMILIES,
    "loss.gamma": {"low": 0.5, "high": 4.0},
    "loss.alpha": ["none", 0.25, 0.5, 0.75],
    "loss.cap": ["off", 2.0, 4.0, 6.0, 8.0, 12.0],
    "train.learning_rate": {"low": 2e-4, "high": 5e-3, "log": True},
    "train.sparse_learning_rate": {"low": 100.0, "high": 2_000.0, "log": True},
    "head.width": [256, 512, 1_024],
    "head.dropout": {"low": 0.0, "high": 0.7},
}


def check_ranges(ranges: Mapping[str, Range], base: ClassifySettings) -> None:
    """Raise ConfigError unless optuna is here and both ends of every range are allowed settings."""
    if importlib.util.find_spec("optuna") is None:
        raise ConfigError("--search optuna needs optuna, which is not installed: pip install 'hyperfocal[search]'")
    for key, values in ranges.items():
        ends = [values.get("low"), values.get("high")] if isinstance(values, Mapping) else list(values)
        if not ends or None in ends:
            raise ConfigError(f"search: {key} = {values!r} is no range. Expected a list, or {{low, high}} and log")
        for end in ends:
            resolve(ClassifySettings, overrides=flatten(msgspec.to_builtins(base)) | {key: end})


def search_points(
    base: ClassifySettings,
    ranges: Mapping[str, Range],
    trials: int,
    run: Callable[[list[Point]], Store],
    by: str,
) -> list[Point]:
    """Return the baseline and the points of `trials` proposals, each run by the time the next batch is proposed.

    Args:
        base: settings that all share; the baseline is `base` itself.
        ranges: dotted setting -> {"low", "high", "log"} or its values.
        trials: how many proposals.
        run: trains the points that are not done and returns the store.
        by: metric to make large.
    """
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.TPESampler(seed=base.seed))
    points = [Point(BASELINE, base.seed, normalised(base))]
    run(points)
    for first in range(0, trials, BATCH):
        asked = [study.ask() for _ in range(min(BATCH, trials - first))]
        batch = [_point(base, ranges, trial) for trial in asked]
        new = {point.settings: point for point in reversed(batch)}  # proposals may differ in what is not read
        new = {settings: point for settings, point in new.items() if settings not in {p.settings for p in points}}
        store = run(list(new.values()))
        reached = {result.key: result.values[by] for result in store.results() if result.done}
        for trial, point in zip(asked, batch, strict=True):
            value = reached.get(point.key(store.fingerprint))
            study.tell(trial, value, state=optuna.trial.TrialState.FAIL if value is None else None)
        points += new.values()
    return points


def _point(base: ClassifySettings, ranges: Mapping[str, Range], trial: Any) -> Point:
    chosen = {key: _suggest(trial, key, values) for key, values in ranges.items()}
    settings = normalised(resolve(ClassifySettings, overrides=flatten(msgspec.to_builtins(base)) | chosen))
    return Point(f"trial_{trial.number + 1:02d}_{settings.loss.name}", base.seed, settings)


def _suggest(trial: Any, key: str, values: Range) -> Any:
    if not isinstance(values, Mapping):
        return trial.suggest_categorical(key, list(values))
    kind = trial.suggest_int if isinstance(values["low"], int) and isinstance(values["high"], int) else None
    suggest = kind or trial.suggest_float
    return suggest(key, values["low"], values["high"], log=bool(values.get("log", False)))
