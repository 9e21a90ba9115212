"""The section of a grid's page on test data, which were scored once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hyperfocal.metrics.frequency import BUCKETS
from hyperfocal.report.blocks import Cell, Paragraph, Section, Table
from hyperfocal.report.label_tables import TEST
from hyperfocal.report.run_sections import interval_cell, score_cell
from hyperfocal.runs import RunFolder

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
