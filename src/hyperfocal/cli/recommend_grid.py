"""What `recommend grid` does, from its options to the table."""

from __future__ import annotations

import tomllib
from collections.abc import Callable
from typing import Any

from rich.console import Console

from hyperfocal.cli.grid import closing_lines, ended_by_ctrl_c, recipe_points, show_table
from hyperfocal.cli.options import TrackedGrid, trained_where
from hyperfocal.config.recipes import parse_override, resolve
from hyperfocal.config.recommend import RecommendSettings
from hyperfocal.data.logs import as_log
from hyperfocal.errors import ConfigError
from hyperfocal.grid.adaptive import NEXT_ITEM_RANGES
from hyperfocal.grid.axes import Axes, expand
from hyperfocal.grid.points import Point, baseline_name
from hyperfocal.grid.search import GridJob, GridResult, run_grid, run_search
from hyperfocal.grid.winner import keep_winner, score_test
from hyperfocal.recommend.grid import LogSource
from hyperfocal.recommend.grid_layout import ranking_layout
from hyperfocal.recommend.terminal import grid_data_lines, test_report
from hyperfocal.report.format import print_commands, print_lines
from hyperfocal.report.progress import GridProgress
from hyperfocal.report.tracking import Tracking

NAMED = {"encoders": "model.name", "losses": "loss.name"}  # options that are axes


def run_grid_command(options: dict[str, Any]) -> None:
    """Run the grid under a live table, print and keep its table, keep the winner, and score test once."""
    base, points, size, run = _plan(options)
    layout, out, console = ranking_layout(base.data.next), options["out"], Console()
    by = options["by"] or layout.changed
    files = {name: options[name] for name in ("train", "valid", "valid_truth", "test", "test_truth")}
    logs = {name: None if file is None else as_log(file, base.data) for name, file in files.items()}
    source = LogSource(**logs, items=options["items"])
    tracking = Tracking(options["track"], out, "recommend", lambda: base, resume=True)
    with (
        ended_by_ctrl_c(out),
        trained_where(options) as where,
        tracking,
        GridProgress(size, where.workers, by=by, layout=layout) as progress,
    ):
        watch = TrackedGrid(progress, tracking, points)
        result = run(GridJob(source, base, out, watch, *where[:2], by, options["retry"], where.train))
        watch.rest(result.points)
    print_lines(console, [*grid_data_lines(result.material.data.counts), ""])
    show_table(console, result, out, layout)
    with ended_by_ctrl_c(out):
        if source.test is None:
            keep_winner(result, out)
        else:
            console.print(test_report(score_test(result, out, (source.test, source.test_truth))))
    print_commands(console, closing_lines(out, "recommend predict {} HISTORY --out PRED.csv"))


def _plan(options: dict[str, Any]) -> tuple[RecommendSettings, list[Point], int, Callable[[GridJob], GridResult]]:
    """Return the base settings, the points that are known, how many there will be, and what runs them."""
    if options["search"] == "full":
        base, points, baseline = read_points(options)
        return base, points, len(points), lambda job: run_grid(job, points, baseline)
    if options["axes"] or any(options[key] is not None for key in ("encoders", "losses", "seeds", "baseline")):
        raise ConfigError(
            "--search optuna draws its own points, beside the base settings as baseline: "
            "leave --encoders, --losses, --axis, --seeds and --baseline out"
        )
    base, trials = resolve(RecommendSettings, options["recipe"], overrides_of(options)), options["trials"]
    return base, [], trials + 1, lambda job: run_search(job, NEXT_ITEM_RANGES, trials)


def overrides_of(options: dict[str, Any]) -> dict[str, Any]:
    """Return the settings that flags give."""
    flags = {f"data.{name}": options[name] for name in ("user", "item", "order", "history", "next")}
    asked = flags | dict(parse_override(text) for text in options["assignments"])
    return {key: value for key, value in asked.items() if value is not None}


def read_points(options: dict[str, Any]) -> tuple[RecommendSettings, list[Point], str]:
    """Return the base settings, the points and the baseline that flags and recipe ask for.

    Raises:
        ConfigError: neither or both say what the grid is; what is not allowed in them.
    """
    overrides = overrides_of(options)
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
