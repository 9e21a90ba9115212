"""Answer recommendation requests in batches: all histories over the same items are ranked together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec
import polars as pl
import torch

from hyperfocal.data.frames import EXACT
from hyperfocal.data.ids import id_text
from hyperfocal.data.reading import public_facts
from hyperfocal.data.vocabulary import Vocabulary, frequent_first
from hyperfocal.errors import ConfigError, DataError, HyperfocalError
from hyperfocal.metrics.ranking import NO_ITEM, Scorer, check_depth
from hyperfocal.models.sequence_networks import CausalNetwork
from hyperfocal.recommend.files import read_fit
from hyperfocal.recommend.ranker import Fit, Ranker, rank
from hyperfocal.sequences import Sequences
from hyperfocal.serve.messages import MOST_ANSWERED, ItemScore, NextItems, Recommendations, RecommendRequest, Refusal
from hyperfocal.storage.run_folder import RunFolder

CATALOGUES = 4  # with new items, kept for later requests that bring the same items

EMPTY = "the history is empty: every empty history gets these items"
UNKNOWN = "the model knows no item of this history: these are the items for an empty history"


@dataclass(frozen=True, eq=False)
class Catalogue:
    """Items to rank, and their scorer."""

    vocabulary: Vocabulary
    scorer: Scorer

    @classmethod
    def of(cls, ranker: Ranker) -> Catalogue:
        """Return the catalogue of a ranker; the vectors of items with features are computed here, once."""
        model = ranker.model
        if isinstance(model, CausalNetwork) and ranker.features is not None and not ranker.new_items:
            ranker = replace(ranker, model=model.with_items())
        return cls(ranker.vocabulary, ranker.scorer())


class RecommendPredictor:
    """Answers with the next items of a run's model; the `scorer` of another engine, if given, ranks in its place."""

    job = "recommend"
    sample = RecommendRequest(histories=[[]], k=1)

    def __init__(self, fit: Fit, version: str, scorer: Scorer | None = None) -> None:
        self._fit, self._ranker, self.version = fit, fit.ranker, version
        self._ranks_new_items = scorer is None
        self._trained = Catalogue.of(fit.ranker) if scorer is None else Catalogue(fit.ranker.vocabulary, scorer)
        self._widened: dict[bytes, Catalogue] = {}
        self.names: Sequence[str] = frequent_first(fit.ranker.vocabulary, fit.ranker.counts)

    def card(self) -> dict[str, Any]:
        """Return the facts of the run that `/v1/model` shows."""
        ranker, metrics = self._ranker, self._fit.metrics
        return {
            "version": self.version,
            "model": metrics["model"],
            "items": len(ranker.vocabulary),
            "next": ranker.settings.data.next,
            "new_items": [column.name for column in ranker.columns],
            "item_column": ranker.item_column,
            "reading": public_facts(ranker.plan),
            "data": metrics["data"],
            "metrics": {name: metrics[name] for name in ("metric", "users", "scores", "verdict")},
        }

    def answer(self, requests: Sequence[RecommendRequest]) -> list[Recommendations | Refusal]:
        """Return the answer to each request, or a refusal; requests over the same items are ranked together."""
        answers: list[Any] = [None] * len(requests)
        batches: dict[tuple[bytes, int], list[int]] = {}  # one k per batch, so that ties are as for a single request
        for place, request in enumerate(requests):
            k = self._ranker.settings.data.next if request.k is None else request.k
            refusal = _refusal(request, k)
            if refusal is not None:
                answers[place] = refusal
                continue
            key = msgspec.json.encode(request.new_items) if request.new_items else b""
            batches.setdefault((key, k), []).append(place)
        for (key, k), places in batches.items():
            batch = self._answer_batch(key, k, [requests[place] for place in places])
            for place, answer in zip(places, batch, strict=True):
                answers[place] = answer
        return answers

    def _answer_batch(
        self, key: bytes, k: int, requests: list[RecommendRequest]
    ) -> Sequence[Recommendations | Refusal]:
        """Return the answers to requests over the same items for the same k."""
        reason, place = "new_items", "$.new_items"
        try:
            catalogue = self._catalogue(key, requests[0].new_items)
            reason, place = "too_deep", "$.k"
            check_depth(k, len(catalogue.vocabulary))
        except (HyperfocalError, pl.exceptions.PolarsError) as error:  # a list where a number is expected
            return [Refusal(422, reason, str(error), place)] * len(requests)
        return self._rank(catalogue, k, requests)

    def _catalogue(self, key: bytes, new_items: list[dict[str, Any]]) -> Catalogue:
        if not key:
            return self._trained
        if not self._ranks_new_items:
            raise ConfigError("this engine does not score new items. Serve the run with --engine torch")
        if key not in self._widened:
            while len(self._widened) >= CATALOGUES:
                del self._widened[next(iter(self._widened))]
            self._widened[key] = Catalogue.of(self._ranker.with_items(_table(new_items)))
        self._widened[key] = self._widened.pop(key)  # the order is that of the last use
        return self._widened[key]

    def _rank(self, catalogue: Catalogue, k: int, requests: list[RecommendRequest]) -> list[Recommendations]:
        rows = [row for request in requests for row in request.histories]
        vocabulary, scorer = catalogue.vocabulary, catalogue.scorer
        excluded = [request.exclude for request in requests]
        if any(excluded):
            owners = [number for number, request in enumerate(requests) for _ in request.histories]
            scorer = without(scorer, vocabulary.encode_lists(excluded).select(torch.tensor(owners)))
        histories = vocabulary.encode_lists(rows)
        ranking = rank(scorer, histories, k)
        columns = (ranking.items, ranking.scores, histories.lengths > 0)
        ranked = zip(rows, *(column.tolist() for column in columns), strict=True)
        return [
            Recommendations(self.version, [_named(vocabulary, *next(ranked)) for _ in request.histories])
            for request in requests
        ]


def load_recommend(path: Path, version: str) -> RecommendPredictor:
    """Return the predictor of a run folder; errors as in `read_fit`."""
    return RecommendPredictor(read_fit(RunFolder.open(path)), version)


def without(scorer: Scorer, excluded: Sequences) -> Scorer:
    """Return the scorer with -inf for each user's excluded items; it is called with blocks of users in their order."""
    start = 0

    def scores(histories: Sequences) -> torch.Tensor:
        nonlocal start
        allowed, block = scorer(histories), excluded.block(start, start + len(histories))
        start += len(histories)
        allowed[block.users, block.items] = -torch.inf
        return allowed

    return scores


def _named(vocabulary: Vocabulary, row: list[Any], items: list[int], scores: list[float], known: bool) -> NextItems:
    ids, numbers, kind = vocabulary.values, vocabulary.numbers, vocabulary.kind
    ranked = zip(items, scores, strict=True)
    best = [ItemScore(ids[item], score) for item, score in ranked if item != NO_ITEM]
    note = None if known else UNKNOWN if row else EMPTY
    return NextItems(best, [item for item in dict.fromkeys(row) if id_text(item, kind) not in numbers], known, note)


def _refusal(request: RecommendRequest, k: int) -> Refusal | None:
    """Return why a request is refused before it is ranked, or None."""
    if len(request.histories) * k > MOST_ANSWERED:
        return _too_many(len(request.histories), k)
    for place, row in [("$.histories", row) for row in request.histories] + [("$.exclude", request.exclude)]:
        for item in row:
            if isinstance(item, float) and not abs(item) < EXACT:
                message = f"id {item!r} is a float too large to be exact. Write the id as an integer or a text"
                return Refusal(422, "invalid", message, place)
    return None


def _too_many(histories: int, k: int) -> Refusal:
    message = (
        f"{histories:,} histories x k = {k:,} are {histories * k:,} items, and {MOST_ANSWERED:,} are allowed. "
        "Send fewer histories per request, or a smaller k"
    )
    return Refusal(422, "too_many", message, "$.histories")


def _table(rows: list[dict[str, Any]]) -> pl.DataFrame:
    if not all(rows):
        raise DataError("new_items: a row is empty. Give each its item and its features")
    try:
        return pl.DataFrame(rows, infer_schema_length=None)
    except (pl.exceptions.PolarsError, TypeError, ValueError, OverflowError) as error:
        raise DataError(f"new_items: not a table of items ({error}). Give each column values of one kind") from None
