"""What the page of a grid asks of a `grid.reading.GridReading`, which says what each attribute is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from hyperfocal.metrics.compare import Interval
from hyperfocal.metrics.verdict import Verdict
from hyperfocal.report.grid_rows import Ended


class Reading(Protocol):
    """A grid, finished or not."""

    @property
    def folder(self) -> Path:
        """Of the grid."""

    @property
    def job(self) -> str:
        """Of the points."""

    @property
    def k(self) -> int:
        """Length of the rankings; 0 for labels."""

    @property
    def about(self) -> dict[str, Any]:
        """What is known of the data."""

    @property
    def base(self) -> dict[str, Any]:
        """Settings that the points share."""

    @property
    def results(self) -> Mapping[str, Sequence[Ended]]:
        """Name -> what is done."""

    @property
    def failed(self) -> Sequence[Ended]:
        """What failed."""

    @property
    def verdicts(self) -> Mapping[str, Verdict]:
        """Name -> how it differs from the baseline."""

    @property
    def levels(self) -> Mapping[str, Mapping[str, Interval]]:
        """Name -> metric -> mean with interval."""

    @property
    def settings(self) -> Mapping[str, Mapping[str, Any]]:
        """Name -> settings; None for what is not read."""

    @property
    def baseline(self) -> str:
        """Name of a point."""

    @property
    def winner(self) -> str:
        """Name of a point, or ""."""

    @property
    def by(self) -> str:
        """The metric that chooses the winner."""

    @property
    def missing(self) -> Sequence[tuple[str, int]]:
        """Name and seed of what has not ended."""

    @property
    def unproposed(self) -> int:
        """Trials of a search whose points are not known yet."""

    @property
    def running(self) -> Sequence[tuple[str, int]]:
        """Name and seed of what a process is at."""

    @property
    def planned(self) -> bool:
        """Whether it is known what was planned."""
