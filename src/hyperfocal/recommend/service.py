"""Recommendations for requests that are answered together: the path of `Recommender.recommend`, many users at once."""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import polars as pl
import torch

from hyperfocal.data.vocabulary import Vocabulary, frequent_first
from hyperfocal.errors import ConfigError, DataError, HyperfocalError
from hyperfocal.metrics.ranking import NO_ITEM, Scorer, check_depth, rank_items
from hyperfocal.models.sequence_networks import CausalNetwork
from hyperfocal.recommend.recommender import Recommender
from hyperfocal.sequences import Sequences
from hyperfocal.serve.messages import MOST_ANSWERED, ItemScore, NextItems, Recommendations, RecommendRequest, Refusal

CATALOGUES = 4  # with new items, kept for the next request that brings the same ones


@dataclass(frozen=True, eq=False)
class Catalogue:
    """Items that are ranked, and what scores them."""

    vocabulary: Vocabulary
    scorer: Scorer

    @classmethod
    def of(cls, recommender: Recommender) -> Catalogue:
        """Return what a recommender knows; the vectors of items with features are computed now, once."""
        found = copy(recommender)
        if isinstance(found.model_, CausalNetwork) and found.features_ is not None and not found.new_items_:
            found.model_ = found.model_.with_items()
        return cls(found.vocabulary_, found.scorer())


class RecommendPredictor:
    """Answers with the next items.

    Args:
        recommender: the run.
        version: of its model.
        scorer: what scores in place of the recommender's own network, from histories to (U, L); None is its own.
    """

    job = "recommend"
    sample = RecommendRequest(histories=[[]], k=1)

    def __init__(self, recommender: Recommender, version: str, scorer: Scorer | None = None) -> None:
        self._recommender, self.version = recommender, version
        self._known = Catalogue.of(recommender) if scorer is None else Catalogue(recommender.vocabulary_, scorer)
        self._own = scorer is None
        self._widened: dict[bytes, Catalogue] = {}
        counts = recommender.baselines_["popularity"].counts
        self.names: Sequence[str] = frequent_first(recommender.vocabulary_, counts)

    def card(self) -> dict[str, Any]:
        """Return what `/v1/model` says of the run."""
        found, settings = self._recommender, self._recommender.settings_
        return {
            "version": self.version,
            "model": found.metrics_["model"],
            "items": len(found.vocabulary_),
            "next": settings.data.next,
            "new_items": [column.name for column in found.columns_],
            "item_column": settings.data.item,
            "data": found.metrics_["data"],
            "metrics": {name: found.metrics_[name] for name in ("metric", "users", "scores", "verdict")},
        }

    def answer(self, requests: Sequence[RecommendRequest]) -> list[Recommendations | Refusal]:
        """Return the answer to each request, or why there is none; those over the same items are ranked together."""
        answers: list[Any] = [None] * len(requests)
        together: dict[tuple[bytes, int], list[int]] = {}  # of one k: then ties fall as they do alone
        for place, request in enumerate(requests):
            k = self._recommender.settings_.data.next if request.k is None else request.k
            if len(request.histories) * k > MOST_ANSWERED:
                answers[place] = _too_many(len(request.histories), k)
                continue
            key = msgspec.json.encode(request.new_items) if request.new_items else b""
            together.setdefault((key, k), []).append(place)
        for (key, k), places in together.items():
            found = self._answer_alike(key, k, [requests[place] for place in places])
            for place, one in zip(places, found, strict=True):
                answers[place] = one
        return answers

    def _answer_alike(
        self, key: bytes, k: int, requests: list[RecommendRequest]
    ) -> Sequence[Recommendations | Refusal]:
        """Return the answers to requests over the same items for the same k."""
        try:
            catalogue = self._catalogue(key, requests[0].new_items)
        except (HyperfocalError, pl.exceptions.PolarsError) as error:  # a list where a number is expected
            return [Refusal(422, "new_items", str(error), "$.new_items")] * len(requests)
        try:
            check_depth(k, len(catalogue.vocabulary))
        except ConfigError as error:
            return [Refusal(422, "too_deep", str(error), "$.k")] * len(requests)
        return self._rank(catalogue, k, requests)

    def _catalogue(self, key: bytes, new_items: list[dict[str, Any]]) -> Catalogue:
        if not key:
            return self._known
        if not self._own:
            raise ConfigError("this engine does not score new items. Serve the run with --engine torch")
        if key not in self._widened:
            while len(self._widened) >= CATALOGUES:
                del self._widened[next(iter(self._widened))]
            self._widened[key] = Catalogue.of(self._recommender.with_new_items(_table(new_items)))
        self._widened[key] = self._widened.pop(key)  # the one used last goes last
        return self._widened[key]

    def _rank(self, catalogue: Catalogue, k: int, requests: list[RecommendRequest]) -> list[Recommendations]:
        rows = [row for request in requests for row in request.histories]
        vocabulary, scorer = catalogue.vocabulary, catalogue.scorer
        excluded = [request.exclude for request in requests]
        if any(excluded):
            owners = [number for number, request in enumerate(requests) for _ in request.histories]
            scorer = without(scorer, vocabulary.encode_lists(excluded).select(torch.tensor(owners)))
        with torch.inference_mode():
            items, scores = rank_items(scorer, vocabulary.encode_lists(rows), k)
        ranked = zip(rows, items.tolist(), scores.tolist(), strict=True)
        return [
            Recommendations(self.version, [_named(vocabulary, *next(ranked)) for _ in request.histories])
            for request in requests
        ]


def load_recommend(path: Path, version: str) -> RecommendPredictor:
    """Return the predictor of a run of `recommend`; errors as in `Recommender.load`."""
    return RecommendPredictor(Recommender.load(path), version)


def without(scorer: Scorer, excluded: Sequences) -> Scorer:
    """Return the scorer that gives -inf to each user's excluded items; users come in their order, in blocks."""
    place = 0

    def scores(histories: Sequences) -> torch.Tensor:
        nonlocal place
        found, block = scorer(histories), excluded.block(place, place + len(histories))
        place += len(histories)
        found[block.users, block.items] = -torch.inf
        return found

    return scores


def _named(vocabulary: Vocabulary, row: list[str], items: list[int], scores: list[float]) -> NextItems:
    names, numbers = vocabulary.names, vocabulary.numbers
    best = [
        ItemScore(names[item], score)
        for item, score in zip(items, scores, strict=True)
        if item != NO_ITEM
    ]  # fmt: skip
    return NextItems(best, [item for item in dict.fromkeys(row) if item not in numbers])


def _too_many(histories: int, k: int) -> Refusal:
    message = (
        f"{histories:,} histories x k = {k:,} are {histories * k:,} items, and {MOST_ANSWERED:,} are allowed. "
        "Send fewer histories a request, or a smaller k"
    )
    return Refusal(422, "too_many", message, "$.histories")


def _table(rows: list[dict[str, Any]]) -> pl.DataFrame:
    if not all(rows):
        raise DataError("new_items: a row is empty. Give each its item and its features")
    try:
        return pl.DataFrame(rows, infer_schema_length=None)
    except (pl.exceptions.PolarsError, TypeError, ValueError, OverflowError) as error:
        raise DataError(f"new_items: not a table of items ({error}). Give each column values of one kind") from None
