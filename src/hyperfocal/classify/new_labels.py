"""Labels that training never saw: scored by what their texts say, next to the labels of training.

    score[i, l] = offset + sum over opinions k of w_k f_k[i, l]

The offset and the weights are fitted on the validation documents and all labels of training, as if each of them were
new: without the head, as logit P = a + sum of b_k f_k. With one label per document see `fit_headless_of_one`. The
scores of the labels of training are only as calibrated as the loss makes them. Their own fit, logit P = s score + c,
brings both to one scale:

    offset = (a - c) / s,   w_k = b_k / s
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from msgspec import structs
from torch import Tensor

from hyperfocal.classify.acceptance import Judged
from hyperfocal.classify.combination import Combination, fit_alone, fit_beside, fit_scale
from hyperfocal.classify.label_texts import LabelTexts, read_label_texts, says_nothing
from hyperfocal.classify.opinions import LabelReader
from hyperfocal.config.classify import DecisionSettings
from hyperfocal.config.numbers import as_finite
from hyperfocal.data.frames import is_frame
from hyperfocal.data.stored_texts import Texts
from hyperfocal.errors import ConfigError, DataError
from hyperfocal.thresholds import Decisions, tune_decisions

SUREST = 1 - 1e-12  # the largest probability of one label that leaves some for the others


@dataclass(frozen=True)
class Headless:
    """Weights of opinions that stand for a head.

    Attributes:
        weights: of each opinion.
        offset: added to each score.
        threshold: a score above it decides a label: the best common one of all labels of training.
    """

    weights: Mapping[str, float]
    offset: float
    threshold: float

    def to_json(self) -> dict[str, Any]:
        """Return the value that `from_json` reads."""
        return {"weights": dict(self.weights), "offset": self.offset, "threshold": self.threshold}

    @classmethod
    def from_json(cls, value: Any) -> Headless:
        """Build from `to_json`'s value; raise DataError, KeyError, TypeError or ValueError if it is not one."""
        weights = Combination.from_json({"weights": value["weights"], "limit": None}).weights
        offset, threshold = float(value["offset"]), float(value["threshold"])
        if not math.isfinite(offset) or math.isnan(threshold):
            raise ValueError(f"offset {offset}, threshold {threshold}")
        return cls(weights, offset, threshold)


def fit_headless(judged: Judged, combination: Combination, settings: DecisionSettings) -> Headless:
    """Return the weights of opinions without a head, and a threshold by the objective of `settings`.

    Args:
        judged: of the validation documents.
        combination: gives the scores of the labels of training, to whose scale the weights are brought.
        settings: how to decide.
    """
    alone, intercept = fit_alone(judged.opinions, judged.truth, seed=judged.seed)
    scale, shift = fit_scale(judged.combined(combination), judged.truth, seed=judged.seed)
    weights, offset = {name: weight / scale for name, weight in alone.items()}, (intercept - shift) / scale
    scores = torch.full_like(judged.logits, offset)
    for name, weight in weights.items():
        judged.opinions[name].add_to(scores, weight)
    shared = structs.replace(settings, rule="global")
    thresholds = tune_decisions(scores, judged.truth, judged.counts, shared, seed=judged.seed).thresholds
    return Headless(weights, offset, float(thresholds[0]))


def fit_headless_of_one(judged: Judged, combination: Combination, decisions: Decisions) -> Headless:
    """Return the weights of opinions without a head if each document has one label.

    Each label of training is taken as new in turn: its score competes with those of all the other labels, and the
    softmax over all has the largest likelihood. The threshold is the mean offset of the rarest labels.

    Args:
        judged: of the validation documents.
        combination: gives the scores of the labels of training.
        decisions: tuned on these scores; their temperature brings new labels to the same scale.
    """
    scores = judged.combined(combination).double() / decisions.temperature
    others = scores.logsumexp(1, keepdim=True) + torch.log1p(-scores.softmax(1).clamp(max=SUREST))
    weights, offset = fit_beside(others, judged.opinions, judged.truth, seed=judged.seed)
    rarest = decisions.thresholds[judged.counts == judged.counts.min()]
    scaled = {name: weight * decisions.temperature for name, weight in weights.items()}
    return Headless(scaled, offset * decisions.temperature, float(rarest.mean()))


@dataclass(frozen=True, eq=False)
class NewLabels:
    """M labels that training never saw.

    Attributes:
        names: M, none of which is a label of training.
        reader: reads their texts.
        headless: how opinions about them count.
        boost: added to their scores; 1 makes them 2.7 times as likely.
    """

    names: Sequence[str]
    reader: LabelReader
    headless: Headless
    boost: float

    def scores(self, texts: Texts, dense: Tensor | None) -> Tensor:
        """Return (N, M) scores of N texts, of which `dense` are the (N, D) vectors of the encoder, if any."""
        weights = self.headless.weights
        scores = torch.full((len(texts), len(self.names)), self.headless.offset + self.boost)
        for name, opinion in self.reader.of(texts, dense, weights.keys()).items():
            opinion.add_to(scores, weights[name])
        return scores


def new_texts(labels: Any, known: Mapping[str, int]) -> tuple[list[str], LabelTexts]:
    """Return the names and texts of labels that training never saw.

    Args:
        labels: path or frame as in `read_label_texts`, or a list of names.
        known: the labels of training.

    Raises:
        DataError: no label; one that training has; one whose text has no letter; one that is there twice; as in
            `read_label_texts`.
    """
    texts = _read(labels)
    if not texts:
        raise DataError("new labels: none is given. Give at least one")
    for label, pair in texts.items():
        if label in known:
            raise DataError(f"new labels: {label!r} is a label of training. Leave it out")
        if says_nothing(pair):
            raise DataError(f"new labels: the text of {label!r} has no letter. Give a name or a description in words")
    names, descriptions = zip(*texts.values(), strict=True)
    return list(texts), LabelTexts(names, descriptions)


def _read(labels: Any) -> dict[str, tuple[str, str]]:
    if isinstance(labels, str | Path) or is_frame(labels):
        given = read_label_texts(labels)
        return {label: (label if name is None else name, text) for label, (name, text) in given.items()}
    if not isinstance(labels, Sequence) or not all(isinstance(label, str) for label in labels):
        raise DataError(f"new labels: {labels!r:.60} is not a list of names. Give names, a path or a frame")
    again = [label for label, number in Counter(labels).items() if number > 1]
    if again:
        raise DataError(f"new labels: {again[0]!r} is there twice. Give each label once")
    return {label: (label, "") for label in labels}


def check_boost(boost: Any) -> float:
    """Return a boost as Python's float; raise ConfigError unless it is a finite number."""
    number = as_finite(boost)
    if number is None:
        raise ConfigError(f"`boost=`: {boost!r} is not allowed. Expected a finite number, such as 1")
    return number
