"""Protocols of a grid's job: a source of data, and the prepared data that all points share.

`classify/grid.py` and `recommend/grid.py` implement them; everything else of a grid is the same for both jobs.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor

from hyperfocal.config.sections import Section
from hyperfocal.grid.points import Point
from hyperfocal.metrics.intervals import too_few
from hyperfocal.metrics.verdict import Families
from hyperfocal.training.watch import Watch

Reached = tuple[dict[str, float], dict[str, Tensor]]  # metric -> number, and metric -> (R,) resamples
RESAMPLED = {  # key of `Prepared.about` -> name of the units that are resampled; the first key that is there counts
    "validation users": "users",
    "validation groups": "groups of documents",
    "validation documents": "documents",
}


class Source(Protocol):
    """Files or frames, as the caller named them."""

    def metrics(self, base: Section) -> list[str]:
        """Return the metrics that may choose a winner; each grows better."""

    def prepare(self, points: Sequence[Point], base: Section, threads: int, watch: Watch) -> Prepared:
        """Read, split and number the data once for all points, and check the test data before any training.

        `watch.encoded` is called as texts are encoded.
        """


class Prepared(Protocol):
    """The prepared data of a grid. They are sent to every worker process, so they can be pickled."""

    @property
    def threads(self) -> int:
        """CPU threads of one training."""

    @property
    def families(self) -> Families:
        """Metrics that verdicts consider."""

    def fingerprint(self) -> str:
        """Return a checksum of all data that are learnt from or scored on."""

    def about(self) -> dict[str, Any]:
        """Return a description of the data, shown if a store belongs to other data."""

    def portable(self) -> Prepared:
        """Return the same data for a machine that cannot read the files of this one."""

    def train(self, point: Point) -> Reached:
        """Train one point; return every metric on the validation data, and the main ones in resamples."""

    def fit(self, settings: dict[str, Any], folder: Path) -> Fitted:
        """Fit an estimator with dotted settings, and save it as a run."""

    def load(self, folder: Path) -> Fitted:
        """Return the estimator of a run."""

    def knows(self, fitted: Fitted) -> bool:
        """Return whether an estimator was fitted on these data."""

    def read_test(self, test: Any, settings: Section) -> Tested:
        """Return test data, after a check that nothing was learnt from them and that they can be scored."""


class Fitted(Protocol):
    """A classifier or a recommender."""

    settings_: Any


class Tested(Protocol):
    """Test data."""

    def checksum(self, keys: Sequence[str]) -> str:
        """Return a checksum of the data and of the points that are scored on them."""

    def evaluate(self, fitted: Any) -> dict[str, Any]:
        """Return the scores."""


def why_too_few(about: Mapping[str, Any]) -> str:
    """Return why points cannot be compared on these data, or "".

    Grids of earlier versions may not describe how many units were resampled: their points are compared.

    >>> why_too_few({"documents": 900, "validation documents": 100, "validation groups": 7})
    'too few groups of documents (7) to compare'
    """
    key = next((key for key in RESAMPLED if key in about), None)
    return too_few(about[key], RESAMPLED[key]) if key else ""


def units_of(about: Mapping[str, Any]) -> float:
    """Return how many units were resampled; infinity if the grid does not say.

    >>> units_of({"documents": 900, "validation documents": 100, "validation groups": 70})
    70.0
    """
    return float(next((about[key] for key in RESAMPLED if key in about), math.inf))
