"""The points of a grid: settings and a seed, each with a name for people and a key that never changes."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Any

import msgspec

from hyperfocal.config.classify import ClassifySettings
from hyperfocal.config.recipes import resolve
from hyperfocal.errors import ConfigError, did_you_mean

NEITHER = "no_cap_no_focal"
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
    if flat["train.folds"]:  # no epoch is chosen
        flat |= {key: default[key] for key in ("train.patience", "train.metric")}
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
