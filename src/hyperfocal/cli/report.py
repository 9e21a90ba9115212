"""The command `report`, and the line about the report that ends `fit` and `grid`.

Heavy imports are inside functions.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from hyperfocal.cli.wording import echo
from hyperfocal.errors import RunError

if TYPE_CHECKING:
    from hyperfocal.grid.reading import GridReading
    from hyperfocal.report.blocks import Page
    from hyperfocal.report.grid_table import Layout

FILE = FOLDER = click.Path(path_type=Path)


@click.command()
@click.argument("folder", type=FOLDER, metavar="RUN_OR_GRID")
@click.option("--out", type=FILE, help="File to write.  [default: report.html in the folder]")
def report(folder: Path, out: Path | None) -> None:
    """Write one HTML page about a run of `fit` or about a grid, to look at and to share.

    The page is self-contained: it opens without a network, on a phone too, in light and dark mode, and it prints.

    \b
    Run: the verdict in one sentence, scores with intervals next to the baselines, the long tail, every label or
    item in a table that sorts and filters, thresholds, reliability, confusions, users, training, settings.
    Grid: the verdict in words, the heat map, every point, differences with intervals, and what remains to run.

    `fit` and `grid` write the page when they finish. This command writes it again, for example while a grid is still
    running, and needs no data. The page contains names of labels or items, and a few texts or users of the validation
    data.

    \b
    hyperfocal report run
    hyperfocal report grid --out grid.html
    """
    echo(f"Report: {write_report(folder, out)}")


def report_line(folder: Path) -> str:
    """Write the page at the end of a command; return a line with its path, or a warning if it cannot be written."""
    from hyperfocal.report.page import line_of

    return line_of(lambda: write_report(folder), f"hyperfocal report {folder}")


def write_report(folder: Path, out: Path | None = None) -> Path:
    """Write the page of a run or a grid to its report.html, or to `out`; return its path.

    Raises:
        RunError: neither a run nor a grid; unfinished or damaged; the page cannot be written.
    """
    from hyperfocal.storage.run_folder import CONFIG

    if (folder / CONFIG).is_file():
        return write_run_report(folder, out)
    from hyperfocal.grid.reading import is_grid, read_grid
    from hyperfocal.report.grid_page import write_grid_report

    if is_grid(folder):
        grid = read_grid(folder)
        return write_grid_report(grid, layout_of(grid), out)
    problem = "holds neither a run (config.toml) nor a grid (grid.sqlite)" if folder.exists() else "no such folder"
    raise RunError(f"{folder}: {problem}. Give the folder that `fit --out` or `grid --out` wrote")


def write_run_report(run: str | Path, out: Path | None = None) -> Path:
    """Write the page of a run to its report.html, or to `out`; return its path.

    Raises:
        RunError: as in `run_page`; the page cannot be written.
    """
    from hyperfocal.report.page import REPORT, write_page
    from hyperfocal.storage.run_folder import RunFolder

    if out is not None:
        return write_page(run_page(run), out)
    with RunFolder.open(run).writing():  # else the page of this run might go into another that replaces it meanwhile
        return write_page(run_page(run), Path(run) / REPORT)


def run_page(run: str | Path) -> Page:
    """Return the page of a run folder, from its job.

    Raises:
        RunError: no run, an unfinished one, or a file that is missing or damaged.
    """
    from hyperfocal.report.run import read_run
    from hyperfocal.storage.run_folder import read_stable

    content = read_stable(run, read_run)
    if content.job == "classify":
        from hyperfocal.classify.page import classify_page

        return classify_page(content)
    from hyperfocal.recommend.page import recommend_page

    return recommend_page(content)


def layout_of(grid: GridReading) -> Layout:
    """Return the layout of a grid, from its job."""
    if grid.job == "classify":
        from hyperfocal.classify.grid_layout import layout_of_labels

        return layout_of_labels(single=bool(grid.base.get("data.single", False)))
    from hyperfocal.recommend.grid_layout import ranking_layout

    return ranking_layout(grid.base["data.next"])
