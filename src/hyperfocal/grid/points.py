"""The points of a grid: settings x seeds, each with a name for people and a key that never changes."""

from __future__ import annotations

import hashlib
import itertools
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import msgspec

from hyperfocal.config.classify import ClassifySettings
from hyperfocal.config.recipes import read_toml, resolve
from hyperfocal.errors import ConfigError, did_you_mean

Values = Sequence[float | None]
Axes = dict[str, list[Any]]
RANGES = {"caps": (1.0, math.inf), "gammas": (0.0, 5.0)}
NEITHER = "no_cap_no_focal"
OWN_AXES = {"caps": ("loss.cap",), "gammas": ("loss.name", "loss.gamma")}  # what the two of the story set
OTHERS = ("caps", "gammas", "seeds", "baseline")  # keys of [grid] beside dotted settings
MOST_SEEDS = 1_000
# The seed is in the key by itself; of the others only the threads change a result, in its last digits.
NOT_IN_KEY = ("seed", "train.threads", "train.checkpoint_seconds", "train.refit")
UNREAD = {  # setting -> (what decides whether it is read, the values of that for which it is not)
    "loss.gamma": ("loss.name", ("bce", "softmax")),
    "loss.alpha": ("loss.name", ("bce", "asymmetric", "ntr_focal", "balanced", "softmax")),
    "loss.weights": ("loss.cap", ("off",)),
    "head.width": ("head.name", ("linear",)),
    "head.dropout": ("head.name", ("linear",)),
    "decide.k": ("decide.rule", ("half", "global", "per_label")),
    "decide.objective": ("decide.rule", ("half", "top_k")),
    "decide.beta": ("decide.objective", ("micro", "macro", "both")),
    "decide.shrinkage": ("decide.rule", ("half", "global", "top_k")),
    "train.sparse_learning_rate": ("features.kind", ("encoder",)),
    "train.encoder_learning_rate": ("features.finetune", (False,)),
    "train.momentum": ("train.optimizer", ("adam", "adamw")),
}


@dataclass(frozen=True)
class Point:
    """One training of a grid.

    Attributes:
        name: what people call it; the same for all its seeds.
        seed: of the training. The documents are split by the seed of the base settings, so that all
            points are compared on the same documents.
        settings: resolved; settings that this training does not read stand at their defaults.
    """

    name: str
    seed: int
    settings: ClassifySettings

    def key(self, fingerprint: str) -> str:
        """Return a checksum of all that decides the result: the settings, the seed and the data.

        The same in every process, on every machine and with every version of Python.

        Args:
            fingerprint: checksum of the documents, their labels, features and split.
        """
        flat = flatten(msgspec.to_builtins(normalised(self.settings)))
        decisive = {key: value for key, value in flat.items() if key not in NOT_IN_KEY}
        content = {"data": fingerprint, "seed": self.seed, "settings": decisive}
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def normalised(settings: ClassifySettings) -> ClassifySettings:
    """Return the settings with everything that is not read at its default, so that equal trainings are equal.

    As gamma for bce; focal with gamma 0 and no alpha is bce.
    """
    flat, default = flatten(msgspec.to_builtins(settings)), flatten(msgspec.to_builtins(ClassifySettings()))
    if (flat["loss.name"], flat["loss.gamma"], flat["loss.alpha"]) == ("focal", 0, "none"):
        flat["loss.name"] = "bce"
    for key, (decider, values) in UNREAD.items():
        if flat[decider] in values:
            flat[key] = default[key]
    return resolve(ClassifySettings, overrides=flat)


def flatten(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return dotted key -> value; an empty table stays as it is.

    >>> flatten({"seed": 1, "loss": {"gamma": 2.0}})
    {'seed': 1, 'loss.gamma': 2.0}
    """
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= flatten(value, f"{prefix}{key}.") if isinstance(value, dict) and value else {prefix + key: value}
    return flat


def parse_values(text: str, kind: Literal["caps", "gammas"]) -> list[float | None]:
    """Return the values of a flag: numbers, or None for `none`.

    Raises:
        ConfigError: not a number; a cap below 1 or a gamma outside 0 to 5; a value twice; no value.

    >>> parse_values("none,6,7.5", "caps")
    [None, 6.0, 7.5]
    """
    return _checked([part.strip() for part in text.split(",") if part.strip()], kind, f"--{kind}")


def _checked(values: Sequence[Any], kind: str, where: str) -> list[float | None]:
    low, high = RANGES[kind]
    allowed = f"a number from {low:g}" + (f" to {high:g}" if math.isfinite(high) else "") + ", or none"
    found = [_number(value, low, high, f"{where}: {value!r} is not allowed. Expected {allowed}") for value in values]
    if not found:
        raise ConfigError(f"{where}: an empty grid. Give at least one value, as {where} none,{int(low) + 2}")
    for number, value in enumerate(found):
        if value in found[:number]:
            raise ConfigError(f"{where}: {_plain(value)} stands there twice: the same point named twice. Leave one out")
    return found


def _number(value: Any, low: float, high: float, refusal: str) -> float | None:
    if value is None or value == "none":
        return None
    try:
        number = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        raise ConfigError(refusal) from None
    if not (low <= number <= high and math.isfinite(number)):
        raise ConfigError(refusal)
    return number


def caps_and_gammas(base: ClassifySettings, caps: Values, gammas: Values, seeds: int) -> list[Point]:
    """Return the grid of class-weight caps and focal gammas: cap_7.0_focal_g3, ..., no_cap_no_focal.

    Args:
        base: everything else, as the scheme of the weights, which the cap limits.
        caps: at least 1; None is no weights at all.
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
        settings = normalised(_overridden(base, changes, where))
        _refuse_twin(name, _decisive(settings), called, where)
        points += [
            Point(name, base.seed + n, _overridden(settings, {"seed": base.seed + n}, where)) for n in range(seeds)
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
    if key.split(".")[0] in ("seed", "data"):
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


def _overridden(base: ClassifySettings, changes: dict[str, Any], where: str) -> ClassifySettings:
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


class GridRecipe(NamedTuple):
    """What a recipe with a section [grid] says."""

    base: ClassifySettings
    axes: Axes
    seeds: int
    baseline: str | dict[str, Any] | None


def read_grid_recipe(path: str | Path, overrides: dict[str, Any] | None = None) -> GridRecipe:
    """Return the grid of a recipe file, checked.

    [grid] holds caps and gammas, or dotted settings, each with a list of values; seeds, 1 without; and the
    baseline, a point's name or its values, as {"loss.name" = "bce"}. The other sections are the base settings.

    Args:
        path: of a TOML file.
        overrides: dotted key -> value, on top of the base.

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
    base = _overridden(ClassifySettings(), flatten(values) | (overrides or {}), where)
    recipe = GridRecipe(base, axes, seeds, flatten(baseline) if isinstance(baseline, dict) else baseline)
    points = expand(base, axes, seeds, where=f"{where}, [grid]")
    baseline_name(points, recipe.baseline, where=f"{where}, [grid]")
    return recipe


def baseline_name(points: list[Point], wanted: str | dict[str, Any] | None = None, *, where: str = "grid") -> str:
    """Return the name of the point that the others are compared with.

    Args:
        points: the grid.
        wanted: its name, or values of settings that only it has; None takes no_cap_no_focal, else the first.
        where: names the grid in errors.

    Raises:
        ConfigError: no such point, or several.
    """
    names = list(dict.fromkeys(point.name for point in points))
    if wanted is None:
        return NEITHER if NEITHER in names else names[0]
    if isinstance(wanted, str) and wanted in names:
        return wanted
    if not isinstance(wanted, dict):
        hint = did_you_mean(str(wanted), names)
        raise ConfigError(f"{where}: baseline = {wanted!r} is no point.{hint} There are {', '.join(names)}")
    fit = [point.name for point in points if wanted.items() <= flatten(msgspec.to_builtins(point.settings)).items()]
    if len(set(fit)) != 1:
        what = f"fits {', '.join(dict.fromkeys(fit))}" if fit else f"fits no point. There are {', '.join(names)}"
        raise ConfigError(f"{where}: baseline = {wanted!r} {what}. Expected values that one point has")
    return fit[0]
