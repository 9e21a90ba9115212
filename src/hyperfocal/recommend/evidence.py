"""What a recommender's report shows beside its scores: what became of each item, and a few users."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from hyperfocal.data.examples import Holdout
from hyperfocal.data.vocabulary import Vocabulary
from hyperfocal.labels import SparseLabels
from hyperfocal.metrics.buckets import TAIL
from hyperfocal.metrics.ranking import NO_ITEM, Scorer, find_hits, rank_items
from hyperfocal.report.run import LISTED, SHOWN, cut

MOST_USERS = 10_000  # that are ranked once more for this
EXAMPLES = 6  # users with a hit, and as many without


def item_evidence(score: Scorer, valid: Holdout, counts: Tensor, vocabulary: Vocabulary, *, k: int) -> dict[str, Any]:
    """Return the JSON-able evidence of a recommender on its validation users, the first ones where they are many.

    Args:
        score: by which it ranks.
        valid: histories and truth.
        counts: (L,) training events of each item.
        vocabulary: the items.
        k: length of the ranking.
    """
    holdout = valid.first(MOST_USERS)
    ranked, _ = rank_items(score, holdout.histories, k)
    hits = find_hits(ranked, holdout.truth)
    table = _table(ranked, hits, holdout.truth, counts)
    return {
        "users": len(holdout),
        "items": len(counts),
        "rare": int((counts < TAIL).sum()),
        "k": k,
        "by_frequency": _by_frequency(table),
        "table": _rows(table, vocabulary.names),
        "examples": _examples(ranked, hits, holdout, vocabulary.names),
    }


def _table(ranked: Tensor, hits: Tensor, truth: SparseLabels, counts: Tensor) -> dict[str, Tensor]:
    """Return (L,) columns: training events, users with the item as truth, hits of it, and how often it was shown."""
    size = len(counts)
    return {
        "events": counts.long(),
        "true": truth.counts()[:size],
        "hits": torch.bincount(ranked[hits], minlength=size),
        "shown": torch.bincount(ranked[ranked != NO_ITEM], minlength=size),
    }


def _by_frequency(table: dict[str, Tensor]) -> list[dict[str, int]]:
    """Return a row for each power of two of training events: items, true, hits and shown; 0 events are the first."""
    power = torch.where(table["events"] > 0, table["events"].clamp(min=1).log2().floor().long() + 1, 0)
    columns = {
        name: torch.zeros(int(power.max()) + 1, dtype=torch.int64) for name in ("items", "true", "hits", "shown")
    }
    for name, column in columns.items():
        column.index_add_(0, power, torch.ones_like(power) if name == "items" else table[name].long())
    rows = zip(*(column.tolist() for column in columns.values()), strict=True)
    return [
        {"from": 2 ** (place - 1) if place else 0, "to": 2**place - 1, **dict(zip(columns, row, strict=True))}
        for place, row in enumerate(rows)
        if row[0]
    ]


def _rows(table: dict[str, Tensor], names: list[str]) -> list[dict[str, Any]]:
    """Return a row for each of the items that are true most often, then shown most often."""
    order = (table["true"] * (1 + int(table["shown"].max())) + table["shown"]).argsort(descending=True, stable=True)
    columns = {name: column.tolist() for name, column in table.items()}
    return [
        {"item": cut(names[at]), **{n: column[at] for n, column in columns.items()}} for at in order[:SHOWN].tolist()
    ]


def _examples(ranked: Tensor, hits: Tensor, holdout: Holdout, names: list[str]) -> list[dict[str, Any]]:
    """Return users drawn at random, half of them with a hit."""
    drawn = torch.randperm(len(holdout), generator=torch.Generator().manual_seed(0))
    lucky = hits.any(1)[drawn]
    chosen = [drawn[lucky][:EXAMPLES], drawn[~lucky][:EXAMPLES]]
    return [_example(at, ranked, hits, holdout, names) for at in torch.cat(chosen).tolist()]


def _example(at: int, ranked: Tensor, hits: Tensor, holdout: Holdout, names: list[str]) -> dict[str, Any]:
    histories, truth = holdout.histories, holdout.truth
    history = histories.items[int(histories.offsets[at]) : int(histories.offsets[at + 1])]
    true = truth.indices[int(truth.indptr[at]) : int(truth.indptr[at + 1])]
    predicted = zip(ranked[at].tolist(), hits[at].tolist(), strict=True)
    return {
        "user": cut(holdout.users[at]),
        "history": [cut(names[item]) for item in history[-LISTED:].tolist()],
        "earlier": max(len(history) - LISTED, 0),
        "truth": [cut(names[item]) if item < len(names) else None for item in true[:LISTED].tolist()],
        "predicted": [{"item": cut(names[item]), "hit": hit} for item, hit in predicted if item != NO_ITEM],
    }
