"""What `classify grid` does, from its options to the table; and what `recommend grid` does as well."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import click
from rich.console import Console

from hyperfocal.classify.grid import TextSource
from hyperfocal.classify.grid_layout import LABEL_LAYOUT
from hyperfocal.classify.terminal import data_lines, test_report
from hyperfocal.cli.options import NO_ENCODER, TrackedGrid, Where, data_settings, trained_where
from hyperfocal.cli.report import report_line
from hyperfocal.config.classify import ClassifySettings
from hyperfocal.config.recipes import resolve
from hyperfocal.config.sections import Section
from hyperfocal.data.documents import Documents, as_documents
from hyperfocal.errors import ConfigError
from hyperfocal.grid.adaptive import RANGES
from hyperfocal.grid.axes import caps_and_gammas, expand, parse_values, read_grid_recipe
from hyperfocal.grid.points import Point, baseline_name
from hyperfocal.grid.search import GridJob, GridResult, run_grid, run_search
from hyperfocal.grid.winner import keep_winner, score_test
from hyperfocal.report.format import print_commands, print_lines
from hyperfocal.report.grid_table import Layout, grid_table, printed_table, write_table
from hyperfocal.report.progress import EncodingProgress, GridProgress
from hyperfocal.report.tracking import Tracking
from hyperfocal.storage.cache import default_cache

Job = TypeVar("Job", bound=Section)


def run_grid_command(options: dict[str, Any]) -> None:
    """Run the grid under a live table, print and keep its table, keep the winner, and score test once."""
    base, points, size, run = _plan(options)
    test = None if options["test"] is None else as_documents(options["test"], base.data)  # not after hours of training
    out, console = options["out"], Console()
    tracking = Tracking(options["track"], out, "classify", lambda: base, resume=True)
    with (
        ended_by_ctrl_c(out),
        trained_where(options) as where,
        tracking,
        _watched(options, base, size, test, where) as job,
    ):
        watch = TrackedGrid(job.watch, tracking, points)
        result = run(replace(job, watch=watch))
        watch.rest(result.points)
    print_lines(console, [*data_lines(result.material.data.counts()), ""])
    if base.features.kind == "auto" and not result.material.encoder:
        print_lines(console, [NO_ENCODER, ""])
    show_table(console, result, out, LABEL_LAYOUT)
    with ended_by_ctrl_c(out):
        if test is None:
            keep_winner(result, out)
        else:
            console.print(test_report(score_test(result, out, test)))
    print_commands(console, closing_lines(out, "classify predict {} DOCS --out PRED.jsonl"))


@contextmanager
def ended_by_ctrl_c(out: Path) -> Iterator[None]:
    """End the program with 130 on Ctrl-C, and say how to go on."""
    try:
        yield
    except KeyboardInterrupt:
        click.echo(f"stopped. What is done is kept; the same command goes on in {out}.", err=True)
        sys.exit(130)


def show_table(console: Console, result: GridResult, out: Path, layout: Layout) -> None:
    """Print the table of a grid, and keep it in `out`."""
    table = grid_table(result, layout)
    console.print(printed_table(table))
    write_table(table, out)


def closing_lines(out: Path, following: str) -> list[str]:
    """Return where everything is, and the command that follows, with {} for the winner."""
    return [
        "",
        f"Table: {out / 'table.md'}, .csv and .json",
        report_line(out),
        f"Winner: {out / 'winner'}, a run as those of `fit`; baseline: {out / 'baseline'}",
        report_line(out / "winner"),
        f"Next: hyperfocal {following.format(out / 'winner')}",
    ]


def overrides_of(options: dict[str, Any]) -> dict[str, Any]:
    """Return the settings that flags give."""
    return {key: value for key, value in data_settings(options).items() if value is not None}


def read_points(options: dict[str, Any]) -> tuple[ClassifySettings, list[Point], str]:
    """Return the base settings, the points and the baseline that flags and recipe ask for.

    Raises:
        ConfigError: neither or both say what the grid is; what is not allowed in them.
    """
    overrides = overrides_of(options)
    flags = options["caps"] is not None or options["gammas"] is not None
    recipe, seeds = options["recipe"], options["seeds"]
    if flags:
        base = resolve(ClassifySettings, recipe, overrides)
        caps, gammas = (
            parse_values("none" if options[kind] is None else options[kind], kind) for kind in ("caps", "gammas")
        )
        points = caps_and_gammas(base, caps, gammas, 1 if seeds is None else seeds)
        return base, points, baseline_name(points, options["baseline"])
    return recipe_points(options, overrides, ClassifySettings, "--caps and --gammas")


def recipe_points(
    options: dict[str, Any], overrides: dict[str, Any], kind: type[Job], flags: str
) -> tuple[Job, list[Point], str]:
    """Return the base settings, the points and the baseline of a recipe with a grid.

    Args:
        options: "recipe", its path or None; "seeds" and "baseline", on top of what it says.
        overrides: dotted settings on top of its base.
        kind: the settings of the job.
        flags: what to give where there is no recipe.
    """
    if options["recipe"] is None:
        raise ConfigError(f"an empty grid. Give {flags}, or --recipe FILE with a section [grid]")
    found = read_grid_recipe(options["recipe"], overrides, kind)
    points = expand(found.base, found.axes, found.seeds if options["seeds"] is None else options["seeds"])
    return found.base, points, baseline_name(points, options["baseline"] or found.baseline)


def _plan(options: dict[str, Any]) -> tuple[ClassifySettings, list[Point], int, Callable[[GridJob], GridResult]]:
    """Return the base settings, the points that are known, how many there will be, and what runs them."""
    if options["search"] == "full":
        base, points, baseline = read_points(options)
        return base, points, len(points), lambda job: run_grid(job, points, baseline)
    if any(options[key] is not None for key in ("caps", "gammas", "seeds", "baseline")):
        raise ConfigError(
            "--search optuna draws its own points, beside the base settings as baseline: "
            "leave --caps, --gammas, --seeds and --baseline out"
        )
    base, trials = resolve(ClassifySettings, options["recipe"], overrides_of(options)), options["trials"]
    return base, [], trials + 1, lambda job: run_search(job, RANGES, trials)


@contextmanager
def _watched(
    options: dict[str, Any], base: ClassifySettings, points: int, test: Documents | None, where: Where
) -> Iterator[GridJob]:
    """Show progress while the job is worked on."""
    progress_table = GridProgress(points, where.workers, by=options["by"], layout=LABEL_LAYOUT)
    with EncodingProgress() as encoding, progress_table as progress:
        source = TextSource(options["train"], options["valid"], default_cache(), test, encoding.watch)
        yield GridJob(
            source,
            base,
            options["out"],
            progress,
            where.workers,
            where.threads,
            options["by"],
            options["retry"],
            where.train,
        )
