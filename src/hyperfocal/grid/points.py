"""Points of a grid: settings and a seed, with a name for people and a key that never changes."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Any, TypeVar

from hyperfocal.config.recipes import flat_settings, resolve
from hyperfocal.config.rules import rules_of, unread
from hyperfocal.config.sections import Section
from hyperfocal.errors import ConfigError, did_you_mean

NEITHER = "no_cap_no_focal"
Job = TypeVar("Job", bound=Section)


@dataclass(frozen=True)
class Point:
    """One training of a grid.

    Attributes:
        name: for people; the same for all seeds of the same settings.
        seed: of the training. The data are split by the seed of the base settings, so that all points are
            compared on the same documents or users.
        settings: resolved; settings that this training does not read have their defaults.
    """

    name: str
    seed: int
    settings: Section

    def key(self, fingerprint: str) -> str:
        """Return a checksum of everything that decides the result: the settings, the seed and the data.

        It is the same in every process, on every machine and with every version of Python.

        Args:
            fingerprint: checksum of the data, their labels or truth, and the split.
        """
        left_out = rules_of(self.settings).not_in_key
        flat = flat_settings(normalised(self.settings))
        decisive = {key: value for key, value in flat.items() if key not in left_out}
        content = {"data": fingerprint, "seed": self.seed, "settings": decisive}
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def normalised(settings: Job) -> Job:
    """Return the settings with those that are not read at their defaults, so that equal trainings have equal settings.

    bce does not read gamma, for example; focal with gamma 0 and no alpha is bce, and softmax_focal
    with gamma 0 is softmax.
    """
    flat = flat_settings(settings)
    if (flat["loss.name"], flat["loss.gamma"], flat["loss.alpha"]) == ("focal", 0, "none"):
        settings = resolve(type(settings), overrides=flat | {"loss.name": "bce"})
    if (flat["loss.name"], flat["loss.gamma"]) == ("softmax_focal", 0):
        settings = resolve(type(settings), overrides=flat | {"loss.name": "softmax"})
    return resolve(type(settings), overrides=flat_settings(settings) | unread(settings))


def baseline_name(points: list[Point], wanted: str | dict[str, Any] | None = None, *, where: str = "grid") -> str:
    """Return the name of the point that the others are compared with.

    Args:
        points: the grid.
        wanted: its name, or values of settings that only it has; None: no_cap_no_focal if there is one, else the first.
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
    matches = [point.name for point in points if wanted.items() <= flat_settings(point.settings).items()]
    if len(set(matches)) != 1:
        what = (
            f"fits {', '.join(dict.fromkeys(matches))}" if matches else f"fits no point. There are {', '.join(names)}"
        )
        raise ConfigError(f"{where}: baseline = {wanted!r} {what}. Expected values that one point has")
    return matches[0]
