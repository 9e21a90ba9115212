"""The job `recommend` for grids: prepare a log once; train, keep and test points on it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import polars as pl

from hyperfocal.config.recipes import resolve
from hyperfocal.config.recommend import COUNTING, RecommendSettings
from hyperfocal.config.sections import Section
from hyperfocal.data.examples import Holdout
from hyperfocal.data.logs import as_log
from hyperfocal.data.reading import reading_of
from hyperfocal.errors import ConfigError, LeakError
from hyperfocal.grid.adaptive import Range
from hyperfocal.grid.job import Reached
from hyperfocal.grid.points import Point
from hyperfocal.labels import BUCKETS
from hyperfocal.machine import set_threads
from hyperfocal.metrics.ranking import Scorer
from hyperfocal.metrics.verdict import Families, rankings
from hyperfocal.models.baselines import fit_baseline
from hyperfocal.models.sequence_networks import network_scorer
from hyperfocal.recommend.compare import compare, metric_names, score_point
from hyperfocal.recommend.network import train_network
from hyperfocal.recommend.prepare import Prepared, cut_of, hold_out, prepare, recut, shortest_history
from hyperfocal.recommend.recommender import Recommender
from hyperfocal.storage.cache import hash_of
from hyperfocal.training.watch import Watch

LARGE = 10  # items in the catalogue, so that recall@10 is among the metrics


@dataclass(frozen=True, eq=False)
class LogSource:
    """The logs of a grid, each a path, a frame or a Log.

    Attributes:
        train: to learn from.
        valid: of other users, to compare points on. None: some users of `train`.
        valid_truth: the items that follow `valid`. None: its last items.
        test: scored at the end, but checked before the first point trains. None: no test.
        test_truth: the items that follow `test`. None: its last items.
        items: table of the items, whose columns networks read. None: no features.
    """

    train: Any
    valid: Any = None
    valid_truth: Any = None
    test: Any = None
    test_truth: Any = None
    items: Any = None

    def metrics(self, base: Section) -> list[str]:
        """Return the metrics that points are scored by; of each, more is better."""
        names = metric_names(_ranking(base).data.next, LARGE)
        return [*names, *(f"{bucket}.{name}" for bucket in BUCKETS for name in names)]

    def prepare(self, points: Sequence[Point], base: Section, threads: int, watch: Watch) -> PreparedLog:
        """Return the log, split so that every point can be scored on all validation users.

        If one encoder needs full histories, no point is scored on users with shorter ones.

        Raises:
            DataError, LeakError, ConfigError: as in `prepare` and `read_test`; a truth without its histories;
                `data.stream = "on"`.
        """
        settings = _ranking(base)
        if settings.data.stream == "on":
            raise ConfigError(
                "data.stream = 'on' is not allowed in a grid: its points share a log in memory. Leave it out"
            )
        if self.test is None and self.test_truth is not None:
            raise ConfigError("--test-truth says what follows the histories of --test: give --test too")
        if self.items is None and len({_ranking(point.settings).items for point in points}) > 1:
            raise ConfigError("points differ in settings of items, and there is no table of items. Give --items FILE")
        settings = _most_demanding(points, settings)
        set_threads(settings.train.threads)
        logs = [as_log(self.train, settings.data)]
        if self.valid is not None:
            logs.append(as_log(self.valid, reading_of(logs[0].plan, settings.data), logs[0].plan.kind("item")))
        data = prepare(
            logs[0], logs[1] if len(logs) > 1 else None, self.valid_truth, settings, self.items, watch.planned
        )
        users = pl.concat([log.users.alias("user") for log in logs])
        prepared = PreparedLog(data, users, cut_of(settings, test=True), settings.data.next, threads)
        if self.test is not None:
            prepared.read_test((self.test, self.test_truth), settings)
        return prepared


def _ranking(settings: Section) -> RecommendSettings:
    assert isinstance(settings, RecommendSettings), "a grid has the settings of its job"
    return settings


def _most_demanding(points: Sequence[Point], base: RecommendSettings) -> RecommendSettings:
    """Return the base settings with the model that needs the longest histories; baselines need none."""
    models = [_ranking(point.settings).model for point in points]
    encoders = [model for model in models if model.name not in COUNTING] or models
    return max((msgspec.structs.replace(base, model=model) for model in encoders), key=shortest_history)


@dataclass(frozen=True, eq=False)
class PreparedLog:
    """The log of a grid, split by the seed of the base settings.

    Attributes:
        data: training and validation users.
        users: ids of all training and validation users.
        cut: where the histories of test users are cut, as in `hold_out_last`.
        k: length of the rankings.
        threads: CPU threads of one training. 0: one per core, in a worker process one.
    """

    data: Prepared
    users: pl.Series
    cut: dict[str, int]
    k: int
    threads: int

    @property
    def families(self) -> Families:
        """The metrics that verdicts compare."""
        return rankings(self.k)

    def fingerprint(self) -> str:
        """Return a checksum of items, sequences and validation users."""
        return self.data.fingerprint()

    def about(self) -> dict[str, Any]:
        """Return the counts that are shown if a store holds a grid of other data."""
        counts = self.data.counts
        return {
            "users": counts["users"],
            "items": counts["items"],
            "validation users": counts["valid"]["users"],
            "shortest history": self.cut["history"],
        }

    def portable(self) -> PreparedLog:
        """Return the log itself: all of it is in memory."""
        return self

    def train(self, point: Point) -> Reached:
        """Train one point; return every metric on the validation users, and resamples of the main ones."""
        settings = _ranking(point.settings)
        set_threads(self.threads)
        counts, name = fit_baseline("popularity", self.data.train).counts, settings.model.name
        if name in COUNTING:
            scorer: Scorer = fit_baseline(name, self.data.train).scores
        else:
            scorer = network_scorer(train_network(recut(self.data, settings), settings)[0], settings.data.history)
        return score_point(scorer, self.data.valid, counts, k=self.k)

    def fit(self, settings: dict[str, Any], folder: Path) -> Recommender:
        """Fit a recommender with these settings, and write its run folder."""
        data = recut(self.data, resolve(RecommendSettings, overrides=settings))
        return Recommender(settings=settings).fit_prepared(data, out=folder, overwrite=True)

    def load(self, folder: Path) -> Recommender:
        """Return the recommender of a run folder."""
        return Recommender.load(folder)

    def knows(self, fitted: Any) -> bool:
        """Return whether a recommender was fitted on these users."""
        return bool(fitted.fingerprint_ == self.fingerprint())

    def read_test(self, test: tuple[Any, Any], settings: Section) -> LogTest:
        """Return test users: (log of histories, truth or None).

        Raises:
            DataError: a log cannot be read, or no user can be scored.
            LeakError: a user was trained or validated on; leave-one-out allows it.
        """
        data, (histories, truth) = _ranking(settings).data, test
        reading = reading_of(self.data.plan, data)
        log = as_log(histories, reading, self.data.vocabulary.kind)
        shared = log.users.filter(log.users.is_in(self.users.implode()))
        if len(shared) and data.protocol == "users":
            raise LeakError(
                f"test log: {len(shared):,} of its {len(log):,} users are in training or validation too, first "
                f"{shared[0]!r}. A user may be in one file only: remove these users from the others"
            )
        return LogTest(hold_out(log, truth, self.data.vocabulary, reading, cut=self.cut, name="test log"))


@dataclass(frozen=True, eq=False)
class LogTest:
    """The test users, the same for every point."""

    holdout: Holdout

    def checksum(self, keys: Sequence[str]) -> str:
        """Return a checksum of users, histories, truth and the points that are scored on them."""
        histories, truth = self.holdout.histories, self.holdout.truth
        arrays = (histories.items, histories.offsets, truth.indptr, truth.indices)
        return hash_of(self.holdout.users.to_list(), *(array.tolist() for array in arrays), *keys)

    def evaluate(self, fitted: Recommender) -> dict[str, Any]:
        """Return the scores next to those of the baselines."""
        return compare(fitted.fit_, self.holdout)


RANGES: dict[str, Range] = {  # of an adaptive search
    "loss.name": ["softmax", "sampled_softmax", "gbce", "bce", "focal"],
    "loss.gamma": {"low": 0.5, "high": 4.0},
    "loss.alpha": ["none", 0.25, 0.5, 0.75],
    "loss.cap": ["off", 2.0, 7.0],
    "loss.tau": {"low": 0.0, "high": 1.0},
    "loss.negatives": {"low": 64, "high": 1_024, "log": True},
    "train.learning_rate": {"low": 2e-4, "high": 5e-3, "log": True},
    "model.embedding_width": [32, 64, 128],
    "model.dropout": {"low": 0.0, "high": 0.6},
    "model.layers": [1, 2, 3],
}
