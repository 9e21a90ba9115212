"""A live line while texts are encoded, a model is trained or a file is predicted.

Silent when the output is not a terminal, or this not the first process.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    ProgressColumn,
    TaskID,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from hyperfocal.config.sections import TrainSettings
from hyperfocal.distributed import is_first
from hyperfocal.train import Progress as TrainProgress


def _line(*columns: ProgressColumn, left: str = "left") -> Progress:
    """Return a line of these columns with the time spent and the time left; it is removed at the end."""
    console = Console(stderr=True)
    return Progress(
        *columns,
        TimeElapsedColumn(),
        TextColumn(left),
        TimeRemainingColumn(),
        console=console,
        disable=not (console.is_terminal and is_first()),
        transient=True,
    )


class EncodingProgress:
    """A context manager that shows how many texts are encoded; no line before the first is."""

    def __init__(self) -> None:
        done = TextColumn("{task.completed:,}/{task.total:,}")
        self._bar = _line(TextColumn("encoding texts"), BarColumn(bar_width=24), done)
        self._task: TaskID | None = None

    def __enter__(self) -> EncodingProgress:
        """Do nothing yet: there may be nothing to encode."""
        return self

    def __exit__(self, *error: object) -> None:
        """Remove the line."""
        self._bar.stop()

    def watch(self, done: int, total: int) -> None:
        """Show that `done` of `total` texts are encoded; the line goes when all are."""
        if self._task is None:
            self._bar.start()
            self._task = self._bar.add_task("encoding", total=total)
        self._bar.update(self._task, completed=done, total=total)
        if done == total:
            self._bar.remove_task(self._task)
            self._task = None
            self._bar.stop()


class FitProgress:
    """A context manager that shows epoch, loss, metric, epoch time and time left.

    Args:
        settings: asked for when training has begun, for then they are resolved.
        trainings: the same; how many trainings there will be, one after the other.
    """

    def __init__(self, settings: Callable[[], TrainSettings], trainings: Callable[[], int] = lambda: 1) -> None:
        self._settings, self._trainings = settings, trainings
        self._training = 0
        self._latest: TrainProgress | None = None
        self._bar = _line(TextColumn("{task.description}"), BarColumn(bar_width=16), left="left at most")
        self._task = self._bar.add_task("training", total=None)

    def __enter__(self) -> FitProgress:
        """Start the line."""
        self._bar.start()
        return self

    def __exit__(self, *error: object) -> None:
        """Remove the line."""
        self._bar.stop()

    def watch(self, progress: TrainProgress, steps: int) -> None:
        """Show how far training is; `steps` an epoch."""
        done, total = progress.epoch * steps + progress.step, self._settings().epochs * steps
        self._training += progress is not self._latest  # another one has begun
        self._latest, before = progress, (self._training - 1) * total
        total *= max(self._trainings(), self._training)
        self._bar.update(self._task, completed=before + done, total=total, description=self._describe(progress))

    def _describe(self, progress: TrainProgress) -> str:
        settings = self._settings()
        words = [f"training {self._training}/{self._trainings()}"] if self._trainings() > 1 else []
        words.append(f"epoch {min(progress.epoch + 1, settings.epochs)}/{settings.epochs}")
        if progress.step:
            words.append(f"loss {progress.loss_sum / progress.step:.3f}")
        if math.isfinite(progress.best):
            last = progress.history[-1]
            words.append(f"{settings.metric} {last[settings.metric]:.4f} (best {progress.best:.4f})")
            words.append(f"{last['train_seconds'] + last['valid_seconds']:.1f} s/epoch")
        return "  ".join(words)


class PredictProgress:
    """A context manager that shows what share of the file is read, and how many parts are written."""

    def __init__(self) -> None:
        self._bar = _line(TextColumn("{task.description}"), BarColumn(bar_width=24), TaskProgressColumn())
        self._task = self._bar.add_task("predicting", total=1.0)

    def __enter__(self) -> PredictProgress:
        """Start the line."""
        self._bar.start()
        return self

    def __exit__(self, *error: object) -> None:
        """Remove the line."""
        self._bar.stop()

    def watch(self, parts: int, share: float) -> None:
        """Show that `parts` are written and a share of the file, 0 to 1, is done."""
        self._bar.update(self._task, completed=share, description=f"predicting, {parts:,} parts written")
