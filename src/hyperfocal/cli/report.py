"""The command `report`, and the line with which `fit` and `grid` end. Heavy imports are inside.

The page of a run, of either job.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from hyperfocal.errors import RunError

if TYPE_CHECKING:
    from hyperfocal.report.blocks import Page

FILE = FOLDER = click.Path(path_type=Path)


@click.command()
@click.argument("folder", type=FOLDER, metavar="RUN_OR_GRID")
@click.option("--out", type=FILE, help="File to write.  [default: report.html in the folder itself]")
def report(folder: Path, out: Path | None) -> None:
    """Write one HTML page about a run of `fit`, or about a grid, to look at and to send to others.

    Everything is inside: the page opens without a network, on a phone too, in light and dark, and prints.

    \b
    A run: the answer in a sentence, scores with intervals beside the baselines, the long tail, every label or
    item in a table that sorts and filters, thresholds, reliability, confusions, users, training, settings.
    A grid: the verdict in words, the heat-map, every point, differences with intervals, what remains to run.

    `fit` and `grid` write it by themselves. This command writes it again, as while a grid still runs, and needs
    no data. The page holds names of labels or items and a few texts or users of the validation data.

    \b
    hyperfocal report run
    hyperfocal report grid --out grid.html
    """
    click.echo(f"Report: {write_report(folder, out)}")


def write_report(folder: Path, out: Path | None = None) -> Path:
    """Write the page of a run or a grid and return its path.

    Raises:
        RunError: neither a run nor a grid; unfinished or damaged; it cannot be written.
    """
    from hyperfocal.grid.reading import is_grid, read_grid
    from hyperfocal.report.grid_page import write_grid_report
    from hyperfocal.storage.run_folder import CONFIG

    if is_grid(folder):
        return write_grid_report(read_grid(folder), out)
    if (folder / CONFIG).is_file():
        return write_run_report(folder, out)
    what = "holds neither a run (config.toml) nor a grid (grid.sqlite)" if folder.exists() else "no such folder"
    raise RunError(f"{folder}: {what}. Give the folder that `fit --out` or `grid --out` wrote")


def report_line(folder: Path) -> str:
    """Write the page at the end of a command; return a line about it, a warning where it could not be written."""
    from hyperfocal.report.page import line_of

    return line_of(lambda: write_report(folder), f"hyperfocal report {folder}")


def run_page(run: str | Path) -> Page:
    """Return the page of a run folder.

    Raises:
        RunError: no run, an unfinished one, or a file that is missing or damaged.
    """
    from hyperfocal.classify.page import classify_page
    from hyperfocal.recommend.page import recommend_page
    from hyperfocal.report.run_sections import read_run

    material = read_run(run)
    return classify_page(material) if material.job == "classify" else recommend_page(material)


def write_run_report(run: str | Path, out: Path | None = None) -> Path:
    """Write the page of a run to its report.html, or to `out`; return its path.

    Raises:
        RunError: as in `run_page`; it cannot be written.
    """
    from hyperfocal.report.page import REPORT, write_page

    return write_page(run_page(run), Path(run) / REPORT if out is None else out)
