"""Write the verdict of a grid's page: the headline sentence, its numbers, and the verdict of every point.

The comparison itself, and the verdict of one point in words and numbers, come from `metrics/verdict.py`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from hyperfocal.grid.reading import GridReading
from hyperfocal.metrics.intervals import TOO_FEW
from hyperfocal.metrics.verdict import NOTHING
from hyperfocal.report.blocks import Block, Bullets, Folded, Paragraph, Section
from hyperfocal.report.format import capitalized, quantity
from hyperfocal.report.grid_table import GridTable, Row, by_words, notes


def verdict_sentence(grid: GridReading, rows: Sequence[Row]) -> str:
    """Return the headline of the page: which point is best, and whether it differs from the baseline."""
    best = next((row for row in rows if row.winner), None)
    if best is None:
        return "No point of this grid has a result yet."
    so_far = "So far, " if grid.missing or grid.unproposed else ""
    name, number = best.configuration, quantity(len(grid.results), "point")
    if best.baseline:
        return capitalized(f"{so_far}the baseline, {name}, is the best of {number}.")
    if not best.verdict:
        return f"{so_far}{name} is the best of {number}."
    if best.words == NOTHING:
        return f"{so_far}{name} leads, but this data shows no difference from the baseline."
    if best.words.startswith(TOO_FEW) or not any(each.repeated for each in best.verdict.differences.values()):
        return f"{so_far}{name} leads among {number}: {best.words}."
    return f"{so_far}{name} is the best of {number}: {best.words}."


def lead(grid: GridReading, table: GridTable) -> list[str]:
    """Return the sentences below the headline: the question, the winner's gain, and the remarks of the job."""
    layout = table.layout
    baseline, trainings = grid.baseline or "a baseline", quantity(table.most_seeds, "training")
    data = ", ".join(f"{value:,} {key}" for key, value in grid.about.items() if isinstance(value, int))
    question = (
        f"Question: which settings are best by {layout.name_of(grid.by)}, compared with {baseline} on the same "
        f"validation {layout.scored}, with {trainings} per point? Data: {data}."
    )
    gains = [_gain(row, table) for row in table.rows if row.winner and row.verdict]
    return [question, *gains, *layout.remarks(table.rows)]


def _gain(row: Row, table: GridTable) -> str:
    """Return the winner's gain in the metric that chose it; if that metric was not compared, its whole verdict."""
    assert row.verdict is not None, "asked of compared points only"
    change, layout = row.change(table.by), table.layout
    if row.baseline or row.words.startswith(TOO_FEW) or math.isnan(change.percent.low):
        return row.verdict.sentence
    mean, low, high = change.percent
    return (
        f"{capitalized(layout.name_of(table.by))} is {change.ours:.{layout.digits}f}, the baseline's "
        f"{change.theirs:.{layout.digits}f}: {mean:+.1f}% (95% interval {low:+.1f} to {high:+.1f}%)."
    )


def verdict_section(table: GridTable) -> Section:
    """Return the verdict of every point, in a few words and with its numbers."""
    compared = [row for row in table.rows if row.verdict]
    lines = [f"{capitalized(words)}: {', '.join(names)}." for words, names in by_words(compared).items()]
    blocks: list[Block] = [Bullets(lines)] if lines else []
    blocks += [Paragraph(line, quiet=True) for line in notes(table)]
    sentences = [row.verdict.sentence for row in compared if row.verdict]
    if sentences:
        blocks.append(Folded("Every verdict with its numbers", [Bullets(sentences)]))
    return Section("words", "Verdicts in words", blocks)
