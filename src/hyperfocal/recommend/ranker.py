"""The fitted values of the job: `Ranker` ranks items, `Ranking` holds the best ones, `Fit` is the content of a run.

A network can be blended with baselines, see `blend.py`. Runs of earlier versions, and exports, have a linear blend with
one baseline:

    score(user, item) = (1 - w) * softmax(network's logits)[item]  +  w * baseline's score[item] / its sum over items

w is the best of 0, 0.05, ..., 1 on the validation users.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import msgspec
import polars as pl
import torch
from torch import Tensor

from hyperfocal.config.numbers import as_finite
from hyperfocal.config.recommend import RecommendSettings
from hyperfocal.data.examples import Holdout
from hyperfocal.data.field_columns import FieldColumn
from hyperfocal.data.ids import is_whole, typed
from hyperfocal.data.item_table import ItemTable, read_items
from hyperfocal.data.logs import Log, LogReading, as_log
from hyperfocal.data.reading import ReadingPlan, reading_of
from hyperfocal.data.vocabulary import Vocabulary, encode_log
from hyperfocal.errors import ConfigError
from hyperfocal.metrics.ranking import BLOCK_NUMBERS, NO_ITEM, Scorer, rank_items, score_ranking, top_k
from hyperfocal.models.baselines import Baseline
from hyperfocal.models.item_vectors import ItemFeatures
from hyperfocal.models.sequence_networks import CausalNetwork, Network, network_scorer
from hyperfocal.models.similarity import Similarity
from hyperfocal.recommend.blend import NETWORK, Blend, blend_scorer, choose
from hyperfocal.recommend.item_columns import ItemColumns
from hyperfocal.recommend.item_features import new_features
from hyperfocal.recommend.lists import Limits, Personal, limits_of, rank_lists
from hyperfocal.recommend.used_items import used_of
from hyperfocal.rules import Rules
from hyperfocal.sequences import Sequences

BLEND = "blend"  # name of the blend in tables
PARTNER = "decayed_markov"  # the baseline in a linear blend
MOST_RULES = 64  # whose limits are kept
WEIGHTS = tuple(step / 20 for step in range(21))


@dataclass(frozen=True, eq=False)
class Ranker:
    """Everything that ranking needs.

    Attributes:
        settings: all of the run, resolved.
        vocabulary: the L items.
        model: the trained network, or the fitted baseline.
        baselines: name -> fitted baseline.
        features: of the training items. None: the network reads no features.
        columns: of the item table that the features come from.
        blend_weight: w, of the baseline in the linear blend.
        new_items: number of items, the last of the vocabulary, that training never saw.
        streamed: whether the log was streamed, so that fewer baselines were fitted.
        plan: how the training log was read. None: the run is of an earlier version without a plan.
        table: of items, whose columns rules read. None: there is none.
        blend: its weights. None: a baseline, or a run of an earlier version, whose blend is linear.
        best: name of the best row on validation users, for `model.blend = "auto"`. "": not known yet.
    """

    settings: RecommendSettings
    vocabulary: Vocabulary
    model: Network | Baseline
    baselines: dict[str, Baseline]
    features: ItemFeatures | None = None
    columns: Sequence[FieldColumn] = ()
    blend_weight: float = 0.0
    new_items: int = 0
    streamed: bool = False
    plan: ReadingPlan | None = None
    table: ItemTable | None = None
    blend: Blend | None = None
    best: str = ""
    _limits: dict[bytes, Limits] = field(default_factory=dict, init=False)

    @property
    def reading(self) -> LogReading:
        """How other logs are read."""
        return reading_of(self.plan, self.settings.data)

    def read(self, log: Any) -> Log:
        """Return a log, read as the training log was; errors as in `as_log`."""
        return as_log(log, self.reading, self.vocabulary.kind)

    @property
    def name(self) -> str:
        """Name, in the tables, of the scorer that ranks."""
        if self.chooses:
            return self.best or self.settings.model.name
        blends = self.settings.model.blend and not isinstance(self.model, Baseline)
        return BLEND if blends else self.settings.model.name

    @property
    def chooses(self) -> bool:
        """Whether the best row on validation users ranks."""
        return self.settings.model.blend == "auto" and not isinstance(self.model, Baseline)

    @property
    def item_column(self) -> str:
        """Name of the column of item ids in the log; "": the run is of an earlier version without a plan."""
        return self.settings.data.item if self.plan is None else self.plan.name("item")

    @cached_property
    def item_columns(self) -> ItemColumns | None:
        """The columns of the item table, which rules read."""
        return None if self.table is None else ItemColumns(self.table, self.vocabulary.ids)

    @cached_property
    def similarity(self) -> Similarity | None:
        """How alike items are: by the network's vectors, else by item_knn; None: the run has neither."""
        if not isinstance(self.model, Baseline):
            return Similarity.of_vectors(self.model.output()[0])
        matrix = self.baselines["item_knn"].matrix if "item_knn" in self.baselines else None
        return None if matrix is None else Similarity(None, matrix)

    @property
    def counts(self) -> Tensor:
        """(L,) int64, training events of each item."""
        return self.baselines["popularity"].counts

    def scorer(self) -> Scorer:
        """Return the function from histories to (U, L) scores that ranks."""
        return self.scorers()[self.name]

    def scorers(self) -> dict[str, Scorer]:
        """Return every scorer by its name in the tables: the model, its blend, the baselines."""
        scorers: dict[str, Scorer] = {self.settings.model.name: self.scorer_alone()}
        if self.blend is not None:
            scorers[BLEND] = blend_scorer(self.blend.weights, self.blend_parts(), self.new_items)
        elif not isinstance(self.model, Baseline):
            scorers[BLEND] = blended(self.scorer_alone(), self.baselines[PARTNER].scores, self.blend_weight)
        return scorers | {name: baseline.scores for name, baseline in self.baselines.items()}

    def blend_parts(self) -> dict[str, Scorer]:
        """Return the scorers that a blend may have by their names among its weights."""
        partners = {name: each.scores for name, each in self.baselines.items() if name != "popularity"}
        return {NETWORK: self.scorer_alone(), **partners}

    def scorer_alone(self) -> Scorer:
        """Return the model's scorer without the blend."""
        if isinstance(self.model, Baseline):
            return self.model.scores
        return network_scorer(self.model, self.settings.data.history)

    def limits(self, rules: Rules | None = None) -> Limits:
        """Return rules as they apply to the items; those of the last few rules are kept. Errors as in `limits_of`."""
        if rules is None:
            return Limits()
        try:
            key = msgspec.json.encode(rules)
        except TypeError:  # ids in a set, an array or a Series
            return self._applied(rules)
        limits = self._limits.pop(key) if key in self._limits else self._applied(rules)
        while len(self._limits) >= MOST_RULES:
            del self._limits[next(iter(self._limits))]
        self._limits[key] = limits  # the order is that of the last use
        return limits

    def _applied(self, rules: Rules) -> Limits:
        return limits_of(rules, self.vocabulary, self.item_columns, self.similarity if rules.diversity else None)

    def rank(
        self, histories: Sequences, k: int | None = None, limits: Limits | None = None, personal: Personal | None = None
    ) -> Ranking:
        """Return the best k items of each user; None: `data.next`. Other arguments and errors as in `rank_lists`."""
        k = self.settings.data.next if k is None else k
        return Ranking(*rank_lists(self.scorer(), histories, k, limits or Limits(), personal))

    def predict(
        self, log: Log, k: int | None = None, rules: Rules | None = None, candidates: Sequences | None = None
    ) -> Predictions:
        """Return the best k items of every user of a log as rows; arguments and errors as in `Recommender.predict`."""
        rules = rules or Rules()
        histories, unknown = encode_log(log, self.vocabulary)
        personal = Personal(used_of(log, self.vocabulary, histories, rules), candidates)
        ranking = self.rank(histories, k, self.limits(rules), personal)
        known = histories.lengths > 0
        rows = ranking.rows(log, self.vocabulary, known)
        return Predictions(rows, len(log), unknown, int((~known).sum()), ranking.short)

    def with_items(self, items: Any, boost: float | None = None) -> Ranker:
        """Return a ranker that also ranks new items; arguments and errors as in `Recommender.with_new_items`."""
        if not isinstance(self.model, CausalNetwork) or self.features is None:
            raise ConfigError(
                "new items are scored by their features, and this run was fitted without features. "
                "Fit again with the table of the items in the log"
            )
        ids, features = new_features(self.columns, items, self.vocabulary, self.item_column)
        vocabulary = self.vocabulary.extended(ids)
        return replace(
            self,
            vocabulary=vocabulary,
            model=self.model.with_items(features, self.settings.items.boost if boost is None else _finite(boost)),
            baselines={name: baseline.widened(len(vocabulary)) for name, baseline in self.baselines.items()},
            new_items=len(ids),
            best="" if self.best in self.baselines else self.best,  # a baseline knows no new item
            table=None if self.table is None else self.table.extended(read_items(items, self.item_column)),
        )


def _finite(boost: float) -> float:
    """Return a boost as Python's float; raise ConfigError unless it is a finite number."""
    number = as_finite(boost)
    if number is None:
        raise ConfigError(f"`boost=`: {boost!r} is not allowed. Expected a finite number, such as 1")
    return number


@dataclass(frozen=True, eq=False)
class Fit:
    """The content of a run folder.

    Attributes:
        ranker: all that ranks.
        users: ids of the training users.
        events: their events, to which an update adds. Of a streamed log `users` and `events` are empty.
        fingerprint: checksum of the data and the split; resuming a run compares it.
        metrics: scores on validation users, the verdict, and the counts of the data.
        history: one row per epoch; empty for baselines.
        evidence: tables and examples for the report. None: the run is of a version that wrote none.
        logs: checksums of the logs that are in it, of the fit and of each update; () for an earlier version.
    """

    ranker: Ranker
    users: pl.Series
    events: Sequences
    fingerprint: str
    metrics: dict[str, Any]
    history: list[dict[str, float]]
    evidence: dict[str, Any] | None = None
    logs: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class Ranking:
    """The best k items of U users, best first.

    Attributes:
        items: (U, k) int64, NO_ITEM (-1) where no item is left.
        scores: (U, k) float32, -inf where no item is left.
    """

    items: Tensor
    scores: Tensor

    @property
    def short(self) -> int:
        """Number of users with fewer than k items."""
        return int((self.items == NO_ITEM).any(1).sum())

    def part(self, users: slice) -> Ranking:
        """Return the lists of some users."""
        return Ranking(self.items[users], self.scores[users])

    def first(self, users: int, k: int) -> Ranking:
        """Return the best k items of the first users."""
        return Ranking(self.items[:users, :k], self.scores[:users, :k])

    def names(self, vocabulary: Vocabulary) -> list[list[str | int]]:
        """Return the ids of each user's items, in the type in which they came."""
        ids = vocabulary.values
        return [[ids[item] for item in row if item != NO_ITEM] for row in self.items.tolist()]

    def rows(self, log: Log, vocabulary: Vocabulary, known: Tensor) -> pl.DataFrame:
        """Return the items of a log's users as rows in the form of the log, with ids in the types of the log.

        `known`, (U,) bool, is a column, except in the challenge format.

        Raises:
            ConfigError: the log has a column called rank, score or known.
        """
        users, ranks = (self.items != NO_ITEM).nonzero().unbind(1)
        chosen = vocabulary.decode(self.items[users, ranks])
        owners = log.users.gather(pl.Series(users.numpy(), dtype=pl.UInt32))
        if log.plan.form == "challenge":
            position = pl.Series(log.lengths[users.numpy()] + ranks.numpy() + 1).cast(pl.String)
            return pl.DataFrame({"user_sequence": owners + "_" + position, "challenge": chosen})
        integers = "integer" in (vocabulary.kind, log.plan.kind("item")) and is_whole(chosen)
        columns = {
            log.plan.name("user"): typed(owners, log.plan.kind("user")),
            log.plan.name("item"): typed(chosen, "integer") if integers else chosen,
        }
        added = {"rank": ranks + 1, "score": self.scores[users, ranks], "known": known[users]}
        if columns.keys() & added.keys():
            raise ConfigError(f"columns {', '.join(columns)}: predictions have {', '.join(added)} too. Rename yours")
        return pl.DataFrame(columns | {name: column.numpy() for name, column in added.items()})


@dataclass(frozen=True, eq=False)
class Predictions:
    """The best items of a log's users.

    Attributes:
        frame: in the library of the log: its user and item columns, `rank` (1 is best), `score` and `known` (whether
            the user's history has an item that the run knows); or, for a log in the challenge format, `user_sequence`
            ("<user>_11" is the best after 10) and `challenge`.
        users: number of users in the log.
        unknown_events: number of events on items that training never saw, left out of the histories.
        unknown_users: number of users whose history has no item that the run knows.
        short_users: number of users for whom rules leave fewer than k items.
    """

    frame: Any
    users: int
    unknown_events: int
    unknown_users: int
    short_users: int = 0


@torch.inference_mode()
def rank(score: Scorer, histories: Sequences, k: int, *, repeats: bool = False) -> Ranking:
    """Return the best k items of each user by a scorer. Arguments and errors as in `rank_items`."""
    return Ranking(*rank_items(score, histories, k, repeats=repeats))


@torch.inference_mode()
def choose_blend(ranker: Ranker, holdout: Holdout) -> Ranker:
    """Return the ranker with the blends that are best on validation users; a baseline stays as it is."""
    if isinstance(ranker.model, Baseline):
        return ranker
    partner, metric = ranker.baselines[PARTNER].scores, ranker.settings.train.metric
    weight = best_weight(ranker.scorer_alone(), partner, holdout, metric)
    return replace(ranker, blend_weight=weight, blend=choose(ranker.blend_parts(), holdout, metric))


def best_weight(network: Scorer, baseline: Scorer, holdout: Holdout, metric: str) -> float:
    """Return the weight with the best mean of a metric, as "map@3"; of equal ones the smallest."""
    depth = int(metric.partition("@")[2])
    size = max(BLOCK_NUMBERS // holdout.histories.num_items, 16)
    ranked: list[list[Tensor]] = [[] for _ in WEIGHTS]
    for start in range(0, len(holdout), size):
        block = holdout.histories.block(start, start + size)
        network_shares, baseline_shares = _shares(network, baseline, block)
        for weight, blocks in zip(WEIGHTS, ranked, strict=True):
            scores = torch.lerp(network_shares, baseline_shares, weight)
            scores[block.users, block.items] = -torch.inf
            blocks.append(top_k(scores, depth)[1])
    means = [float(score_ranking(torch.cat(blocks), holdout.truth, [metric])[metric].mean()) for blocks in ranked]
    return WEIGHTS[means.index(max(means))]


def blended(network: Scorer, baseline: Scorer, weight: float) -> Scorer:
    """Return the scorer of the blend; `weight` is w, in [0, 1]."""
    return lambda histories: torch.lerp(*_shares(network, baseline, histories), weight)


def _shares(network: Scorer, baseline: Scorer, histories: Sequences) -> tuple[Tensor, Tensor]:
    """Return the (U, L) scores of both as shares of their sum over the items."""
    counted = baseline(histories)
    return network(histories).double().softmax(1), counted / counted.sum(1, keepdim=True).clamp(min=1e-300)
