"""Answer classification requests, many at once, and explain them by occlusion.

Occlusion: a word matters as much as the label's log-odds fall when the word is removed from the text.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import polars as pl
import torch
from torch import Tensor

from hyperfocal.classify.files import read_fit
from hyperfocal.classify.label_model import Fit
from hyperfocal.classify.requests import Given, example_of, read_request, reads_matrix, sample_of
from hyperfocal.data.input_columns import InputColumns, joined_columns
from hyperfocal.data.reading import public_facts
from hyperfocal.data.vocabulary import frequent_first
from hyperfocal.errors import ConfigError, DataError, HyperfocalError
from hyperfocal.serve.messages import (
    MOST_WORDS,
    Classifications,
    ClassifyRequest,
    LabelScore,
    NewLabel,
    Refusal,
    TextAnswer,
    WordEffect,
)
from hyperfocal.storage.run_folder import RunFolder
from hyperfocal.thresholds import Decisions

EMPTY = "the text is empty; its labels are unreliable"
UNKNOWN = "the model knows no n-gram or word of this text; its labels are unreliable"
ZEROS = "the row has no value other than 0; its labels are unreliable"
WORD = re.compile(r"\w+")
MOST_CHARACTERS = 100_000  # of all copies of a text with a word removed; of a long text fewer words are tried
FEWEST_WORDS = 5
SHOWN = 10  # words in an answer
CATALOGUES = 4  # lists of new labels that are kept

Logits = Callable[[list[str], list[int]], Tensor]  # N texts, and the number of the document of each, to (N, L)
Response = Classifications | Refusal | DataError
TextScorer = Callable[[list[str]], tuple[Tensor, Tensor]]  # N texts to (N, L) logits and (N,) bool, as `known_texts`


class ClassifyPredictor:
    """Answers with the labels of a run's model; the `scorer` of another engine, if given, scores texts in its place."""

    job = "classify"

    def __init__(self, fit: Fit, version: str, scorer: TextScorer | None = None) -> None:
        self._fit, self._model, self.version = fit, fit.model, version
        self.sample = sample_of(fit.model)
        self._scorer = scorer
        self._scores_new_labels = scorer is None
        self._widened: dict[bytes, ClassifyPredictor] = {}  # by new labels
        labels = fit.model.labels
        self._labels = labels.vocabulary.names
        self.names: Sequence[str] = frequent_first(labels.vocabulary, labels.counts)
        tree = labels.taxonomy
        in_tree = set(tree.ids) if tree else set()
        self._paths = [tree.path_name(label) if tree and label in in_tree else None for label in self._labels]

    def card(self) -> dict[str, Any]:
        """Return the answer of `/v1/model`."""
        model, metrics = self._model, self._fit.metrics
        return {
            "version": self.version,
            "features": model.features.kind,
            "labels": len(self._labels),
            "matrix": reads_matrix(model),
            "example": example_of(model),
            "taxonomy": model.labels.taxonomy is not None,
            "new_labels": self._scores_new_labels and model.reader is not None,
            "decide": model.settings.decide.rule,
            "single": bool(model.decisions.one),
            "reading": public_facts(model.plan),
            "data": metrics["data"],
            "metrics": {name: value for name, value in metrics.items() if name != "data"},
        }

    def answer(self, requests: Sequence[ClassifyRequest]) -> list[Response]:
        """Return the answer to each request, or an error; requests with the same new labels are scored together."""
        batches: dict[bytes, list[int]] = {}
        for place, request in enumerate(requests):
            key = msgspec.json.encode(request.new_labels) if request.new_labels else b""
            batches.setdefault(key, []).append(place)
        answers: dict[int, Response] = {}
        for key, places in batches.items():
            batch = [requests[place] for place in places]
            answers |= zip(places, self._answer_batch(key, batch), strict=True)
        return [answers[place] for place in range(len(requests))]

    def _answer_batch(self, key: bytes, requests: list[ClassifyRequest]) -> Sequence[Response]:
        """Return the answers to requests with the same new labels."""
        if not key:
            return self._answer_alike(requests)
        try:
            predictor = self._with_new(key, requests[0].new_labels)
        except HyperfocalError as error:
            return [Refusal(422, "new_labels", str(error), "$.new_labels")] * len(requests)
        return predictor._answer_alike(requests)

    def _with_new(self, key: bytes, labels: Sequence[NewLabel]) -> ClassifyPredictor:
        """Return the predictor that also scores new labels; the last few are kept."""
        if not self._scores_new_labels:
            raise ConfigError("this engine does not score new labels. Serve the run with --engine torch")
        if key not in self._widened:
            while len(self._widened) >= CATALOGUES:
                del self._widened[next(iter(self._widened))]
            columns = {name: [getattr(each, name) for each in labels] for name in ("label", "name", "description")}
            columns["name"] = [each.name or each.label for each in labels]
            model = self._model.with_new(pl.DataFrame(columns))
            self._widened[key] = ClassifyPredictor(replace(self._fit, model=model), self.version)
        self._widened[key] = self._widened.pop(key)  # the order is that of the last use
        return self._widened[key]

    def _answer_alike(self, requests: Sequence[ClassifyRequest]) -> list[Response]:
        """Return the answer to each request; all texts are scored together, and so are all texts without a word.

        The answer to a request whose documents cannot be read is an error. A request for another threshold than the
        tuned ones is refused if each text has one label.
        """
        read = [self._refusal(request) or read_request(request, self._model) for request in requests]
        pairs = [(one, given) for one, given in zip(requests, read, strict=True) if isinstance(given, Given)]
        with torch.inference_mode():
            answers = iter(self._answer_all(pairs))
        return [next(answers) if isinstance(given, Given) else given for given in read]

    def _name_words(self, text: str, label: str) -> list[str] | None:
        """Return the words of a text that a label's name has; None if the model does not look for that name."""
        model, number = self._model, self._model.labels.vocabulary.numbers[label]
        first_new = len(self._labels) - (len(model.new.names) if model.new else 0)
        if model.new is not None and number >= first_new:
            return model.new.reader.matcher.matching_words(text, number - first_new)
        limit = model.combination.limit
        counts = limit is None or int(model.labels.counts[number]) < limit
        if model.reader is None or not counts or not model.combination.weights:
            return None
        return model.reader.matcher.matching_words(text, number)

    def _refusal(self, request: ClassifyRequest) -> Refusal | None:
        if not self._model.decisions.one or request.threshold == "tuned":
            return None
        message = "this run decides one label per text, for which there is no threshold. Leave threshold out"
        return Refusal(422, "not_possible", message, "$.threshold")

    def _answer_all(self, pairs: Sequence[tuple[ClassifyRequest, Given]]) -> list[Classifications]:
        texts = [text for _, given in pairs for text in given.texts]
        columns = joined_columns([given.columns for _, given in pairs])
        rows = self._rows(texts, columns)
        responses, to_explain, places = list[Classifications](), list[tuple[str, TextAnswer]](), list[int]()
        for request, given in pairs:
            start = sum(len(one.answers) for one in responses)
            answers = [self._text_answer(request, text, rows) for text in given.texts]
            responses.append(Classifications(self.version, answers))
            if request.explain:
                with_scores = [place for place, answer in enumerate(answers) if answer.scores]
                to_explain += [(given.texts[place], answers[place]) for place in with_scores]
                places += [start + place for place in with_scores]

        def log_odds(texts: list[str], owners: list[int]) -> Tensor:
            scores = self._score(texts, columns.select(np.array(places, np.int64)[owners]))[0]
            return self._model.decisions.log_odds(scores)

        explain(to_explain, log_odds, self._model.labels.vocabulary.numbers)
        for text, answer in to_explain:
            answer.name_words = self._name_words(text, answer.scores[0].label)
        return responses

    def _score(self, texts: list[str], columns: InputColumns) -> tuple[Tensor, Tensor]:
        """Return (N, L) logits, and (N,) bool: whether any part of each document is known."""
        if self._scorer is not None:
            return self._scorer(texts)
        return self._model.answer(pl.Series("text", texts, dtype=pl.String), columns)[:2]

    def _rows(self, texts: list[str], columns: InputColumns) -> Iterator[tuple[Tensor, bool]]:
        """Yield (1, L) logits of each text, and whether any part of it is known."""
        if texts:
            scores, known = self._score(texts, columns)
            yield from zip(scores.split(1), known.tolist(), strict=True)

    def _text_answer(self, request: ClassifyRequest, text: str, rows: Iterator[tuple[Tensor, bool]]) -> TextAnswer:
        """Return the labels and best scores of one text, the next one that `rows` yields."""
        (scores, known), decisions = next(rows), self._decisions(request.threshold)
        decided = self._model.decide(scores, decisions).indices.tolist()
        chosen, depth = set(decided), max(request.top, int(request.explain))
        _, best = scores[0].topk(min(depth, scores.shape[1]))
        values = decisions.probabilities(scores)[0, best].tolist()
        without = bool(decisions.top_k or decisions.one)
        columns = (
            best.tolist(),
            values,
            [None] * len(best) if without else decisions.thresholds[best].sigmoid().tolist(),
        )
        ranked = [
            LabelScore(self._labels[label], score, threshold, label in chosen, self._paths[label])
            for label, score, threshold in zip(*columns, strict=True)
        ]
        note = None if known else ZEROS if request.rows else UNKNOWN if text.strip() else EMPTY
        return TextAnswer([self._labels[label] for label in decided], ranked, known, note)

    def _decisions(self, threshold: str | float) -> Decisions:
        if threshold == "tuned":
            return self._model.decisions
        return Decisions(torch.full((len(self._labels),), 0.0 if threshold == "half" else _logit(float(threshold))))


def load_classify(path: Path, version: str) -> ClassifyPredictor:
    """Return the predictor of a run of `classify`; errors as in `read_fit`."""
    return ClassifyPredictor(read_fit(RunFolder.open(path)), version)


def _logit(probability: float) -> float:
    """Return ln(p / (1 - p)), infinite at 0 and 1."""
    if 0 < probability < 1:
        return math.log(probability / (1 - probability))
    return math.copysign(math.inf, probability - 0.5)


def explain(answered: Sequence[tuple[str, TextAnswer]], logits: Logits, numbers: Mapping[str, int]) -> None:
    """Add to each answer, which has scores, the words with the largest effect on its best label, the largest first.

    effect(word) = logit(text) - logit(text without the word, wherever it occurs); `numbers` are the labels' columns.
    """
    occluded, owners, tried = list[str](), list[int](), []
    for number, (text, answer) in enumerate(answered):
        places = words_of(text)
        tried.append((answer, places, len(occluded)))
        occluded += [text, *(_without(text, spans) for spans in places.values())]
        owners += [number] * (1 + len(places))
    if not occluded:
        return
    scores = logits(occluded, owners)
    for answer, places, start in tried:
        answer.explained = answer.scores[0].label
        column = scores[start : start + 1 + len(places), numbers[answer.explained]]
        effects = (column[0] - column[1:]).tolist()
        ranked = sorted(zip(effects, places, strict=True), key=lambda pair: -abs(pair[0]))[:SHOWN]
        answer.words = [WordEffect(word, effect, places[word]) for effect, word in ranked if effect]


def words_of(text: str) -> dict[str, list[tuple[int, int]]]:
    """Return the distinct words to try, in lower case, each with the places where it occurs.

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
