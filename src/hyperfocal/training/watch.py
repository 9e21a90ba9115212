"""Hooks for everything that shows or tracks progress."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from hyperfocal.config.sections import Section
from hyperfocal.data.reading import ReadingPlan
from hyperfocal.errors import ConfigError
from hyperfocal.training.trainer import Progress


class Watch:
    """Empty hooks for the progress of a command; a subclass overrides the hooks that it needs.

    A command passes one object down. Code that reports a single kind of event takes a callable instead, and gets the
    bound hook: `Trainer(job, watch=watch.stepped)`, `encode_texts(..., watch=watch.encoded)`.
    """

    def begun(self, settings: Section) -> None:
        """A fit resolved its settings; called once, before it reads data."""

    def planned(self, plan: ReadingPlan) -> None:
        """The training data were read; called once, before training.

        Args:
            plan: how they were read.
        """

    def stepped(self, progress: Progress, steps: int) -> None:
        """Training took steps or ended an epoch; called every 50 steps and after each epoch.

        Args:
            progress: of the current training, an object per training: with folds there are several, one after another.
            steps: per epoch.
        """

    def encoded(self, done: int, total: int) -> None:
        """An encoder encoded a batch of texts.

        Args:
            done: texts encoded so far.
            total: texts to encode; done == total in the last call.
        """

    def predicted(self, blocks: int, fraction: float) -> None:
        """A block of predictions was written.

        Args:
            blocks: blocks written so far.
            fraction: of the input file that was read, 0 to 1.
        """

    def points_skipped(self, count: int) -> None:
        """Points of a grid are not trained because an earlier run has finished them; called once, at the start."""

    def points_awaited(self, count: int) -> None:
        """All points that remain are being trained by other processes; called again and again while they are."""

    def point_started(self, name: str, seed: int) -> None:
        """Training of a point began."""

    def point_finished(
        self, name: str, seed: int, settings: Section, values: Mapping[str, float], seconds: float
    ) -> None:
        """A point was trained and its result stored.

        Args:
            name: of the point.
            seed: of the point.
            settings: of the point.
            values: metric -> its value on the validation data.
            seconds: of the training.
        """

    def point_failed(self, name: str, seed: int, error: str) -> None:
        """A point failed, which is stored too.

        Args:
            name: of the point.
            seed: of the point.
            error: the reason, one line or more.
        """


SILENT = Watch()  # the default
HOOKS = [name for name in vars(Watch) if not name.startswith("_")]


class Forward(Watch):
    """Passes on every event.

    Args:
        send: called with the name of the hook and the arguments of the event.
    """

    def __init__(self, send: Callable[..., None]) -> None:
        for hook in HOOKS:
            setattr(self, hook, partial(send, hook))


def watch_with(*watches: Watch) -> Watch:
    """Return a watch that passes every event to several, in their order."""

    def send(hook: str, *event: object) -> None:
        for watch in watches:
            getattr(watch, hook)(*event)

    return Forward(send)


def check_watch(watch: Any) -> None:
    """Raise ConfigError for anything but a Watch, such as a plain function."""
    if not isinstance(watch, Watch):
        raise ConfigError(
            f"watch: {type(watch).__name__} is not a Watch. Subclass hyperfocal.training.watch.Watch and override "
            "stepped(progress, steps)"
        )
