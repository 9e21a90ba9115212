"""The table of a grid as files: Markdown for people, CSV and JSON with every metric in full precision.

What the table of a grid shows of each job: its columns, their names, and what they mean.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import polars as pl

from hyperfocal.report.grid_table import (
    BY,
    LABELS,
    Layout,
    Row,
    cells_of,
    columns_of,
    errors_of,
    legend,
    notes,
    several_seeds,
    title,
)
from hyperfocal.storage.run_folder import RunFolder


def write_table(rows: Sequence[Row], folder: str | Path, *, by: str = BY, layout: Layout = LABELS) -> None:
    """Write table.md for people, and table.csv and table.json with every metric in full precision.

    Raises:
        RunError: a file cannot be written.
    """
    records = _records(rows, layout)
    files = RunFolder(folder)
    files.write_text("table.md", markdown_table(rows, by=by, layout=layout))
    files.write_text("table.csv", pl.DataFrame(records, infer_schema_length=None).write_csv())
    files.write_json("table.json", records)


def markdown_table(rows: Sequence[Row], *, by: str = BY, layout: Layout = LABELS) -> str:
    """Return the table in GitHub's Markdown, its columns aligned in the source too, with the notes below it."""
    lines = []
    for row in rows:
        cells = cells_of(row, by, layout, several=several_seeds(rows), ends=True)
        name = f"**{row.configuration}** ★" if row.winner else row.configuration
        lines.append({"configuration": name, "seeds": str(row.seeds), **cells, "verdict": row.words})
    head = [name.replace("\n@", "@").replace("\n", " ") for name in columns_of(lines)]
    table = _aligned([head, *(list(line.values()) for line in lines)])
    below = [f"\n{note}" for note in (legend(rows, by, layout, star="★"), *notes(rows, layout, star="★"))]
    return "\n".join([f"{title(rows, by, layout)}.", "", *table, *below]) + "\n"


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


def _records(rows: Sequence[Row], layout: Layout) -> list[dict[str, Any]]:
    """Return a row a point, all with the same keys; None where nothing is known."""
    others = sorted({metric for row in rows for metric in row.means} - set(layout.columns))
    return [{key: _known(value) for key, value in _record(row, others, layout).items()} for row in rows]


def _record(row: Row, others: Sequence[str], layout: Layout) -> dict[str, Any]:
    record: dict[str, Any] = {"configuration": row.configuration, "winner": row.winner, "baseline": row.baseline}
    record |= {"seeds": row.seeds, "failed_seeds": len(row.errors)}
    for metric in layout.columns:
        record |= {metric: row.means.get(metric), f"{metric}.sd": row.spreads.get(metric)}
    for metric in layout.all_changed:
        change = row.change(metric)
        ends = dict(zip(("change_percent", "change_low", "change_high"), change.percent, strict=True))
        record |= {f"{metric}.{name}": value for name, value in (ends | {"adjusted_p": change.adjusted}).items()}
    record |= {"seconds": row.seconds, "verdict": row.words, "sentence": row.verdict.sentence if row.verdict else ""}
    return record | {"errors": "; ".join(errors_of(row))} | {metric: row.means.get(metric) for metric in others}


def _known(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


CHANGE, SECONDS, SPREAD = "change\nin %", "time\ns", "sd of\nseeds"
