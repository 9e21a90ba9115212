"""Compose the page of a grid, finished or not.

`grid_verdict.py` writes its headline and verdicts, `grid_sections.py` the sections that compare points.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from hyperfocal.grid.reading import GridReading
from hyperfocal.report.blocks import DASH, Block, Bullets, Cell, Facts, Folded, Page, Paragraph, Section, Table
from hyperfocal.report.format import plain, quantity
from hyperfocal.report.grid_sections import best_first, buckets, comparison, times
from hyperfocal.report.grid_table import Layout, Row, grid_table
from hyperfocal.report.grid_verdict import lead, verdict_section, verdict_sentence
from hyperfocal.report.page import REPORT, write_page
from hyperfocal.report.run import interval_cell
from hyperfocal.storage.run_folder import RunFolder

TEST_SCORES = "test.json"
LISTED = 12  # missing trainings that are shown without a click


def write_grid_report(grid: GridReading, layout: Layout, out: Path | None = None) -> Path:
    """Write the page of a grid to its report.html, or to `out`; return its path.

    Raises:
        RunError: test.json is damaged; the page cannot be written.
    """
    return write_page(grid_page(grid, layout), grid.folder / REPORT if out is None else out)


def grid_page(grid: GridReading, layout: Layout) -> Page:
    """Return the page of a grid, in the layout of its job."""
    table = grid_table(grid, layout)
    name = grid.folder.resolve().name
    sections = [
        verdict_section(table),
        comparison(table, grid),
        best_first(table),
        buckets(table, grid.levels),
        test_section(grid.folder, layout),
        times(table.rows),
        _remaining(grid, table.rows),
        _details(grid),
    ]
    above = f"Grid of {grid.job} · {name} · {datetime.now():%d %B %Y}"
    return Page(f"{name} · grid of {grid.job}", above, verdict_sentence(grid, table.rows), lead(grid, table), sections)


def test_section(folder: Path, layout: Layout) -> Section:
    """Return winner and baseline side by side on test data; an empty section if they were not scored.

    Raises:
        RunError: test.json is damaged.
    """
    out = RunFolder(folder)
    if not out.has(TEST_SCORES):
        return Section("test", "Test", [])
    content = out.read_json(TEST_SCORES)
    with out.guard(TEST_SCORES):
        names = content["of"]
        roles = ["winner"] if names["winner"] == names["baseline"] else ["winner", "baseline"]
        scores = {role: layout.test_scores(content[role]) for role in roles}
        rows = [
            [Cell(title), *(interval_cell(scores[role].get(title), layout.digits) for role in roles)]
            for title in scores["winner"]
        ]
        number = f"{content['winner'][layout.scored]:,} {layout.scored}"
        columns = ["", *(f"{role}: {names[role]}" for role in roles)]
    words = f"Scored once, on {number} that no choice depended on. Each ± is half a 95% interval."
    return Section("test", "On test data", [Paragraph(words), Table("Test", columns, rows, sortable=False)])


def _remaining(grid: GridReading, rows: Sequence[Row]) -> Section:
    blocks: list[Block] = []
    running, resume = set(grid.running), "Run the same command again to continue."
    if grid.missing:
        lines = [f"{name}, seed {seed}{' (running)' if (name, seed) in running else ''}" for name, seed in grid.missing]
        words = f"Trainings that have not ended: {len(lines):,}, of which {len(running):,} are running. {resume}"
        listed = Bullets(lines)
        blocks += [Paragraph(words), listed if len(lines) <= LISTED else Folded("All of them", [listed])]
    if grid.unproposed:
        blocks.append(Paragraph(f"Trials that the search has not proposed yet: {grid.unproposed:,}. {resume}"))
    elif not grid.planned:
        blocks.append(Paragraph("Unknown: an earlier version wrote this folder, without a plan.", quiet=True))
    elif not grid.missing:
        blocks.append(Paragraph("Nothing: every planned training has ended."))
    failed = [
        f"{row.configuration}, seed {seed}: {error.strip()}" for row in rows for seed, error in row.errors.items()
    ]
    if failed:
        words = f"{quantity(len(failed), 'training')} failed. Run the same command with --retry to try again:"
        blocks += [Paragraph(words), Bullets(failed, warn=True)]
    return Section("remaining", "What remains", blocks)


def _details(grid: GridReading) -> Section:
    facts = [
        ("Trainings done", f"{sum(map(len, grid.results.values())):,}"),
        ("Failed", f"{len(grid.failed):,}"),
        ("Baseline", grid.baseline or DASH),
        ("Chosen by", grid.by),
        *((key.capitalize(), plain(value)) for key, value in grid.about.items()),
    ]
    base = [(key, plain(value)) for key, value in grid.base.items()]
    return Section("details", "Details", [Facts(facts), Folded("Settings that all points share", [Facts(base)])])
