"""Decisions: from scores to labels, with thresholds tuned on validation documents.

Every objective is a sum over labels of a value v_l(c): the value of deciding label l for the c documents that score
it highest. A threshold shared by labels and a threshold of one label are then both the maximum of cumulated
differences of v over scores that occur.

Documents count as often as their weights say, and pairs that nobody annotated do not count (see `counted_labels`).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from hyperfocal.config.classify import ONE_RULES, DecisionSettings
from hyperfocal.counted_labels import pair_weights
from hyperfocal.errors import DataError
from hyperfocal.labels import SparseLabels
from hyperfocal.offsets import best_class, fit_temperature, tune_offsets

FOLDS = 5
MOST_ROUNDS = 20  # of the linearized micro-F: usually two or three suffice; more if all scores are below 0
PARTS = {"micro": (0, 1), "f_beta": (0, 1), "macro": (1, 0), "both": (1, 1)}  # macro and micro in each objective
TINY = 1e-30  # replaces a denominator of 0, whose numerator is 0 too
POOL = 150  # validation positives of the labels of similar frequency that share a threshold


@dataclass(frozen=True, eq=False)
class Decisions:
    """Turns scores into labels."""

    thresholds: Tensor  # (L,) float32; a label is decided if its score is above its threshold
    top_k: int = 0  # number of best labels per document, in place of thresholds. 0: off
    minimum_one: bool = False  # whether a document without a decided label gets its best label
    one: str = ""  # "": any number of labels; "argmax" or "balanced": one, of the largest score - `applied`
    temperature: float = 1.0  # with `one`: probabilities are softmax(scores / temperature)

    @property
    def applied(self) -> Tensor:
        """Return (L,) what `one` subtracts from scores: the tuned offsets if it is "balanced", else zeros."""
        return self.thresholds if self.one == "balanced" else torch.zeros_like(self.thresholds)

    @property
    def tuned(self) -> Decisions:
        """Return the decisions that apply the tuned offsets, if they decide one label; else the same decisions."""
        return replace(self, one="balanced") if self.one else self

    def log_probabilities(self, scores: Tensor) -> Tensor:
        """Return (N, L) log softmax(scores / temperature), for one label per document."""
        return (scores / self.temperature).log_softmax(1)

    def probabilities(self, scores: Tensor) -> Tensor:
        """Return (N, L) probabilities: sigmoid(scores), or with `one` softmax(scores / temperature)."""
        return (scores / self.temperature).softmax(1) if self.one else scores.sigmoid()

    def log_odds(self, scores: Tensor) -> Tensor:
        """Return (N, L) log(p / (1 - p)) of the probabilities p."""
        if not self.one:
            return scores
        logs = self.log_probabilities(scores.double())
        return logs - torch.log(-torch.expm1(logs.clamp(max=-1e-12)))

    def decide(self, scores: Tensor) -> SparseLabels:
        """Return the labels decided from (N, L) scores."""
        if self.one:
            return best_class(scores - self.applied)
        if self.top_k:
            best = scores.topk(min(self.top_k, scores.shape[1]), dim=1).indices
            return SparseLabels.from_padded(best, num_labels=scores.shape[1])
        decided = scores > self.thresholds
        if self.minimum_one and scores.shape[1]:
            empty = (~decided.any(1)).nonzero()[:, 0]
            decided[empty, scores[empty].argmax(1)] = True
        return SparseLabels.from_dense(decided)

    def to_json(self, labels: list[str]) -> dict[str, Any]:
        """Return the value that `from_json` reads, with thresholds by label name."""
        named = dict(zip(labels, self.thresholds.tolist(), strict=True))
        facts = {"top_k": self.top_k, "minimum_one": self.minimum_one, "thresholds": named}
        return facts | ({"one": self.one, "temperature": self.temperature} if self.one else {})

    @classmethod
    def from_json(cls, value: Any, labels: list[str]) -> Decisions:
        """Build from `to_json`'s value.

        Raises:
            DataError: a label has no threshold, or its threshold is not a number; a top_k below 0.
        """
        try:
            thresholds = torch.tensor([float(value["thresholds"][label]) for label in labels])
            if thresholds.isnan().any():
                raise ValueError("a threshold is nan")
            if (top_k := int(value["top_k"])) < 0:
                raise ValueError(f"top_k is {top_k}; expected 0 or more")
            if (one := value.get("one", "")) not in ("", *ONE_RULES):
                raise ValueError(f"one is {one!r:.20}; expected {' or '.join(ONE_RULES)}")
            if not 0 < (temperature := float(value.get("temperature", 1))) < math.inf:
                raise ValueError(f"temperature is {temperature}; expected a number above 0")
            return cls(thresholds, top_k, bool(value["minimum_one"]), one, temperature)
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise DataError(f"not decisions: {type(error).__name__}: {error}") from None


def check_finite(scores: Tensor) -> None:
    """Raise DataError if one of (N, L) scores is infinite or not a number."""
    wrong = (~scores.isfinite()).nonzero()
    if len(wrong):
        row, label = wrong[0].tolist()
        raise DataError(
            f"scores: {float(scores[row, label])} for document {row} and label {label}; expected finite numbers. "
            "Train again with a smaller train.learning_rate"
        )


def tune_decisions(
    scores: Tensor, truth: SparseLabels, counts: Tensor, settings: DecisionSettings, *, seed: int = 0
) -> Decisions:
    """Return decisions tuned on validation documents.

    Rules:
        half        the score 0, a probability of 0.5, for every label
        global      one threshold, the best of all scores that occur
        per_label   one per label: w * own + (1 - w) * pooled, with w = P_l / (P_l + shrinkage)
        top_k       the k best labels of each document
        argmax      one label, the best; offsets are tuned and stored, but not applied
        balanced    one label, the best of score - offset; see `tune_offsets`

    `own` is the mean over five folds of the best threshold of label l on the documents outside the fold. `pooled` is
    the best common threshold of labels of similar training frequency with 150 validation positives in total.

    Objectives, with tp the right, d the decided and P the true (document, label) pairs:
        micro       2 tp / (d + P) over all pairs
        f_beta      (1 + beta^2) tp / (d + beta^2 P) over all pairs
        macro       the mean over labels with a true document of 2 tp_l / (d_l + P_l)
        both        micro + macro

    Args:
        scores: (N, L) float, logits.
        truth: N rows over L labels.
        counts: (L,) training documents of each label.
        settings: rule, objective, beta, k, shrinkage, minimum_one.
        seed: of the folds.

    Raises:
        DataError: a score that is infinite or not a number.

    Source: Dinkelbach 1967, On Nonlinear Fractional Programming, for the maximum of a ratio.
    """
    check_finite(scores)
    if settings.rule in ONE_RULES:
        temperature = fit_temperature(scores, truth)
        offsets = tune_offsets(scores, truth, counts, settings, temperature)
        return Decisions(offsets, one=settings.rule, temperature=temperature)
    fixed = torch.zeros(scores.shape[1])
    if settings.rule == "top_k":
        return Decisions(fixed, settings.k, settings.minimum_one)
    if settings.rule == "half" or truth.num_positives == 0:
        return Decisions(fixed, 0, settings.minimum_one)
    curves = _Curves(scores, truth)
    if settings.rule == "global":
        return Decisions(fixed + curves.shared(settings), 0, settings.minimum_one)
    fit = curves.pooled(_pools(curves.positives, counts))
    worth, thresholds = _climb(curves, settings, fit, fixed)
    own, weight = curves.cross_fitted(worth, seed), curves.positives / (curves.positives + settings.shrinkage)
    thresholds = torch.where(weight > 0, weight * own + (1 - weight) * thresholds, thresholds)
    return Decisions(thresholds.float(), 0, settings.minimum_one)


@dataclass(frozen=True)
class _Worth:
    """The value of an objective for tp right among c decided documents, for labels with P true documents.

    v(c) = macro * 2 tp / (c + P) / L'  +  micro * ((1 + beta^2) tp - ratio * c) / scale

    L' is the number of labels with a true document. The second term is micro-F, linearized at the thresholds where it
    has the value `ratio` and the denominator `scale`.
    """

    macro: float
    micro: float
    beta: float
    ratio: float
    scale: float

    def __call__(self, tp: Tensor, decided: Tensor, positives: Tensor) -> Tensor:
        labels = (positives > 0).sum()
        macro = 2 * tp / (decided + positives).clamp(min=TINY) / labels * self.macro
        return macro + ((1 + self.beta**2) * tp - self.ratio * decided) * (self.micro / self.scale)


class _Curves:
    """For each label, the documents by falling score: scores and hits, (L, N), and number of true documents, (L,).

    Hits are the weights of the documents that have the label, and `mass` are those of all documents of which it is
    known; None: each counts 1.
    """

    def __init__(self, scores: Tensor, truth: SparseLabels) -> None:
        self.scores, self.order = scores.T.float().contiguous().sort(dim=1, descending=True)
        self.hits = truth.to_dense().T.contiguous().gather(1, self.order)
        weights = pair_weights(truth)
        self.mass = None if weights is None else weights.T.contiguous().gather(1, self.order)
        if self.mass is not None:
            self.hits = self.hits * self.mass
        self.positives = self.hits.sum(1)

    def totals(self, thresholds: Tensor) -> tuple[float, float]:
        """Return the numbers of right and of decided pairs with (L,) thresholds."""
        decided = self.scores > thresholds[:, None]
        number = decided.sum() if self.mass is None else self.mass[decided].sum(dtype=torch.float64)
        return float(self.hits[decided].sum()), float(number)

    def gains(self, worth: _Worth) -> Tensor:
        """Return (L, N) float64, the value that each further document adds to its label."""
        tp = self.hits.cumsum(1)
        decided = torch.arange(1.0, self.scores.shape[1] + 1) if self.mass is None else self.mass.cumsum(1)
        value = worth(tp, decided, self.positives[:, None])
        return value.diff(dim=1, prepend=torch.zeros(len(value), 1)).double()

    def shared(self, settings: DecisionSettings) -> Tensor:
        """Return () the best common threshold of all labels; the objective is not linearized."""
        macro, micro, beta = _parts(settings)
        scores, order = self.scores.flatten().sort(descending=True)
        tp = self.hits.flatten()[order].cumsum(0, dtype=torch.float64)
        decided = torch.arange(1, len(scores) + 1, dtype=torch.float64)
        if self.mass is not None:
            decided = self.mass.flatten()[order].cumsum(0, dtype=torch.float64)
        of_pairs = (1 + beta**2) * tp / (decided + beta**2 * self.positives.sum())
        of_labels = self.gains(_Worth(macro, 0, beta, 0, 1)).flatten()[order].cumsum(0)
        return _best_cut(scores, micro * of_pairs + of_labels)

    def pooled(self, pools: Tensor) -> Callable[[_Worth], Tensor]:
        """Return a function to (L,) thresholds, the best common one for the labels of each pool ((L,) int64 from 0)."""
        members = [(pools == pool).nonzero()[:, 0] for pool in range(int(pools.max()) + 1)]
        sorts = [self.scores[labels].flatten().sort(descending=True) for labels in members]

        def thresholds(worth: _Worth) -> Tensor:
            gains, best = self.gains(worth), torch.empty(len(self.scores))
            for labels, (scores, order) in zip(members, sorts, strict=True):
                best[labels] = _best_cut(scores, gains[labels].flatten()[order].cumsum(0))
            return best

        return thresholds

    def cross_fitted(self, worth: _Worth, seed: int) -> Tensor:
        """Return (L,) float64, the mean over folds of the best threshold on the other folds; nan without a positive."""
        generator = torch.Generator().manual_seed(seed)
        fold = (torch.randperm(self.scores.shape[1], generator=generator) % FOLDS)[self.order]
        between = torch.cat([_between(self.scores[:, :-1], self.scores[:, 1:]), _below(self.scores[:, -1:])], dim=1)
        tied = torch.zeros_like(self.scores)
        tied[:, :-1][self.scores[:, :-1] == self.scores[:, 1:]] = torch.inf  # no cut between tied scores
        cuts, worth = [], replace(worth, scale=worth.scale * (1 - 1 / FOLDS))
        for number in range(FOLDS):
            others = (fold != number).float()
            counted = others if self.mass is None else others * self.mass
            hits, decided = (self.hits * others).cumsum(1), counted.cumsum(1)
            value, best = worth(hits, decided, hits[:, -1:]).sub_(tied).max(1)
            cut = between.gather(1, best[:, None])[:, 0]
            cut = torch.where(value > 0, cut, self.scores[:, 0] + 1)  # none decided is best
            cuts.append(torch.where(hits[:, -1] > 0, cut, torch.nan))
        return torch.stack(cuts).double().nanmean(0)  # in float64, the mean of equal cuts is that cut


def _best_cut(scores: Tensor, value: Tensor) -> Tensor:
    """Return the threshold of the largest value; value[c] is the value of deciding the falling scores[: c + 1]."""
    ends = torch.cat([scores[:-1] > scores[1:], torch.ones(1, dtype=torch.bool)])  # no cut between tied scores
    best = int(value.masked_fill(~ends, -torch.inf).argmax())
    if value[best] <= 0:  # none decided is best
        return scores[0] + 1
    return _between(scores[best], scores[best + 1]) if best + 1 < len(scores) else _below(scores[best])


def _between(high: Tensor, low: Tensor) -> Tensor:
    """Return thresholds that separate `high` from `low`: the middle, or `low` if no float is between them."""
    middle = (high + low) / 2
    return torch.where((low < middle) & (middle < high), middle, low)


def _below(scores: Tensor) -> Tensor:
    """Return thresholds below scores: by 1 or, if rounding loses that difference, by one float."""
    return torch.minimum(scores - 1, scores.nextafter(scores.new_tensor(-torch.inf)))


def _parts(settings: DecisionSettings) -> tuple[int, int, float]:
    """Return the weights of macro-F1 and of micro-F in the objective, and beta."""
    return *PARTS[settings.objective], settings.beta if settings.objective == "f_beta" else 1.0


def _climb(
    curves: _Curves, settings: DecisionSettings, fit: Callable[[_Worth], Tensor], thresholds: Tensor
) -> tuple[_Worth, Tensor]:
    """Return the thresholds that `fit` converges to from (L,) thresholds, and the worth linearized there."""
    macro, micro, beta = _parts(settings)

    def linearized() -> _Worth:
        tp, decided = curves.totals(thresholds)
        scale = decided + beta**2 * float(curves.positives.sum())
        return _Worth(macro, micro, beta, (1 + beta**2) * tp / scale, scale)

    worth = linearized()
    for _ in range(MOST_ROUNDS if micro else 1):
        before, thresholds = thresholds, fit(worth)
        if torch.equal(before, thresholds):
            break
        worth = linearized()
    return worth, thresholds


def _pools(positives: Tensor, counts: Tensor) -> Tensor:
    """Return (L,) the pool of each label: labels by falling training count, POOL positives or more in each pool."""
    order = counts.argsort(descending=True, stable=True)
    pools, pool, gathered = torch.empty_like(order), 0, 0.0
    for label in order.tolist():
        pools[label] = pool
        gathered += float(positives[label])
        if gathered >= POOL:
            pool, gathered = pool + 1, 0.0
    return pools.clamp(max=max(pool - 1, 0))  # the last labels, which have too few positives, join the previous pool
