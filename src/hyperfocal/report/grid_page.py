"""The page of a grid, finished or not.

The section of a grid's page on test data, which were scored once.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from hyperfocal.classify.terminal import TEST
from hyperfocal.grid.reading import Reading
from hyperfocal.metrics.buckets import BUCKETS
from hyperfocal.metrics.differences import Difference
from hyperfocal.metrics.intervals import TOO_FEW
from hyperfocal.metrics.verdict import NOTHING
from hyperfocal.report.blocks import DASH, Block, Bullets, Cell, Facts, Folded, Page, Paragraph, Section, Table
from hyperfocal.report.grid_sections import compared, groups, ranked, seconds
from hyperfocal.report.grid_table import LABELS, Layout, Row, grid_rows, notes, ranking_layout
from hyperfocal.report.page import REPORT, write_page
from hyperfocal.report.run_sections import interval_cell, plain, score_cell
from hyperfocal.storage.run_folder import RunFolder


def write_grid_report(grid: Reading, out: Path | None = None) -> Path:
    """Write the page of a grid to its report.html, or to `out`; return its path.

    Raises:
        RunError: test.json is damaged; the page cannot be written.
    """
    return write_page(grid_page(grid), grid.folder / REPORT if out is None else out)


def grid_page(grid: Reading) -> Page:
    """Return the page of a grid."""
    layout = ranking_layout(grid.k) if grid.k else LABELS
    rows = grid_rows(grid.results, grid.failed, grid.verdicts, grid.baseline, grid.winner, by=grid.by)
    name = grid.folder.resolve().name
    sections = [
        _in_words(grid, rows, layout),
        compared(rows, grid.settings, grid.levels, layout, grid.by),
        ranked(rows, layout, grid.by),
        groups(rows, grid.levels, layout, grid.k),
        tested(grid.folder, grid.k),
        seconds(rows),
        _remaining(grid, rows),
        _details(grid),
    ]
    above = f"Grid of {grid.job} · {name} · {datetime.now():%d %B %Y}"
    return Page(f"{name} · grid of {grid.job}", above, _headline(grid, rows), _lead(grid, rows, layout), sections)


def _headline(grid: Reading, rows: Sequence[Row]) -> str:
    best = next((row for row in rows if row.winner), None)
    if best is None:
        return "No point of this grid has a result yet."
    so_far = "So far, " if grid.missing or grid.unproposed else ""
    number = len(grid.results)
    if best.baseline:
        return _capital(f"{so_far}the baseline, {best.configuration}, is the best of {number:,} points.")
    if not best.verdict:
        return _capital(f"{so_far}{best.configuration} is the best of {number:,} points.", bool(so_far))
    if best.words == NOTHING:
        return f"{so_far}{best.configuration} leads, without a difference from the baseline that this data can show."
    if best.words.startswith(TOO_FEW):
        return f"{so_far}{best.configuration} leads, of {number:,} points: {best.words}."
    return f"{so_far}{best.configuration} is the best of {number:,} points: {best.words}."


def _capital(text: str, wanted: bool = True) -> str:
    return text[:1].upper() + text[1:] if wanted else text


def _lead(grid: Reading, rows: Sequence[Row], layout: Layout) -> list[str]:
    seeds = max((row.seeds for row in rows), default=0)
    about = ", ".join(f"{value:,} {key}" for key, value in grid.about.items() if isinstance(value, int))
    trainings = f"{seeds:,} training" + ("" if seeds == 1 else "s")
    asked = (
        f"Asked: which settings are best by {layout.name_of(grid.by)}, compared with {grid.baseline or 'a baseline'} "
        f"on the same validation {layout.scored}, with {trainings} a point? Data: {about}."
    )
    return [
        asked,
        *(_gain(row, grid.by, layout) for row in rows if row.winner and row.verdict),
        *_illusion(rows, layout),
    ]


def _gain(row: Row, by: str, layout: Layout) -> str:
    """Return what the winner gains in the metric that chose it; without a comparison in that, all that is known."""
    assert row.verdict is not None, "asked of compared points only"
    found = row.change(by)
    if row.baseline or row.words.startswith(TOO_FEW) or math.isnan(found.percent.low):
        return row.verdict.sentence
    mean, low, high = found.percent
    return (
        f"{_capital(layout.name_of(by))} {found.ours:.{layout.digits}f} against {found.theirs:.{layout.digits}f} of "
        f"the baseline: {mean:+.1f}% (95% interval {low:+.1f} to {high:+.1f}%)."
    )


def _illusion(rows: Sequence[Row], layout: Layout) -> list[str]:
    """Say of the point that gains most at 0.5 what is left of it with tuned thresholds."""
    if layout is not LABELS:
        return []
    known = [row for row in rows if row.verdict and row.change("half.macro_f1").sign == 1]
    if not known:
        return []
    best = max(known, key=lambda row: row.change("half.macro_f1").mean)
    half, tuned, ranking = (best.change(each) for each in ("half.macro_f1", "tuned.macro_f1", "macro_ap"))
    return [
        f"Decided at 0.5, {best.configuration} looks {half.percent.mean:.0f}% better than the baseline; with tuned "
        f"thresholds it is {_direction(tuned)}, and its ranking is {_direction(ranking)}."
    ]


def _direction(found: Difference) -> str:
    percent = found.percent.mean
    if not found.sign:
        return f"not shown to differ ({percent:+.1f}%)"
    return f"{abs(percent):.1f}% {'worse' if percent < 0 else 'better'}"


def _in_words(grid: Reading, rows: Sequence[Row], layout: Layout) -> Section:
    words: dict[str, list[str]] = {}
    for row in rows:
        if row.verdict:
            words.setdefault(row.words, []).append(row.configuration)
    lines = [f"{_capital(said)}: {', '.join(names)}." for said, names in words.items()]
    odd = [line for line in notes(rows, layout) if not line.startswith(("*", "Failed"))]
    blocks: list[Block] = [Bullets(lines)] if lines else []
    blocks += [Paragraph(line, quiet=True) for line in odd]
    sentences = [row.verdict.sentence for row in rows if row.verdict]
    return Section(
        "words",
        "In words",
        [*blocks, Folded("Every verdict with its numbers", [Bullets(sentences)])] if sentences else blocks,
    )


def _remaining(grid: Reading, rows: Sequence[Row]) -> Section:
    blocks: list[Block] = []
    running = set(grid.running)
    if grid.missing:
        lines = [f"{name}, seed {seed}{' (running)' if (name, seed) in running else ''}" for name, seed in grid.missing]
        words = f"{len(lines):,} trainings have not ended; {len(running):,} are running. The same command goes on."
        blocks += [Paragraph(words), Bullets(lines) if len(lines) <= 12 else Folded("All of them", [Bullets(lines)])]
    if grid.unproposed:
        blocks.append(Paragraph(f"{grid.unproposed:,} more trials are to be proposed. The same command goes on."))
    elif not grid.planned:
        blocks.append(Paragraph("The folder does not tell what was planned: it is of an earlier version.", quiet=True))
    elif not grid.missing:
        blocks.append(Paragraph("Nothing: every planned training has ended."))
    failed = [
        f"{row.configuration}, seed {seed}: {error.strip()}" for row in rows for seed, error in row.errors.items()
    ]
    if failed:
        blocks += [
            Paragraph(f"{len(failed):,} trainings failed; --retry tries them again:"),
            Bullets(failed, warn=True),
        ]
    return Section("remaining", "What remains", blocks)


def _details(grid: Reading) -> Section:
    done = [each for rows in grid.results.values() for each in rows]
    facts = [
        ("Trainings done", f"{len(done):,}"),
        ("Failed", f"{len(grid.failed):,}"),
        ("Baseline", grid.baseline or DASH),
    ]
    facts += [("Chosen by", grid.by), *((key.capitalize(), plain(value)) for key, value in grid.about.items())]
    base = Folded("Settings that all points share", [Facts([(key, plain(value)) for key, value in grid.base.items()])])
    return Section("details", "Details", [Facts(facts), base])


SCORES = "test.json"


def tested(folder: Path, k: int) -> Section:
    """Return winner and baseline beside one another on test data; nothing where they were not scored.

    Args:
        folder: of the grid.
        k: length of the rankings; 0 for labels.

    Raises:
        RunError: test.json is damaged.
    """
    out = RunFolder(folder)
    if not out.has(SCORES):
        return Section("test", "Test", [])
    found = out.read_json(SCORES)
    with out.guard(SCORES):
        same = found["of"]["winner"] == found["of"]["baseline"]
        roles = ["winner"] if same else ["winner", "baseline"]
        rows = _rankings(found, roles) if k else _labels(found, roles)
        scored = f"{found['winner']['users']:,} users" if k else f"{found['winner']['documents']:,} documents"
        words = f"Scored once, on {scored} that chose nothing. Each ± is half a 95% interval."
        called = [f"{role}: {found['of'][role]}" for role in roles]
    return Section("test", "On test data", [Paragraph(words), Table("Test", ["", *called], rows, sortable=False)])


def _labels(found: dict[str, Any], roles: list[str]) -> list[list[Cell]]:
    return [[Cell(title.strip()), *(_label_cell(found[role], name) for role in roles)] for title, name in TEST.items()]


def _label_cell(scores: dict[str, Any], name: str) -> Cell:
    known = scores["intervals"].get(name)
    return interval_cell(known) if known else score_cell(scores["values"][name])


def _rankings(found: dict[str, Any], roles: list[str]) -> list[list[Cell]]:
    metric = found["winner"]["metric"]
    mine = {role: found[role]["scores"][found[role]["model"]] for role in roles}
    names = [name for name, value in mine["winner"].items() if isinstance(value, dict) and "mean" in value]
    rows = [[Cell(name), *(interval_cell(mine[role].get(name), 4) for role in roles)] for name in names]
    return rows + [
        [Cell(f"{metric}, {bucket}"), *(interval_cell(mine[role][bucket][metric], 4) for role in roles)]
        for bucket in BUCKETS
    ]
