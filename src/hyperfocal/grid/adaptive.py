"""Adaptive search: optuna proposes points from the results of the earlier ones.

The sampler is seeded and asked for BATCH points at a time, whatever the number of workers. So the same command
proposes the same points again, finds the finished ones in the store, and continues from there.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping, Sequence
from math import isfinite, isnan, nan
from typing import Any

from hyperfocal.config.recipes import flat_settings, resolve
from hyperfocal.config.rules import rules_of
from hyperfocal.config.sections import Section
from hyperfocal.errors import ConfigError
from hyperfocal.grid.points import Point, normalised
from hyperfocal.grid.store import Store

BATCH = 4  # points proposed before the next look at results
BASELINE = "baseline"
FEATURES = "features"  # a section of `classify`: features are computed once, before any point trains
Range = Mapping[str, Any] | Sequence[Any]


def check_ranges(ranges: Mapping[str, Range], base: Section) -> None:
    """Raise ConfigError unless optuna is installed, there are ranges, and the ends of each are allowed settings."""
    if importlib.util.find_spec("optuna") is None:
        raise ConfigError("--search optuna needs optuna, which is not installed: pip install 'hyperfocal[search]'")
    if not ranges:
        raise ConfigError("search: no ranges. Give at least one, such as {'loss.gamma': {'low': 0.5, 'high': 4}}")
    shared = (*rules_of(base).fixed, FEATURES)
    for key, values in ranges.items():
        if {key, key.split(".")[0]} & set(shared):
            raise ConfigError(f"search: {key} cannot vary. All points share {', '.join(shared)} and the split")
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
        f"search: {key} = {values!r} is not a range. Expected a list of values, or {{low, high}} with low < high, and "
        "log, which needs low > 0"
    )


def search_points(
    base: Section,
    ranges: Mapping[str, Range],
    trials: int,
    run: Callable[[list[Point], int], Store],
    by: str,
) -> list[Point]:
    """Return the baseline and the points of `trials` proposals, after all of them ran.

    Args:
        base: settings that the points share, and those of the baseline.
        ranges: dotted setting -> {"low", "high", "log"} or a list of values.
        trials: number of proposals.
        run: called with a batch of points and the number of proposals that follow it; trains the points that are not
            done and returns the store.
        by: metric to maximize.
    """
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    seed = flat_settings(base)["seed"]
    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.TPESampler(seed=seed))
    baseline = Point(BASELINE, seed, normalised(base))
    points = {baseline.settings: baseline}  # proposals may differ only in settings that are not read
    run([baseline], trials)
    for first in range(0, trials, BATCH):
        asked = [study.ask() for _ in range(min(BATCH, trials - first))]
        batch = [_point(base, ranges, trial) for trial in asked]
        new = [point for point in batch if points.setdefault(point.settings, point) is point]
        store = run(new, trials - first - len(asked))
        values = {result.key: result.values[by] for result in store.results() if result.done}
        for trial, point in zip(asked, batch, strict=True):
            value = values.get(point.key(store.fingerprint), nan)
            if isnan(value):
                study.tell(trial, state=optuna.trial.TrialState.FAIL)
            else:
                study.tell(trial, value)
    return list(points.values())


def _point(base: Section, ranges: Mapping[str, Range], trial: Any) -> Point:
    flat = flat_settings(base)
    proposed = {key: _suggest(trial, key, values, flat[key]) for key, values in ranges.items()}
    settings = normalised(resolve(type(base), overrides=flat | proposed))
    name = flat_settings(settings)["loss.name"]
    return Point(f"trial_{trial.number + 1:02d}_{name}", flat["seed"], settings)


def _suggest(trial: Any, key: str, values: Range, default: Any) -> Any:
    if not isinstance(values, Mapping):
        return trial.suggest_categorical(key, list(values))
    suggest = trial.suggest_int if isinstance(default, int) else trial.suggest_float
    return suggest(key, values["low"], values["high"], log=bool(values.get("log", False)))
