"""The sections of a grid's page that compare its points: heat map, differences, table, buckets and time."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from hyperfocal.grid.reading import GridReading
from hyperfocal.labels import BUCKETS
from hyperfocal.metrics.intervals import Interval
from hyperfocal.metrics.verdict import NOT_COMPARED
from hyperfocal.report import charts
from hyperfocal.report.blocks import DASH, Block, Cell, Chart, Paragraph, Section, Table
from hyperfocal.report.format import capitalized, duration, share
from hyperfocal.report.grid_charts import Axis, axes_of, forest, heat_map, time_bars
from hyperfocal.report.grid_table import GridTable, Layout, Row, one_line
from hyperfocal.report.run import score_cell

Levels = Mapping[str, Mapping[str, Interval]]  # point -> metric -> mean over its seeds, with its interval
WORDS = {1: "higher", -1: "lower", 0: "no difference shown", None: "no difference shown"}
MOST_VALUES, MOST_POINTS = 14, 40  # of an axis of the heat map; of a chart with one line per point


def comparison(table: GridTable, grid: GridReading) -> Section:
    """Return the heat map and the differences from the baseline, each with a switch between metrics."""
    done = [row for row in table.rows if row.seeds]
    blocks: list[Block] = []
    if len(done) > 1 and any(row.verdict for row in done):
        axes = [axis for axis in axes_of(grid.settings) if len(axis.order) <= MOST_VALUES][:2]
        blocks += [_heat_map(table, done, axes, grid.levels)] if axes else []
        blocks += _differences(table.layout, done, grid.levels)
    return Section("map", "The grid at a glance", blocks)


def _heat_map(table: GridTable, done: Sequence[Row], axes: Sequence[Axis], levels: Levels) -> Chart:
    down, across = axes[0], axes[1] if len(axes) > 1 else None
    metrics = table.layout.compared
    cells: dict[tuple[str, str], Row] = {}
    for row in done:  # best first, so a cell with several points shows the best one
        place = (down.labels[row.configuration], across.labels[row.configuration] if across else "")
        cells.setdefault(place, row)
    entries = [
        _entry(row, metric, levels, table.layout) | {"down": place[0], "across": place[1]}
        for place, row in cells.items()
        for metric in metrics
    ]
    about = (
        "Each cell is a point: its score and its change from the baseline. Blue is higher and orange is lower, on the "
        "same scale for all metrics. Switch between the metrics to see whether a gain remains."
    )
    best = f" A cell with several points shows the best by {table.layout.name_of(table.by)}."
    spec = heat_map(entries, down, across, next(iter(metrics)), about)
    title = capitalized(f"{down.title} by {across.title}" if across else down.title)
    return Chart(title, spec, about + (best if len(cells) < len(done) else ""), "metric", dict(metrics))


def _differences(layout: Layout, done: Sequence[Row], levels: Levels) -> list[Block]:
    metrics = layout.compared
    rows = [row for row in done if not row.baseline and row.words != NOT_COMPARED][:MOST_POINTS]
    entries = [_entry(row, metric, levels, layout) for row in rows for metric in metrics]
    entries = [entry for entry in entries if entry["percent"] is not None]
    if not entries:
        return []
    about = (
        "The change of each point from the baseline with its 95% interval, which covers the random choice of "
        f"{layout.scored} and, with several seeds, of trainings. A colored point differs significantly after the "
        "correction for the points and metrics that are tested."
    )
    left_out = f" Only the best {MOST_POINTS} points are drawn." if len(done) - 1 > MOST_POINTS else ""
    spec = forest(entries, [row.configuration for row in rows], next(iter(metrics)), about)
    return [Chart("Differences from the baseline", spec, about + left_out, "metric", dict(metrics))]


def _entry(row: Row, metric: str, levels: Levels, layout: Layout) -> dict[str, Any]:
    """Return a point in one metric, as the charts read it."""
    change = row.change(metric)
    mean, low, high = (None if math.isnan(end) else round(end, 2) for end in change.percent)
    level = levels.get(row.configuration, {}).get(metric)
    ends = [share(end, digits=layout.digits) for end in (level.low, level.high)] if level else []
    return {
        "name": row.configuration,
        "metric": metric,
        "score": share(row.means.get(metric), digits=layout.digits),
        "percent": mean,
        "low": low,
        "high": high,
        "change": "baseline" if row.baseline else "" if mean is None else f"{mean:+.1f}%",
        "reach": DASH if row.baseline or low is None else f"{low:+.1f}% to {high:+.1f}%",
        "level": DASH if level is None or math.isnan(level.low) else " to ".join(ends),
        "sign": WORDS[change.sign],
        "verdict": row.words,
    }


def best_first(table: GridTable) -> Section:
    """Return the table of all points."""
    rows, layout, several = table.rows, table.layout, table.most_seeds > 1
    if not rows:
        return Section("ranked", "Every point", [])
    metrics = [metric for metric in layout.columns if any(_finite(row.means.get(metric)) is not None for row in rows)]
    names = [one_line(layout.columns[metric]) for metric in metrics]
    look = {metric: "strong" if metric == table.by else "" for metric in metrics}
    columns = ["point", *names, "change", *(["sd"] if several else []), "time", "verdict"]
    cells = [
        [
            Cell(row.configuration),
            *(score_cell(_finite(row.means.get(each)), layout.digits, look=look[each]) for each in metrics),
            _change(row, layout),
            *([score_cell(_finite(row.spreads.get(table.by)), 4)] if several else []),
            Cell(DASH) if math.isnan(row.seconds) else Cell(duration(row.seconds), row.seconds),
            Cell("the winner; " + row.words if row.winner else row.words),
        ]
        for row in rows
    ]
    marked = [place for place, row in enumerate(rows) if row.winner]
    title = f"Best first by {layout.name_of(table.by)}"
    ranked = Table(title, columns, cells, texts=["verdict"], marked=marked, first=20)
    return Section("ranked", "Every point", [ranked, Paragraph(capitalized(table.legend), quiet=True)])


def _finite(value: float | None) -> float | None:
    return None if value is None or math.isnan(value) else value


def _change(row: Row, layout: Layout) -> Cell:
    if row.baseline:
        return Cell("baseline", 0)
    mean, low, high = row.change(layout.changed).percent
    return Cell(DASH) if math.isnan(mean) else Cell(f"{mean:+.1f}% ±{(high - low) / 2:.1f}", mean)


def buckets(table: GridTable, levels: Levels) -> Section:
    """Return the scores in head, medium and tail of the winner, the baseline, and the best point in the tail."""
    done = [row for row in table.rows if row.seeds]
    blocks: list[Block] = []
    for score, pattern in table.layout.buckets.items():
        points = _contrasted(done, pattern.format("tail"))
        bars = [
            {"bucket": bucket, "series": name} | {end: _finite(value) for end, value in level._asdict().items()}
            for bucket in BUCKETS
            for name in points
            if (level := levels.get(name, {}).get(pattern.format(bucket))) and not math.isnan(level.mean)
        ]
        if bars:
            about = (
                f"{capitalized(score)} by training frequency, for {', '.join(points)}. The lines are 95% intervals "
                f"over {table.layout.scored}."
            )
            spec = charts.buckets(bars, points, points[0], score, about)
            blocks.append(Chart(capitalized(score), spec, about))
    return Section("groups", "Head, medium, tail", blocks)


def _contrasted(done: Sequence[Row], tail: str) -> list[str]:
    """Return the winner, the baseline, and the best point in the tail, without repeats."""
    known = [row for row in done if _finite(row.means.get(tail)) is not None]
    best = [max(known, key=lambda row: row.means[tail]).configuration] if known else []
    chosen = [row.configuration for row in done if row.winner] + [row.configuration for row in done if row.baseline]
    return list(dict.fromkeys(chosen + best))


def times(rows: Sequence[Row]) -> Section:
    """Return the time of each point."""
    known = {row.configuration: row.seconds for row in rows if not math.isnan(row.seconds)}
    if not known:
        return Section("time", "Time", [])
    bars = [{"name": name, "seconds": seconds, "text": duration(seconds)} for name, seconds in known.items()]
    about = "Mean time of one training of each point, including validation."
    spec = time_bars(bars[:MOST_POINTS], list(known)[:MOST_POINTS], about)
    total = duration(sum(row.seconds * row.seeds for row in rows if row.seeds))
    words = Paragraph(f"All trainings together took {total} of worker time.")
    return Section("time", "Time", [words, Chart("Time of one training", spec, about)])
