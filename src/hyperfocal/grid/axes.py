"""From the axes of a grid, settings and their values, to its points: every combination, with every seed.

The grid of a recipe file: its section [grid], and the base settings around it.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Generic, Literal, NamedTuple, TypeVar

import msgspec

from hyperfocal.config.classify import ClassifySettings
from hyperfocal.config.recipes import read_toml, resolve
from hyperfocal.config.rules import Rules, flat_settings, flatten, rules_of, unread
from hyperfocal.config.sections import Section
from hyperfocal.errors import ConfigError, did_you_mean
from hyperfocal.grid.points import Point, baseline_name, normalised

Job = TypeVar("Job", bound=Section)
Values = Sequence[float | None]
Axes = dict[str, list[Any]]
RANGES = {"caps": (1.0, 1e6), "gammas": (0.0, 5.0)}
WITHOUT = {"caps": ("none", "off"), "gammas": ("none",)}  # off as in the setting loss.cap, whose none is another
OWN_AXES = {"caps": ("loss.cap",), "gammas": ("loss.name", "loss.gamma")}  # what the two of the story set
OTHERS = ("seeds", "baseline")  # keys of [grid] beside settings
MOST_SEEDS = 1_000


def parse_values(text: str, kind: Literal["caps", "gammas"]) -> list[float | None]:
    """Return the values of a flag: numbers, or None for `none`; for caps `off` too.

    Raises:
        ConfigError: not a number; a cap outside 1 to 1,000,000 or a gamma outside 0 to 5; a value twice; no value.

    >>> parse_values("none,6,7.5", "caps")
    [None, 6.0, 7.5]
    """
    return _checked([part.strip() for part in text.split(",") if part.strip()], kind, f"--{kind}")


def _checked(values: Sequence[Any], kind: str, where: str) -> list[float | None]:
    found = [_checked_value(value, kind, where) for value in values]
    if not found:
        first = int(RANGES[kind][0]) + 2
        raise ConfigError(f"{where}: an empty grid. Give at least one value, as {where} none,{first}")
    for number, value in enumerate(found):
        if value in found[:number]:
            raise ConfigError(f"{where}: {_plain(value)} stands there twice: the same point named twice. Leave one out")
    return found


def _checked_value(value: Any, kind: str, where: str) -> float | None:
    if value is None or value in WITHOUT[kind]:
        return None
    low, high = RANGES[kind]
    try:
        number = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not low <= number <= high:
        allowed = f"a number from {low:g} to {high:,.0f}, or {' or '.join(WITHOUT[kind])}"
        raise ConfigError(f"{where}: {value!r} is not allowed. Expected {allowed}")
    return number


def caps_and_gammas(base: ClassifySettings, caps: Values, gammas: Values, seeds: int) -> list[Point]:
    """Return the grid of class-weight caps and focal gammas: cap_7.0_focal_g3, ..., no_cap_no_focal.

    Args:
        base: everything else, as the scheme of the weights, which the cap limits.
        caps: in [1, 1,000,000]; None is no weights at all, in the settings off.
        gammas: in [0, 5]; None is binary cross-entropy.
        seeds: trainings a point, with the seeds base.seed, base.seed + 1, ...

    Raises:
        ConfigError: as in `parse_values`, or as in `expand`.
    """
    return expand(base, {"caps": list(caps), "gammas": list(gammas)}, seeds)


class Choice(NamedTuple):
    """One value of an axis: what names it, and the settings that it changes."""

    label: str
    changes: dict[str, Any]


def expand(base: Section, axes: Axes, seeds: int, *, where: str = "grid") -> list[Point]:
    """Return every combination of the axes' values, each with every seed.

    An axis that a combination does not read, as loss.gamma beside loss.name=bce, is left out of it where another
    combination reads it; what is then the same is one point.

    Args:
        base: what the axes do not change.
        axes: dotted setting -> its values, named loss.gamma=2 head.width=256 in their order; for `classify`
            `caps` and `gammas`, together, are named as in `caps_and_gammas`; for `recommend` the values of model.name
            and loss.name stand alone, as transformer focal loss.gamma=2.
        seeds: as in `caps_and_gammas`.
        where: names the grid in errors.

    Raises:
        ConfigError: no axis, or one without values; an unknown setting or a value that is not allowed;
            settings of the data, for points are compared on the same documents or users; two points with the
            same name or the same settings.
    """
    _check_axes(axes, seeds, base, where)
    first = flat_settings(base)["seed"]
    points, called = [], dict[Section, str]()
    for name, settings in _combinations(base, axes, where).items():
        _refuse_twin(name, _decisive(settings), called, where)
        points += [
            Point(name, seed, overridden(settings, {"seed": seed}, where)) for seed in range(first, first + seeds)
        ]
    return points


def _combinations(base: Job, axes: Axes, where: str) -> dict[str, Job]:
    """Return name -> settings of the combinations, without the axes that they do not read."""
    found = []
    for combination in itertools.product(*_choices(base, axes, where)):
        changes = {key: value for choice in combination for key, value in choice.changes.items()}
        settings = overridden(base, changes, where)
        ignored = unread(settings).keys()
        found.append((combination, settings, [choice.changes.keys() <= ignored for choice in combination]))
    idle = [all(column) for column in zip(*(passed for *_, passed in found), strict=True)]  # nothing reads the axis
    named: dict[str, Job] = {}
    for combination, settings, passed in found:
        read = [not skip or always for skip, always in zip(passed, idle, strict=True)]
        name = " ".join(choice.label for choice, kept in zip(combination, read, strict=True) if kept)
        named.setdefault(name, normalised(settings))
    return named


def _check_axes(axes: Axes, seeds: int, base: Section, where: str) -> None:
    rules = rules_of(base)
    if isinstance(seeds, bool) or not isinstance(seeds, int) or not 1 <= seeds <= MOST_SEEDS:
        raise ConfigError(f"{where}: seeds = {seeds!r} is not allowed. Expected an integer from 1 to {MOST_SEEDS:,}")
    if not axes:
        give = "caps and gammas, or a setting" if rules.caps_and_gammas else "a setting"
        raise ConfigError(f"{where}: an empty grid. Give {give} and its values")
    for key, values in axes.items():
        if not isinstance(values, list | tuple):
            raise ConfigError(f"{where}: {key} = {values!r} is no list. Expected its values, as [{_plain(values)}]")
        if not values:
            raise ConfigError(f"{where}: {key} = [] makes an empty grid. Give at least one value, or leave it out")
        if key not in OWN_AXES or not rules.caps_and_gammas:
            _check_setting(key, axes, rules, where)


def _check_setting(key: str, axes: Axes, rules: Rules, where: str) -> None:
    if {key, key.split(".")[0]} & set(rules.fixed):
        raise ConfigError(
            f"{where}: {key} cannot vary: points are compared on the same {rules.compared_on}; for seeds give seeds"
        )
    for own, taken in OWN_AXES.items():
        if own in axes and key in taken:
            raise ConfigError(f"{where}: {own} and {key} set the same. Leave one out")
    if "." not in key:
        others = [*(OWN_AXES if rules.caps_and_gammas else ()), *OTHERS]
        hint = did_you_mean(key, [*others, *flat_settings(rules.settings())])
        raise ConfigError(
            f"{where}: unknown key '{key}'.{hint} Allowed: {', '.join(others)}, and settings as loss.gamma"
        )
    if None in axes[key]:
        raise ConfigError(f"{where}: {key} = None is no value")


def _choices(base: Section, axes: Axes, where: str) -> list[list[Choice]]:
    """Return the choices of each axis; caps x gammas are one, with the names of the story."""
    bare = rules_of(base).bare
    plain = [_plain_axis(key, axes[key], key in bare, where) for key in axes if key not in OWN_AXES]
    given = [key for key in OWN_AXES if key in axes]
    if not given:
        return plain
    if len(given) < len(OWN_AXES):
        missing = next(key for key in OWN_AXES if key not in axes)
        raise ConfigError(f'{where}: {given[0]} without {missing}. Give {missing} too; {missing} = ["none"] is without')
    caps, gammas = (_checked(axes[key], key, f"{where}: {key}") for key in ("caps", "gammas"))
    return [[_cap_and_gamma(cap, gamma) for cap in caps for gamma in gammas], *plain]


def _cap_and_gamma(cap: float | None, gamma: float | None) -> Choice:
    capped = "no_cap" if cap is None else f"cap_{cap}"
    focal = "no_focal" if gamma is None else f"focal_g{_plain(gamma)}"
    loss = {"loss.name": "bce"} if gamma is None else {"loss.name": "focal", "loss.gamma": gamma}
    return Choice(f"{capped}_{focal}", {"loss.cap": "off" if cap is None else cap} | loss)


def _plain_axis(key: str, values: list[Any], bare: bool, where: str) -> list[Choice]:
    choices = [Choice(_plain(value) if bare else f"{key}={_plain(value)}", {key: value}) for value in values]
    for place, (label, _) in enumerate(choices):
        if any(label == earlier.label for earlier in choices[:place]):
            raise ConfigError(f"{where}: '{label}': the same point named twice. Leave one out")
    return choices


def _plain(value: Any) -> str:
    """Return a value as people write it: 2 for 2.0, none for None."""
    if isinstance(value, float):
        return repr(value).removesuffix(".0")
    return "none" if value is None else value if isinstance(value, str) else msgspec.json.encode(value).decode()


def overridden(base: Job, changes: dict[str, Any], where: str) -> Job:
    """Return the settings with dotted changes on top; ConfigError, led by `where`, for what is not allowed."""
    try:
        return resolve(type(base), overrides=flat_settings(base) | changes)
    except ConfigError as error:
        raise ConfigError(f"{where}: {str(error).removeprefix('settings: ')}") from None


def _decisive(settings: Section) -> Section:
    """Return the settings with those that are not in the key at their defaults."""
    left_out = rules_of(settings).not_in_key
    flat = {key: value for key, value in flat_settings(settings).items() if key not in left_out}
    return resolve(type(settings), overrides=flat)


def _refuse_twin(name: str, settings: Section, called: dict[Section, str], where: str) -> None:
    if settings in called:
        raise ConfigError(f"{where}: '{called[settings]}' and '{name}' train the same. Leave one out")
    called[settings] = name


class GridRecipe(NamedTuple, Generic[Job]):
    """What a recipe with a section [grid] says."""

    base: Job
    axes: Axes
    seeds: int
    baseline: str | dict[str, Any] | None


def read_grid_recipe(
    path: str | Path,
    overrides: dict[str, Any] | None = None,
    kind: type[Job] = ClassifySettings,  # type: ignore[assignment]  # a default of a type variable
) -> GridRecipe[Job]:
    """Return the grid of a recipe file, checked.

    [grid] holds caps and gammas (`classify`), or dotted settings, each with a list of values; seeds, 1 without; and the
    baseline, a point's name or its values, as {"loss.name" = "bce"}. The other sections are the base settings.

    Args:
        path: of a TOML file.
        overrides: dotted key -> value, on top of the base.
        kind: the settings of the job.

    Raises:
        ConfigError: unreadable, without [grid], or as in `resolve`, `expand` and `baseline_name`.
    """
    where = f"recipe {path}"
    values = read_toml(Path(path))
    grid = values.pop("grid", None)
    if not isinstance(grid, dict):
        raise ConfigError(f"{where}: no section [grid]. Give it, with caps and gammas or settings and their values")
    seeds, baseline = grid.pop("seeds", 1), grid.pop("baseline", None)
    axes = flatten(grid)
    base = overridden(kind(), flatten(values) | (overrides or {}), where)
    recipe = GridRecipe(base, axes, seeds, flatten(baseline) if isinstance(baseline, dict) else baseline)
    points = expand(base, axes, seeds, where=f"{where}, [grid]")
    baseline_name(points, recipe.baseline, where=f"{where}, [grid]")
    return recipe
