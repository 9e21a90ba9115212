"""A live line while texts are encoded, a model is trained or a file is predicted.

Silent when the output is not a terminal, or this not the first process.

A live table while a grid runs; plain lines, one a point, when the output is not a terminal.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Mapping

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

from hyperfocal.config.sections import TrainSettings
from hyperfocal.distributed import is_first
from hyperfocal.grid.pool import GridWatch
from hyperfocal.report.format import share
from hyperfocal.report.grid_table import BY, LABELS, Layout
from hyperfocal.training.trainer import Progress as TrainProgress


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


LISTED = 8  # running points that the table names
REFRESHES = 2  # a second


class GridProgress(GridWatch):
    """A context manager that shows how many points ended, which run, the best so far and the time left.

    Nothing is shown before the first point starts, so that a progress line of what comes before is left alone.

    Args:
        total: points times seeds, those that an earlier run ended among them.
        workers: processes that share the work.
        by: the metric that says which point is best.
        layout: of the job.
        console: to write to; stderr where None.
        clock: gives seconds.
    """

    def __init__(
        self,
        total: int,
        workers: int = 1,
        *,
        by: str = BY,
        layout: Layout = LABELS,
        console: Console | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._total, self._workers, self._by, self._clock = total, max(workers, 1), by, clock
        self._console = console or Console(stderr=True)
        self._layout = layout
        self._lock = threading.RLock()  # the table is drawn in a thread of its own
        self._running: dict[tuple[str, int], float] = {}  # when each began
        self._values: dict[str, list[float]] = {}  # name -> `by` of its seeds
        self._seconds: list[float] = []
        self._skipped = self._failed = self._waiting = 0
        self._best = ("", math.nan)  # name and mean of `by`
        self._live: Live | None = None

    def __enter__(self) -> GridProgress:
        """Do nothing yet: the documents come first."""
        return self

    def __exit__(self, *error: object) -> None:
        """Remove the table."""
        if self._live is not None:
            self._live.stop()
            self._live = None

    def skipped(self, count: int) -> None:
        """Count points that an earlier run ended."""
        with self._lock:
            self._skipped += count
        if count:
            self._say(f"[{self._ended}/{self._total}] {count:,} ended in an earlier run and are kept")

    def waiting(self, count: int) -> None:
        """Say once that what is left is with other processes."""
        if self._waiting != count:
            self._say(f"[{self._total - count}/{self._total}] waiting for {count:,} points of other processes")
        self._waiting = count

    def started(self, name: str, seed: int) -> None:
        """Show a point as running."""
        with self._lock:
            self._running[name, seed] = self._clock()
        self._show()

    def finished(self, name: str, seed: int, values: Mapping[str, float], seconds: float) -> None:
        """Count a point as done, and show it where it is the best so far."""
        with self._lock:
            self._running.pop((name, seed), None)
            self._seconds.append(seconds)
            self._keep_best(name, values)
        self._say(f"[{self._ended}/{self._total}] {name} seed {seed}: {self._scores(values)}, {_seconds(seconds)}")

    def failed(self, name: str, seed: int, error: str) -> None:
        """Count a point as failed."""
        with self._lock:
            self._running.pop((name, seed), None)
            self._failed += 1
        reason = (error.strip() or "unknown error").splitlines()[0]
        self._say(f"[{self._ended}/{self._total}] {name} seed {seed}: failed: {reason}")

    @property
    def _ended(self) -> int:
        return self._skipped + len(self._seconds) + self._failed

    def _keep_best(self, name: str, values: Mapping[str, float]) -> None:
        """Compare the means over the seeds so far; nan is never the best."""
        reached = values.get(self._by, math.nan)
        if math.isnan(reached):
            return
        self._values.setdefault(name, []).append(reached)
        means = {each: sum(found) / len(found) for each, found in self._values.items()}
        best = max(means, key=lambda each: means[each])
        self._best = (best, means[best])

    def _say(self, line: str) -> None:
        if self._on_terminal:
            self._show()
        else:
            self._console.print(Text(line), soft_wrap=True)

    @property
    def _on_terminal(self) -> bool:
        return self._console.is_terminal and not self._console.is_dumb_terminal

    def _show(self) -> None:
        """Draw the table; the first time it begins to redraw itself."""
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
        """Return what the terminal shows now."""
        with self._lock:
            lines = [self._counted(), *self._running_lines()]
            if self._best[0]:
                name, mean = self._best
                lines.append(f"best so far: {name}, {self._layout.name_of(self._by)} {self._share(mean)}")
        return Group(*(Text(line, no_wrap=True, overflow="ellipsis") for line in lines))

    def _counted(self) -> str:
        missing = max(self._total - self._ended - len(self._running), 0)
        words = [f"{self._skipped + len(self._seconds):,} of {self._total:,} done"]
        words += [f"{self._failed:,} failed"] if self._failed else []
        words += [f"{len(self._running):,} running", f"{missing:,} to go"]
        left = self._seconds_left()
        return ", ".join(words) + ("" if left is None else f"; about {_clock_time(left)} left")

    def _running_lines(self) -> list[str]:
        now = self._clock()
        oldest = list(self._running.items())
        lines = [f"  {_clock_time(now - began):>7}  {name} seed {seed}" for (name, seed), began in oldest[:LISTED]]
        return lines + ([f"           and {len(oldest) - LISTED:,} more"] if len(oldest) > LISTED else [])

    def _scores(self, values: Mapping[str, float]) -> str:
        return ", ".join(words.format(self._share(values.get(m))) for m, words in self._layout.progress.items())

    def _share(self, value: float | None) -> str:
        return share(value, digits=self._layout.digits)

    def _seconds_left(self) -> float | None:
        """Return the seconds until all is done, None before the first point is.

        (mean seconds of a point x points not ended - seconds spent on running ones) / workers, and at least what
        the youngest running point lacks.
        """
        if not self._seconds:
            return None
        mean, now = sum(self._seconds) / len(self._seconds), self._clock()
        lacking = [max(mean - (now - began), 0) for began in self._running.values()]
        waiting = max(self._total - self._ended - len(self._running), 0)
        return max([(mean * waiting + sum(lacking)) / self._workers, *lacking])


def _seconds(seconds: float) -> str:
    return f"{seconds:,.0f} s" if seconds >= 10 else f"{seconds:.1f} s"


def _clock_time(seconds: float) -> str:
    """Return "1:02:03", "2:03" where it is under an hour."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
