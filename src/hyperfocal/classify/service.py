"""Labels for texts that are answered together: the path of `MultiLabelClassifier.predict`, many requests at once.

Which words mattered: how far a label's log-odds fall when a word is taken out of the text (occlusion).
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl
import torch
from torch import Tensor

from hyperfocal.classify.classifier import MultiLabelClassifier
from hyperfocal.data.vocabulary import frequent_first
from hyperfocal.serve.messages import (
    MOST_WORDS,
    Classifications,
    ClassifyRequest,
    LabelScore,
    TextAnswer,
    WordEffect,
)
from hyperfocal.thresholds import Decisions

Logits = Callable[[list[str]], Tensor]  # N texts to (N, L)
EMPTY = "the text is empty: there is nothing to classify"


class ClassifyPredictor:
    """Answers with labels.

    Args:
        classifier: the run.
        version: of its model.
        logits: what scores in place of the classifier's own head, from N texts to (N, L); None is its own.
    """

    job = "classify"
    sample = ClassifyRequest(texts=["a text"])

    def __init__(self, classifier: MultiLabelClassifier, version: str, logits: Logits | None = None) -> None:
        self._classifier, self.version = classifier, version
        self._logits = logits or (lambda texts: classifier._scores(pl.Series("text", texts, dtype=pl.String)))
        self._labels = classifier.vocabulary_.names
        self.names: Sequence[str] = frequent_first(classifier.vocabulary_, classifier.counts_)
        tree = classifier.taxonomy_
        known = set(tree.ids) if tree else set()
        self._paths = [tree.path_name(label) if tree and label in known else None for label in self._labels]

    def card(self) -> dict[str, Any]:
        """Return what `/v1/model` says of the run."""
        found = self._classifier
        return {
            "version": self.version,
            "features": found.features_.settings.kind,
            "labels": len(found.vocabulary_),
            "taxonomy": found.taxonomy_ is not None,
            "decide": found.settings_.decide.rule,
            "data": found.metrics_["data"],
            "metrics": {name: part for name, part in found.metrics_.items() if name != "data"},
        }

    def answer(self, requests: Sequence[ClassifyRequest]) -> list[Classifications]:
        """Return the answer to each request; all their texts are scored together, and all texts without a word too."""
        texts = [text for request in requests for text in request.texts if text.strip()]
        with torch.inference_mode():
            rows = iter(self._logits(texts).split(1)) if texts else iter(())
            answers = [
                Classifications(self.version, [self._of(request, text, rows) for text in request.texts])
                for request in requests
            ]
            asked = [
                (text, found)
                for request, answer in zip(requests, answers, strict=True)
                if request.explain
                for text, found in zip(request.texts, answer.answers, strict=True)
                if found.scores
            ]
            explain(asked, self._logits, self._classifier.vocabulary_.numbers)
        return answers

    def _of(self, request: ClassifyRequest, text: str, rows: Any) -> TextAnswer:
        return self._text_answer(request, next(rows)) if text.strip() else TextAnswer([], [], note=EMPTY)

    def _text_answer(self, request: ClassifyRequest, scores: Tensor) -> TextAnswer:
        """Return the labels and best scores of one text's (1, L) logits."""
        decisions = self._decisions(request.threshold)
        decided = self._classifier._completed(decisions.decide(scores)).indices.tolist()
        chosen, depth = set(decided), max(request.top, int(request.explain))
        values, best = scores[0].topk(min(depth, scores.shape[1]))
        needed = None if decisions.top_k else decisions.thresholds[best].sigmoid().tolist()
        ranked = [
            LabelScore(
                self._labels[label], score, None if needed is None else needed[rank], label in chosen,
                self._paths[label],
            )
            for rank, (label, score) in enumerate(zip(best.tolist(), values.sigmoid().tolist(), strict=True))
        ]  # fmt: skip
        return TextAnswer([self._labels[label] for label in decided], ranked)

    def _decisions(self, threshold: str | float) -> Decisions:
        if threshold == "tuned":
            return self._classifier.decisions_
        return Decisions(torch.full((len(self._labels),), 0.0 if threshold == "half" else _logit(float(threshold))))


def load_classify(path: Path, version: str) -> ClassifyPredictor:
    """Return the predictor of a run of `classify`; errors as in `MultiLabelClassifier.load`."""
    return ClassifyPredictor(MultiLabelClassifier.load(path), version)


def _logit(share: float) -> float:
    """Return ln(p / (1 - p)), infinite at 0 and 1."""
    return math.log(share / (1 - share)) if 0 < share < 1 else math.copysign(math.inf, share - 0.5)


WORD = re.compile(r"\w+")
MOST_CHARACTERS = 100_000  # of all the texts without a word; a long text gets fewer words tried
FEWEST_WORDS = 5
SHOWN = 10  # words that are returned


def explain(
    asked: Sequence[tuple[str, TextAnswer]], logits: Callable[[list[str]], Tensor], numbers: Mapping[str, int]
) -> None:
    """Write into each answer the words that mattered most for its best label, the strongest first.

    effect(word) = logit(text) - logit(text without the word, wherever it stands)

    Args:
        asked: texts with their answers.
        logits: N texts to (N, L).
        numbers: label -> its column.
    """
    occluded: list[str] = []
    tried = []
    for text, answer in asked:
        places = words_of(text)
        tried.append((answer, places, len(occluded)))
        occluded += [text, *(_without(text, spans) for spans in places.values())]
    scores = logits(occluded) if occluded else None
    for answer, places, start in tried:
        assert scores is not None, "there is a text for each answer"
        answer.explained = answer.scores[0].label
        column = scores[start : start + 1 + len(places), numbers[answer.explained]]
        effects = (column[0] - column[1:]).tolist()
        ranked = sorted(zip(effects, places, strict=True), key=lambda pair: -abs(pair[0]))[:SHOWN]
        answer.words = [WordEffect(word, effect, places[word]) for effect, word in ranked if effect]


def words_of(text: str) -> dict[str, list[tuple[int, int]]]:
    """Return the distinct words to try, in lower case, each with where it stands.

    >>> words_of("Red wine, red")
    {'red': [(0, 3), (10, 13)], 'wine': [(4, 8)]}
    """
    places: dict[str, list[tuple[int, int]]] = {}
    for match in WORD.finditer(text):
        places.setdefault(match[0].lower(), []).append(match.span())
    most = min(MOST_WORDS, max(FEWEST_WORDS, MOST_CHARACTERS // len(text))) if text else 0
    return dict(list(places.items())[:most])


def _without(text: str, spans: list[tuple[int, int]]) -> str:
    starts, ends = [0, *(end for _, end in spans)], [*(start for start, _ in spans), len(text)]
    return "".join(text[start:end] for start, end in zip(starts, ends, strict=True))
