"""Words of no language, and sentences of them."""

from __future__ import annotations

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

ONSETS = ("b", "br", "f", "fl", "fr", "gl", "l", "m", "n", "pl", "pr", "r", "s", "st", "t", "tr", "v", "vr")
VOWELS = ("a", "e", "i", "o", "u")
ENDS = ("", "", "l", "m", "n", "r", "s")
SYLLABLES = [onset + vowel for onset in ONSETS for vowel in VOWELS]
SENTENCE = (5, 17)  # words, fewest and most; a text of fewer is one sentence


def make_words(count: int, syllables: int, rng: Generator) -> list[str]:
    """Return distinct words of so many syllables, in small letters; those of another number are others.

    Of one syllable there are 540, of two some 48,000.

    >>> len(set(make_words(100, 2, np.random.default_rng(0))))
    100
    """
    words: dict[str, None] = {}  # ordered
    while len(words) < count:
        parts = rng.integers(len(SYLLABLES), size=(count, syllables)).tolist()
        ends = rng.integers(len(ENDS), size=count).tolist()
        for row, end in zip(parts, ends, strict=True):
            words["".join(SYLLABLES[part] for part in row) + ENDS[end]] = None
    return list(words)[:count]


def draw_zipf(count: int, draws: int, rng: Generator) -> NDArray[np.int64]:
    """Return (draws,) numbers in [0, count), n with a probability in proportion to 1 / (n + 1)."""
    weights = 1 / np.arange(1, count + 1)
    return rng.choice(count, draws, p=weights / weights.sum())


def lay_out(vocabulary: list[str], words: NDArray[np.int64], lengths: NDArray[np.int64], rng: Generator) -> list[str]:
    """Return texts in sentences, each begun with a capital and ended with a full stop.

    Args:
        vocabulary: V words.
        words: (T,) numbers in [0, V), text after text.
        lengths: (N,) words of each text, 1 or more; they sum to T.
        rng: where sentences end.
    """
    stops = np.cumsum(lengths)
    place = np.arange(len(words)) - np.repeat(stops - lengths, lengths)  # in its text
    least, most = SENTENCE
    marks = np.cumsum(rng.integers(least, most + 1, len(words) // least + 1))
    begins = np.isin(np.arange(len(words)), marks) & (place >= least) & (np.repeat(lengths, lengths) - place >= least)
    begins |= place == 0
    ends = np.append(begins[1:], True)
    capital = [word.capitalize() for word in vocabulary]
    forms = [*vocabulary, *capital, *(word + "." for word in [*vocabulary, *capital])]
    chosen = [forms[number] for number in (words + len(vocabulary) * (begins + 2 * ends)).tolist()]
    return [
        " ".join(chosen[stop - length : stop]) for stop, length in zip(stops.tolist(), lengths.tolist(), strict=True)
    ]
