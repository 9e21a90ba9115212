"""The printed table of a grid: every point beside the baseline, best first, and the verdicts in words."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from rich.cells import cell_len
from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from hyperfocal.report.grid_layout import CHANGE, LABELS, SECONDS, SPREAD, Layout
from hyperfocal.report.grid_rows import BY, Row
from hyperfocal.report.label_tables import share

NARROWEST, UNBROKEN = 16, 28  # columns at least for the name of a point; a longer one than that may be broken


def grid_report(rows: Sequence[Row], *, by: str = BY, layout: Layout = LABELS, width: int = 80) -> Group:
    """Return the table, what its columns mean, and the verdicts in words; columns that do not fit are left out.

    Args:
        rows: from `grid_rows`.
        by: the metric that put them in order.
        layout: of the job.
        width: of the terminal, in characters.
    """
    parts: list[RenderableType] = [
        Text(title(rows, by, layout), style="bold"),
        Text(),
        _table(rows, by, layout, width),
        Text(legend(rows, by, layout), style="dim"),
    ]
    for words, names in _by_words(rows).items():
        parts += [Text(f"{words}:"), Padding(Text(", ".join(names)), (0, 0, 0, 4))]
    return Group(*parts, Text(), *(Text(line) for line in notes(rows, layout)))


def title(rows: Sequence[Row], by: str, layout: Layout) -> str:
    """Return how many points and seeds there are, and what puts them in order."""
    most = max((row.seeds for row in rows), default=0)
    each = f", {most} seeds each" if most > 1 else ""
    return f"{len(rows):,} points{each}, best first by {layout.name_of(by)}"


def legend(rows: Sequence[Row], by: str, layout: Layout, *, star: str = "*") -> str:
    """Return what the columns mean; `star` is the winner's mark."""
    several = f" sd: of {layout.name_of(by)} over the seeds." if several_seeds(rows) else ""
    baseline = next((row.configuration for row in rows if row.baseline), "the baseline")
    return f"{star} the winner. {layout.meaning.format(baseline=baseline)}; time: of one training.{several}"


def several_seeds(rows: Sequence[Row]) -> bool:
    """Return whether a point has more than one seed, so that there is a spread to show."""
    return any(row.seeds > 1 for row in rows)


def _by_words(rows: Sequence[Row]) -> dict[str, list[str]]:
    groups: dict[str, list[str]] = {}
    for row in rows:
        groups.setdefault(row.words, []).append(row.configuration)
    return groups


def notes(rows: Sequence[Row], layout: Layout, *, star: str = "*") -> list[str]:
    """Return the winner's verdict with its numbers, what it lacks, and what went wrong."""
    most = max((row.seeds for row in rows), default=0)
    fewer = [f"{row.configuration} ({row.seeds} of {most} seeds)" for row in rows if 0 < row.seeds < most]
    lines = [f"{star} {row.verdict.sentence}" for row in rows if row.winner and row.verdict]
    lines += [_one_seed(layout)] if most == 1 else []
    lines += [f"Cannot win, for seeds are missing: {', '.join(fewer)}."] if fewer else []
    return lines + [f"Failed: {row.configuration} {error}" for row in rows for error in errors_of(row)]


def _one_seed(layout: Layout) -> str:
    return (
        f"With one seed the intervals hold the chance of the {layout.scored}, not that of training: a second run of "
        "the same point differs too. Give --seeds 3 to count it in."
    )


def errors_of(row: Row) -> list[str]:
    """Return a line for each training that failed."""
    return [f"seed {seed}: {error.strip().splitlines()[0]}" for seed, error in row.errors.items()]


def _table(rows: Sequence[Row], by: str, layout: Layout, width: int) -> Table:
    cells = [cells_of(row, by, layout, several=several_seeds(rows)) for row in rows]
    widths = {
        name: max(map(cell_len, [*name.split("\n"), *(row[name] for row in cells)])) for name in columns_of(cells)
    }
    wanted = max((_wanted(row.configuration) for row in rows), default=0)
    for name in layout.dispensable:
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


def columns_of(cells: Sequence[Mapping[str, str]]) -> list[str]:
    """Return the names of the columns."""
    return list(cells[0]) if cells else []


def cells_of(row: Row, by: str, layout: Layout, *, several: bool, ends: bool = False) -> dict[str, str]:
    """Return column -> text; `ends`: whether the interval of the change is given by its ends."""
    digits = layout.digits
    scores = {column: share(row.means.get(metric), digits=digits) for metric, column in layout.columns.items()}
    first, *others = scores
    cells = {first: scores[first], CHANGE: "baseline" if row.baseline else _change(row, layout.changed, ends=ends)}
    cells |= {column: scores[column] for column in others}
    cells |= {SPREAD: share(row.spreads.get(by), digits=4)} if several else {}
    return cells | {SECONDS: "-" if math.isnan(row.seconds) else f"{row.seconds:,.{0 if row.seconds >= 10 else 1}f}"}


def _change(row: Row, metric: str, *, ends: bool) -> str:
    mean, low, high = row.change(metric).percent
    if math.isnan(mean):
        return "-"
    return f"{mean:+.1f}" + (f" ({low:+.1f} to {high:+.1f})" if ends else f" ±{(high - low) / 2:.1f}")
