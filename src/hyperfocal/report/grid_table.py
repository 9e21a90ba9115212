"""The table of a grid, one row per point, best first: printed, and written as Markdown, CSV and JSON."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
from rich.cells import cell_len
from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from hyperfocal.data.csv_text import safe_cells
from hyperfocal.metrics.differences import Difference
from hyperfocal.metrics.verdict import Families, Verdict
from hyperfocal.report.format import numbers_table, quantity, share
from hyperfocal.storage.run_folder import RunFolder, without_nan

if TYPE_CHECKING:
    from hyperfocal.grid.reading import GridReading
    from hyperfocal.grid.search import GridResult
    from hyperfocal.grid.store import Result

NARROWEST, UNBROKEN = 16, 28  # characters of a point's name: the least room for it; a longer name may be broken
CHANGE, SECONDS, SPREAD = "change\nin %", "time\ns", "sd of\nseeds"
Scores = dict[str, dict[str, float | None]]  # name -> "mean", and "low" and "high" if the score has an interval


@dataclass(frozen=True)
class Row:
    """One point of a grid, over its seeds.

    Attributes:
        configuration: name of the point.
        winner: whether it is the chosen point.
        baseline: whether the others are compared with it.
        seeds: number of finished trainings.
        errors: seed -> error of a failed training.
        means: metric -> mean over the finished trainings; nan if one of them has no value.
        spreads: metric -> standard deviation over the finished trainings; nan for fewer than two.
        seconds: mean time of a finished training; nan without one.
        verdict: against the baseline; None: not compared, or failed.
    """

    configuration: str
    winner: bool
    baseline: bool
    seeds: int
    errors: dict[int, str]
    means: dict[str, float]
    spreads: dict[str, float]
    seconds: float
    verdict: Verdict | None

    @property
    def words(self) -> str:
        """The verdict in a few words."""
        return self.verdict.words if self.verdict else "not compared" if self.seeds else "failed"

    def change(self, metric: str) -> Difference:
        """Return the difference from the baseline; all nan if it is unknown."""
        return self.verdict.differences.get(metric, Difference()) if self.verdict else Difference()


@dataclass(frozen=True)
class Layout:
    """The metrics that one job shows of its grids, and their names.

    Attributes:
        scored: what points are scored on, "documents" or "users".
        families: metrics of the verdicts, their names in a sentence, and the digits of a score.
        columns: metric -> its column, in two lines; the first one is followed by its change from the baseline.
        optional: metrics whose columns a narrow table leaves out, the first one first.
        compared: metric -> its name in the charts of the page; files hold the changes of these metrics.
        buckets: name of a score -> its metric of a bucket, with {} in place of head, medium or tail.
        meaning: of the columns; {baseline} is the baseline's name.
        progress: metric -> its words in a line of progress.
        test_scores: returns the scores of an evaluation on test data that the page shows.
        remarks: returns further sentences for the top of the page.
    """

    scored: str
    families: Families
    columns: Mapping[str, str]
    optional: tuple[str, ...]
    compared: Mapping[str, str]
    buckets: Mapping[str, str]
    meaning: str
    progress: Mapping[str, str]
    test_scores: Callable[[Mapping[str, Any]], Scores]
    remarks: Callable[[Sequence[Row]], list[str]] = lambda _: []

    @property
    def changed(self) -> str:
        """The metric whose change the table shows."""
        return next(iter(self.columns))

    @property
    def digits(self) -> int:
        """Digits of a score after the point."""
        return self.families.digits

    def name_of(self, metric: str) -> str:
        """Return the name of a metric in a sentence."""
        return self.families.called.get(metric, metric)


@dataclass(frozen=True)
class GridTable:
    """The table of a grid."""

    rows: Sequence[Row]  # best first, then points without a value, then points without a finished training
    by: str  # the metric that orders them
    layout: Layout  # of the job

    @property
    def most_seeds(self) -> int:
        """The largest number of finished trainings of a point; 2 or more have a spread to show."""
        return max((row.seeds for row in self.rows), default=0)

    @property
    def primary(self) -> str:
        """The metric that decides the verdicts. "": nothing was tested."""
        return next((row.verdict.primary for row in self.rows if row.verdict and row.verdict.primary), "")

    @property
    def title(self) -> str:
        """The number of points and seeds, and the order."""
        each = f", {self.most_seeds} seeds each" if self.most_seeds > 1 else ""
        return f"{quantity(len(self.rows), 'point')}{each}, best first by {self.layout.name_of(self.by)}"

    @property
    def legend(self) -> str:
        """The meaning of the columns."""
        spread = f"; sd: of {self.layout.name_of(self.by)} over the seeds" if self.most_seeds > 1 else ""
        baseline = next((row.configuration for row in self.rows if row.baseline), "the baseline")
        return f"{self.layout.meaning.format(baseline=baseline)}; time: of one training{spread}."


def grid_table(grid: GridResult | GridReading, layout: Layout) -> GridTable:
    """Return the table of a grid that has ended, or of one that was read from its folder."""
    ended: dict[str, list[Result]] = {name: list(done) for name, done in grid.results.items()}
    for failed in grid.failed:
        ended.setdefault(failed.name, []).append(failed)
    rows = [
        _row(name, results, grid.verdicts.get(name), winner=name == grid.winner, baseline=name == grid.baseline)
        for name, results in ended.items()
    ]
    return GridTable(sorted(rows, key=lambda row: _place(row, grid.by)), grid.by, layout)


def _place(row: Row, by: str) -> tuple[bool, bool, float]:
    mean = row.means.get(by, math.nan)
    return not row.seeds, math.isnan(mean), 0.0 if math.isnan(mean) else -mean


def _row(name: str, results: Sequence[Result], verdict: Verdict | None, *, winner: bool, baseline: bool) -> Row:
    done = [result for result in results if not result.error]
    errors = {result.seed: result.error for result in results if result.error}
    metrics = done[0].values if done else ()
    values = {metric: [result.values.get(metric, math.nan) for result in done] for metric in metrics}
    means = {metric: sum(numbers) / len(done) for metric, numbers in values.items()}
    spreads = {
        metric: float(np.std(numbers, ddof=1)) if len(done) > 1 else math.nan for metric, numbers in values.items()
    }
    seconds = sum(result.seconds for result in done) / len(done) if done else math.nan
    return Row(name, winner, baseline, len(done), errors, means, spreads, seconds, verdict)


def by_words(rows: Sequence[Row]) -> dict[str, list[str]]:
    """Return verdict in a few words -> names of its points."""
    groups: dict[str, list[str]] = {}
    for row in rows:
        groups.setdefault(row.words, []).append(row.configuration)
    return groups


def notes(table: GridTable) -> list[str]:
    """Return the rule of the comparison and its limits: one seed only, and points with fewer seeds than others."""
    most = table.most_seeds
    fewer = [f"{row.configuration} ({row.seeds} of {most} seeds)" for row in table.rows if 0 < row.seeds < most]
    lines = []
    if table.primary:
        name = table.layout.name_of(table.primary)
        lines.append(
            f"The metric that decides is {name}: it is tested at 5%, corrected for the number of points. Other metrics "
            "are reported only if they differ after the correction for all metrics and points, at 5% if the deciding "
            "one differs too, otherwise at 1%."
        )
        if not any(row.change(table.primary).repeated for row in table.rows):
            lines.append(
                f"With one training of each point, a difference on these {table.layout.scored} is between these "
                "trainings; other seeds may reverse it. A grid with several seeds per point compares the settings."
            )
    return lines + ([f"Cannot win because seeds are missing: {', '.join(fewer)}."] if fewer else [])


def _closing_notes(table: GridTable, star: str) -> list[str]:
    """Return the winner's verdict with its numbers, the limits of the comparison, and the errors."""
    winner = [f"{star} {row.verdict.sentence}" for row in table.rows if row.winner and row.verdict]
    errors = [f"Failed: {row.configuration} {error}" for row in table.rows for error in _errors(row)]
    return [*winner, *notes(table), *errors]


def _errors(row: Row) -> list[str]:
    """Return one line per failed training."""
    return [f"seed {seed}: {error.strip().splitlines()[0]}" for seed, error in row.errors.items()]


def _cells(row: Row, table: GridTable, *, ends: bool = False) -> dict[str, str]:
    """Return column -> text; `ends`: give the interval of the change by its ends, not by its half width."""
    layout = table.layout
    scores = {column: share(row.means.get(metric), digits=layout.digits) for metric, column in layout.columns.items()}
    first, *others = scores
    cells = {first: scores[first], CHANGE: "baseline" if row.baseline else _change(row, layout.changed, ends=ends)}
    cells |= {column: scores[column] for column in others}
    cells |= {SPREAD: share(row.spreads.get(table.by), digits=4)} if table.most_seeds > 1 else {}
    return cells | {SECONDS: "-" if math.isnan(row.seconds) else f"{row.seconds:,.{0 if row.seconds >= 10 else 1}f}"}


def _change(row: Row, metric: str, *, ends: bool) -> str:
    mean, low, high = row.change(metric).percent
    if math.isnan(mean):
        return "-"
    return f"{mean:+.1f}" + (f" ({low:+.1f} to {high:+.1f})" if ends else f" ±{(high - low) / 2:.1f}")


def one_line(column: str) -> str:
    """Return the name of a column in one line.

    >>> one_line("map\\n@3"), one_line("F1 at\\n0.5")
    ('map@3', 'F1 at 0.5')
    """
    return column.replace("\n@", "@").replace("\n", " ")


def printed_table(table: GridTable, *, width: int = 80) -> Group:
    """Return the table for a terminal of `width` characters, its legend and the verdicts in words.

    Columns that do not fit are left out.
    """
    blocks: list[RenderableType] = [
        Text(table.title, style="bold"),
        Text(),
        _terminal_table(table, width),
        Text(f"*: the winner; {table.legend}", style="dim"),
    ]
    for words, names in by_words(table.rows).items():
        blocks += [Text(f"{words}:"), Padding(Text(", ".join(names)), (0, 0, 0, 4))]
    return Group(*blocks, Text(), *(Text(line) for line in _closing_notes(table, "*")))


def _terminal_table(table: GridTable, width: int) -> Table:
    cells = [_cells(row, table) for row in table.rows]
    widths = _widths(table, cells, width)
    drawn = numbers_table("")
    left = width - 2 - sum(widths.values()) - len(widths)
    drawn.add_column("configuration", vertical="bottom", max_width=max(NARROWEST, left), overflow="fold")
    for column in widths:
        drawn.add_column(column, justify="right", no_wrap=True)
    for row, texts in zip(table.rows, cells, strict=True):
        style = "bold green" if row.winner else "" if row.seeds else "dim"
        star = "*" if row.winner else ""
        drawn.add_row(star, Text(row.configuration), *(texts[column] for column in widths), style=style)
    return drawn


def _widths(table: GridTable, cells: Sequence[Mapping[str, str]], width: int) -> dict[str, int]:
    """Return column -> its width, without the columns for which there is no room."""
    columns = cells[0] if cells else ()
    widths = {name: max(map(cell_len, [*name.split("\n"), *(row[name] for row in cells)])) for name in columns}
    wanted = max((_wanted(row.configuration) for row in table.rows), default=0)
    for name in [*(table.layout.columns[metric] for metric in table.layout.optional), SECONDS, SPREAD]:
        if 2 + wanted + sum(widths.values()) + len(widths) > width:
            widths.pop(name, None)
    return widths


def _wanted(name: str) -> int:
    """Return the characters for a name: a short one as a whole, a long one may be broken between its settings."""
    return min(cell_len(name), max(UNBROKEN, *map(cell_len, name.split())))


def write_table(table: GridTable, folder: str | Path) -> None:
    """Write table.md for people, and table.csv and table.json with every metric in full precision.

    A text in table.csv that a spreadsheet may run as a formula has a single quote before it.

    Raises:
        RunError: a file cannot be written.
    """
    records = _records(table)
    files = RunFolder(folder)
    files.write_text("table.md", markdown_table(table))
    files.write_text("table.csv", safe_cells(pl.DataFrame(records, infer_schema_length=None)).write_csv())
    files.write_json("table.json", records)


def markdown_table(table: GridTable) -> str:
    """Return the table in GitHub's Markdown, its columns aligned in the source too, with the notes below it."""
    lines = []
    for row in table.rows:
        name = f"**{row.configuration}** ★" if row.winner else row.configuration
        cells = _cells(row, table, ends=True)
        lines.append({"configuration": name, "seeds": str(row.seeds), **cells, "verdict": row.words})
    head = [one_line(name) for name in lines[0]] if lines else []
    aligned = _aligned([head, *(list(line.values()) for line in lines)])
    below = [f"\n{note}" for note in (f"★: the winner; {table.legend}", *_closing_notes(table, "★"))]
    return "\n".join([f"{table.title}.", "", *aligned, *below]) + "\n"


def _aligned(lines: Sequence[Sequence[str]]) -> list[str]:
    """Return the lines of a Markdown table; all columns except the first and the last are numbers."""
    safe = [[cell.replace("|", "\\|") for cell in line] for line in lines]
    widths = [max(3, *map(len, column)) for column in zip(*safe, strict=True)]
    last = len(widths) - 1
    texts = [[f"{cell:{'<' if n in (0, last) else '>'}{widths[n]}}" for n, cell in enumerate(line)] for line in safe]
    rule = [f":{'-' * (width - 1)}" if n in (0, last) else f"{'-' * (width - 1)}:" for n, width in enumerate(widths)]
    return [f"| {' | '.join(line)} |" for line in (texts[0], rule, *texts[1:])]


def _records(table: GridTable) -> list[dict[str, Any]]:
    """Return one record per point, all with the same keys; None for an unknown value."""
    others = sorted({metric for row in table.rows for metric in row.means} - set(table.layout.columns))
    return [without_nan(_record(row, others, table)) for row in table.rows]


def _record(row: Row, others: Sequence[str], table: GridTable) -> dict[str, Any]:
    layout = table.layout
    record: dict[str, Any] = {"configuration": row.configuration, "winner": row.winner, "baseline": row.baseline}
    record |= {"seeds": row.seeds, "failed_seeds": len(row.errors)}
    for metric in layout.columns:
        record |= {metric: row.means.get(metric), f"{metric}.sd": row.spreads.get(metric)}
    for metric in dict.fromkeys([*layout.compared, *filter(None, [table.primary])]):
        change = row.change(metric)
        ends = dict(zip(("change_percent", "change_low", "change_high"), change.percent, strict=True))
        record |= {f"{metric}.{name}": value for name, value in (ends | {"adjusted_p": change.adjusted}).items()}
    record |= {
        "seconds": row.seconds,
        "primary": table.primary,
        "verdict": row.words,
        "sentence": row.verdict.sentence if row.verdict else "",
    }
    return record | {"errors": "; ".join(_errors(row))} | {metric: row.means.get(metric) for metric in others}
