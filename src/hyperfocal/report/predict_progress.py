"""A live line while a large file is predicted; silent when the output is not a terminal."""

from __future__ import annotations

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn


class PredictProgress:
    """A context manager that shows what share of the file is read, and how many parts are written."""

    def __init__(self) -> None:
        console = Console(stderr=True)
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            TaskProgressColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=console,
            disable=not console.is_terminal,
            transient=True,
        )
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
