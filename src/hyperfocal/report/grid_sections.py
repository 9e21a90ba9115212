"""The sections of a grid's page that compare its points."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from hyperfocal.metrics.buckets import BUCKETS
from hyperfocal.metrics.intervals import Interval
from hyperfocal.metrics.verdict import NOT_COMPARED
from hyperfocal.report import charts
from hyperfocal.report.blocks import DASH, Block, Cell, Chart, Paragraph, Section, Table
from hyperfocal.report.format import share
from hyperfocal.report.grid_charts import Axis, axes_of, forest, heat_map, times
from hyperfocal.report.grid_table import LABELS, Layout, Row, legend, several_seeds
from hyperfocal.report.run_sections import duration, score_cell

Levels = Mapping[str, Mapping[str, Interval]]
SWITCHED = {
    "half.macro_f1": "F1 at 0.5",
    "tuned.macro_f1": "F1, tuned thresholds",
    "macro_ap": "ranking (average precision)",
}
WORDS = {1: "better", -1: "worse", 0: "no difference shown", None: "no difference shown"}
MOST_VALUES, MOST_POINTS = 14, 40  # of an axis that a heat-map shows; in a chart with a line a point


def compared(
    rows: Sequence[Row], settings: Mapping[str, Mapping[str, Any]], levels: Levels, layout: Layout, by: str
) -> Section:
    """Return the heat-map and the forest, each switchable between metrics."""
    done = [row for row in rows if row.seeds]
    metrics = SWITCHED if layout is LABELS else {metric: layout.name_of(metric) for metric in layout.all_changed}
    if len(done) < 2 or not any(row.verdict for row in done):
        return Section("map", "The grid at a glance", [])
    first = next(iter(metrics))
    blocks: list[Block] = []
    axes = [axis for axis in axes_of(settings) if len(axis.order) <= MOST_VALUES][:2]
    if axes:
        blocks += _heat_map(done, axes, levels, metrics, layout, by)
    shown = [row for row in done if not row.baseline and row.words != NOT_COMPARED][:MOST_POINTS]
    entries = [
        entry
        for row in shown
        for metric in metrics
        if (entry := _entry(row, metric, levels, layout))["percent"] is not None
    ]
    about = (
        "The change of each point from the baseline with its 95% interval, which holds the chance of documents and "
        "seeds; coloured where a difference stands after Holm's correction for the number of points."
    ).replace("documents", layout.scored)
    left = f" The best {MOST_POINTS} are drawn." if len(done) - 1 > MOST_POINTS else ""
    if entries:
        spec = forest(entries, [row.configuration for row in shown], first, about)
        blocks.append(Chart("Differences from the baseline", spec, about + left, "metric", dict(metrics)))
    return Section("map", "The grid at a glance", blocks)


def _heat_map(
    done: Sequence[Row], axes: Sequence[Axis], levels: Levels, metrics: Mapping[str, str], layout: Layout, by: str
) -> list[Block]:
    down, across = axes[0], axes[1] if len(axes) > 1 else None
    cells: dict[tuple[str, str], Row] = {}
    for row in done:  # best first: of several points in a cell the best is shown
        place = (down.labels[row.configuration], across.labels[row.configuration] if across else "")
        cells.setdefault(place, row)
    entries = [
        _entry(row, metric, levels, layout) | {"down": place[0], "across": place[1]}
        for place, row in cells.items()
        for metric in metrics
    ]
    about = (
        "Each cell is a point: its score, and how far it is from the baseline. Blue is better, orange worse, on one "
        "scale for all metrics: switch between them to see what is left of a gain."
    )
    crowded = (
        f" Of several points in a cell the best by {layout.name_of(by)} is shown." if len(cells) < len(done) else ""
    )
    spec = heat_map(entries, down, across, next(iter(metrics)), about)
    title = f"{down.title.capitalize()} by {across.title}" if across else down.title.capitalize()
    return [Chart(title, spec, about + crowded, "metric", dict(metrics))]


def _entry(row: Row, metric: str, levels: Levels, layout: Layout) -> dict[str, Any]:
    """Return a point in one metric, as the charts read it."""
    change = row.change(metric)
    mean, low, high = (None if math.isnan(part) else round(part, 2) for part in change.percent)
    level = levels.get(row.configuration, {}).get(metric)
    return {
        "name": row.configuration,
        "metric": metric,
        "score": share(row.means.get(metric), digits=layout.digits),
        "percent": mean,
        "low": low,
        "high": high,
        "change": "baseline" if row.baseline else "" if mean is None else f"{mean:+.1f}%",
        "reach": DASH if row.baseline or low is None else f"{low:+.1f}% to {high:+.1f}%",
        "level": DASH if level is None else _range(level, layout.digits),
        "sign": WORDS[change.sign],
        "verdict": row.words,
    }  # fmt: skip


def _range(level: Interval, digits: int) -> str:
    return DASH if math.isnan(level.low) else f"{share(level.low, digits=digits)} to {share(level.high, digits=digits)}"


def ranked(rows: Sequence[Row], layout: Layout, by: str) -> Section:
    """Return the ranked table."""
    known = [metric for metric in layout.columns if any(_finite(row.means.get(metric)) is not None for row in rows)]
    names = {metric: _one_line(layout.columns[metric]) for metric in known}
    several = several_seeds(rows)
    columns = ["point", *names.values(), "change", *(["sd"] if several else []), "time", "verdict"]
    cells = [
        [
            Cell(row.configuration),
            *(_score(row, metric, layout.digits, strong=metric == by) for metric in names),
            _change(row, layout),
            *([score_cell(_finite(row.spreads.get(by)), 4)] if several else []),
            Cell(DASH) if math.isnan(row.seconds) else Cell(duration(row.seconds), row.seconds),
            Cell("the winner; " + row.words if row.winner else row.words),
        ]
        for row in rows
    ]  # fmt: skip
    words = legend(rows, by, layout, star="").strip().removeprefix("the winner. ")
    marked = [place for place, row in enumerate(rows) if row.winner]
    table = Table(f"Best first by {layout.name_of(by)}", columns, cells, texts=["verdict"], marked=marked, first=20)
    return Section(
        "ranked", "Every point", [table, Paragraph(f"{words[:1].upper()}{words[1:]}", quiet=True)] if rows else []
    )


def _score(row: Row, metric: str, digits: int, *, strong: bool) -> Cell:
    return score_cell(_finite(row.means.get(metric)), digits, look="strong" if strong else "")


def _one_line(column: str) -> str:
    return column.replace("\n@", "@").replace("\n", " ")


def _finite(value: float | None) -> float | None:
    return None if value is None or math.isnan(value) else value


def _change(row: Row, layout: Layout) -> Cell:
    if row.baseline:
        return Cell("baseline", 0)
    mean, low, high = row.change(layout.changed).percent
    return Cell(DASH) if math.isnan(mean) else Cell(f"{mean:+.1f}% ±{(high - low) / 2:.1f}", mean)


def groups(rows: Sequence[Row], levels: Levels, layout: Layout, k: int) -> Section:
    """Return bars for head, medium and tail: winner, baseline, and the point that is best in the tail."""
    done = [row for row in rows if row.seeds]
    kinds = {f"map@{k}": f"{{}}.map@{k}"} if k else {"average precision": "{}_ap", "F1, tuned": "tuned.{}_f1"}
    blocks: list[Block] = []
    for axis, pattern in kinds.items():
        series = _series(done, pattern.format("tail"))
        bars = [
            {"bucket": bucket, "series": name, **_plain(levels[name][pattern.format(bucket)])}
            for bucket in BUCKETS
            for name in series
            if pattern.format(bucket) in levels.get(name, {})
            and not math.isnan(levels[name][pattern.format(bucket)].mean)
        ]
        if bars:
            about = (
                f"{axis[:1].upper()}{axis[1:]} of frequent and rare ones for {', '.join(series)}; the lines are 95% "
                f"intervals over {layout.scored}."
            )
            blocks.append(
                Chart(f"{axis[:1].upper()}{axis[1:]}", charts.buckets(bars, series, series[0], axis, about), about)
            )
    return Section("groups", "Head, medium, tail", blocks)


def _series(done: Sequence[Row], tail: str) -> list[str]:
    """Return the winner, the baseline, and what is best in the tail, without repeats."""
    known = [row for row in done if _finite(row.means.get(tail)) is not None]
    best = [max(known, key=lambda row: row.means[tail]).configuration] if known else []
    chosen = [row.configuration for row in done if row.winner] + [row.configuration for row in done if row.baseline]
    return list(dict.fromkeys(chosen + best))


def _plain(level: Interval) -> dict[str, float | None]:
    return {part: None if math.isnan(value) else value for part, value in level._asdict().items()}


def seconds(rows: Sequence[Row]) -> Section:
    """Return the time of each point."""
    known = [row for row in rows if not math.isnan(row.seconds)]
    bars = [
        {"name": row.configuration, "seconds": row.seconds, "said": duration(row.seconds)}
        for row in known[:MOST_POINTS]
    ]
    about = "Mean time of a training of each point, validation included."
    total = sum(row.seconds * row.seeds for row in known)
    chart = Chart("Time of a training", times(bars, [row.configuration for row in known[:MOST_POINTS]], about), about)
    return Section(
        "time",
        "Time",
        [Paragraph(f"All trainings together took {duration(total)} of one worker's time."), chart] if bars else [],
    )
