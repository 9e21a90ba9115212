"""The option --track, and a grid that is told to trackers. Heavy imports are inside, so that --help answers at once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from hyperfocal.config.sections import Section
    from hyperfocal.grid.local import GridWatch
    from hyperfocal.grid.points import Point
    from hyperfocal.report.tracking import Tracking

Command = TypeVar("Command", bound=Callable[..., Any])


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
