"""Adaptive search: optuna proposes settings from what the earlier points reached; same store, same verdict.

The sampler is seeded and asked for BATCH points at a time, whatever the workers. So the same command proposes the
same points again, finds those that are done in the store, and goes on from there.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping, Sequence
from math import isfinite, isnan, nan
from typing import Any

from hyperfocal.config.recipes import resolve
from hyperfocal.config.rules import flat_settings, rules_of
from hyperfocal.config.sections import Section
from hyperfocal.errors import ConfigError
from hyperfocal.grid.points import Point, normalised
from hyperfocal.grid.store import Store

BATCH = 4  # points proposed before the next look at results
BASELINE = "baseline"
FEATURES = "features"  # computed once, before any point trains
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
NEXT_ITEM_RANGES: dict[str, Range] = {
    "loss.name": ["softmax", "sampled_softmax", "gbce", "bce", "focal"],
    "loss.gamma": {"low": 0.5, "high": 4.0},
    "loss.alpha": ["none", 0.25, 0.5, 0.75],
    "loss.cap": ["off", 2.0, 7.0],
    "loss.tau": {"low": 0.0, "high": 1.0},
    "loss.negatives": {"low": 64, "high": 1_024, "log": True},
    "train.learning_rate": {"low": 2e-4, "high": 5e-3, "log": True},
    "model.embedding_width": [32, 64, 128],
    "model.dropout": {"low": 0.0, "high": 0.6},
    "model.layers": [1, 2, 3],
}


def check_ranges(ranges: Mapping[str, Range], base: Section) -> None:
    """Raise ConfigError unless optuna is here, there are ranges, and the ends of each are allowed settings."""
    if importlib.util.find_spec("optuna") is None:
        raise ConfigError("--search optuna needs optuna, which is not installed: pip install 'hyperfocal[search]'")
    if not ranges:
        raise ConfigError("search: no ranges. Give at least one, as {'loss.gamma': {'low': 0.5, 'high': 4}}")
    shared = (*rules_of(base).fixed, FEATURES)
    for key, values in ranges.items():
        if {key, key.split(".")[0]} & {*shared}:
            raise ConfigError(f"search: {key} cannot vary: all points share {', '.join(shared)} and the split")
        for end in _ends(key, values):
            try:
                resolve(type(base), overrides=flat_settings(base) | {key: end})
            except ConfigError as error:
                raise ConfigError(f"search: {str(error).removeprefix('settings: ')}") from None


def _ends(key: str, values: Range) -> list[Any]:
    """Return low and high, or all values of a list."""
    if isinstance(values, Mapping):
        ends = [values.get("low"), values.get("high")]
        numbers = [end for end in ends if isinstance(end, int | float) and not isinstance(end, bool) and isfinite(end)]
        right = values.keys() <= {"low", "high", "log"} and len(numbers) == 2
        if right and numbers[0] < numbers[1] and (numbers[0] > 0 or not values.get("log")):
            return ends
    elif not isinstance(values, str) and len(values) and all(isinstance(value, str | int | float) for value in values):
        return list(values)
    raise ConfigError(
        f"search: {key} = {values!r} is no range. Expected a list of values, or {{low, high}} with low < high, and "
        "log, for which low is above 0"
    )


def search_points(
    base: Section,
    ranges: Mapping[str, Range],
    trials: int,
    run: Callable[[list[Point], int], Store],
    by: str,
) -> list[Point]:
    """Return the baseline and the points of `trials` proposals, each run by the time the next batch is proposed.

    Args:
        base: settings that all share; the baseline is `base` itself.
        ranges: dotted setting -> {"low", "high", "log"} or its values.
        trials: how many proposals.
        run: called with points and the number of proposals that follow; trains those that are not done and returns
            the store.
        by: metric to make large.
    """
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    seed = flat_settings(base)["seed"]
    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.TPESampler(seed=seed))
    baseline = Point(BASELINE, seed, normalised(base))
    points = {baseline.settings: baseline}  # proposals may differ only in what is not read
    run([baseline], trials)
    for first in range(0, trials, BATCH):
        asked = [study.ask() for _ in range(min(BATCH, trials - first))]
        batch = [_point(base, ranges, trial) for trial in asked]
        new = [point for point in batch if points.setdefault(point.settings, point) is point]
        store = run(new, trials - first - len(asked))
        reached = {result.key: result.values[by] for result in store.results() if result.done}
        for trial, point in zip(asked, batch, strict=True):
            value = reached.get(point.key(store.fingerprint), nan)
            if isnan(value):
                study.tell(trial, state=optuna.trial.TrialState.FAIL)
            else:
                study.tell(trial, value)
    return list(points.values())


def _point(base: Section, ranges: Mapping[str, Range], trial: Any) -> Point:
    flat = flat_settings(base)
    chosen = {key: _suggest(trial, key, values, flat[key]) for key, values in ranges.items()}
    settings = normalised(resolve(type(base), overrides=flat | chosen))
    name = flat_settings(settings)["loss.name"]
    return Point(f"trial_{trial.number + 1:02d}_{name}", flat["seed"], settings)


def _suggest(trial: Any, key: str, values: Range, now: Any) -> Any:
    if not isinstance(values, Mapping):
        return trial.suggest_categorical(key, list(values))
    suggest = trial.suggest_int if isinstance(now, int) else trial.suggest_float
    return suggest(key, values["low"], values["high"], log=bool(values.get("log", False)))
