"""A blend in logarithms of a network and several baselines, its partners.

    score(user, b) = w_network * log softmax(network's logits)[b]  +  sum over partners j of w_j * log(share_j[b] + EPS)
    share_j[b]     = max(score_j[b], 0) / their sum over the items

A product of powers: an item must please every partner, and EPS limits what one of them can veto. Linear blends let one
partner that is sure outvote the others. A new item, which no partner has counted, gets each partner's mean of
log(share + EPS) over the other items, weighted by the network's probabilities, so that only the network ranks it.

The weights are chosen on validation users: from the best scorer alone, or from the network alone, the change of one
weight that improves the metric most is made, until none improves it by more than the standard error of its gain over
the users. w_network is 1 or 0. Only the POOL best items of each scorer compete then; the blend itself ranks all items.

The weights fit the users that chose them, so their own score would be too good. `halves` has the weights chosen on the
users at odd places, which score those at even places, and the other way round (cross-fitting).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product

import torch
from torch import Tensor

from hyperfocal.data.examples import Holdout
from hyperfocal.labels import SparseLabels
from hyperfocal.metrics.ranking import BLOCK_NUMBERS, NO_ITEM, Scorer, score_ranking, top_k
from hyperfocal.sequences import Sequences

NETWORK = "network"  # its name among the weights
EPS = 1e-3
LEAST = math.log(EPS) - 1  # below every logarithm of a share
POOL = 50  # best items of each scorer that compete while weights are chosen
USERS = 5_000  # validation users, the first ones, that choose the weights
WEIGHTS = (0.0, 0.1, 0.2, 0.35, 0.5, 0.75, 1.0, 1.5)  # of a partner

Weights = Mapping[str, float]


@dataclass(frozen=True)
class Blend:
    """Weights of a blend by the name of the scorer; those that are 0 are left out.

    Attributes:
        weights: chosen on all validation users.
        halves: chosen without the users at even places, and without those at odd places. (): read from a run.
    """

    weights: Weights
    halves: tuple[Weights, ...] = ()


@dataclass(frozen=True, eq=False)
class Pool:
    """Items that compete while weights are chosen.

    Attributes:
        items: (U, C) int64.
        logs: name -> (U, C) float32, the logarithm of each item's share; -inf where an item repeats.
        truth: U rows.
    """

    items: Tensor
    logs: dict[str, Tensor]
    truth: SparseLabels

    def part(self, users: Tensor) -> Pool:
        """Return the pool of some users."""
        logs = {name: values[users] for name, values in self.logs.items()}
        return Pool(self.items[users], logs, self.truth.select(users))

    def values(self, blended: Tensor, metric: str) -> Tensor:
        """Return a metric of each user with a true item under blended scores, (U, C)."""
        best, places = blended.topk(min(int(metric.partition("@")[2]), blended.shape[1]))
        ranked = self.items.gather(1, places).masked_fill(best == -torch.inf, NO_ITEM)
        return score_ranking(ranked, self.truth, [metric])[metric]


def choose(scorers: Mapping[str, Scorer], holdout: Holdout, metric: str) -> Blend:
    """Return the blend that is best on the users of a holdout.

    Args:
        scorers: the one called NETWORK, and the partners.
        holdout: validation users, of whom the first USERS choose.
        metric: such as "map@3".
    """
    pool = make_pool(scorers, holdout.first(USERS), metric)
    users = torch.arange(len(pool.items))
    halves = tuple(ascend(pool.part(users[other::2]), metric) for other in (1, 0))
    return Blend(ascend(pool, metric), halves)


@torch.inference_mode()
def make_pool(scorers: Mapping[str, Scorer], holdout: Holdout, metric: str) -> Pool:
    """Return the best items of each scorer for each user, without those of the history."""
    num_items = holdout.histories.num_items
    depth, size = min(max(POOL, int(metric.partition("@")[2])), num_items), max(BLOCK_NUMBERS // num_items, 16)
    items, logs = [], []
    for start in range(0, len(holdout), size):
        block = holdout.histories.block(start, start + size)
        shares = {name: log_shares(name, scorer(block)) for name, scorer in scorers.items()}
        for values in shares.values():
            values[block.users, block.items] = -torch.inf
        chosen = torch.cat([top_k(values, depth)[1] for values in shares.values()], 1).sort(1).values
        repeats = torch.zeros_like(chosen, dtype=torch.bool)
        repeats[:, 1:] = chosen[:, 1:] == chosen[:, :-1]
        items.append(chosen)
        logs.append([values.gather(1, chosen).masked_fill(repeats, -torch.inf).float() for values in shares.values()])
    columns = [torch.cat(blocks) for blocks in zip(*logs, strict=True)]
    return Pool(torch.cat(items), dict(zip(scorers, columns, strict=True)), holdout.truth)


def ascend(pool: Pool, metric: str) -> dict[str, float]:
    """Return the weights that single changes from the network, or from the best partner, lead to; the better ones."""
    alone = {name: pool.values(logs, metric) for name, logs in pool.logs.items()}
    partners = [name for name in pool.logs if name != NETWORK]
    starts = [NETWORK, max(partners, key=lambda name: float(alone[name].sum()))]
    climbed = [_climb(pool, start, metric) for start in starts]
    return max(climbed, key=lambda each: each[0])[1]  # of equal ones that with the network


def _climb(pool: Pool, start: str, metric: str) -> tuple[float, dict[str, float]]:
    """Return the best sum of the metric and its weights; `start` keeps 1."""
    weights, blended = {start: 1.0}, pool.logs[start]
    values = pool.values(blended, metric)
    while True:
        best = values
        for name, weight in product([each for each in pool.logs if each not in (start, NETWORK)], WEIGHTS):
            change = weight - weights.get(name, 0.0)
            changed = blended + change * pool.logs[name].clamp(min=LEAST)  # -inf * 0 is no number
            tried = pool.values(changed, metric) if change else values
            if tried.sum() > best.sum() and _is_clear(tried - values):
                best, step = tried, (name, weight, changed)
        if best is values:
            return float(values.sum()), {name: weight for name, weight in weights.items() if weight}
        values, (name, weight, blended) = best, step
        weights[name] = weight


def _is_clear(gains: Tensor) -> bool:
    """Return whether the mean gain of the users is above its standard error."""
    return len(gains) > 1 and float(gains.mean()) > float(gains.std()) / len(gains) ** 0.5


def blend_scorer(weights: Weights, scorers: Mapping[str, Scorer], new_items: int = 0) -> Scorer:
    """Return the scorer of a blend.

    Args:
        weights: by name.
        scorers: at least those with a weight.
        new_items: number of items, the last ones, that training never saw.
    """

    def score(histories: Sequences) -> Tensor:
        total = torch.zeros(len(histories), histories.num_items, dtype=torch.float64)
        network = log_shares(NETWORK, scorers[NETWORK](histories)) if NETWORK in weights else None
        for name, weight in weights.items():
            if name == NETWORK:
                assert network is not None, "computed above"
                total += weight * network
                continue
            logs = log_shares(name, scorers[name](histories))
            if new_items and network is not None:
                known = logs.shape[1] - new_items
                logs[:, known:] = (network[:, :known].softmax(1) * logs[:, :known]).sum(1, keepdim=True)
            total += weight * logs
        return total

    return score


def log_shares(name: str, scores: Tensor) -> Tensor:
    """Return (U, L) float64: the logarithm of a network's probabilities, or of a partner's shares + EPS."""
    if name == NETWORK:
        return scores.double().log_softmax(1)
    positive = scores.double().clamp_(min=0)
    return (positive / positive.sum(1, keepdim=True).clamp(min=1e-300)).add_(EPS).log_()


def cross_fitted(blend: Blend, scorers: Mapping[str, Scorer]) -> tuple[Scorer, ...]:
    """Return the scorers of the users at even places, and of those at odd places."""
    return tuple(blend_scorer(weights, scorers) for weights in blend.halves)
