"""Reasons of a recommendation: the items of the history without which its score falls most.

    effect(item of the history) = score with the whole history - score without this item

Only the newest MOST_REMOVED distinct items are tried, because each costs one more history to score.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from hyperfocal.labels import row_pointers
from hyperfocal.metrics.ranking import NO_ITEM, Scorer
from hyperfocal.sequences import Sequences

MOST_REMOVED = 50  # items of a history
SHOWN = 3  # reasons of an item


class Reason(NamedTuple):
    """An item of the history, and how far the score falls without it."""

    item: int
    effect: float


@torch.inference_mode()
def reasons(score: Scorer, histories: Sequences, items: Tensor) -> list[list[list[Reason]]]:
    """Return for each item of each list its reasons, the strongest first; only items that raise the score.

    Args:
        score: of a block of users.
        histories: U users.
        items: (U, k) the lists; NO_ITEM has no reason.
    """
    return [_of_user(score, histories.block(user, user + 1), items[user]) for user in range(len(histories))]


def _of_user(score: Scorer, history: Sequences, items: Tensor) -> list[list[Reason]]:
    newest = list(dict.fromkeys(reversed(history.items.tolist())))[:MOST_REMOVED]
    if not newest:
        return [[] for _ in items]
    shown = items.clamp(min=0)
    whole = score(history)[:, shown]
    falls = whole - score(_without_each(history, newest))[:, shown]  # (removed, k)
    strongest = falls.argsort(dim=0, descending=True, stable=True)[:SHOWN]
    return [
        [Reason(newest[row], effect) for row in column if item != NO_ITEM and (effect := float(falls[row, place])) > 0]
        for place, (item, column) in enumerate(zip(items.tolist(), strongest.T.tolist(), strict=True))
    ]


def _without_each(history: Sequences, removed: list[int]) -> Sequences:
    """Return one history per removed item: the history without it."""
    rest = [history.items[history.items != item] for item in removed]
    offsets = row_pointers(torch.tensor([len(each) for each in rest]))
    return Sequences(torch.cat(rest), offsets, history.num_items)
