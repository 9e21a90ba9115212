"""The two axes of a grid's heat-map, told from the settings of its points."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

NOT_AXES = ("seed", "train.threads", "train.checkpoint_seconds")
TITLES = {"loss.cap": "class-weight cap", "loss.gamma": "focal gamma", "loss.name": "loss", "model.name": "model"}
NONE = "none"


@dataclass(frozen=True)
class Axis:
    """A setting that varies.

    Attributes:
        title: what it is called.
        labels: name of a point -> its value, as text.
        order: the values in order.
    """

    title: str
    labels: dict[str, str]
    order: list[str]


def axes_of(settings: Mapping[str, Mapping[str, Any]]) -> list[Axis]:
    """Return the settings that vary and do not follow from another, those with most values first.

    A setting that a training does not read, None, is `none`, as is `off`: so gamma tells of bce and focal.

    Args:
        settings: name of a point -> dotted settings.

    >>> [axis.order for axis in axes_of({"a": {"loss.gamma": None}, "b": {"loss.gamma": 2.0}})]
    [['none', '2']]
    """
    keys = dict.fromkeys(key for each in settings.values() for key in each if key not in NOT_AXES)
    columns = {key: {name: each.get(key) for name, each in settings.items()} for key in keys}
    varying = {key: column for key, column in columns.items() if len(_distinct(column)) > 1}
    named = [*TITLES]
    ordered = sorted(
        varying, key=lambda key: (-len(_distinct(varying[key])), named.index(key) if key in named else len(named))
    )
    kept: list[str] = []
    for key in ordered:
        if not any(_decides(varying[other], varying[key]) for other in kept):
            kept.append(key)
    return [_axis(key, varying[key]) for key in kept]


def _distinct(column: Mapping[str, Any]) -> list[str]:
    return list(dict.fromkeys(_label(value) for value in column.values()))


def _decides(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Return whether the value of one tells that of the other."""
    pairs = {(_label(one[name]), _label(other[name])) for name in one}
    return len(pairs) == len(_distinct(one))


def _axis(key: str, column: Mapping[str, Any]) -> Axis:
    values = {_label(value): value for value in column.values()}
    order = sorted(values, key=lambda label: _place(values[label]))
    return Axis(TITLES.get(key, key), {name: _label(value) for name, value in column.items()}, order)


def _place(value: Any) -> tuple[int, float]:
    """Return what puts values in order: none, then numbers, then words as they come."""
    if value is None or value == "off":
        return 0, 0.0
    if isinstance(value, int | float):
        return 1, float(value)
    return 2, 0.0


def _label(value: Any) -> str:
    if value is None or value == "off":
        return NONE
    if value == "none":
        return "no cap"
    return f"{value:g}" if isinstance(value, float) else str(value)
