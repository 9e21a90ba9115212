"""A grid of the job `recommend`: a log prepared once, and how one of its points is trained, kept and tested."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import polars as pl
import torch

from hyperfocal.config.recipes import resolve
from hyperfocal.config.recommend import COUNTING, RecommendSettings
from hyperfocal.config.sections import Section
from hyperfocal.data.examples import Holdout, hold_out_last, hold_out_truth
from hyperfocal.data.logs import Log, as_log
from hyperfocal.errors import ConfigError, LeakError
from hyperfocal.grid.adaptive import Range
from hyperfocal.grid.job import Reached
from hyperfocal.grid.points import Point
from hyperfocal.machine import set_threads
from hyperfocal.metrics.buckets import BUCKETS
from hyperfocal.metrics.ranking import Scorer
from hyperfocal.metrics.verdict import Families, rankings
from hyperfocal.models.baselines import fit_baseline
from hyperfocal.models.sequence_networks import network_scorer
from hyperfocal.recommend.compare import metric_names, score_users
from hyperfocal.recommend.network import train_network
from hyperfocal.recommend.prepare import Prepared, cut_of, prepare, recut, shortest_history
from hyperfocal.recommend.recommender import Recommender
from hyperfocal.storage.cache import hash_of

WIDEST = 10  # of recall@10, which is kept where the catalogue has so many items


@dataclass(frozen=True, eq=False)
class LogSource:
    """Logs: each a path, a frame or a Log.

    Attributes:
        train: to learn from.
        valid: of other users, to compare points on; None holds some of `train` out.
        valid_truth: what follows `valid`; None takes its last items.
        test: scored at the end, and looked at before the first point trains; or None.
        test_truth: what follows `test`; None takes its last items.
        items: table of the items, whose columns networks learn from.
    """

    train: Any
    valid: Any = None
    valid_truth: Any = None
    test: Any = None
    test_truth: Any = None
    items: Any = None

    def metrics(self, base: Section) -> list[str]:
        """Return the metrics that points are scored by: of all of them more is better."""
        names = metric_names(_ranking(base).data.next, WIDEST)
        return [*names, *(f"{bucket}.{name}" for bucket in BUCKETS for name in names)]

    def prepare(self, points: Sequence[Point], base: Section, threads: int) -> LogMaterial:
        """Return the log, split once so that every point can be scored on all validation users.

        Encoders that need full histories share the validation users with those that do not.

        Raises:
            DataError, LeakError, ConfigError: as in `tasks.preparation.prepare` and `LogMaterial.read_test`; a truth
                without its histories.
        """
        if self.test is None and self.test_truth is not None:
            raise ConfigError("--test-truth says what follows the histories of --test: give --test too")
        if self.items is None and len({_ranking(point.settings).items for point in points}) > 1:
            raise ConfigError("points differ in settings of items, and there is no table of items. Give --items FILE")
        settings = _most_demanding(points, _ranking(base))
        set_threads(settings.train.threads)
        logs = [as_log(log, settings.data) for log in (self.train, self.valid) if log is not None]
        data = prepare(logs[0], logs[1] if len(logs) > 1 else None, self.valid_truth, settings, self.items)
        taught = pl.concat([log.users.alias("user") for log in logs])
        material = LogMaterial(data, taught, cut_of(settings, test=True), settings.data.next, threads)
        if self.test is not None:
            material.read_test((self.test, self.test_truth), settings)
        return material


def _ranking(settings: Section) -> RecommendSettings:
    assert isinstance(settings, RecommendSettings), "a grid has the settings of its job"
    return settings


def _most_demanding(points: Sequence[Point], base: RecommendSettings) -> RecommendSettings:
    """Return the base settings with the model that needs the longest histories; baselines that count need none."""
    models = [_ranking(point.settings).model for point in points]
    encoders = [model for model in models if model.name not in COUNTING] or models
    return max((msgspec.structs.replace(base, model=model) for model in encoders), key=shortest_history)


@dataclass(frozen=True, eq=False)
class LogMaterial:
    """The log of a grid, split by the base settings' seed.

    Attributes:
        data: training and validation users.
        taught: ids of all users that were learnt from or compared on.
        cut: where the histories of test users are cut, as in `hold_out_last`.
        k: length of the rankings.
        threads: CPU threads of one training; 0 is one a core, in a worker process 1.
    """

    data: Prepared
    taught: pl.Series
    cut: dict[str, int]
    k: int
    threads: int

    @property
    def families(self) -> Families:
        """What verdicts look at."""
        return rankings(self.k)

    def fingerprint(self) -> str:
        """Return a checksum of items, sequences and validation users."""
        return self.data.fingerprint()

    def about(self) -> dict[str, Any]:
        """Return how much there is, and which users are scored."""
        counts = self.data.counts
        return {
            "users": counts["users"],
            "items": counts["items"],
            "validation users": counts["valid"]["users"],
            "shortest history": self.cut["history"],
        }

    def portable(self) -> LogMaterial:
        """Return the material: all of it is in memory."""
        return self

    def train(self, point: Point) -> Reached:
        """Train one point; return every metric on the validation users, and the main ones in resamples."""
        settings = _ranking(point.settings)
        set_threads(self.threads)
        scorer, counts = self._scorer(settings), fit_baseline("popularity", self.data.train).counts
        with torch.inference_mode():
            return score_users(scorer, self.data.valid, counts, k=self.k)

    def _scorer(self, settings: RecommendSettings) -> Scorer:
        name = settings.model.name
        if name in COUNTING:
            return fit_baseline(name, self.data.train).scores
        network: Any
        data = recut(self.data, settings)
        network, _ = train_network(data, settings, None, resume=False, watch=lambda *_: None)
        return network_scorer(network, settings.data.history)

    def fit(self, settings: dict[str, Any], folder: Path) -> Recommender:
        """Return a recommender with these settings, kept as a run."""
        data = recut(self.data, resolve(RecommendSettings, overrides=settings))
        return Recommender(settings=settings).fit_prepared(data, out=folder, overwrite=True)

    def load(self, folder: Path) -> Recommender:
        """Return the recommender of a run."""
        return Recommender.load(folder)

    def knows(self, fitted: Any) -> bool:
        """Return whether a recommender was fitted on these users."""
        return bool(fitted.fingerprint_ == self.fingerprint())

    def read_test(self, test: tuple[Any, Any], settings: Section) -> LogTest:
        """Return test users: (log of histories, truth or None).

        Raises:
            DataError: a log cannot be read, or no user can be scored.
            LeakError: a user was learnt from or compared on; under leave-one-out users may be the same.
        """
        data = _ranking(settings).data
        log, truth = (None if each is None else as_log(each, data) for each in test)
        assert log is not None, "a truth comes with histories"
        if data.protocol == "users":
            self._refuse_taught(log)
        vocabulary = self.data.vocabulary
        if truth is None:
            holdout = hold_out_last(log, vocabulary, **self.cut)
        else:
            holdout = hold_out_truth(log, truth, vocabulary)
        holdout.check_users("test log")
        return LogTest(holdout)

    def _refuse_taught(self, log: Log) -> None:
        shared = log.users.filter(log.users.is_in(self.taught.implode()))
        if len(shared):
            raise LeakError(
                f"test log: {len(shared):,} of its {len(log):,} users are in training or validation too, first "
                f"{shared[0]!r}. A user belongs to one part: remove these users from one of the files"
            )


@dataclass(frozen=True, eq=False)
class LogTest:
    """Test users, the same for every point."""

    holdout: Holdout

    def checksum(self, keys: Sequence[str]) -> str:
        """Return a checksum of users, histories, truth and the points that are scored on them."""
        histories, truth = self.holdout.histories, self.holdout.truth
        parts = (histories.items, histories.offsets, truth.indptr, truth.indices)
        return hash_of(self.holdout.users.to_list(), *(part.tolist() for part in parts), *keys)

    def evaluate(self, fitted: Recommender) -> dict[str, Any]:
        """Return the scores beside the counting baselines."""
        return fitted.evaluate_holdout(self.holdout)


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
