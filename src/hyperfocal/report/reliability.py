"""The reliability diagram."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import altair as alt

from hyperfocal.report.charts import ACCENT, OTHERS, data, finished

TICKS = [0, 0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 1]


def reliability_chart(bins: Sequence[dict[str, Any]], description: str) -> dict[str, Any]:
    """Return the share of true pairs over the mean probability of bins, which are from `metrics.curves.reliability`."""
    scale = alt.Scale(type="sqrt", domain=[0, 1])
    across = alt.X(
        "mean:Q", title="probability given", scale=scale, axis=alt.Axis(values=TICKS, labelExpr="datum.value")
    )
    up = alt.Y(
        "frequency:Q", title="share that is true", scale=scale, axis=alt.Axis(values=TICKS, labelExpr="datum.value")
    )
    perfect = alt.Chart(data([{"mean": end, "frequency": end} for end in (0, 1)]))
    ideal = perfect.mark_line(color=OTHERS, strokeDash=[4, 3], strokeWidth=1.5).encode(x=across, y=up)
    base = alt.Chart(data(bins)).encode(x=across, y=up)
    tips = [
        alt.Tooltip("mean:Q", title="probability given", format=".4f"),
        alt.Tooltip("frequency:Q", title="share that is true", format=".4f"),
        alt.Tooltip("pairs:Q", title="pairs", format=","),
    ]
    found = alt.layer(ideal, base.mark_line(color=ACCENT), base.mark_point(color=ACCENT, size=60).encode(tooltip=tips))
    return finished(found, description, height=320)
