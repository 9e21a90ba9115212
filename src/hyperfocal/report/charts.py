"""Draw the charts that both jobs share, with Altair, in the colors of the page, which follow light and dark.

`axis`, `events` and `counted` are titles of axes, `description` is for screen readers, and heights are in pixels.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import altair as alt

from hyperfocal.labels import BUCKETS
from hyperfocal.storage.run_folder import without_nan

Rows = Sequence[dict[str, Any]]
NAMES = ("ink", "muted", "rule", "accent", "others", "faint")
INK, MUTED, RULE, ACCENT, OTHERS, FAINT = (f"var(--{name})" for name in NAMES)
FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Noto Sans', sans-serif"
OF_BUCKETS = [f"var(--{bucket})" for bucket in BUCKETS]
LABEL = 150  # pixels of a name on an axis
LEFT = 44  # pixels left of the two charts of the long tail, so that they line up
PROBABILITIES = [0, 0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 1]  # ticks of the reliability diagram
CONFIG: dict[str, Any] = {
    "background": None,
    "font": FONT,
    "padding": {"left": 2, "right": 6, "top": 4, "bottom": 2},
    "view": {"stroke": None},
    "axis": {
        "domainColor": OTHERS, "tickColor": OTHERS, "gridColor": RULE, "labelColor": MUTED, "titleColor": MUTED,
        "labelFontSize": 12, "titleFontSize": 12, "titleFontWeight": "normal", "labelLimit": LABEL, "titlePadding": 8,
        "tickSize": 4, "labelFlush": False,
    },
    "axisY": {"domain": False, "ticks": False, "labelPadding": 6},
    "legend": {
        "orient": "top", "title": None, "labelColor": INK, "labelFontSize": 12, "symbolType": "circle", "offset": 4,
        "labelLimit": 200, "columns": 3, "symbolStrokeWidth": 0,
    },
    "header": {"labelColor": MUTED, "titleColor": MUTED},
    "text": {"color": INK, "fontSize": 12},
    "point": {"filled": True, "opacity": 1, "size": 60},
    "line": {"strokeWidth": 2},
    "rule": {"color": INK},
}  # fmt: skip


def data(rows: Rows) -> alt.InlineData:
    """Return rows as the data of a chart."""
    return alt.InlineData(values=list(rows))


def spec_of(chart: Any, description: str, *, height: int) -> dict[str, Any]:
    """Return the specification of an Altair chart that fills the width of the page."""
    sized = chart.properties(width="container", description=description, height=height)
    spec: dict[str, Any] = without_nan(sized.to_dict(validate=False))
    spec.pop("$schema", None)
    return spec | {"config": CONFIG, "autosize": {"type": "fit-x", "contains": "padding"}}


def few_ticks(title: str, **options: Any) -> alt.Axis:
    """Return an axis with few ticks."""
    return alt.Axis(title=title, tickCount=5, **options)


def of_series(names: Sequence[str], ours: str) -> alt.Color:
    """Return the colors of named series: ours is highlighted, the others are gray."""
    grays = itertools.cycle([OTHERS, FAINT])
    colors = [ACCENT if name == ours else next(grays) for name in names]
    return alt.Color("series:N", scale=alt.Scale(domain=list(names), range=colors))


def dots(rows: Rows, order: Sequence[str], ours: str, axis: str, description: str) -> dict[str, Any]:
    """Return a dot with its interval per row, which has name, mean, low and high (None without an interval).

    The names in `order` run from top to bottom, and `ours` is highlighted.
    """
    base = alt.Chart(data(rows)).encode(
        y=alt.Y("name:N", sort=list(order), title=None),
        color=alt.condition(alt.datum.name == ours, alt.value(ACCENT), alt.value(OTHERS)),
        tooltip=_interval_tooltip(axis, "name"),
    )
    scale = alt.Scale(zero=True, nice=True)
    reach = base.mark_rule(strokeWidth=2).encode(x=alt.X("low:Q", scale=scale, axis=few_ticks(axis)), x2="high:Q")
    point = base.mark_point(size=90).encode(x=alt.X("mean:Q", scale=scale, axis=few_ticks(axis)))
    return spec_of(alt.layer(reach, point), description, height=max(26 * len(order), 60))


def buckets(rows: Rows, series: Sequence[str], ours: str, axis: str, description: str) -> dict[str, Any]:
    """Return a bar with its interval per bucket (head, medium, tail) and series; the series `ours` is highlighted.

    Each row has bucket, series, mean, low and high.
    """
    base = alt.Chart(data(rows)).encode(
        y=alt.Y("bucket:N", sort=list(BUCKETS), title=None),
        yOffset=alt.YOffset("series:N", sort=list(series)),
        tooltip=_interval_tooltip(axis, "bucket", "series"),
    )
    bars = base.mark_bar(cornerRadiusEnd=2, opacity=0.75).encode(
        x=alt.X("mean:Q", title=axis, axis=few_ticks(axis)),
        color=of_series(series, ours),
    )
    reach = base.mark_rule(color=INK, strokeWidth=1.5).encode(x="low:Q", x2="high:Q")
    return spec_of(alt.layer(bars, reach), description, height=max(3 * (18 * len(series) + 12), 120))


def _interval_tooltip(axis: str, *names: str) -> list[alt.Tooltip]:
    return texts({name: name for name in names}) + _numbers({"mean": axis, "low": "95% from", "high": "to"}, ".4f")


def texts(titles: Mapping[str, str]) -> list[alt.Tooltip]:
    """Return the tooltips of text fields, by field -> title."""
    return [alt.Tooltip(f"{field}:N", title=title) for field, title in titles.items()]


def _numbers(titles: Mapping[str, str], form: str) -> list[alt.Tooltip]:
    return [alt.Tooltip(f"{field}:Q", title=title, format=form) for field, title in titles.items()]


def curves(
    rows: Rows, x: str, y: str, description: str, *, names: Sequence[str], marks: Rows = (), height: int = 220
) -> dict[str, Any]:
    """Return one line per series; the first one is highlighted.

    Args:
        rows: x, y and series.
        x, y: titles of the axes.
        names: of the series.
        marks: rows of x and label, drawn as vertical lines.
    """
    whole = all(float(row["x"]).is_integer() for row in rows)
    ticks = alt.Axis(title=x, format="d", tickMinStep=1, tickCount=8) if whole else few_ticks(x)
    across = alt.X("x:Q", axis=ticks, scale=alt.Scale(nice=False))
    base = alt.Chart(data(rows)).encode(
        x=across,
        y=alt.Y("y:Q", axis=few_ticks(y), scale=alt.Scale(zero=False)),
        color=of_series(names, names[0]) if len(names) > 1 else alt.value(ACCENT),
    )
    tips = [*texts({"series": " "}), alt.Tooltip("x:Q", title=x), *_numbers({"y": y}, ".4f")]
    dotted = len(rows) <= 40 * len(names)
    layers = [
        base.mark_line(interpolate="monotone"),
        base.mark_point(size=28 if dotted else 60, opacity=1 if dotted else 0).encode(tooltip=tips),
    ]
    if marks:
        marked = alt.Chart(data(marks)).encode(x="x:Q")
        layers.insert(0, marked.mark_rule(strokeDash=[4, 3], color=MUTED))
        layers.append(
            marked.mark_text(align="left", dx=5, dy=8, color=MUTED, baseline="top").encode(
                y=alt.value(0), text="label:N"
            )
        )
    return spec_of(alt.layer(*layers), description, height=height)


def tail_counts(rows: Rows, events: str, counted: str, largest: float, description: str) -> dict[str, Any]:
    """Return the histogram of labels or items over their training events; it lines up with `tail_scores`.

    Each row has from, to (bounds of training events) and number; `largest` is the end of the x axis.
    """
    ranges = [row | {"end": row["to"] + 1, "zero": 0} for row in rows]
    bars = (
        alt.Chart(data(ranges))
        .mark_rect(color=FAINT, stroke="var(--paper)", clip=True)
        .encode(
            x=_frequency("from", events, largest, labels=False),
            x2="end:Q",
            y=alt.Y("number:Q", axis=_left(title=counted, tickCount=3, format="~s")),
            y2="zero:Q",
            tooltip=_numbers({"from": f"{events}, from", "to": "to", "number": counted}, ","),
        )
    )
    return spec_of(bars, description, height=90)


def tail_scores(
    points: Rows, means: Rows, events: str, scores: dict[str, str], largest: float, description: str, *, counted: str
) -> dict[str, Any]:
    """Return a mark per label or item, its score over its training events, and the line of mean scores.

    Args:
        points: name, events, bucket, size (true documents or users) and the scores.
        means: x (events) and the scores.
        scores: field -> title; the chart's parameter `score` chooses one of several.
        largest: end of the x axis.
    """
    score = alt.param(name="score", value=next(iter(scores)))
    across = _frequency("events", events, largest)
    title = next(iter(scores.values())) if len(scores) == 1 else "score"
    up = alt.Y("shown:Q", scale=alt.Scale(domain=[0, 1]), axis=_left(title=title, tickCount=5))
    tips = [*texts({"name": "name"}), *_numbers({"events": events, "size": counted}, ","), *_numbers(scores, ".3f")]
    marks = (
        _chosen(points)
        .mark_point(opacity=0.55)
        .encode(
            x=across,
            y=up,
            size=alt.Size("size:Q", scale=alt.Scale(range=[14, 160]), legend=None),
            color=alt.Color("bucket:N", scale=alt.Scale(domain=list(BUCKETS), range=OF_BUCKETS)),
            shape=alt.Shape("bucket:N", scale=alt.Scale(domain=list(BUCKETS), range=["circle", "square", "diamond"])),
            tooltip=tips,
        )
    )
    dots = {"filled": True, "color": INK, "size": 22}
    line = _chosen(means).mark_line(color=INK, strokeWidth=2, point=dots).encode(x=across, y=up)
    return spec_of(alt.layer(marks, line).add_params(score), description, height=280)


def _chosen(rows: Rows) -> alt.Chart:
    """Return a chart of the rows that have the chosen score, which is their field `shown`."""
    chosen = alt.Chart(data(rows)).transform_calculate(shown="datum[score]")
    return chosen.transform_filter("isValid(datum.shown)")


def end_of_axis(events: Iterable[int]) -> float:
    """Return the end of an axis of training events: the power of two above the largest number."""
    return float(1 << max(events, default=1).bit_length())


def _frequency(field: str, title: str, largest: float, *, labels: bool = True) -> alt.X:
    scale = alt.Scale(type="symlog", constant=1, domain=[0, largest], nice=False)
    ticks = [tick * 10**power for power in range(9) for tick in (1, 3) if tick * 10**power <= largest]
    axis = alt.Axis(
        title=title if labels else None,
        labels=labels,
        ticks=labels,
        values=[0, *ticks],
        labelExpr="format(datum.value, '~s')",
        labelOverlap=True,
    )
    return alt.X(f"{field}:Q", scale=scale, axis=axis)


def _left(**options: Any) -> alt.Axis:
    return alt.Axis(minExtent=LEFT, maxExtent=LEFT, **options)


def reliability_chart(bins: Sequence[dict[str, Any]], description: str) -> dict[str, Any]:
    """Return the reliability diagram: the share of true pairs over the mean probability of each bin.

    The bins come from `metrics.calibration.reliability`.
    """
    scale = alt.Scale(type="sqrt", domain=[0, 1])
    axis = alt.Axis(values=PROBABILITIES, labelExpr="datum.value")
    across = alt.X("mean:Q", title="predicted probability", scale=scale, axis=axis)
    up = alt.Y("frequency:Q", title="share that is true", scale=scale, axis=axis)
    perfect = alt.Chart(data([{"mean": end, "frequency": end} for end in (0, 1)]))
    ideal = perfect.mark_line(color=OTHERS, strokeDash=[4, 3], strokeWidth=1.5).encode(x=across, y=up)
    base = alt.Chart(data(bins)).encode(x=across, y=up)
    tips = _numbers({"mean": "predicted probability", "frequency": "share that is true"}, ".4f")
    tips += _numbers({"pairs": "pairs"}, ",")
    line, points = base.mark_line(color=ACCENT), base.mark_point(color=ACCENT, size=60).encode(tooltip=tips)
    return spec_of(alt.layer(ideal, line, points), description, height=320)
