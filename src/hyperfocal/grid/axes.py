"""The points of a grid: every combination of the values of its axes, with every seed.

An axis is a setting and its values. Options of the command line, or the section [grid] of a recipe file, define axes.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Generic, Literal, NamedTuple, TypeVar

import msgspec

from hyperfocal.config.classify import ClassifySettings
from hyperfocal.config.recipes import flat_settings, flatten, read_toml, resolve
from hyperfocal.config.rules import Rules, rules_of, unread
from hyperfocal.config.sections import Section
from hyperfocal.errors import ConfigError, did_you_mean
from hyperfocal.grid.points import Point, baseline_name, normalised

Job = TypeVar("Job", bound=Section)
Axes = dict[str, list[Any]]
LIMITS = {"caps": (1.0, 1e6), "gammas": (0.0, 5.0)}
WITHOUT = {
    "caps": ("none", "off"),
    "gammas": ("none",),
}  # off: as in the setting loss.cap, where none is something else
CAPS_AND_GAMMAS = {"caps": ("loss.cap",), "gammas": ("loss.name", "loss.gamma")}  # axes of `classify`: what they set
OTHER_KEYS = ("seeds", "baseline")  # of [grid], besides axes
DEFAULT_SEEDS = 3  # one training cannot tell whether its settings are better
MOST_SEEDS = 1_000


def parse_values(text: str, kind: Literal["caps", "gammas"]) -> list[float | None]:
    """Return the values of an option: numbers, or None for `none`; for caps also for `off`.

    Raises:
        ConfigError: not a number; a cap outside 1 to 1,000,000 or a gamma outside 0 to 5; a value twice; no value.

    >>> parse_values("none,6,7.5", "caps")
    [None, 6.0, 7.5]
    """
    return _checked([word.strip() for word in text.split(",") if word.strip()], kind, f"--{kind}")


def _checked(values: Sequence[Any], kind: str, where: str) -> list[float | None]:
    numbers = [_checked_value(value, kind, where) for value in values]
    if not numbers:
        first = int(LIMITS[kind][0]) + 2
        raise ConfigError(f"{where}: an empty grid. Give at least one value, such as {where} none,{first}")
    for place, value in enumerate(numbers):
        if value in numbers[:place]:
            raise ConfigError(f"{where}: {_plain(value)} is given twice: the same point named twice. Leave one out")
    return numbers


def _checked_value(value: Any, kind: str, where: str) -> float | None:
    if value is None or value in WITHOUT[kind]:
        return None
    low, high = LIMITS[kind]
    try:
        number = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not low <= number <= high:
        allowed = f"a number from {low:g} to {high:,.0f}, or {' or '.join(WITHOUT[kind])}"
        raise ConfigError(f"{where}: {value!r} is not allowed. Expected {allowed}")
    return number


def expand(base: Section, axes: Axes, seeds: int, *, where: str = "grid") -> list[Point]:
    """Return every combination of the axes' values, each with every seed.

    An axis that a combination does not read, such as loss.gamma with loss.name=bce, is left out of its name if
    another combination reads it; combinations that are then the same are one point.

    Args:
        base: what the axes do not change.
        axes: dotted setting -> its values. A point is named by them in the order of the axes, loss.gamma=2
            head.width=256; for `recommend` without the names of the axes model.name and loss.name, transformer focal
            loss.gamma=2. For `classify` also the class-weight `caps` and focal `gammas`, both or neither,
            named cap_7.0_focal_g3, ..., no_cap_no_focal: a cap in [1, 1,000,000] or None for no class weights, a
            gamma in [0, 5] or None for cross-entropy: binary, or with data.single that of a softmax.
        seeds: trainings per point, with the seeds base.seed, base.seed + 1, ...
        where: names the grid in errors.

    Raises:
        ConfigError: no axis, or one without values; an unknown setting or a value that is not allowed; a setting of
            the data, because points are compared on the same documents or users; two points with the same name or
            the same settings.
    """
    _check_axes(axes, seeds, base, where)
    first = flat_settings(base)["seed"]
    points, names = [], dict[Section, str]()
    for name, settings in _combinations(base, axes, where).items():
        other = names.setdefault(_decisive(settings), name)
        if other != name:
            raise ConfigError(f"{where}: '{other}' and '{name}' train the same. Leave one out")
        points += [
            Point(name, seed, overridden(settings, {"seed": seed}, where)) for seed in range(first, first + seeds)
        ]
    return points


class Choice(NamedTuple):
    """One value of an axis: what names it, and the settings that it changes."""

    label: str
    changes: dict[str, Any]


def _combinations(base: Job, axes: Axes, where: str) -> dict[str, Job]:
    """Return name -> settings of the combinations, named without the axes that they do not read."""
    combinations = []
    for choices in itertools.product(*_choices(base, axes, where)):
        changes = {key: value for choice in choices for key, value in choice.changes.items()}
        settings = overridden(base, changes, where)
        ignored = unread(settings).keys()
        combinations.append((choices, settings, [choice.changes.keys() <= ignored for choice in choices]))
    never_read = [all(column) for column in zip(*(skips for *_, skips in combinations), strict=True)]
    named: dict[str, Job] = {}
    for choices, settings, skips in combinations:
        shown = [not skip or never for skip, never in zip(skips, never_read, strict=True)]
        name = " ".join(choice.label for choice, show in zip(choices, shown, strict=True) if show)
        named.setdefault(name, normalised(settings))
    return named


def _choices(base: Section, axes: Axes, where: str) -> list[list[Choice]]:
    """Return the choices of each axis; caps x gammas are one axis, with its own names."""
    bare = rules_of(base).bare
    plain = [_plain_axis(key, axes[key], key in bare, where) for key in axes if key not in CAPS_AND_GAMMAS]
    given = [key for key in CAPS_AND_GAMMAS if key in axes]
    if not given:
        return plain
    if len(given) < len(CAPS_AND_GAMMAS):
        missing = next(key for key in CAPS_AND_GAMMAS if key not in axes)
        raise ConfigError(f'{where}: {given[0]} without {missing}. Give {missing} too; {missing} = ["none"] is without')
    caps, gammas = (_checked(axes[key], key, f"{where}: {key}") for key in CAPS_AND_GAMMAS)
    losses = ("softmax", "softmax_focal") if flat_settings(base).get("data.single") else ("bce", "focal")
    return [[_cap_and_gamma(cap, gamma, losses) for cap in caps for gamma in gammas], *plain]


def _cap_and_gamma(cap: float | None, gamma: float | None, losses: tuple[str, str]) -> Choice:
    capped = "no_cap" if cap is None else f"cap_{cap}"
    focal = "no_focal" if gamma is None else f"focal_g{_plain(gamma)}"
    loss = {"loss.name": losses[0]} if gamma is None else {"loss.name": losses[1], "loss.gamma": gamma}
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
    """Return the settings; a setting that changes no result gets its default."""
    left_out = rules_of(settings).not_in_key
    flat = {key: value for key, value in flat_settings(settings).items() if key not in left_out}
    return resolve(type(settings), overrides=flat)


def _check_axes(axes: Axes, seeds: int, base: Section, where: str) -> None:
    rules = rules_of(base)
    if isinstance(seeds, bool) or not isinstance(seeds, int) or not 1 <= seeds <= MOST_SEEDS:
        raise ConfigError(f"{where}: seeds = {seeds!r} is not allowed. Expected an integer from 1 to {MOST_SEEDS:,}")
    if not axes:
        give = "caps and gammas, or a setting" if rules.caps_and_gammas else "a setting"
        raise ConfigError(f"{where}: an empty grid. Give {give} and its values")
    for key, values in axes.items():
        if not isinstance(values, list | tuple):
            raise ConfigError(
                f"{where}: {key} = {values!r} is not a list. Expected its values, as in [{_plain(values)}]"
            )
        if not values:
            raise ConfigError(f"{where}: {key} = [] makes an empty grid. Give at least one value, or leave it out")
        if key not in CAPS_AND_GAMMAS or not rules.caps_and_gammas:
            _check_setting(key, axes, rules, where)


def _check_setting(key: str, axes: Axes, rules: Rules, where: str) -> None:
    if {key, key.split(".")[0]} & set(rules.fixed):
        raise ConfigError(
            f"{where}: {key} cannot vary: points are compared on the same {rules.compared_on}. To vary the seed, give "
            "seeds"
        )
    for own, settings in CAPS_AND_GAMMAS.items():
        if own in axes and key in settings:
            raise ConfigError(f"{where}: {own} and {key} set the same. Leave one out")
    if "." not in key:
        others = [*(CAPS_AND_GAMMAS if rules.caps_and_gammas else ()), *OTHER_KEYS]
        hint = did_you_mean(key, [*others, *flat_settings(rules.settings())])
        raise ConfigError(
            f"{where}: unknown key '{key}'.{hint} Allowed: {', '.join(others)}, and settings such as loss.gamma"
        )
    if None in axes[key]:
        raise ConfigError(f"{where}: {key} = None is not a value")


class GridRecipe(NamedTuple, Generic[Job]):
    """The content of a recipe with a section [grid]."""

    base: Job  # settings that the points share
    axes: Axes  # as in `expand`
    seeds: int  # trainings per point
    baseline: str | dict[str, Any] | None  # as in `baseline_name`


def read_grid_recipe(
    path: str | Path,
    overrides: dict[str, Any] | None = None,
    kind: type[Job] = ClassifySettings,  # type: ignore[assignment]  # a default of a type variable
) -> GridRecipe[Job]:
    """Return the grid of a recipe file, checked.

    [grid] holds axes: caps and gammas (`classify`), or dotted settings, each with a list of values; seeds, 3 by
    default; and the baseline, the name of a point or its values, such as {"loss.name" = "bce"}. The other sections
    are the base settings.

    Args:
        path: of a TOML file.
        overrides: dotted key -> value, on top of the base settings.
        kind: the settings of the job.

    Raises:
        ConfigError: an unreadable file, or one without [grid]; or as in `resolve`, `expand` and `baseline_name`.
    """
    where = f"recipe {path}"
    values = read_toml(Path(path))
    grid = values.pop("grid", None)
    if not isinstance(grid, dict):
        raise ConfigError(f"{where}: no section [grid]. Add it, with caps and gammas or settings and their values")
    seeds, baseline = grid.pop("seeds", DEFAULT_SEEDS), grid.pop("baseline", None)
    axes = flatten(grid)
    base = overridden(kind(), flatten(values) | (overrides or {}), where)
    recipe = GridRecipe(base, axes, seeds, flatten(baseline) if isinstance(baseline, dict) else baseline)
    points = expand(base, axes, seeds, where=f"{where}, [grid]")
    baseline_name(points, recipe.baseline, where=f"{where}, [grid]")
    return recipe
