"""The table of a grid: every point beside the baseline, best first, printed and as Markdown, CSV and JSON."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import polars as pl
from rich.cells import cell_len
from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from hyperfocal.metrics.verdict import FAMILIES, ONE_SEED, Difference, Verdict
from hyperfocal.report.label_tables import share
from hyperfocal.runs import RunFolder

BY = "tuned.macro_f1"
CHANGED = "half.macro_f1"  # the metric whose improvement the table shows; the files have those of ALL_CHANGED
ALL_CHANGED = ("half.macro_f1", "tuned.macro_f1", "macro_ap")
METRICS = {  # metric -> its column, in two lines
    "half.macro_f1": "F1 at\n0.5",
    "tuned.macro_f1": "F1\ntuned",
    "tuned.micro_f1": "micro\ntuned",
    "macro_ap": "macro\nAP",
    "head_ap": "head\nAP",
    "medium_ap": "med.\nAP",
    "tail_ap": "tail\nAP",
}
CHANGE, SECONDS, SPREAD = "change\nin %", "time\ns", "sd of\nseeds"
DISPENSABLE = ("micro\ntuned", "med.\nAP", "head\nAP", SECONDS, SPREAD)  # what a narrow table leaves out, first first
NARROWEST, UNBROKEN = 16, 28  # columns at least for the name of a point; a longer one than that may be broken


class Ended(Protocol):
    """What the table reads of a `grid.store.Result`."""

    @property
    def name(self) -> str:
        """Of the point."""

    @property
    def seed(self) -> int:
        """Of the training."""

    @property
    def error(self) -> str:
        """Why it failed, or ""."""

    @property
    def values(self) -> dict[str, float]:
        """Metric -> number."""

    @property
    def seconds(self) -> float:
        """That it took."""


@dataclass(frozen=True)
class Row:
    """One point of a grid, over its seeds.

    Attributes:
        configuration: the point's name.
        winner: whether it is the one that was chosen.
        baseline: whether it is the one that the others are compared with.
        seeds: how many of its trainings are done.
        errors: seed -> why that training failed.
        means: metric -> mean over the done seeds; nan where a seed has none.
        spreads: metric -> standard deviation over the done seeds; nan with fewer than two.
        seconds: mean of a done training; nan without one.
        verdict: against the baseline; None where there is none, as for a point that failed.
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
        """Return the difference from the baseline; all nan where it is not known."""
        return self.verdict.differences.get(metric, Difference()) if self.verdict else Difference()


def grid_rows(
    results: Mapping[str, Sequence[Ended]],
    failed: Sequence[Ended],
    verdicts: Mapping[str, Verdict],
    baseline: str,
    winner: str,
    *,
    by: str = BY,
) -> list[Row]:
    """Return a row a point: best first, then those without a value, those of which nothing is done last.

    Args:
        results: name -> what is done, one a seed.
        failed: what failed, of the same points or of others.
        verdicts: from `metrics.verdict.verdicts`.
        baseline: name of the point that the others are compared with.
        winner: name of the point that was chosen.
        by: the metric that puts them in order.
    """
    ended = {name: list(done) for name, done in results.items()}
    for each in failed:
        ended.setdefault(each.name, []).append(each)
    rows = [
        _row(name, found, verdicts.get(name), winner=name == winner, baseline=name == baseline)
        for name, found in ended.items()
    ]
    return sorted(rows, key=lambda row: _place(row, by))


def _place(row: Row, by: str) -> tuple[bool, bool, float]:
    mean = row.means.get(by, math.nan)
    return not row.seeds, math.isnan(mean), 0.0 if math.isnan(mean) else -mean


def _row(name: str, ended: Sequence[Ended], verdict: Verdict | None, *, winner: bool, baseline: bool) -> Row:
    done = _done(ended)
    metrics = list(done[0].values) if done else []
    errors = {each.seed: each.error for each in ended if each.error}
    means = {metric: _mean(done, metric) for metric in metrics}
    several = len(done) > 1
    spreads = {metric: float(np.std(_values(done, metric), ddof=1)) if several else math.nan for metric in metrics}
    seconds = sum(each.seconds for each in done) / len(done) if done else math.nan
    return Row(name, winner, baseline, len(done), errors, means, spreads, seconds, verdict)


def _done(ended: Sequence[Ended]) -> list[Ended]:
    return [each for each in ended if not each.error]


def _values(done: Sequence[Ended], metric: str) -> list[float]:
    return [each.values.get(metric, math.nan) for each in done]


def _mean(done: Sequence[Ended], metric: str) -> float:
    return sum(_values(done, metric)) / len(done)


def grid_report(rows: Sequence[Row], *, by: str = BY, width: int = 80) -> Group:
    """Return the table, what its columns mean, and the verdicts in words; columns that do not fit are left out.

    Args:
        rows: from `grid_rows`.
        by: the metric that put them in order.
        width: of the terminal, in characters.
    """
    parts: list[RenderableType] = [Text(_title(rows, by), style="bold"), Text(), _table(rows, by, width)]
    parts.append(Text(_legend(rows, by), style="dim"))
    for words, names in _by_words(rows).items():
        parts += [Text(f"{words}:"), Padding(Text(", ".join(names)), (0, 0, 0, 4))]
    return Group(*parts, Text(), *(Text(line) for line in _notes(rows)))


def _title(rows: Sequence[Row], by: str) -> str:
    most = max((row.seeds for row in rows), default=0)
    each = f", {most} seeds each" if most > 1 else ""
    return f"{len(rows):,} points{each}, best first by {FAMILIES.get(by, by)}"


def _legend(rows: Sequence[Row], by: str, *, star: str = "*") -> str:
    several = f" sd: of {FAMILIES.get(by, by)} over the seeds." if _several(rows) else ""
    baseline = next((row.configuration for row in rows if row.baseline), "the baseline")
    return (
        f"{star} the winner. F1 is macro-F1; change: of F1 at 0.5 against {baseline}, with its 95% interval; "
        f"AP: average precision; time: of one training.{several}"
    )


def _several(rows: Sequence[Row]) -> bool:
    return any(row.seeds > 1 for row in rows)


def _by_words(rows: Sequence[Row]) -> dict[str, list[str]]:
    groups: dict[str, list[str]] = {}
    for row in rows:
        groups.setdefault(row.words, []).append(row.configuration)
    return groups


def _notes(rows: Sequence[Row], *, star: str = "*") -> list[str]:
    """Return the winner's verdict with its numbers, what it lacks, and what went wrong."""
    most = max((row.seeds for row in rows), default=0)
    fewer = [f"{row.configuration} ({row.seeds} of {most} seeds)" for row in rows if 0 < row.seeds < most]
    lines = [f"{star} {row.verdict.sentence}" for row in rows if row.winner and row.verdict]
    lines += [ONE_SEED] if most == 1 else []
    lines += [f"Cannot win, for seeds are missing: {', '.join(fewer)}."] if fewer else []
    return lines + [f"Failed: {row.configuration} {error}" for row in rows for error in _errors(row)]


def _errors(row: Row) -> list[str]:
    return [f"seed {seed}: {error.strip().splitlines()[0]}" for seed, error in row.errors.items()]


def _table(rows: Sequence[Row], by: str, width: int) -> Table:
    cells = [_cells(row, by, several=_several(rows)) for row in rows]
    widths = {name: max(map(cell_len, [*name.split("\n"), *(row[name] for row in cells)])) for name in _columns(cells)}
    wanted = max((_wanted(row.configuration) for row in rows), default=0)
    for name in DISPENSABLE:
        if 2 + wanted + sum(widths.values()) + len(widths) > width:
            widths.pop(name, None)
    table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False, header_style="bold")
    table.add_column("", no_wrap=True)
    left = width - 2 - sum(widths.values()) - len(widths)
    table.add_column("configuration", vertical="bottom", max_width=max(NARROWEST, left), overflow="fold")
    for name in widths:
        table.add_column(name, justify="right", no_wrap=True)
    for row, cell in zip(rows, cells, strict=True):
        style = "bold green" if row.winner else "" if row.seeds else "dim"
        table.add_row("*" if row.winner else "", Text(row.configuration), *(cell[n] for n in widths), style=style)
    return table


def _wanted(name: str) -> int:
    """Return the columns for a name: all of it where it is short, else it may be broken between its settings."""
    return min(cell_len(name), max(UNBROKEN, *map(cell_len, name.split())))


def _columns(cells: Sequence[Mapping[str, str]]) -> list[str]:
    return list(cells[0]) if cells else []


def _cells(row: Row, by: str, *, several: bool, ends: bool = False) -> dict[str, str]:
    """Return column -> text; `ends`: whether the interval of the change is given by its ends."""
    scores = {title: share(row.means.get(metric)) for metric, title in METRICS.items()}
    first, *others = scores
    cells = {first: scores[first], CHANGE: "baseline" if row.baseline else _change(row, ends=ends)}
    cells |= {title: scores[title] for title in others}
    cells |= {SPREAD: share(row.spreads.get(by), digits=4)} if several else {}
    return cells | {SECONDS: "-" if math.isnan(row.seconds) else f"{row.seconds:,.{0 if row.seconds >= 10 else 1}f}"}


def _change(row: Row, *, ends: bool) -> str:
    mean, low, high = row.change(CHANGED).percent
    if math.isnan(mean):
        return "-"
    return f"{mean:+.1f}" + (f" ({low:+.1f} to {high:+.1f})" if ends else f" ±{(high - low) / 2:.1f}")


def write_table(rows: Sequence[Row], folder: str | Path, *, by: str = BY) -> None:
    """Write table.md for people, and table.csv and table.json with every metric in full precision.

    Raises:
        RunError: a file cannot be written.
    """
    records = _records(rows)
    files = RunFolder(folder)
    files.write_text("table.md", markdown_table(rows, by=by))
    files.write_text("table.csv", pl.DataFrame(records, infer_schema_length=None).write_csv())
    files.write_json("table.json", records)


def markdown_table(rows: Sequence[Row], *, by: str = BY) -> str:
    """Return the table in GitHub's Markdown, its columns aligned in the source too, with the notes below it."""
    lines = []
    for row in rows:
        cells = _cells(row, by, several=_several(rows), ends=True)
        name = f"**{row.configuration}** ★" if row.winner else row.configuration
        lines.append({"configuration": name, "seeds": str(row.seeds), **cells, "verdict": row.words})
    head = [name.replace("\n", " ") for name in _columns(lines)]
    table = _aligned([head, *(list(line.values()) for line in lines)])
    notes = [f"\n{note}" for note in (_legend(rows, by, star="★"), *_notes(rows, star="★"))]
    return "\n".join([f"{_title(rows, by)}.", "", *table, *notes]) + "\n"


def _aligned(table: Sequence[Sequence[str]]) -> list[str]:
    """Return the lines of a Markdown table; all columns but the first and the last are of numbers."""
    safe = [[cell.replace("|", "\\|") for cell in line] for line in table]
    widths = [max(3, *map(len, column)) for column in zip(*safe, strict=True)]
    last = len(widths) - 1
    texts = [[_pad(cell, widths[n], left=n in (0, last)) for n, cell in enumerate(line)] for line in safe]
    rule = [f":{'-' * (width - 1)}" if n in (0, last) else f"{'-' * (width - 1)}:" for n, width in enumerate(widths)]
    return [f"| {' | '.join(line)} |" for line in (texts[0], rule, *texts[1:])]


def _pad(cell: str, width: int, *, left: bool) -> str:
    return cell.ljust(width) if left else cell.rjust(width)


def _records(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Return a row a point, all with the same keys; None where nothing is known."""
    others = sorted({metric for row in rows for metric in row.means} - set(METRICS))
    return [{key: _known(value) for key, value in _record(row, others).items()} for row in rows]


def _record(row: Row, others: Sequence[str]) -> dict[str, Any]:
    record: dict[str, Any] = {"configuration": row.configuration, "winner": row.winner, "baseline": row.baseline}
    record |= {"seeds": row.seeds, "failed_seeds": len(row.errors)}
    for metric in METRICS:
        record |= {metric: row.means.get(metric), f"{metric}.sd": row.spreads.get(metric)}
    for metric in ALL_CHANGED:
        change = row.change(metric)
        ends = dict(zip(("change_percent", "change_low", "change_high"), change.percent, strict=True))
        record |= {f"{metric}.{name}": value for name, value in (ends | {"adjusted_p": change.adjusted}).items()}
    record |= {"seconds": row.seconds, "verdict": row.words, "sentence": row.verdict.sentence if row.verdict else ""}
    return record | {"errors": "; ".join(_errors(row))} | {metric: row.means.get(metric) for metric in others}


def _known(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value
