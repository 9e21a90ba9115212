"""A blend of a network and a counting baseline: often stronger than either, for they err on other users.

    score(user, item) = (1 - w) * softmax(network's logits)[item]  +  w * baseline's score[item] / its sum over items

w is the best of 0, 0.05, ..., 1 on the validation users.
"""

from __future__ import annotations

import torch
from torch import Tensor

from hyperfocal.data.examples import Holdout
from hyperfocal.metrics.ranking import BLOCK_NUMBERS, Scorer, score_ranking, top_k
from hyperfocal.sequences import Sequences

PARTNER = "decayed_markov"
WEIGHTS = tuple(step / 20 for step in range(21))


def blended(network: Scorer, baseline: Scorer, weight: float) -> Scorer:
    """Return the scorer of the blend with a weight, w in [0, 1]."""

    def scores(histories: Sequences) -> Tensor:
        return _mix(*_parts(network, baseline, histories), weight)

    return scores


def best_weight(network: Scorer, baseline: Scorer, holdout: Holdout, metric: str) -> float:
    """Return the weight with the best mean of a metric, as "map@3", on a holdout; the least of equals."""
    depth = int(metric.partition("@")[2])
    size = max(BLOCK_NUMBERS // holdout.histories.num_items, 16)
    ranked: list[list[Tensor]] = [[] for _ in WEIGHTS]
    for start in range(0, len(holdout), size):
        block = holdout.histories.block(start, start + size)
        parts = _parts(network, baseline, block)
        for weight, found in zip(WEIGHTS, ranked, strict=True):
            mixed = _mix(*parts, weight)
            mixed[block.users, block.items] = -torch.inf
            found.append(top_k(mixed, depth)[1])
    means = [float(score_ranking(torch.cat(rows), holdout.truth, [metric])[metric].mean()) for rows in ranked]
    return WEIGHTS[means.index(max(means))]


def _parts(network: Scorer, baseline: Scorer, histories: Sequences) -> tuple[Tensor, Tensor]:
    counted = baseline(histories)
    return network(histories).double().softmax(1), counted / counted.sum(1, keepdim=True).clamp(min=1e-300)


def _mix(network: Tensor, baseline: Tensor, weight: float) -> Tensor:
    return torch.lerp(network, baseline, weight)
