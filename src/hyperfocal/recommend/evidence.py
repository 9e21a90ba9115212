"""Details of a ranking for the report: items by their frequency, a table of items, and example users."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from hyperfocal.data.examples import Holdout
from hyperfocal.data.vocabulary import Vocabulary
from hyperfocal.labels import TAIL, SparseLabels
from hyperfocal.metrics.ranking import NO_ITEM, find_hits
from hyperfocal.recommend.ranker import Ranking
from hyperfocal.report.run import LISTED, SHOWN, cut

MOST_USERS = 10_000  # the first validation users, which are counted
EXAMPLES = 6  # users with a hit, and as many without


def item_evidence(
    ranking: Ranking, valid: Holdout, counts: Tensor, vocabulary: Vocabulary, *, k: int
) -> dict[str, Any]:
    """Return the JSON-able details of a ranking of the validation users.

    Args:
        ranking: of these users, k or more items deep.
        valid: histories and truth.
        counts: (L,) training events of each item.
        vocabulary: the items.
        k: number of items that count.
    """
    holdout, items = valid.first(MOST_USERS), ranking.first(MOST_USERS, k).items
    hits = find_hits(items, holdout.truth)
    table = _table(items, hits, holdout.truth, counts)
    return {
        "users": len(holdout),
        "items": len(counts),
        "rare": int((counts < TAIL).sum()),
        "k": k,
        "by_frequency": _by_frequency(table),
        "table": _rows(table, vocabulary.names),
        "examples": _examples(items, hits, holdout, vocabulary.names),
    }


def _table(ranked: Tensor, hits: Tensor, truth: SparseLabels, counts: Tensor) -> dict[str, Tensor]:
    """Return (L,) columns: training events, users whose truth has the item, hits, users who were shown the item."""
    size = len(counts)
    return {
        "events": counts.long(),
        "true": truth.counts()[:size],
        "hits": torch.bincount(ranked[hits], minlength=size),
        "shown": torch.bincount(ranked[ranked != NO_ITEM], minlength=size),
    }


def _by_frequency(table: dict[str, Tensor]) -> list[dict[str, int]]:
    """Return the sums of items, true, hits and shown per power of two of training events; 0 events come first."""
    powers = torch.where(table["events"] > 0, table["events"].clamp(min=1).log2().floor().long() + 1, 0)
    columns = {"items": torch.ones_like(powers)} | {name: table[name].long() for name in ("true", "hits", "shown")}
    zeros = torch.zeros(int(powers.max()) + 1, dtype=torch.int64)
    sums = {name: zeros.index_add(0, powers, column).tolist() for name, column in columns.items()}
    return [
        {"from": 2 ** (power - 1) if power else 0, "to": 2**power - 1}
        | {name: totals[power] for name, totals in sums.items()}
        for power in range(len(zeros))
        if sums["items"][power]
    ]


def _rows(table: dict[str, Tensor], names: list[str]) -> list[dict[str, Any]]:
    """Return rows of the items that are true most often; of equal ones those shown most often come first."""
    order = (table["true"] * (1 + int(table["shown"].max())) + table["shown"]).argsort(descending=True, stable=True)
    columns = {name: column.tolist() for name, column in table.items()}
    return [
        {"item": cut(names[item]), **{name: column[item] for name, column in columns.items()}}
        for item in order[:SHOWN].tolist()
    ]


def _examples(ranked: Tensor, hits: Tensor, holdout: Holdout, names: list[str]) -> list[dict[str, Any]]:
    """Return users drawn at random, half of them with a hit."""
    drawn = torch.randperm(len(holdout), generator=torch.Generator().manual_seed(0))
    has_hit = hits.any(1)[drawn]
    chosen = [drawn[has_hit][:EXAMPLES], drawn[~has_hit][:EXAMPLES]]
    return [_example(user, ranked, hits, holdout, names) for user in torch.cat(chosen).tolist()]


def _example(user: int, ranked: Tensor, hits: Tensor, holdout: Holdout, names: list[str]) -> dict[str, Any]:
    histories, truth = holdout.histories, holdout.truth
    history = histories.items[int(histories.offsets[user]) : int(histories.offsets[user + 1])]
    true = truth.indices[int(truth.indptr[user]) : int(truth.indptr[user + 1])]
    predicted = zip(ranked[user].tolist(), hits[user].tolist(), strict=True)
    return {
        "user": cut(holdout.users[user]),
        "history": [cut(names[item]) for item in history[-LISTED:].tolist()],
        "earlier": max(len(history) - LISTED, 0),
        "truth": [cut(names[item]) if item < len(names) else None for item in true[:LISTED].tolist()],
        "predicted": [{"item": cut(names[item]), "hit": hit} for item, hit in predicted if item != NO_ITEM],
    }
