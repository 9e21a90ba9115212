"""From the axes of a grid, settings and their values, to its points: every combination, with every seed."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any, Literal

import msgspec

from hyperfocal.config.classify import ClassifySettings
from hyperfocal.config.recipes import resolve
from hyperfocal.errors import ConfigError, did_you_mean
from hyperfocal.grid.points import NOT_IN_KEY, Point, flatten, normalised

Values = Sequence[float | None]
Axes = dict[str, list[Any]]
RANGES = {"caps": (1.0, 1e6), "gammas": (0.0, 5.0)}
WITHOUT = {"caps": ("none", "off"), "gammas": ("none",)}  # off as in the setting loss.cap, whose none is another
OWN_AXES = {"caps": ("loss.cap",), "gammas": ("loss.name", "loss.gamma")}  # what the two of the story set
OTHERS = ("caps", "gammas", "seeds", "baseline")  # keys of [grid] beside dotted settings
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


def expand(base: ClassifySettings, axes: Axes, seeds: int, *, where: str = "grid") -> list[Point]:
    """Return every combination of the axes' values, each with every seed.

    Args:
        base: what the axes do not change.
        axes: dotted setting -> its values, named loss.gamma=2 head.width=256 in their order; `caps` and
            `gammas`, together, are named as in `caps_and_gammas`.
        seeds: as in `caps_and_gammas`.
        where: names the grid in errors.

    Raises:
        ConfigError: no axis, or one without values; an unknown setting or a value that is not allowed;
            settings of the data, for points are compared on the same documents; two points with the same
            name or the same settings.
    """
    _check_axes(axes, seeds, where)
    choices = _story(axes, where) + [_plain_axis(key, axes[key]) for key in axes if key not in OWN_AXES]
    points, called = [], dict[ClassifySettings, str]()
    for combination in itertools.product(*choices):
        name = " ".join(label for label, _ in combination)
        changes = {key: value for _, change in combination for key, value in change.items()}
        settings = normalised(overridden(base, changes, where))
        _refuse_twin(name, _decisive(settings), called, where)
        points += [
            Point(name, base.seed + n, overridden(settings, {"seed": base.seed + n}, where)) for n in range(seeds)
        ]
    return points


def _check_axes(axes: Axes, seeds: int, where: str) -> None:
    if isinstance(seeds, bool) or not isinstance(seeds, int) or not 1 <= seeds <= MOST_SEEDS:
        raise ConfigError(f"{where}: seeds = {seeds!r} is not allowed. Expected an integer from 1 to {MOST_SEEDS:,}")
    if not axes:
        raise ConfigError(f"{where}: an empty grid. Give caps and gammas, or a setting and its values")
    for key, values in axes.items():
        if not isinstance(values, list | tuple):
            raise ConfigError(f"{where}: {key} = {values!r} is no list. Expected its values, as [{_plain(values)}]")
        if not values:
            raise ConfigError(f"{where}: {key} = [] makes an empty grid. Give at least one value, or leave it out")
        if key not in OWN_AXES:
            _check_setting(key, axes, where)


def _check_setting(key: str, axes: Axes, where: str) -> None:
    if key.split(".")[0] in ("seed", "data") or key == "train.folds":
        raise ConfigError(
            f"{where}: {key} cannot vary: points are compared on the same documents; for seeds give seeds"
        )
    for own, taken in OWN_AXES.items():
        if own in axes and key in taken:
            raise ConfigError(f"{where}: {own} and {key} set the same. Leave one out")
    if "." not in key:
        flat = [*OTHERS, *flatten(msgspec.to_builtins(ClassifySettings()))]
        hint = did_you_mean(key, flat)
        raise ConfigError(
            f"{where}: unknown key '{key}'.{hint} Allowed: {', '.join(OTHERS)}, and settings as loss.gamma"
        )
    if None in axes[key]:
        raise ConfigError(f"{where}: {key} = None is no value")


def _story(axes: Axes, where: str) -> list[list[tuple[str, dict[str, Any]]]]:
    """Return the one axis of caps x gammas, with the names of the story."""
    given = [key for key in OWN_AXES if key in axes]
    if not given:
        return []
    if len(given) < len(OWN_AXES):
        missing = next(key for key in OWN_AXES if key not in axes)
        raise ConfigError(f'{where}: {given[0]} without {missing}. Give {missing} too; {missing} = ["none"] is without')
    caps, gammas = (_checked(axes[key], key, f"{where}: {key}") for key in ("caps", "gammas"))
    return [[_cap_and_gamma(cap, gamma) for cap in caps for gamma in gammas]]


def _cap_and_gamma(cap: float | None, gamma: float | None) -> tuple[str, dict[str, Any]]:
    capped = "no_cap" if cap is None else f"cap_{cap}"
    focal = "no_focal" if gamma is None else f"focal_g{_plain(gamma)}"
    loss = {"loss.name": "bce"} if gamma is None else {"loss.name": "focal", "loss.gamma": gamma}
    return f"{capped}_{focal}", {"loss.cap": "off" if cap is None else cap} | loss


def _plain_axis(key: str, values: list[Any]) -> list[tuple[str, dict[str, Any]]]:
    return [(f"{key}={_plain(value)}", {key: value}) for value in values]


def _plain(value: Any) -> str:
    """Return a value as people write it: 2 for 2.0, none for None."""
    if isinstance(value, float):
        return repr(value).removesuffix(".0")
    return "none" if value is None else value if isinstance(value, str) else msgspec.json.encode(value).decode()


def overridden(base: ClassifySettings, changes: dict[str, Any], where: str) -> ClassifySettings:
    """Return the settings with dotted changes on top; ConfigError, led by `where`, for what is not allowed."""
    try:
        return resolve(ClassifySettings, overrides=flatten(msgspec.to_builtins(base)) | changes)
    except ConfigError as error:
        raise ConfigError(f"{where}: {str(error).removeprefix('settings: ')}") from None


def _decisive(settings: ClassifySettings) -> ClassifySettings:
    """Return the settings with those that are not in the key at their defaults."""
    flat = flatten(msgspec.to_builtins(settings))
    return resolve(ClassifySettings, overrides={key: value for key, value in flat.items() if key not in NOT_IN_KEY})


def _refuse_twin(name: str, settings: ClassifySettings, called: dict[ClassifySettings, str], where: str) -> None:
    if name in called.values():
        raise ConfigError(f"{where}: '{name}': the same point named twice. Leave one out")
    if settings in called:
        raise ConfigError(f"{where}: '{called[settings]}' and '{name}' train the same. Leave one out")
    called[settings] = name
