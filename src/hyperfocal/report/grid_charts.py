"""Draw the charts of a grid: its heat map and the settings on its axes, the differences, and the times."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import altair as alt

from hyperfocal.report.charts import FAINT, INK, MUTED, OTHERS, RULE, Rows, data, few_ticks, spec_of, texts

BETTER, WORSE = "var(--better)", "var(--worse)"
SIGNS = {"higher": BETTER, "lower": WORSE, "no difference shown": OTHERS}
CELL, ROW = 64, 24  # pixels of height
NOT_AXES = ("seed", "train.threads", "train.checkpoint_seconds")  # they change no result that is compared
TITLES = {"loss.cap": "class-weight cap", "loss.gamma": "focal gamma", "loss.name": "loss", "model.name": "model"}
TIPS = {
    "name": "point", "score": "score", "level": "its 95% interval", "change": "against the baseline",
    "reach": "its 95% interval", "verdict": "verdict",
}  # fmt: skip
NONE = "none"


@dataclass(frozen=True)
class Axis:
    """A setting that varies.

    Attributes:
        title: its name on the page.
        labels: name of a point -> its value as text.
        order: the values in order.
    """

    title: str
    labels: dict[str, str]
    order: list[str]


def heat_map(rows: Rows, down: Axis, across: Axis | None, metric: str, description: str) -> dict[str, Any]:
    """Return a cell per point: its score, with its change as color, on one scale for all metrics.

    Args:
        rows: name, metric, down, across, score, level, percent, change, reach and verdict, for all metrics.
        down: the setting of the rows.
        across: the setting of the columns; None: one column.
        metric: the one shown at first; the chart's parameter `metric` changes it.
    """
    chosen = alt.param(name="metric", value=metric)
    columns = across.order if across else [""]
    top = alt.Axis(title=across.title if across else None, orient="top", labelAngle=0, domain=False, ticks=False)
    base = (
        alt.Chart(data(rows))
        .transform_filter("datum.metric == metric")
        .encode(
            x=alt.X("across:N", sort=columns, scale=alt.Scale(domain=columns), axis=top),
            y=alt.Y("down:N", sort=down.order, scale=alt.Scale(domain=down.order), axis=alt.Axis(title=down.title)),
        )
    )  # fmt: skip
    largest = max((abs(row["percent"]) for row in rows if row["percent"] is not None), default=0) or 1
    depth = alt.Scale(type="sqrt", domain=[0, largest], range=[0.03, 0.62])  # text is readable on all of it
    cells = base.mark_rect(stroke="var(--paper)", strokeWidth=3, cornerRadius=6).encode(
        fill=alt.condition("datum.percent >= 0", alt.value(BETTER), alt.value(WORSE)),
        fillOpacity=alt.FillOpacity("size:Q", scale=depth, legend=None),
        tooltip=texts(TIPS),
    ).transform_calculate(size="abs(datum.percent)")  # fmt: skip
    text = base.mark_text(fontSize=15, fontWeight=600, dy=-8, color=INK).encode(text="score:N")
    change = base.mark_text(fontSize=11.5, dy=10, color=INK).encode(text="change:N")
    chart = alt.layer(cells, text, change).add_params(chosen)
    return spec_of(chart, description, height=CELL * len(down.order))


def forest(rows: Rows, order: Sequence[str], metric: str, description: str) -> dict[str, Any]:
    """Return the change of each point from the baseline, with its interval.

    Args:
        rows: as in `heat_map`, and low, high and sign, one of SIGNS; without down and across.
        order: names from top to bottom.
        metric: the one shown at first; the chart's parameter `metric` changes it.
    """
    chosen = alt.param(name="metric", value=metric)
    base = (
        alt.Chart(data(rows))
        .transform_filter("datum.metric == metric")
        .encode(
            y=alt.Y("name:N", sort=list(order), scale=alt.Scale(domain=list(order)), title=None),
            color=alt.Color("sign:N", scale=alt.Scale(domain=list(SIGNS), range=list(SIGNS.values()))),
            tooltip=texts(TIPS),
        )
    )
    title = "change from the baseline in %"
    reach = base.mark_rule(strokeWidth=2).encode(x=alt.X("low:Q", axis=few_ticks(title, format="+~r")), x2="high:Q")
    point = base.mark_point(size=80).encode(x="percent:Q")
    zero = alt.Chart(data([{"percent": 0}])).mark_rule(color=MUTED, strokeDash=[4, 3]).encode(x="percent:Q")
    return spec_of(alt.layer(zero, reach, point).add_params(chosen), description, height=max(ROW * len(order), 60))


def time_bars(rows: Rows, order: Sequence[str], description: str) -> dict[str, Any]:
    """Return the seconds of one training of each point, from rows of name, seconds and text."""
    base = alt.Chart(data(rows)).encode(
        y=alt.Y("name:N", sort=list(order), title=None),
        x=alt.X("seconds:Q", axis=few_ticks("seconds per training", gridColor=RULE)),
        tooltip=texts({"name": "point", "text": "time"}),
    )
    bars = base.mark_bar(color=FAINT, cornerRadiusEnd=2, height={"band": 0.6})
    text = base.mark_text(align="left", dx=5, color=MUTED, fontSize=11).encode(text="text:N")
    return spec_of(alt.layer(bars, text), description, height=max(ROW * len(order), 60))


def axes_of(settings: Mapping[str, Mapping[str, Any]]) -> list[Axis]:
    """Return the settings that vary and do not follow from another one, those with the most values first.

    `off` and None, for a setting that a training does not read, become `none`: gamma covers both bce and focal.

    Args:
        settings: name of a point -> dotted settings.

    >>> [axis.order for axis in axes_of({"a": {"loss.gamma": None}, "b": {"loss.gamma": 2.0}})]
    [['none', '2']]
    """
    keys = dict.fromkeys(key for each in settings.values() for key in each if key not in NOT_AXES)
    columns = {key: {name: each.get(key) for name, each in settings.items()} for key in keys}
    varying = {key: column for key, column in columns.items() if len(_distinct(column)) > 1}
    first = [*TITLES, *varying]
    axes: list[str] = []
    for key in sorted(varying, key=lambda key: (-len(_distinct(varying[key])), first.index(key))):
        if not any(_determines(varying[other], varying[key]) for other in axes):
            axes.append(key)
    return [_axis(key, varying[key]) for key in axes]


def _distinct(column: Mapping[str, Any]) -> set[str]:
    return {_label(value) for value in column.values()}


def _determines(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Return whether the value of `other` follows from that of `one`."""
    pairs = {(_label(one[name]), _label(other[name])) for name in one}
    return len(pairs) == len(_distinct(one))


def _axis(key: str, column: Mapping[str, Any]) -> Axis:
    values = {_label(value): value for value in column.values()}
    order = sorted(values, key=lambda label: _place(values[label]))
    return Axis(TITLES.get(key, key), {name: _label(value) for name, value in column.items()}, order)


def _place(value: Any) -> tuple[int, float]:
    """Return the key that sorts values: none, then numbers, then words in their given order."""
    if value is None or value == "off":
        return 0, 0.0
    return (1, float(value)) if isinstance(value, int | float) else (2, 0.0)


def _label(value: Any) -> str:
    if value is None or value == "off":
        return NONE
    if value == "none":
        return "no cap"
    return f"{value:g}" if isinstance(value, float) else str(value)
