"""What a grid needs of a job: where its data come from, and what its points share once these are prepared.

`training.py` has both for `classify`, `ranking.py` for `recommend`; everything else of a grid is the same for all jobs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor

from hyperfocal.config.sections import Section
from hyperfocal.grid.points import Point
from hyperfocal.metrics.intervals import too_few
from hyperfocal.metrics.verdict import Families

Reached = tuple[dict[str, float], dict[str, Tensor]]
COMPARED_ON = {  # key of `Material.about` -> what is resampled: the first that is there
    "validation users": "users",
    "validation groups": "groups of documents",
    "validation documents": "documents",
}


class Source(Protocol):
    """Files or frames, as the caller named them."""

    def metrics(self, base: Section) -> list[str]:
        """Return the metrics that may choose a winner: of each, more is better."""

    def prepare(self, points: Sequence[Point], base: Section, threads: int) -> Material:
        """Read, split and number, once for all points; and look at test data, before anything trains."""


class Material(Protocol):
    """What all points share. It goes to every worker process, so it can be pickled."""

    @property
    def threads(self) -> int:
        """CPU threads of one training."""

    @property
    def families(self) -> Families:
        """What verdicts look at."""

    def fingerprint(self) -> str:
        """Return a checksum of all that is learnt from and scored on."""

    def about(self) -> dict[str, Any]:
        """Return what is shown when a store is of other data."""

    def portable(self) -> Material:
        """Return the same for a machine that does not see the files of this one."""

    def train(self, point: Point) -> Reached:
        """Train one point; return every metric on the validation data, and the main ones in resamples."""

    def fit(self, settings: dict[str, Any], folder: Path) -> Fitted:
        """Fit with dotted settings, and keep it as a run."""

    def load(self, folder: Path) -> Fitted:
        """Return what a run holds."""

    def knows(self, fitted: Fitted) -> bool:
        """Return whether it was fitted on these data."""

    def read_test(self, test: Any, settings: Section) -> Tested:
        """Return test data, checked: nothing was learnt from them, and they can be scored."""


class Fitted(Protocol):
    """A classifier or a recommender."""

    settings_: Any


class Tested(Protocol):
    """Test data."""

    def checksum(self, keys: Sequence[str]) -> str:
        """Return a checksum of the data and of the points that are scored on them."""

    def evaluate(self, fitted: Any) -> dict[str, Any]:
        """Return the scores."""


def why_untold(about: Mapping[str, Any]) -> str:
    """Return why points cannot be compared on these data, or ""; a grid of an earlier version may not say how many.

    >>> why_untold({"documents": 900, "validation documents": 100, "validation groups": 7})
    'too few groups of documents (7) to tell'
    """
    found = next((key for key in COMPARED_ON if key in about), None)
    return too_few(about[found], COMPARED_ON[found]) if found else ""
