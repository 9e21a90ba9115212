"""The two charts of the long tail, one above the other: how many have so many training events, and their scores."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import altair as alt

from hyperfocal.metrics.frequency import BUCKETS
from hyperfocal.report.charts import FAINT, INK, Rows, data, finished

OF_BUCKETS = [f"var(--{bucket})" for bucket in BUCKETS]
LEFT = 44  # pixels beside both plots, so that they line up


def tail_counts(rows: Rows, events: str, what: str, largest: float, description: str) -> dict[str, Any]:
    """Return how many labels or items have so many training events; lines up with `tail_scores`.

    Args:
        rows: from, to (bounds of training events) and number.
        events: title of the x axis.
        what: title of the y axis, as "labels".
        largest: end of the x axis.
        description: for screen readers.
    """
    ranges = [row | {"end": row["to"] + 1, "zero": 0} for row in rows]
    bars = (
        alt.Chart(data(ranges))
        .mark_rect(color=FAINT, stroke="var(--paper)", clip=True)
        .encode(
            x=_frequency("from", events, largest, labels=False),
            x2="end:Q",
            y=alt.Y("number:Q", axis=_left(title=what, tickCount=3, format="~s")),
            y2="zero:Q",
            tooltip=[
                alt.Tooltip("from:Q", title=f"{events}, from", format=","),
                alt.Tooltip("to:Q", title="to", format=","),
                alt.Tooltip("number:Q", title=what, format=","),
            ],
        )
    )
    return finished(bars, description, height=90)


def tail_scores(
    points: Rows, means: Rows, events: str, scores: dict[str, str], largest: float, description: str, *, counted: str
) -> dict[str, Any]:
    """Return a mark for each label or item: its score over how often training shows it, and the mean along the axis.

    Args:
        points: name, events, bucket, size (true documents or users) and the scores.
        means: x (events) and the scores.
        events: title of the x axis.
        scores: field -> title; a parameter `score` chooses where there are several.
        largest: end of the x axis.
        description: for screen readers.
        counted: what size counts.
    """
    score = alt.param(name="score", value=next(iter(scores)))
    across = _frequency("events", events, largest)
    title = next(iter(scores.values())) if len(scores) == 1 else "score"
    up = alt.Y("shown:Q", scale=alt.Scale(domain=[0, 1]), axis=_left(title=title, tickCount=5))
    tips = [alt.Tooltip("name:N", title="name"), alt.Tooltip("events:Q", title=events, format=",")]
    tips += [alt.Tooltip("size:Q", title=counted, format=",")]
    tips += [alt.Tooltip(f"{field}:Q", title=title, format=".3f") for field, title in scores.items()]
    marks = (
        alt.Chart(data(points))
        .transform_calculate(shown="datum[score]")
        .transform_filter("isValid(datum.shown)")
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
    line = (
        alt.Chart(data(means))
        .transform_calculate(shown="datum[score]")
        .transform_filter("isValid(datum.shown)")
        .mark_line(color=INK, strokeWidth=2, point={"filled": True, "color": INK, "size": 22})
        .encode(x=across, y=up)
    )
    return finished(alt.layer(marks, line).add_params(score), description, height=280)


def end_of_axis(events: Iterable[int]) -> float:
    """Return where the axis of frequencies ends: the power of two after the most frequent."""
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
