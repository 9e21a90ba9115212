"""The `grid` commands: from the options of either job to the table, the winner and its test scores."""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console, Group

from hyperfocal.classify import grid as classify_grid
from hyperfocal.classify import terminal as classify_terminal
from hyperfocal.classify.grid_layout import layout_of_labels
from hyperfocal.classify.predictions import read_documents
from hyperfocal.cli.options import document_settings, log_settings
from hyperfocal.cli.report import report_line
from hyperfocal.cli.steps import NO_ENCODER, exit_on_ctrl_c
from hyperfocal.cli.wording import print_lines, print_report
from hyperfocal.config.classify import ClassifySettings
from hyperfocal.config.recipes import parse_override, resolve
from hyperfocal.config.recommend import RecommendSettings
from hyperfocal.config.sections import Section
from hyperfocal.data.logs import as_log
from hyperfocal.data.reading import reading_of
from hyperfocal.errors import ConfigError
from hyperfocal.grid.adaptive import Range
from hyperfocal.grid.axes import DEFAULT_SEEDS, Axes, expand, parse_values, read_grid_recipe
from hyperfocal.grid.local import LocalPool
from hyperfocal.grid.points import Point, baseline_name
from hyperfocal.grid.pool import Pool
from hyperfocal.grid.search import GridJob, GridResult, run_grid, run_search
from hyperfocal.grid.winner import keep_winner, score_test
from hyperfocal.machine import default_cache
from hyperfocal.recommend import grid as recommend_grid
from hyperfocal.recommend import terminal as recommend_terminal
from hyperfocal.recommend.grid_layout import ranking_layout
from hyperfocal.report.console import SafeConsole
from hyperfocal.report.format import print_commands
from hyperfocal.report.grid_table import Layout, grid_table, printed_table, write_table
from hyperfocal.report.progress import EncodingProgress, GridProgress
from hyperfocal.report.tracking import Tracking
from hyperfocal.training.watch import watch_with

Options = dict[str, Any]


@dataclass(frozen=True)
class GridCommand:
    """What differs between the grid commands of the two jobs."""

    job: str  # "classify" or "recommend"
    settings: type[Section]
    overrides: Callable[[Options], dict[str, Any]]  # dotted settings that the options stand for
    axes: Callable[[Options], Axes]  # defined by the options; {}: none
    axis_options: dict[str, str]  # option that defines axes -> its key in Options
    ranges: Callable[[Any], Mapping[str, Range]]  # base settings -> ranges of an adaptive search
    open: Callable[[Options, Any], tuple[Any, Any]]  # -> source of the data, test data or None
    layout: Callable[[Any], Layout]  # base settings -> layout of the table
    notes: Callable[[Any, GridResult], list[str]]  # base settings, result -> lines above the table
    test_report: Callable[[Any], Group]  # scores on test data -> what is printed
    following: str  # the command that follows, with {} for the winner


def run_grid_command(command: GridCommand, options: Options) -> None:
    """Run the grid under a live table, print and write its table, keep the winner, and score test data once."""
    plan = _plan(command, options)
    layout, out, console = command.layout(plan.base), options["out"], SafeConsole()
    by = options["by"] or layout.changed
    source, test = command.open(options, plan.base)  # test data are read before hours of training
    tracking = Tracking(options["track"], out, command.job, resume=True)
    tracking.begun(plan.base)
    with exit_on_ctrl_c(f"What is done is kept. The same command continues the grid in {out}."):
        with (
            _open_pool(options) as pool,
            tracking,
            EncodingProgress() as encoding,
            GridProgress(plan.size, pool.size, by=by, layout=layout) as progress,
        ):
            watch = watch_with(encoding, progress, tracking)
            result = plan.run(GridJob(source, plan.base, out, watch, pool, by=by, retry=options["retry"]))
        print_lines(console, command.notes(plan.base, result))
        print_table(console, result, out, layout)
        if test is None:
            keep_winner(result, out)
        else:
            print_report(console, command.test_report(score_test(result, out, test)))
    print_commands(console, _closing_lines(out, command.following))


class Plan(NamedTuple):
    """The grid that a command asks for."""

    base: Section  # settings that the points share
    size: int  # number of points in the end
    run: Callable[[GridJob], GridResult]


def _plan(command: GridCommand, options: Options) -> Plan:
    """Return the plan of a grid or a search; ConfigError for what is not allowed."""
    if options["search"] == "full":
        base, points, baseline = _read_points(command, options)
        return Plan(base, len(points), lambda job: run_grid(job, points, baseline))
    own = {**command.axis_options, "--seeds": "seeds", "--baseline": "baseline"}
    if any(options[name] not in (None, ()) for name in own.values()):
        *names, last = own
        raise ConfigError(
            "--search optuna proposes its own points, and its baseline is the base settings. "
            f"Leave {', '.join(names)} and {last} out"
        )
    base, trials = resolve(command.settings, options["recipe"], command.overrides(options)), options["trials"]
    return Plan(base, trials + 1, lambda job: run_search(job, command.ranges(base), trials))


def _read_points(command: GridCommand, options: Options) -> tuple[Section, list[Point], str]:
    """Return the base settings, the points and the name of the baseline that options or recipe define."""
    axes, overrides = command.axes(options), command.overrides(options)
    recipe, seeds = options["recipe"], options["seeds"]
    if axes:
        base = resolve(command.settings, recipe, overrides)
        points = expand(base, axes, DEFAULT_SEEDS if seeds is None else seeds)
        return base, points, baseline_name(points, options["baseline"])
    if recipe is None:
        *names, last = command.axis_options
        raise ConfigError(f"an empty grid. Give {', '.join(names)} or {last}, or --recipe FILE with a section [grid]")
    grid = read_grid_recipe(recipe, overrides, command.settings)
    points = expand(grid.base, grid.axes, grid.seeds if seeds is None else seeds)
    return grid.base, points, baseline_name(points, options["baseline"] or grid.baseline)


@contextmanager
def _open_pool(options: Options) -> Iterator[Pool]:
    """Give the pool that trains points: processes of this machine, or a Ray cluster, connected meanwhile.

    Raises:
        ConfigError: --cpus or --gpus without --ray; or as in `LocalPool` and `ray_pool`.
        RunError: as in `ray_pool`.
    """
    if options["ray"] is None:
        given = [f"--{name}" for name in ("cpus", "gpus") if options[name] is not None]
        if given:
            raise ConfigError(f"{' and '.join(given)}: for points on a Ray cluster. Give --ray ADDRESS too")
        yield LocalPool(1 if options["workers"] is None else options["workers"])
        return
    from hyperfocal.grid.ray import ray_pool
    from hyperfocal.grid.ray_cluster import Share

    share = Share(1 if options["cpus"] is None else options["cpus"], options["gpus"] or 0.0)
    with ray_pool(options["ray"], share, options["workers"]) as pool:
        yield pool


def print_table(console: Console, result: GridResult, out: Path, layout: Layout) -> None:
    """Print the table of a grid, and write it to `out`."""
    table = grid_table(result, layout)
    console.print(printed_table(table))
    write_table(table, out)


def _closing_lines(out: Path, following: str) -> list[str]:
    return [
        "",
        f"Table: {out / 'table.md'}, .csv and .json",
        report_line(out),
        f"Winner: {out / 'winner'}, a run like those of `fit`; baseline: {out / 'baseline'}",
        report_line(out / "winner"),
        f"Next: hyperfocal {following.format(out / 'winner')}",
    ]


def _open_documents(options: Options, base: ClassifySettings) -> tuple[classify_grid.TextSource, Any]:
    train = read_documents(options["train"], base.data, "all")
    reading = reading_of(train.plan, base.data)
    test = None if options["test"] is None else read_documents(options["test"], reading, "all")
    return classify_grid.TextSource(train, options["valid"], default_cache(), test), test


def _open_logs(options: Options, base: RecommendSettings) -> tuple[recommend_grid.LogSource, Any]:
    files = {name: options[name] for name in ("valid", "valid_truth", "test", "test_truth")}
    train = as_log(options["train"], base.data)
    reading, kind = reading_of(train.plan, base.data), train.plan.kind("item")
    others = {name: None if file is None else as_log(file, reading, kind) for name, file in files.items()}
    source = recommend_grid.LogSource(train, **others, items=options["items"])
    return source, None if source.test is None else (source.test, source.test_truth)


def _caps_and_gammas(options: Options) -> Axes:
    """Return the axes of --caps and --gammas; if only one is given, the other one is none."""
    if options["caps"] is None and options["gammas"] is None:
        return {}
    caps, gammas = ("none" if options[kind] is None else options[kind] for kind in ("caps", "gammas"))
    return {"caps": parse_values(caps, "caps"), "gammas": parse_values(gammas, "gammas")}


def _setting_axes(options: Options) -> Axes:
    """Return the axes of --encoders, --losses and every --axis."""
    named = {"model.name": options["encoders"], "loss.name": options["losses"]}
    axes: Axes = {key: _words(text) for key, text in named.items() if text is not None}
    for text in options["axes"]:
        key, sign, values = (word.strip() for word in text.partition("="))
        if not sign or not key:
            raise ConfigError(f"--axis {text!r}: expected SECTION.KEY=V1,V2, for example loss.gamma=0,2,3")
        if key in axes:
            raise ConfigError(f"--axis {text!r}: {key} has its values already. Give them all in one option")
        axes[key] = parse_axis(values)
    return axes


def _words(text: str) -> list[Any]:
    return [word.strip() for word in text.split(",") if word.strip()]


def parse_axis(text: str) -> list[Any]:
    """Return the values of an axis, read as a TOML list; if it is none, each value by itself, as TOML or as text.

    >>> parse_axis("0,2.5"), parse_axis("none,0.25"), parse_axis("[100, 50],[50]")
    ([0, 2.5], ['none', 0.25], [[100, 50], [50]])
    """
    try:
        values: list[Any] = tomllib.loads(f"values = [{text}]")["values"]
        return values
    except tomllib.TOMLDecodeError:
        return [parse_override(f"value={word}")[1] for word in _words(text)]


def _document_notes(base: ClassifySettings, result: GridResult) -> list[str]:
    lines = [*classify_terminal.data_lines(result.prepared.data.counts()), ""]
    missing = base.features.kind == "auto" and not result.prepared.encoder
    return [*lines, NO_ENCODER, ""] if missing else lines


def _log_notes(_: RecommendSettings, result: GridResult) -> list[str]:
    return [*recommend_terminal.grid_data_lines(result.prepared.data.counts), ""]


CLASSIFY = GridCommand(
    job="classify",
    settings=ClassifySettings,
    overrides=document_settings,
    axes=_caps_and_gammas,
    axis_options={"--caps": "caps", "--gammas": "gammas"},
    ranges=classify_grid.ranges_of,
    open=_open_documents,
    layout=lambda base: layout_of_labels(single=base.data.single),
    notes=_document_notes,
    test_report=classify_terminal.test_report,
    following="classify predict {} DOCS --out PRED.jsonl",
)
RECOMMEND = GridCommand(
    job="recommend",
    settings=RecommendSettings,
    overrides=log_settings,
    axes=_setting_axes,
    axis_options={"--encoders": "encoders", "--losses": "losses", "--axis": "axes"},
    ranges=lambda base: recommend_grid.RANGES,
    open=_open_logs,
    layout=lambda base: ranking_layout(base.data.next),
    notes=_log_notes,
    test_report=recommend_terminal.test_report,
    following="recommend predict {} HISTORY --out PRED.csv",
)
