"""What `recommend grid` does, from its options to the table."""

from __future__ import annotations

import tomllib
from typing import Any

from rich.console import Console

from hyperfocal.cli.grid import closing_lines, ended_by_ctrl_c, recipe_points, show_table
from hyperfocal.cli.tracked import TrackedGrid
from hyperfocal.config.recipes import parse_override, resolve
from hyperfocal.config.recommend import RecommendSettings
from hyperfocal.errors import ConfigError
from hyperfocal.grid.axes import Axes, expand
from hyperfocal.grid.final import keep_winner, score_test
from hyperfocal.grid.points import Point, baseline_name
from hyperfocal.grid.ranking import LogSource
from hyperfocal.grid.search import GridJob, run_grid
from hyperfocal.report.grid_layout import ranking_layout
from hyperfocal.report.grid_progress import GridProgress
from hyperfocal.report.tables import grid_data_lines, print_commands, print_lines, test_report
from hyperfocal.report.tracking import Tracking
from hyperfocal.tasks.preparation import as_log

NAMED = {"encoders": "model.name", "losses": "loss.name"}  # options that are axes


def run_grid_command(options: dict[str, Any]) -> None:
    """Run the grid under a live table, print and keep its table, keep the winner, and score test once."""
    base, points, baseline = read_points(options)
    layout, out, console = ranking_layout(base.data.next), options["out"], Console()
    by = options["by"] or layout.changed
    files = [options[name] for name in ("train", "valid", "valid_truth", "test", "test_truth")]
    source = LogSource(*(None if file is None else as_log(file, base.data) for file in files))
    tracking = Tracking(options["track"], out, "recommend", lambda: base, resume=True)
    progress = GridProgress(len(points), options["workers"], by=by, layout=layout)
    with ended_by_ctrl_c(out), tracking, progress:
        watch = TrackedGrid(progress, tracking, points)
        job = GridJob(source, base, out, watch, options["workers"], by=by, retry=options["retry"])
        result = run_grid(job, points, baseline)
    print_lines(console, [*grid_data_lines(result.material.data.counts), ""])
    show_table(console, result, out, layout)
    with ended_by_ctrl_c(out):
        if source.test is None:
            keep_winner(result, out)
        else:
            console.print(test_report(score_test(result, out, (source.test, source.test_truth))))
    print_commands(console, closing_lines(out, "recommend predict {} HISTORY --out PRED.csv"))


def read_points(options: dict[str, Any]) -> tuple[RecommendSettings, list[Point], str]:
    """Return the base settings, the points and the baseline that flags and recipe ask for.

    Raises:
        ConfigError: neither or both say what the grid is; what is not allowed in them.
    """
    flags = {f"data.{name}": options[name] for name in ("user", "item", "order", "history", "next")}
    asked = flags | dict(parse_override(text) for text in options["assignments"])
    overrides = {key: value for key, value in asked.items() if value is not None}
    axes = _axes(options)
    if not axes:
        return recipe_points(options, overrides, RecommendSettings, "--encoders, --losses or --axis KEY=V1,V2")
    base = resolve(RecommendSettings, options["recipe"], overrides)
    points = expand(base, axes, 1 if options["seeds"] is None else options["seeds"])
    return base, points, baseline_name(points, options["baseline"])


def _axes(options: dict[str, Any]) -> Axes:
    """Return setting -> values of --encoders, --losses and every --axis."""
    axes: Axes = {}
    for option, key in NAMED.items():
        if options[option] is not None:
            axes[key] = _words(options[option])
    for text in options["axes"]:
        key, sign, values = (part.strip() for part in text.partition("="))
        if not sign or not key:
            raise ConfigError(f"--axis {text!r}: expected SECTION.KEY=V1,V2, for example loss.gamma=0,2,3")
        if key in axes:
            raise ConfigError(f"--axis {text!r}: {key} has its values already. Give them all in one option")
        axes[key] = parse_axis(values)
    return axes


def _words(text: str) -> list[Any]:
    return [part.strip() for part in text.split(",") if part.strip()]


def parse_axis(text: str) -> list[Any]:
    """Return the values of an axis: read as a TOML list, else part by part, each as TOML or as text.

    >>> parse_axis("0,2.5"), parse_axis("none,0.25"), parse_axis("[100, 50],[50]")
    ([0, 2.5], ['none', 0.25], [[100, 50], [50]])
    """
    try:
        values: list[Any] = tomllib.loads(f"values = [{text}]")["values"]
        return values
    except tomllib.TOMLDecodeError:
        return [parse_override(f"value={part}")[1] for part in _words(text)]
