"""The options that say where the points of a grid are trained: in processes here, or on a Ray cluster."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import click

from hyperfocal.errors import ConfigError

if TYPE_CHECKING:
    from hyperfocal.grid.local import Train

Command = TypeVar("Command", bound=Callable[..., Any])
OPTIONS = (
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
    for option in reversed(OPTIONS):
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
    from hyperfocal.grid.ray_cluster import Share
    from hyperfocal.grid.with_ray import ray_pool

    share = Share(1 if options["cpus"] is None else options["cpus"], options["gpus"] or 0.0)
    with ray_pool(options["ray"], share, options["workers"]) as pool:
        yield Where(pool.size, share.cpus, pool.train)
