"""The points of a grid: settings and a seed, each with a name for people and a key that never changes."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Any, TypeVar

from hyperfocal.config.recipes import resolve
from hyperfocal.config.rules import flat_settings, rules_of, unread
from hyperfocal.config.sections import Section
from hyperfocal.errors import ConfigError, did_you_mean

NEITHER = "no_cap_no_focal"
Job = TypeVar("Job", bound=Section)


@dataclass(frozen=True)
class Point:
    """One training of a grid.

    Attributes:
        name: what people call it; the same for all its seeds.
        seed: of the training. The data are split by the seed of the base settings, so that all points are
            compared on the same documents or users.
        settings: resolved; settings that this training does not read stand at their defaults.
    """

    name: str
    seed: int
    settings: Section

    def key(self, fingerprint: str) -> str:
        """Return a checksum of all that decides the result: the settings, the seed and the data.

        The same in every process, on every machine and with every version of Python.

        Args:
            fingerprint: checksum of the data, what is predicted, and the split.
        """
        left_out = rules_of(self.settings).not_in_key
        flat = flat_settings(normalised(self.settings))
        decisive = {key: value for key, value in flat.items() if key not in left_out}
        content = {"data": fingerprint, "seed": self.seed, "settings": decisive}
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def normalised(settings: Job) -> Job:
    """Return the settings with everything that is not read at its default, so that equal trainings are equal.

    As gamma for bce; focal with gamma 0 and no alpha is bce.
    """
    flat = flat_settings(settings)
    if (flat["loss.name"], flat["loss.gamma"], flat["loss.alpha"]) == ("focal", 0, "none"):
        settings = resolve(type(settings), overrides=flat | {"loss.name": "bce"})
    return resolve(type(settings), overrides=flat_settings(settings) | unread(settings))


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
    fit = [point.name for point in points if wanted.items() <= flat_settings(point.settings).items()]
    if len(set(fit)) != 1:
        what = f"fits {', '.join(dict.fromkeys(fit))}" if fit else f"fits no point. There are {', '.join(names)}"
        raise ConfigError(f"{where}: baseline = {wanted!r} {what}. Expected values that one point has")
    return fit[0]
