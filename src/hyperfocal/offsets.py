"""Decide one label per document: offsets per class and a temperature, tuned on validation documents.

Documents count as often as their weights say (see `counted_labels`).
"""

from __future__ import annotations

import torch
from torch import Tensor

from hyperfocal.config.classify import DecisionSettings
from hyperfocal.counted_labels import row_weights, sums_by
from hyperfocal.labels import SparseLabels

SHARPEST, FLATTEST = 0.05, 20.0  # limits of a temperature
STEPS = 50  # of Newton's method, of which about six are used
TAUS = tuple(step / 10 for step in range(21))  # strengths of the prior that are tried
ROUNDS = 2  # over all classes
MOST_OWN = 200  # classes with an offset of their own
FLAT = 1e-9  # slope of the log loss at which the temperature is good enough
TINY = 1e-30  # replaces a denominator of 0, whose numerator is 0 too
GAIN = 1e-9  # of the objective, below which an offset stays
WEIGHTS = {"micro": (0, 1, 0), "macro": (1, 0, 0), "both": (1, 1, 0), "recall": (0, 0, 1)}  # macro-F1, accuracy, recall


def fit_temperature(scores: Tensor, truth: SparseLabels) -> float:
    """Return the temperature t at which softmax(scores / t) has the smallest log loss, from 0.05 to 20.

    With b = 1 / t the log loss is convex in b: Newton's method, kept within a bracket, until the log loss changes by
    less than 1e-9 with ln b. Without a document: 1.

    Args:
        scores: (N, L) float.
        truth: N rows over L labels; documents without a label are left out.

    Source: Guo et al. 2017, On Calibration of Modern Neural Networks, section 4.2.

    >>> truth = SparseLabels.from_lists([[0], [0], [0], [1]], num_labels=2)
    >>> round(fit_temperature(torch.tensor([[2.0, 0.0]]).expand(4, 2), truth), 4)  # 2 / t = ln 3
    1.8205
    """
    rows = (truth.lengths == 1).nonzero()[:, 0]
    if len(rows) == 0 or scores.shape[1] < 2:
        return 1.0
    logits, classes = scores[rows].double(), truth.indices[truth.indptr[rows]]
    logits = logits - logits.max(1, keepdim=True).values
    weights = row_weights(truth)[rows]
    shares = weights / weights.mean()  # ones without weights, which change nothing
    own = (shares * logits.gather(1, classes[:, None])[:, 0]).mean()
    low, high, sharpness = 1 / FLATTEST, 1 / SHARPEST, 1.0
    for _ in range(STEPS):
        p = (sharpness * logits).softmax(1)
        mean = (p * logits).sum(1)
        slope = float((shares * mean).mean() - own)
        curvature = float((shares * ((p * logits.square()).sum(1) - mean.square())).mean())
        if abs(slope * sharpness) < FLAT:
            break
        low, high = (sharpness, high) if slope < 0 else (low, sharpness)
        step = sharpness - slope / curvature if curvature > 0 else low
        sharpness = step if low < step < high else (low * high) ** 0.5
    return 1 / sharpness


def best_class(scores: Tensor) -> SparseLabels:
    """Return the class with the largest score of each of N documents, the first one at a tie; scores are (N, L)."""
    best = scores.argmax(1) if scores.shape[1] else torch.empty(len(scores), dtype=torch.int64)
    return SparseLabels.from_csr(torch.arange(len(scores) + 1), best, num_labels=scores.shape[1])


def tune_offsets(
    scores: Tensor, truth: SparseLabels, counts: Tensor, settings: DecisionSettings, temperature: float
) -> Tensor:
    """Return (L,) offsets: the class with the largest score - offset is decided.

        offset_l = w_l * own_l + (1 - w_l) * shared_l,  w_l = P_l / (P_l + shrinkage)
        shared_l = tau * temperature * (log prior_l - log of the largest prior)

    P_l are the validation documents of class l, and tau, from 0 to 2 in steps of 0.1, is the best for the objective:
    post-hoc logit adjustment. `own` comes from there by coordinate ascent: for one class after the other the best
    offset of all that change a decision. Of more than 200 classes, only those with the most documents have one.

    Objectives:
        micro       accuracy
        macro       macro-F1 over classes with a true document
        both        macro-F1 + accuracy
        recall      balanced accuracy, the mean recall of classes with a true document

    Args:
        scores: (N, L) float, logits.
        truth: N rows over L labels; documents without a label are left out.
        counts: (L,) training documents of each label.
        settings: objective and shrinkage.
        temperature: of the scores, from `fit_temperature`.

    Source: Menon et al. 2021, Long-tail learning via logit adjustment, section 4.1.
    """
    rows, num_labels = (truth.lengths == 1).nonzero()[:, 0], scores.shape[1]
    if len(rows) == 0 or num_labels < 2:
        return torch.zeros(num_labels)
    logits, classes = scores[rows].double(), truth.indices[truth.indptr[rows]]
    prior = counts.double().clamp(min=1).log()
    worth = _Worth(classes, row_weights(truth)[rows], num_labels, settings.objective)
    shared = _best_shared(logits, temperature * (prior - prior.max()), worth)
    own = shared.clone()
    order = worth.true.argsort(descending=True, stable=True)[:MOST_OWN].tolist()
    for _ in range(ROUNDS):
        for label in order:
            if worth.true[label] > 0:
                own[label] = _best_own(logits, own, label, worth)
    weight = worth.true / (worth.true + settings.shrinkage) if settings.shrinkage else (worth.true > 0).double()
    return (weight * own + (1 - weight) * shared).float()


class _Worth:
    """The objective: a weighted sum of macro-F1, accuracy and mean recall of N documents with classes and weights."""

    def __init__(self, classes: Tensor, mass: Tensor, num_labels: int, objective: str) -> None:
        self.classes, self.mass, self.num_labels = classes, mass, num_labels
        self.true = sums_by(classes, mass, num_labels)
        self.total = mass.sum()
        self.known = (self.true > 0).double() / float((self.true > 0).sum())
        self.weights = WEIGHTS[objective]

    def of_label(self, labels: Tensor, right: Tensor, decided: Tensor) -> Tensor:
        """Return the contribution of labels with numbers of right and decided documents, all of one shape."""
        macro, micro, recall = self.weights
        true = self.true[labels]
        rate = macro * 2 * right / (decided + true).clamp(min=TINY) + recall * right / true.clamp(min=TINY)
        return rate * self.known[labels] + micro * right / self.total

    def totals(self, decided: Tensor, classes: Tensor, mass: Tensor) -> tuple[Tensor, Tensor]:
        """Return (L,) right and decided documents for the (N,) decided and true classes, and weights."""
        hits = decided == classes
        return sums_by(decided[hits], mass[hits], self.num_labels), sums_by(decided, mass, self.num_labels)

    def __call__(self, decided: Tensor) -> float:
        """Return the objective of the (N,) decided classes."""
        return float(self.of_label(torch.arange(self.num_labels), *self.totals(decided, self.classes, self.mass)).sum())


def _best_shared(logits: Tensor, direction: Tensor, worth: _Worth) -> Tensor:
    """Return the multiple of (L,) offsets that is worth most; the smallest one at a tie."""
    values = [worth((logits - tau * direction).argmax(1)) for tau in TAUS]
    return TAUS[values.index(max(values))] * direction


def _best_own(logits: Tensor, offsets: Tensor, label: int, worth: _Worth) -> Tensor:
    """Return () the offset of a label that is worth most while the offsets of the others stay."""
    others = logits - offsets
    others[:, label] = -torch.inf
    best, second = others.max(1)
    margins, order = (logits[:, label] - best).sort(descending=True, stable=True)
    mass = worth.mass[order]
    right = ((worth.classes == label)[order] * mass).cumsum(0)
    value = worth.of_label(torch.full_like(order, label), right, mass.cumsum(0))
    value = value + _losses(second[order], worth.classes[order], mass, worth).cumsum(0)
    value = torch.cat([value.new_zeros(1), value])  # by the number of documents that get the label
    cuts = torch.cat([margins[:1] + 1, (margins[:-1] + margins[1:]) / 2, margins[-1:] - 1])
    tied = torch.cat([value.new_zeros(1), (margins[:-1] == margins[1:]).double() * torch.inf, value.new_zeros(1)])
    value = value - tied.nan_to_num(0, posinf=torch.inf)
    now = int((margins > offsets[label]).sum())
    chosen = int(value.argmax())
    return cuts[chosen] if value[chosen] > value[now] + GAIN else offsets[label]


def _losses(labels: Tensor, classes: Tensor, mass: Tensor, worth: _Worth) -> Tensor:
    """Return (N,) the change of worth as one document after the other is taken from its label; all are (N,)."""
    right, decided = worth.totals(labels, classes, mass)
    order = labels.argsort(stable=True)
    owners, own = labels[order], mass[order]
    hits = (labels == classes)[order] * own
    sizes = torch.bincount(labels, minlength=worth.num_labels)
    starts = (sizes.cumsum(0) - sizes)[owners]
    taken, lost = ((sums := _from_zero(each))[1:] - sums[starts] for each in (own, hits))
    left, rest = (right[owners] - lost).clamp(min=0), (decided[owners] - taken).clamp(min=0)  # rounding
    after = worth.of_label(owners, left, rest)
    before = worth.of_label(owners, left + hits, rest + own)
    return torch.empty_like(after).scatter_(0, order, after - before)


def _from_zero(values: Tensor) -> Tensor:
    """Return (N + 1,) the running sums of (N,) values, from 0."""
    return torch.cat([values.new_zeros(1), values.cumsum(0)])
