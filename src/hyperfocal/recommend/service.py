"""Answer recommendation requests in batches: requests over the same items with the same rules are ranked together."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import polars as pl

from hyperfocal.data.frames import EXACT
from hyperfocal.data.ids import id_text
from hyperfocal.data.reading import public_facts
from hyperfocal.data.vocabulary import Vocabulary, frequent_first
from hyperfocal.errors import ConfigError, DataError, HyperfocalError
from hyperfocal.metrics.ranking import NO_ITEM, Scorer, check_depth
from hyperfocal.models.sequence_networks import CausalNetwork
from hyperfocal.recommend.asked import NO_TIMES, user_kind
from hyperfocal.recommend.files import read_fit
from hyperfocal.recommend.lists import Limits, Personal, rank_lists
from hyperfocal.recommend.ranker import Fit, Ranker, Ranking
from hyperfocal.recommend.reasons import reasons
from hyperfocal.recommend.similar import similar_items
from hyperfocal.rules import Rules
from hyperfocal.sequences import Sequences
from hyperfocal.serve.messages import (
    MOST_ANSWERED,
    MOST_BUILT,
    MOST_EXCLUDED,
    ItemScore,
    NextItems,
    Recommendations,
    RecommendRequest,
    Refusal,
    SimilarItems,
    SimilarRequest,
)
from hyperfocal.storage.run_folder import RunFolder

CATALOGUES = 4  # with new items, kept for later requests that bring the same items
SHARED = [name for name in Rules.__struct_fields__ if name != "exclude"]
PARAMETER = re.compile(r"\x60(\w+)=\x60")  # of a message for Python

EMPTY = "the history is empty: every empty history gets these items"
UNKNOWN = "the model knows no item of this history: these are the items for an empty history"
STRANGER = "the run does not have this user: these are the items for an empty history"
SHORT = "no more items may be recommended"


@dataclass(frozen=True, eq=False)
class Catalogue:
    """Items to rank, their scorer, and rules as they apply to them."""

    ranker: Ranker
    scorer: Scorer

    @classmethod
    def of(cls, ranker: Ranker) -> Catalogue:
        """Return the catalogue of a ranker; the vectors of items with features are computed here, once."""
        model = ranker.model
        if isinstance(model, CausalNetwork) and ranker.features is not None and not ranker.new_items:
            ranker = replace(ranker, model=model.with_items())
        return cls(ranker, ranker.scorer())

    @property
    def vocabulary(self) -> Vocabulary:
        """The items."""
        return self.ranker.vocabulary

    @cached_property
    def titles(self) -> list[str | None]:
        """Titles of the items; [] without any."""
        columns = self.ranker.item_columns
        return [] if columns is None else columns.titles


class Batch(NamedTuple):
    """What the requests that are ranked together have in common: also k, so that ties are as for one request."""

    new_items: bytes
    rule_text: bytes  # of `rules`, which cannot be compared
    k: int
    candidates: bool

    @classmethod
    def of(cls, request: RecommendRequest, k: int) -> Batch:
        """Return the batch of a request; k is that of a request without one. Every history has its own `exclude`."""
        shared = {name: getattr(request, name) for name in SHARED}
        new_items = msgspec.json.encode(request.new_items) if request.new_items else b""
        k = k if request.k is None else request.k
        return cls(new_items, msgspec.json.encode(shared), k, request.candidates is not None)

    @property
    def rules(self) -> Rules:
        """The rules of all requests."""
        return msgspec.json.decode(self.rule_text, type=Rules)


class RecommendPredictor:
    """Answers with the next items of a run's model; the `scorer` of another engine, if given, ranks in its place."""

    job = "recommend"
    sample = RecommendRequest(histories=[[]], k=1)

    def __init__(self, fit: Fit, version: str, scorer: Scorer | None = None) -> None:
        self._fit, self._ranker, self.version = fit, fit.ranker, version
        self._ranks_new_items = scorer is None
        self._trained = Catalogue.of(fit.ranker) if scorer is None else Catalogue(fit.ranker, scorer)
        self._catalogues: dict[bytes, Catalogue] = {}
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
            "item_columns": [] if ranker.table is None else ranker.table.frame.columns,
            "reading": public_facts(ranker.plan),
            "data": metrics["data"],
            "metrics": {name: metrics[name] for name in ("metric", "users", "scores", "verdict")},
        }

    def answer(self, requests: Sequence[Any]) -> list[Any]:
        """Return the answer to each request, or a refusal; requests of one batch are ranked together."""
        answers: list[Any] = [None] * len(requests)
        batches: dict[Batch, list[int]] = {}
        for place, request in enumerate(requests):
            if isinstance(request, SimilarRequest):
                answers[place] = self._similar(request)
                continue
            batch = Batch.of(request, self._ranker.settings.data.next)
            answers[place] = self._refusal(request, batch.k)
            if answers[place] is None:
                batches.setdefault(batch, []).append(place)
        for batch, places in batches.items():
            together = self._answer_batch(batch, [requests[place] for place in places])
            for place, answer in zip(places, together, strict=True):
                answers[place] = answer
        return answers

    def _similar(self, request: SimilarRequest) -> SimilarItems | Refusal:
        if len(request.items) * request.k > MOST_ANSWERED:
            return _too_many("items", len(request.items), request.k)
        try:
            lists = similar_items(self._ranker, request.items, request.k)
        except HyperfocalError as error:
            place = "$.items" if isinstance(error, DataError) else "$.k" if self._ranker.similarity else "$"
            return Refusal(422, "invalid", _plain(error), place)
        titles, numbers = self._trained.titles, self._ranker.vocabulary.numbers
        rows = [
            [ItemScore(item, score, titles[numbers[str(item)]] if titles else None) for item, score in row]
            for row in lists
        ]
        return SimilarItems(self.version, rows)

    def _refusal(self, request: RecommendRequest, k: int) -> Refusal | None:
        """Return why a request is refused before it is ranked, or None."""
        if (request.histories is None) == (request.users is None):
            return Refusal(422, "invalid", "histories or users are needed, and not both. Give one of them", "$")
        if request.users is not None and not len(self._fit.users):
            message = "this run has no users: its log was streamed, or it is of an earlier version. Give histories"
            return Refusal(422, "not_possible", message, "$.users")
        asked, name = request.histories or request.users or [], "users" if request.users else "histories"
        if request.candidates is not None and len(request.candidates) != len(asked):
            message = f"{len(request.candidates):,} lists for {len(asked):,} histories or users. Give one list for each"
            return Refusal(422, "invalid", message, "$.candidates")
        if request.repeat_after is not None:
            return Refusal(422, "not_possible", NO_TIMES.replace("`repeat_after=`", "it"), "$.repeat_after")
        if len(asked) * len(request.exclude) > MOST_EXCLUDED:
            message = (
                f"{len(request.exclude):,} items for each of {len(asked):,} {name} are too many. Send fewer {name}"
            )
            return Refusal(422, "too_many", message, "$.exclude")
        most = MOST_BUILT if request.max_per or request.diversity else MOST_ANSWERED
        return _too_many(name, len(asked), k, most) if len(asked) * k > most else _inexact(request)

    def _answer_batch(self, batch: Batch, requests: list[RecommendRequest]) -> Sequence[Recommendations | Refusal]:
        """Return the answers to the requests of a batch."""
        reason, place = "new_items", "$.new_items"
        try:
            catalogue = self._catalogue(batch.new_items, requests[0].new_items)
            reason, place = "too_deep", "$.k"
            check_depth(batch.k, len(catalogue.vocabulary))
            reason, place = "rules", "$"
            limits = catalogue.ranker.limits(batch.rules)
        except (HyperfocalError, pl.exceptions.PolarsError) as error:  # a list where a number is expected
            return [Refusal(422, reason, _plain(error), place)] * len(requests)
        return self._rank(catalogue, limits, batch.k, requests)

    def _catalogue(self, key: bytes, new_items: list[dict[str, Any]]) -> Catalogue:
        if not key:
            return self._trained
        if not self._ranks_new_items:
            raise ConfigError("this engine does not score new items. Serve the run with --engine torch")
        if key not in self._catalogues:
            while len(self._catalogues) >= CATALOGUES:
                del self._catalogues[next(iter(self._catalogues))]
            self._catalogues[key] = Catalogue.of(self._ranker.with_items(_table(new_items)))
        self._catalogues[key] = self._catalogues.pop(key)  # the order is that of the last use
        return self._catalogues[key]

    def _rank(
        self, catalogue: Catalogue, limits: Limits, k: int, requests: list[RecommendRequest]
    ) -> list[Recommendations]:
        owned = [self._histories(request) for request in requests]
        histories = catalogue.vocabulary.encode_lists(row for rows in owned for row in rows)
        personal = _personal(requests, owned, histories, limits, catalogue.vocabulary)
        ranking = Ranking(*rank_lists(catalogue.scorer, histories, k, limits, personal))
        answers, start = [], 0
        for request, rows in zip(requests, owned, strict=True):
            block, start = slice(start, start + len(rows)), start + len(rows)
            named = _named(catalogue, request, rows, histories.block(block.start, start), ranking.part(block))
            answers.append(Recommendations(self.version, named))
        return answers

    def _histories(self, request: RecommendRequest) -> list[list[Any]]:
        """Return the histories of a request; those of its users by their ids."""
        if request.users is None:
            return request.histories or []
        ids, events = self._ranker.vocabulary.values, self._fit.events
        rows = [self._rows.get(id_text(user, user_kind(self._fit))) for user in request.users]
        numbers = [[] if row is None else events.block(row, row + 1).items.tolist() for row in rows]
        return [[ids[item] for item in row] for row in numbers]

    @cached_property
    def _rows(self) -> dict[str, int]:
        """The number of each training user."""
        return {user: row for row, user in enumerate(self._fit.users.to_list())}


def load_recommend(path: Path, version: str) -> RecommendPredictor:
    """Return the predictor of a run folder; errors as in `read_fit`."""
    return RecommendPredictor(read_fit(RunFolder.open(path)), version)


def _personal(
    requests: Sequence[RecommendRequest],
    owned: Sequence[Sequence[Sequence[Any]]],
    histories: Sequences,
    limits: Limits,
    vocabulary: Vocabulary,
) -> Personal:
    """Return what each history of a batch may not get, and its candidates, which all requests of it have or none."""
    used = None if limits.repeats else histories
    if any(request.exclude for request in requests):
        pairs = [(row, request.exclude) for request, rows in zip(requests, owned, strict=True) for row in rows]
        used = vocabulary.encode_lists([*(() if limits.repeats else row), *excluded] for row, excluded in pairs)
    if requests[0].candidates is None:
        return Personal(used)
    return Personal(used, vocabulary.encode_lists(row for request in requests for row in request.candidates or ()))


def _named(
    catalogue: Catalogue,
    request: RecommendRequest,
    rows: Sequence[Sequence[Any]],
    histories: Sequences,
    ranking: Ranking,
) -> list[NextItems]:
    """Return the answers to the histories of a request."""
    vocabulary, titles = catalogue.vocabulary, catalogue.titles
    ids, numbers, kind = vocabulary.values, vocabulary.numbers, vocabulary.kind
    why = reasons(catalogue.scorer, histories, ranking.items) if request.explain else None
    known, answers = (histories.lengths > 0).tolist(), []
    for user, (row, items, scores) in enumerate(
        zip(rows, ranking.items.tolist(), ranking.scores.tolist(), strict=True)
    ):
        best = [
            ItemScore(ids[item], score, titles[item] if titles else None)
            for item, score in zip(items, scores, strict=True)
            if item != NO_ITEM
        ]
        if why is not None:
            for shown, because in zip(best, why[user], strict=False):  # NO_ITEM comes last
                shown.because = [ids[reason.item] for reason in because]
        unknown = [item for item in dict.fromkeys(row) if id_text(item, kind) not in numbers]
        answers.append(NextItems(best, unknown, known[user], _note(request, row, known[user], len(best) < len(items))))
    return answers


def _note(request: RecommendRequest, row: Sequence[Any], known: bool, short: bool) -> str | None:
    """Return what an answer has to say besides its items."""
    empty = "" if known else STRANGER if request.users is not None else UNKNOWN if row else EMPTY
    return "; ".join(filter(None, [empty, SHORT if short else ""])) or None


def _inexact(request: RecommendRequest) -> Refusal | None:
    """Return the refusal of a request with an id that may have been rounded, or None."""
    rows = {"histories": request.histories or [], "candidates": request.candidates or []}
    lists = {"users": request.users, "exclude": request.exclude, "only": request.only}
    named = [(f"$.{name}", row) for name, each in rows.items() for row in each]
    named += [(f"$.{name}", row) for name, row in lists.items() if row]
    for place, row in named:
        for item in row:
            if isinstance(item, float) and not abs(item) < EXACT:
                message = f"id {item!r} is a float too large to be exact. Write the id as an integer or a text"
                return Refusal(422, "invalid", message, place)
    return None


def _too_many(name: str, number: int, k: int, most: int = MOST_ANSWERED) -> Refusal:
    message = (
        f"{number:,} {name} x k = {k:,} are {number * k:,} items, and {most:,} are allowed. "
        f"Send fewer {name} per request, or a smaller k"
    )
    return Refusal(422, "too_many", message, f"$.{name}")


def _plain(error: Exception) -> str:
    """Return a message that names fields of a request in place of Python's parameters."""
    return PARAMETER.sub(r"\1", str(error))


def _table(rows: list[dict[str, Any]]) -> pl.DataFrame:
    if not all(rows):
        raise DataError("new_items: a row is empty. Give each its item and its features")
    try:
        return pl.DataFrame(rows, infer_schema_length=None)
    except (pl.exceptions.PolarsError, TypeError, ValueError, OverflowError) as error:
        raise DataError(f"new_items: not a table of items ({error}). Give each column values of one kind") from None
