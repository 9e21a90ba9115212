"""The page of a run, of either job."""

from __future__ import annotations

from pathlib import Path

from hyperfocal.report.blocks import Page
from hyperfocal.report.classify_page import classify_page
from hyperfocal.report.page import REPORT, write_page
from hyperfocal.report.recommend_page import recommend_page
from hyperfocal.report.run_material import read_run


def run_page(run: str | Path) -> Page:
    """Return the page of a run folder.

    Raises:
        RunError: no run, an unfinished one, or a file that is missing or damaged.
    """
    material = read_run(run)
    return classify_page(material) if material.job == "classify" else recommend_page(material)


def write_run_report(run: str | Path, out: Path | None = None) -> Path:
    """Write the page of a run to its report.html, or to `out`; return its path.

    Raises:
        RunError: as in `run_page`; it cannot be written.
    """
    return write_page(run_page(run), Path(run) / REPORT if out is None else out)
