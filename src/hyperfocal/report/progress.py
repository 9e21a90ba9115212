"""Show progress in the terminal: a line for encoding, training and prediction, a table for a grid.

A line is shown only on a terminal and by the first process. Without a terminal, a grid prints a plain line per point.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
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
from rich.text import Text

from hyperfocal.config.sections import Section, TrainSettings
from hyperfocal.data.reading import ReadingPlan
from hyperfocal.distributed import is_first
from hyperfocal.report.console import SafeConsole
from hyperfocal.report.format import duration, quantity, share
from hyperfocal.report.grid_table import Layout
from hyperfocal.report.reading import print_plan
from hyperfocal.training.trainer import Progress as TrainProgress
from hyperfocal.training.watch import Watch

LISTED = 8  # running points that the table names
REFRESHES = 2  # per second


class ProgressLine(Watch):
    """A context manager that shows a line: some columns, the time spent and the time left. It disappears at the end.

    Args:
        columns: of the line.
        left: word after the time spent, before the time left.
    """

    def __init__(self, *columns: ProgressColumn, left: str = "left") -> None:
        console = SafeConsole(stderr=True)
        self._bar = Progress(
            *columns,
            TimeElapsedColumn(),
            TextColumn(left),
            TimeRemainingColumn(),
            console=console,
            disable=not (console.is_terminal and is_first()),
            transient=True,
        )

    def __enter__(self) -> Self:
        """Start the line."""
        self._bar.start()
        return self

    def __exit__(self, *error: object) -> None:
        """Remove the line."""
        self._bar.stop()


class EncodingProgress(ProgressLine):
    """A context manager that shows how many texts are encoded, from the first one on."""

    def __init__(self) -> None:
        super().__init__(
            TextColumn("encoding texts"), BarColumn(bar_width=24), TextColumn("{task.completed:,}/{task.total:,}")
        )
        self._task: TaskID | None = None

    def __enter__(self) -> Self:
        """Show nothing yet: there may be nothing to encode."""
        return self

    def encoded(self, done: int, total: int) -> None:
        """Show that `done` of `total` texts are encoded; the line disappears when all are."""
        if self._task is None:
            self._bar.start()
            self._task = self._bar.add_task("encoding", total=total)
        self._bar.update(self._task, completed=done, total=total)
        if done == total:
            self._bar.remove_task(self._task)
            self._task = None
            self._bar.stop()


class FitProgress(ProgressLine):
    """A context manager that shows epoch, loss, metric, epoch time and time left.

    Args:
        count: returns the number of trainings, one after another, given the `train` settings of the fit.
    """

    def __init__(self, count: Callable[[Any], int] = lambda settings: 1) -> None:
        super().__init__(TextColumn("{task.description}"), BarColumn(bar_width=16), left="left at most")
        self._count = count
        self._settings, self._trainings = TrainSettings(), 1  # until the fit has begun
        self._training = 0
        self._latest: TrainProgress | None = None
        self._task = self._bar.add_task("training", total=None)

    def begun(self, settings: Any) -> None:
        """Keep the settings of training."""
        self._settings, self._trainings = settings.train, self._count(settings.train)

    def planned(self, plan: ReadingPlan) -> None:
        """Print how the data were read."""
        print_plan(plan)

    def stepped(self, progress: TrainProgress, steps: int) -> None:
        """Show the state of a training with `steps` steps per epoch."""
        done, total = progress.epoch * steps + progress.step, self._settings.epochs * steps
        self._training += progress is not self._latest  # another training has begun
        self._latest, before = progress, (self._training - 1) * total
        total *= max(self._trainings, self._training)
        self._bar.update(self._task, completed=before + done, total=total, description=self._describe(progress))

    def _describe(self, progress: TrainProgress) -> str:
        settings = self._settings
        words = [f"training {self._training}/{self._trainings}"] if self._trainings > 1 else []
        words.append(f"epoch {min(progress.epoch + 1, settings.epochs)}/{settings.epochs}")
        if progress.step:
            words.append(f"loss {progress.loss_sum / progress.step:.3f}")
        if math.isfinite(progress.best):
            last = progress.history[-1]
            words.append(f"{settings.metric} {last[settings.metric]:.4f} (best {progress.best:.4f})")
            words.append(f"{last['train_seconds'] + last['valid_seconds']:.1f} s/epoch")
        return "  ".join(words)


class PredictProgress(ProgressLine):
    """A context manager that shows the share of the file that is read, and the number of part files written."""

    def __init__(self) -> None:
        super().__init__(TextColumn("{task.description}"), BarColumn(bar_width=24), TaskProgressColumn())
        self._task = self._bar.add_task("predicting", total=1.0)

    def predicted(self, blocks: int, fraction: float) -> None:
        """Show how many blocks are written, each to a part file, and the fraction of the input that is read."""
        self._bar.update(self._task, completed=fraction, description=f"predicting, {quantity(blocks, 'part')} written")


class GridProgress(Watch):
    """A context manager that shows finished and running trainings, the best point so far and the time left.

    Nothing is shown before the first training starts, so that the progress line of earlier work stays intact.

    Args:
        total: trainings, points times seeds, including those that ended in an earlier run.
        workers: processes that share the work.
        by: the metric that orders the points.
        layout: of the job.
        console: to write to; None: stderr.
        clock: returns seconds.
    """

    def __init__(
        self,
        total: int,
        workers: int = 1,
        *,
        by: str,
        layout: Layout,
        console: Console | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._total, self._workers, self._by, self._clock = total, max(workers, 1), by, clock
        self._console = console or SafeConsole(stderr=True)
        self._layout = layout
        self._lock = threading.RLock()  # a separate thread draws the table
        self._running: dict[tuple[str, int], float] = {}  # name and seed -> start
        self._values: dict[str, list[float]] = {}  # name -> `by` of its seeds, without nan
        self._seconds: list[float] = []
        self._skipped = self._failed = self._waiting = 0
        self._live: Live | None = None

    def __enter__(self) -> GridProgress:
        """Show nothing yet: the data are read first."""
        return self

    def __exit__(self, *error: object) -> None:
        """Remove the table."""
        if self._live is not None:
            self._live.stop()
            self._live = None

    def planned(self, plan: ReadingPlan) -> None:
        """Print how the data were read."""
        print_plan(plan)

    def points_skipped(self, count: int) -> None:
        """Count the trainings that ended in an earlier run."""
        with self._lock:
            self._skipped += count
        if count:
            self._say(f"[{self._ended}/{self._total}] {count:,} ended in an earlier run and are kept")

    def points_awaited(self, count: int) -> None:
        """Say once that only trainings of other processes are left."""
        if self._waiting != count:
            trainings = quantity(count, "training")
            self._say(f"[{self._total - count}/{self._total}] waiting for {trainings} of other processes")
        self._waiting = count

    def point_started(self, name: str, seed: int) -> None:
        """Show a training as running."""
        with self._lock:
            self._running[name, seed] = self._clock()
        self._show()

    def point_finished(
        self, name: str, seed: int, settings: Section, values: Mapping[str, float], seconds: float
    ) -> None:
        """Count a training as done, with the metrics that it reached."""
        with self._lock:
            self._running.pop((name, seed), None)
            self._seconds.append(seconds)
            if not math.isnan(value := values.get(self._by, math.nan)):
                self._values.setdefault(name, []).append(value)
        self._say(f"[{self._ended}/{self._total}] {name} seed {seed}: {self._scores(values)}, {duration(seconds)}")

    def point_failed(self, name: str, seed: int, error: str) -> None:
        """Count a training as failed."""
        with self._lock:
            self._running.pop((name, seed), None)
            self._failed += 1
        reason = (error.strip() or "unknown error").splitlines()[0]
        self._say(f"[{self._ended}/{self._total}] {name} seed {seed}: failed: {reason}")

    @property
    def _ended(self) -> int:
        return self._skipped + len(self._seconds) + self._failed

    @property
    def _to_start(self) -> int:
        return max(self._total - self._ended - len(self._running), 0)

    def _say(self, line: str) -> None:
        if self._on_terminal:
            self._show()
        else:
            self._console.print(Text(line), soft_wrap=True)

    @property
    def _on_terminal(self) -> bool:
        return self._console.is_terminal and not self._console.is_dumb_terminal

    def _show(self) -> None:
        """Draw the table; from the first time on it redraws itself."""
        if not self._on_terminal:
            return
        if self._live is None:
            self._live = Live(
                get_renderable=self.table,
                console=self._console,
                transient=True,
                redirect_stdout=False,  # stdout may be a file
                refresh_per_second=REFRESHES,
            )
            self._live.start()
        self._live.refresh()

    def table(self) -> RenderableType:
        """Return the content of the terminal."""
        with self._lock:
            lines = [self._counted(), *self._running_lines()]
            means = {name: sum(values) / len(values) for name, values in self._values.items()}
            if means:
                best = max(means, key=lambda name: means[name])
                lines.append(f"best so far: {best}, {self._layout.name_of(self._by)} {self._share(means[best])}")
        return Group(*(Text(line, no_wrap=True, overflow="ellipsis") for line in lines))

    def _counted(self) -> str:
        words = [f"{self._skipped + len(self._seconds):,} of {self._total:,} done"]
        words += [f"{self._failed:,} failed"] if self._failed else []
        words += [f"{len(self._running):,} running", f"{self._to_start:,} to go"]
        left = self._seconds_left()
        return ", ".join(words) + ("" if left is None else f"; about {_clock_time(left)} left")

    def _running_lines(self) -> list[str]:
        now = self._clock()
        running = list(self._running.items())  # the oldest first
        lines = [f"  {_clock_time(now - began):>7}  {name} seed {seed}" for (name, seed), began in running[:LISTED]]
        return lines + ([f"           and {len(running) - LISTED:,} more"] if len(running) > LISTED else [])

    def _scores(self, values: Mapping[str, float]) -> str:
        return ", ".join(words.format(self._share(values.get(m))) for m, words in self._layout.progress.items())

    def _share(self, value: float | None) -> str:
        return share(value, digits=self._layout.digits)

    def _seconds_left(self) -> float | None:
        """Return the seconds until all trainings are done; None before the first one is done.

        (mean x trainings not started + sum over the running ones of the rest) / workers, and at least each rest, where
        mean is the mean time of a training and rest = max(mean - time since its start, 0).
        """
        if not self._seconds:
            return None
        mean, now = sum(self._seconds) / len(self._seconds), self._clock()
        rests = [max(mean - (now - began), 0) for began in self._running.values()]
        return max([(mean * self._to_start + sum(rests)) / self._workers, *rests])


def _clock_time(seconds: float) -> str:
    """Return "1:02:03", or "2:03" if it is less than an hour."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
