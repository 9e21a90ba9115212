"""Which words mattered: how far a label's log-odds fall when a word is taken out of the text (occlusion)."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence

from torch import Tensor

from hyperfocal.serve.messages import TextAnswer, WordEffect

WORD = re.compile(r"\w+")
MOST_WORDS = 60  # distinct words of a text that are taken out, the first ones
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
