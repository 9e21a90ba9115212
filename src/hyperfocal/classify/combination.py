"""Combine the logits of a head with opinions, by one weight per opinion that all labels share.

    score[i, l] = z[i, l] + sum over opinions k of w_k f_k[i, l]   if n_l < limit, else z[i, l]

z are the head's logits and n_l the training documents of label l. The weights are fitted on the documents that tune the
decisions, as logistic regression on (document, label) pairs with an L2 penalty toward z alone:

    logit P(i has l) = s (z[i, l] + sum over k of w_k f_k[i, l]) + c

The scale s is free there, because a head is too sure of documents that it was not trained on. A pair counts as the
weight of its document, and not at all if nobody annotated it (see `counted_labels`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from hyperfocal.classify.opinions import ALL, Opinions
from hyperfocal.counted_labels import unknown_of, weighted_counts, weights_of
from hyperfocal.errors import DataError
from hyperfocal.labels import SparseLabels

PENALTY = 1.0  # of half the squared distance to z alone
MOST_PAIRS = 1_000_000  # of (document, label), on which a fit computes; of more, all positives and a sample
LEAST_SCALE = 0.1  # of the head: below it a head says nothing, and the opinions are all that counts
ROUNDS = 50  # of Newton's method; usually 10 suffice
HALVINGS = 40
ENOUGH = 1e-9  # relative decrease of the loss at which a fit ends


@dataclass(frozen=True, eq=False)
class Combination:
    """Turns logits and opinions into scores.

    Attributes:
        weights: of each opinion; without any, scores are the logits.
        limit: training documents from which on a label keeps its logits. None: opinions count for all labels.
    """

    weights: Mapping[str, float] = field(default_factory=dict)
    limit: int | None = None

    def apply(self, logits: Tensor, opinions: Opinions, counts: Tensor) -> Tensor:
        """Return (N, L) scores from (N, L) logits, opinions about the same pairs, and (L,) training documents."""
        if not self.weights:
            return logits
        scores = logits.clone()
        for name, weight in self.weights.items():
            opinions[name].add_to(scores, weight)
        return scores if self.limit is None else torch.where(counts < self.limit, scores, logits)

    def to_json(self) -> dict[str, Any]:
        """Return the value that `from_json` reads."""
        return {"weights": dict(self.weights), "limit": self.limit}

    @classmethod
    def from_json(cls, value: Any) -> Combination:
        """Build from `to_json`'s value; raise DataError if it is not one."""
        try:
            limit = None if value["limit"] is None else int(value["limit"])
            weights = {str(name): float(weight) for name, weight in value["weights"].items()}
            if not all(map(math.isfinite, weights.values())):
                raise ValueError("a weight is not finite")
            if unknown := weights.keys() - set(ALL):
                raise ValueError(f"no opinion {min(unknown)!r}")
            return cls(weights, limit)
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            raise DataError(f"not a combination: {type(error).__name__}: {error}") from None


def fit_weights(
    logits: Tensor, opinions: Opinions, truth: SparseLabels, *, power: float = 0.0, seed: int = 0
) -> dict[str, float]:
    """Return the weight of each opinion.

    Args:
        logits: (N, L) of documents that the head was not trained on; equal ones do not count.
        opinions: about the same pairs.
        truth: N rows over L labels.
        power: a pair counts as 1 / positives^power of its label. 0: all pairs count the same, as in a micro average;
            1: all labels count the same, as in a macro average.
        seed: draws the sample of pairs, if there are more than MOST_PAIRS.
    """
    rows, labels, hits, share = _pairs(truth, seed)
    columns = [logits[rows, labels].double(), *(opinion.at(rows, labels) for opinion in opinions.values())]
    design = torch.stack([*columns, torch.ones_like(hits)], 1)
    share = share * _balance(truth, power)[labels]
    start = torch.zeros(design.shape[1], dtype=torch.float64)
    start[0] = 1
    point = _newton(design, hits, share, start)
    scale = max(float(point[0]), LEAST_SCALE)
    return {name: weight / scale for name, weight in zip(opinions, point[1:-1].tolist(), strict=True)}


def _balance(truth: SparseLabels, power: float) -> Tensor:
    """Return (L,) 1 / positives^power, scaled so that the weights of all positives have a mean of 1.

    Without the scale, the penalty would count for more with equal weights of few labels than with equal ones of pairs.
    """
    positives = weighted_counts(truth).double()
    balance = positives.where(positives > 0, 1.0) ** -power
    return balance * (positives.sum() / (positives * balance).sum().clamp(min=1e-12)).clamp(min=1e-12)


def fit_scale(scores: Tensor, truth: SparseLabels, *, seed: int = 0) -> tuple[float, float]:
    """Return s, at least LEAST_SCALE, and c of logit P = s score + c for (N, L) scores; others as in `fit_weights`."""
    rows, labels, hits, share = _pairs(truth, seed)
    design = torch.stack([scores[rows, labels].double(), torch.ones_like(hits)], 1)
    scale, offset = _newton(design, hits, share, torch.tensor([1.0, 0.0], dtype=torch.float64)).tolist()
    return max(scale, LEAST_SCALE), offset


def fit_alone(opinions: Opinions, truth: SparseLabels, *, seed: int = 0) -> tuple[dict[str, float], float]:
    """Return the weight of each opinion, and an offset, of scores without a head: logit P = offset + sum of w_k f_k.

    Arguments as in `fit_weights`.
    """
    rows, labels, hits, share = _pairs(truth, seed)
    design = torch.stack([*(opinion.at(rows, labels) for opinion in opinions.values()), torch.ones_like(hits)], 1)
    point = _newton(design, hits, share, torch.zeros(design.shape[1], dtype=torch.float64)).tolist()
    return dict(zip(opinions, point, strict=False)), point[-1]


def fit_beside(
    others: Tensor, opinions: Opinions, truth: SparseLabels, *, seed: int = 0
) -> tuple[dict[str, float], float]:
    """Return the weight of each opinion, and an offset, of the score v of one label next to those of all others.

        logit P(i has l) = s (v - others[i, l]),   v = offset + sum over opinions k of w_k f_k[i, l]

    Args:
        others: (N, L) log of the sum of exp(score) over all labels except l.
        opinions: about the same pairs.
        truth: N rows over L labels.
        seed: draws pairs, as in `fit_weights`.
    """
    rows, labels, hits, share = _pairs(truth, seed)
    columns = [-others[rows, labels].double(), *(opinion.at(rows, labels) for opinion in opinions.values())]
    design = torch.stack([*columns, torch.ones_like(hits)], 1)
    start = torch.zeros(design.shape[1], dtype=torch.float64)
    start[0] = 1
    point = _newton(design, hits, share, start)
    scaled = (point / max(float(point[0]), LEAST_SCALE)).tolist()
    return dict(zip(opinions, scaled[1:], strict=False)), scaled[-1]


def _pairs(truth: SparseLabels, seed: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return documents, labels, truth (0 or 1) and weights of M pairs, each (M,); unknown pairs are left out.

    Of more than MOST_PAIRS, these are all positives, and negatives that are drawn and weighted to stand for all.
    """
    number, labels = len(truth), truth.num_labels
    hits, unknown = truth.rows * labels + truth.indices, _unknown_keys(truth)
    if number * labels <= MOST_PAIRS:
        pairs = torch.arange(number * labels)
        targets = torch.zeros(len(pairs), dtype=torch.float64)
        targets[hits] = 1
        share = torch.ones_like(targets)
        share[unknown] = 0
        return _weighted(truth, pairs, targets, share)
    drawn = torch.randint(number * labels, (MOST_PAIRS,), generator=torch.Generator().manual_seed(seed))
    negatives = drawn[~torch.isin(drawn, torch.cat([hits, unknown]))]
    each = (number * labels - len(hits) - len(unknown)) / max(len(negatives), 1)
    pairs, targets = torch.cat([hits, negatives]), torch.zeros(len(hits) + len(negatives), dtype=torch.float64)
    targets[: len(hits)] = 1
    return _weighted(truth, pairs, targets, torch.where(targets > 0, 1.0, each).double())


def _unknown_keys(truth: SparseLabels) -> Tensor:
    unknown = unknown_of(truth)
    return torch.empty(0, dtype=torch.int64) if unknown is None else unknown.keys


def _weighted(
    truth: SparseLabels, pairs: Tensor, targets: Tensor, share: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the numbers of `_pairs`, with the weights of documents."""
    rows, weights = pairs // truth.num_labels, weights_of(truth)
    return rows, pairs % truth.num_labels, targets, share if weights is None else share * weights[rows]


def _newton(design: Tensor, hits: Tensor, share: Tensor, start: Tensor) -> Tensor:
    """Return the (P,) coefficients with the smallest loss, by Newton's method with halved steps.

    loss = sum over pairs of share BCE(design @ p, hits) + PENALTY / 2 |p - start|^2. A full step diverges where the
    scores of rare labels are all far below 0, so it is halved until the loss falls.

    Args:
        design: (M, P) float64.
        hits: (M,) float64, 0 or 1.
        share: (M,) float64, weight of each pair.
        start: (P,) float64, where the search begins and what the penalty draws to.
    """

    def loss(at: Tensor) -> float:
        fit = binary_cross_entropy_with_logits(design @ at, hits, share, reduction="sum")
        return float(fit + PENALTY / 2 * (at - start).square().sum())

    point, value = start.clone(), loss(start)
    for _ in range(ROUNDS):
        probability = (design @ point).sigmoid()
        gradient = design.T @ (share * (probability - hits)) + PENALTY * (point - start)
        curvature = share * probability * (1 - probability)
        hessian = design.T @ (design * curvature[:, None]) + PENALTY * torch.eye(len(point), dtype=torch.float64)
        step = torch.linalg.solve(hessian, gradient)
        sizes: Sequence[float] = [0.5**power for power in range(HALVINGS)]
        tried = ((size, loss(point - size * step)) for size in sizes)
        size, reached = next(((size, new) for size, new in tried if new < value), (0.0, value))
        point = point - size * step
        if value - reached <= ENOUGH * abs(value):
            break
        value = reached
    return point
