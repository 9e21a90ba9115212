"""Decide by validation whether opinions count, how much, and for which labels.

Candidates are compared by train.metric + precision@1, so that a better ranking of the documents of each label does not
cost the best label of each document. Scores are cross-fitted: the documents of each half have the weights that were
fitted on the other half.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from hyperfocal.classify.combination import Combination, fit_weights
from hyperfocal.classify.head import VALIDATION
from hyperfocal.classify.opinions import FIRST_LINE, SIMILARITY, TEXT, Opinions, select
from hyperfocal.labels import SparseLabels

POWERS = (0.5, 1.0)  # of `fit_weights`
POWERS_OF_ONE = (0.0, 0.5, 1.0)  # with one label per document: equal pairs give the most right documents
LIMITS = (None, 200, 50)  # of a Combination
SHOWN = {TEXT: "name in text", FIRST_LINE: "name in first line", SIMILARITY: "similarity"}
LEAST_GAIN = 0.002  # of train.metric + precision@1, for opinions to be accepted
COUNTED = "head + all opinions"  # the row of a table whose scores count, if opinions are accepted
HALVES = 2  # of the validation documents: each half gets what the other half tuned


@dataclass(frozen=True, eq=False)
class Judged:
    """Logits of N documents, and opinions about them.

    Attributes:
        logits: (N, L) of a head that was not trained on the documents.
        opinions: about the same pairs; {} for none.
        truth: N rows over L labels.
        counts: (L,) training documents of each label.
        metric: a name of VALIDATION.
        seed: draws pairs, see `fit_weights`.
        one: whether each document has one label.
    """

    logits: Tensor
    opinions: Opinions
    truth: SparseLabels
    counts: Tensor
    metric: str
    seed: int
    one: bool = False

    def combined(self, combination: Combination) -> Tensor:
        """Return the (N, L) scores by a combination."""
        return combination.apply(self.logits, self.opinions, self.counts)

    def worth(self, scores: Tensor) -> float:
        """Return train.metric + precision@1 of (N, L) scores."""
        ranked = self.ranked(scores)
        return sum(VALIDATION[name](ranked, self.truth) for name in (self.metric, "precision@1"))

    def ranked(self, scores: Tensor) -> Tensor:
        """Return (N, L) what ranks documents and labels: scores; with one label per document their log softmax."""
        return scores.log_softmax(1) if self.one else scores


class Form(NamedTuple):
    """A way to combine."""

    power: float
    limit: int | None


def choose_form(judged: Judged, divisions: Sequence[Tensor]) -> Form | None:
    """Return the best form of combination; None: none is better than the logits alone by LEAST_GAIN.

    The form is chosen by the first division, and must be better in the others too: of the forms of opinions that are
    noise, one is better than the logits in more than half of all cases, but rarely by much, and rarely twice.

    Args:
        judged: of N documents.
        divisions: into halves, each (N,) int64 of 0 and 1.
    """
    if not judged.opinions:
        return None
    least = judged.worth(judged.logits) + LEAST_GAIN
    best, worth = None, least
    for power in POWERS_OF_ONE if judged.one else POWERS:
        wide = cross_scores(judged, Form(power, None), divisions[0])
        for limit in LIMITS:
            scores = wide if limit is None else torch.where(judged.counts < limit, wide, judged.logits)
            if (value := judged.worth(scores)) > worth:
                best, worth = Form(power, limit), value
    if best is None or not all(judged.worth(cross_scores(judged, best, halves)) > least for halves in divisions[1:]):
        return None
    return best


def fit_form(judged: Judged, form: Form | None, rows: Tensor) -> Combination:
    """Return the combination of a form, fitted on some of the documents; None: one that keeps the logits."""
    if form is None:
        return Combination()
    opinions = select(judged.opinions, rows)
    logits, truth = judged.logits[rows], judged.truth.select(rows)
    weights = fit_weights(logits, opinions, truth, power=form.power, seed=judged.seed)
    return Combination(weights, form.limit)


def cross_scores(judged: Judged, form: Form | None, halves: Tensor) -> Tensor:
    """Return (N, L) scores, those of each half by the combination that was fitted on the other half."""
    scores = torch.empty_like(judged.logits)
    for own, others in divided(halves):
        combination = fit_form(judged, form, others)
        scores[own] = combination.apply(judged.logits[own], select(judged.opinions, own), judged.counts)
    return scores


def divided(halves: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the documents of each half, and those of the other half."""
    for half in range(HALVES):
        yield (halves == half).nonzero()[:, 0], (halves != half).nonzero()[:, 0]


def table_of_opinions(judged: Judged, form: Form | None, halves: Tensor) -> list[dict[str, Any]]:
    """Return a row for the head, for each opinion added to it, for all of them, and for all of them without the head.

    Each row has its name and the values of VALIDATION, of cross-fitted scores.
    """
    if not judged.opinions:
        return []
    form = form or Form(POWERS[0], None)
    parts = {f"head + {SHOWN[name]}": replace(judged, opinions={name: one}) for name, one in judged.opinions.items()}
    rows = [{"scores": "head", **_values(judged, judged.logits)}]
    for name, one in (parts | {COUNTED: judged}).items():
        rows.append({"scores": name, **_values(judged, cross_scores(one, form, halves))})
    alone = replace(judged, logits=torch.zeros_like(judged.logits))
    scores = cross_scores(alone, form._replace(limit=None), halves)
    return [*rows, {"scores": "opinions alone", **_values(judged, scores)}]


def _values(judged: Judged, scores: Tensor) -> Mapping[str, float]:
    return {name: metric(judged.ranked(scores), judged.truth) for name, metric in VALIDATION.items()}
