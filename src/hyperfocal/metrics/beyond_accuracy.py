"""Metrics of lists beside their accuracy, over U users and the first k ranks. L items, n_i training events on item i.

    novelty      mean over items of a list of log2(N / n_i), N all training events: self-information in bits; an item
                 without an event counts as if it had one. Mean over users
    diversity    mean over pairs of items of a list of 1 - similarity. Mean over users with two items or more
    serendipity  mean over the k ranks of max(P_r - P_i, 0) if the item is right, else 0, with P_r = (L + 1 - r) / L for
                 rank r and P_i = (L + 1 - popularity rank of i) / L; of equally popular items the lower number is first
    gini         of the numbers of users whom each of the L items is shown: 0 if all are shown alike, near 1 if few are
    new          share of the recommended items that training never saw

Sources: Zhou et al. 2010, Solving the apparent diversity-accuracy dilemma (novelty); Ziegler et al. 2005, Improving
recommendation lists through topic diversification; Ge et al. 2010, Beyond accuracy, in the form of RecTools
(serendipity); Chin et al. 2022, The datasets dilemma (Gini).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from hyperfocal.labels import SparseLabels
from hyperfocal.metrics.ranking import NO_ITEM, find_hits

NAMES = ("novelty", "diversity", "serendipity", "gini", "new")


def novelty(ranked: Tensor, counts: Tensor) -> float:
    """Return the mean self-information of the items of each list, in bits.

    Args:
        ranked: (U, k) int64 item numbers, best first; NO_ITEM fills ranks without an item.
        counts: (L,) training events of each item.

    >>> novelty(torch.tensor([[0, 1]]), torch.tensor([6, 2]))  # log2(8 / 6) and log2(8 / 2)
    1.207518...
    """
    bits = torch.log2(counts.sum().clamp(min=1) / counts.double().clamp(min=1))
    return _mean_of_lists(bits[ranked.clamp(min=0)], ranked)


def diversity(ranked: Tensor, vectors: Tensor) -> float:
    """Return the mean of 1 - cosine over the pairs of items of each list; nan if no list has two items.

    Args:
        ranked: (U, k), as in `novelty`.
        vectors: (L, D) float, of length 1 or 0.
    """
    shown = ranked != NO_ITEM
    own = vectors[ranked.clamp(min=0)].double() * shown[..., None]
    number = shown.sum(1).double()
    squares = own.square().sum((1, 2))  # of an item with itself
    alike = own.sum(1).square().sum(1) - squares  # over ordered pairs
    pairs = number * (number - 1)
    return float((1 - alike / pairs)[pairs > 0].mean())


def serendipity(ranked: Tensor, truth: SparseLabels, counts: Tensor) -> float:
    """Return how far right items are above their rank by popularity, the mean over ranks and users with a true item.

    Args:
        ranked: (U, k), as in `novelty`.
        truth: U rows, the true items.
        counts: (L,) training events of each item.
    """
    size = len(counts)
    popular = torch.empty(size, dtype=torch.float64)
    popular[counts.argsort(descending=True, stable=True)] = torch.arange(size, 0, -1, dtype=torch.float64) / size
    ranks = torch.arange(1.0, ranked.shape[1] + 1, dtype=torch.float64)
    gains = ((size + 1 - ranks) / size - popular[ranked.clamp(min=0)]).clamp(min=0) * find_hits(ranked, truth)
    return float(gains.mean(1)[truth.lengths > 0].mean())


def gini(ranked: Tensor, num_items: int) -> float:
    """Return the Gini coefficient of the numbers of users whom each item is shown; nan without a recommendation.

    >>> gini(torch.tensor([[0], [1], [2], [3]]), 4), gini(torch.tensor([[0], [0], [0], [0]]), 4)
    (0.0, 0.75)
    """
    shown = torch.bincount(ranked[ranked != NO_ITEM], minlength=num_items).double().sort().values
    places = torch.arange(1.0, num_items + 1, dtype=torch.float64)
    total = float(shown.sum())
    if not total:
        return math.nan
    return float((2 * places - num_items - 1) @ shown) / (num_items * total)


def share_of_new(ranked: Tensor, num_items: int, new: int) -> float:
    """Return the share of the recommended items that are among the last `new` of all."""
    shown = ranked[ranked != NO_ITEM]
    return float((shown >= num_items - new).double().mean())


def _mean_of_lists(values: Tensor, ranked: Tensor) -> float:
    """Return the mean over users of the mean of (U, k) values over the ranks with an item."""
    shown = ranked != NO_ITEM
    number = shown.sum(1)
    means = (values * shown).sum(1) / number.clamp(min=1)
    return float(means[number > 0].mean())
