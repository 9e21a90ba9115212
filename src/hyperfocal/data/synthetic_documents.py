"""Synthetic documents over a tree of 698 labels, a few frequent and most rare, about as difficult as real ones.

A document has 1 to 5 labels: one drawn by frequency, then siblings and companions of it, or any others.

    frequency(l) ~ (rank of l + OFFSET)^-DECAY + FLOOR

Each word of a text is background, or belongs to one of its labels, the label's parent or a sibling. A label has few
words, and shares most of them with other labels. MISSED of the labels after the first are in the text but not in the
document's labels. Each label has a training document. Words and label names are made of random syllables.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
from numpy.random import Generator
from numpy.typing import NDArray

from hyperfocal.data.files import write_frame
from hyperfocal.errors import ConfigError

TIERS = (29, 342, 267, 60)  # labels per tier, as in the IAB's Content Taxonomy 2.2
NUM_LABELS = sum(TIERS)
FEWEST_DOCUMENTS = 1_000  # documents; with fewer, some label would have none in training
HELD_OUT = 0.15  # share of the documents in valid, and in test
OFFSET, DECAY, FLOOR = 12.0, 1.8, 1.1e-4  # of the frequencies
MOST_LABELS = 5  # labels per document
LABELS_SHARE = (0.1, 0.25, 0.3, 0.2, 0.15)  # of the documents with 1, 2, ... labels, before repeated ones are removed
SIBLING, COMPANION = 0.45, 0.35  # shares of the labels after the first; the others are drawn by frequency
COMPANIONS = 2  # labels anywhere in the tree that often occur with a label
MISSED = 0.08  # share of the labels after the first that are removed
SHORTEST, LONGEST = 20, 80  # words per text
TOPICAL = (1.5, 4.0)  # beta distribution of the share of a document's words that belong to its labels
OWN, PARENT = 0.6, 0.2  # shares of a label's words that belong to itself and its parent; the others to a sibling
OWN_WORDS = 8  # words per label, of which only the first is unique to it
SHARED_WORDS = 1_800  # vocabulary of the labels' other words
BACKGROUND = 6_000  # vocabulary of the other words, Zipf distributed
FREQUENT = 80  # most frequent of these, which have one syllable
TWO_WORDS = 0.4  # share of the label names
ONSETS = ("b", "br", "f", "fl", "fr", "gl", "l", "m", "n", "pl", "pr", "r", "s", "st", "t", "tr", "v", "vr")
VOWELS = ("a", "e", "i", "o", "u")
ENDS = ("", "", "l", "m", "n", "r", "s")
SYLLABLES = [onset + vowel for onset in ONSETS for vowel in VOWELS]
SENTENCE = (5, 17)  # words, fewest and most; a shorter text is one sentence

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Corpus:
    """Documents for training, validation and test, and the tree of their labels."""

    train: pl.DataFrame  # id, text, labels (1 to 5 ids of the taxonomy, the main one first)
    valid: pl.DataFrame  # columns as in `train`
    test: pl.DataFrame  # columns as in `train`
    taxonomy: pl.DataFrame  # one row per label, parents before children: id, parent (null for a root), name (distinct)


@dataclass(frozen=True, eq=False)
class _Tree:
    """K labels, depth first; K is the parent of the roots."""

    parents: Ints  # (K,) in [0, K]
    frequencies: Floats  # (K,) sum to 1

    def draw(self, shape: tuple[int, ...], rng: Generator) -> Ints:
        """Draw labels by frequency."""
        return rng.choice(NUM_LABELS, shape, p=self.frequencies)

    def siblings(self, labels: Ints, rng: Generator, weights: Floats) -> Ints:
        """Draw for each label one with the same parent, perhaps itself, by (K,) weights above 0."""
        order = np.argsort(self.parents, kind="stable")
        sums = np.append(0, np.cumsum(weights[order]))
        first, last = (np.searchsorted(self.parents[order], self.parents[labels], side) for side in ("left", "right"))
        drawn = sums[first] + rng.random(len(labels)) * (sums[last] - sums[first])
        siblings: Ints = order[np.clip(np.searchsorted(sums, drawn, "right") - 1, first, last - 1)]
        return siblings


def make_corpus(documents: int = 6_000, *, seed: int = 0) -> Corpus:
    """Make documents and the tree of their labels; the same arguments give the same frames.

    Args:
        documents: number of documents, at least 1,000; 70% are in train, 15% each in valid and test.
        seed: at least 0.

    Raises:
        ConfigError: an argument outside its range.
    """
    for name, value, least in (("documents", documents, FEWEST_DOCUMENTS), ("seed", seed, 0)):
        if value < least:
            raise ConfigError(f"{name} is {value!r}. Allowed: at least {least:,}. Choose a larger number")
    rng = np.random.default_rng(seed)
    tree = _make_tree(rng)
    unique = make_words(NUM_LABELS, 3, rng)
    labels = _draw_labels(tree, documents, rng)
    texts = _write_texts(tree, labels, unique, rng)
    labels[:, 1:][rng.random((documents, MOST_LABELS - 1)) < MISSED] = -1
    frame = _documents(texts, labels, rng)
    train, valid, test = (frame[rows].sort("id") for rows in _split(documents, rng))
    return Corpus(train, valid, test, _taxonomy(tree, unique, rng))


def write_corpus(corpus: Corpus, folder: Path) -> None:
    """Write train.jsonl, valid.jsonl, test.jsonl and taxonomy.tsv to a folder, made if absent; each appears whole.

    Raises:
        OSError: the folder cannot be made or written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("train.jsonl", "valid.jsonl", "test.jsonl", "taxonomy.tsv"):
        aside = folder / f".{os.getpid()}.{name}"
        try:
            write_frame(getattr(corpus, Path(name).stem), aside)
            aside.replace(folder / name)
        finally:
            aside.unlink(missing_ok=True)


def _make_tree(rng: Generator) -> _Tree:
    paths: list[tuple[int, ...]] = [()]
    above = paths
    for size in TIERS:
        weights = rng.exponential(size=len(above)) ** 2  # many have no children, some have many
        chosen = rng.choice(len(above), size, p=weights / weights.sum())
        above = [(*above[parent], number) for number, parent in enumerate(chosen)]
        paths += above
    paths = sorted(paths[1:])
    numbers = {path: number for number, path in enumerate(paths)} | {(): NUM_LABELS}
    parents = np.array([numbers[path[:-1]] for path in paths])
    rank = np.argsort(np.argsort(rng.random(NUM_LABELS) + (parents == NUM_LABELS) / 3))  # most roots are rare
    frequencies = (rank + OFFSET) ** -DECAY + FLOOR
    return _Tree(parents, frequencies / frequencies.sum())


def _draw_labels(tree: _Tree, documents: int, rng: Generator) -> Ints:
    """Draw (N, 5) labels, distinct in a row and then -1; each label is the first one in one of the first K rows."""
    companions = tree.draw((NUM_LABELS, COMPANIONS), rng)
    labels = np.full((documents, MOST_LABELS), -1)
    labels[:, 0] = np.append(np.arange(NUM_LABELS), tree.draw((documents - NUM_LABELS,), rng))
    wanted = 1 + rng.choice(MOST_LABELS, documents, p=LABELS_SHARE)
    for place in range(1, MOST_LABELS):
        sibling = tree.siblings(labels[:, 0], rng, tree.frequencies)
        companion = companions[labels[:, 0], rng.integers(COMPANIONS, size=documents)]
        others = [sibling, companion, tree.draw((documents,), rng)]
        drawn = np.choose(np.digitize(rng.random(documents), (SIBLING, SIBLING + COMPANION)), others)
        taken = (labels == drawn[:, None]).any(axis=1)
        labels[:, place] = np.where((place < wanted) & ~taken, drawn, -1)
    return np.take_along_axis(labels, np.argsort(labels < 0, axis=1, kind="stable"), axis=1)


def _write_texts(tree: _Tree, labels: Ints, unique: list[str], rng: Generator) -> list[str]:
    frequent, others = make_words(FREQUENT, 1, rng), make_words(BACKGROUND - FREQUENT + SHARED_WORDS, 2, rng)
    own = rng.integers(BACKGROUND, BACKGROUND + SHARED_WORDS, (NUM_LABELS, OWN_WORDS))
    own[:, 0] = BACKGROUND + SHARED_WORDS + np.arange(NUM_LABELS)
    lengths = np.rint(SHORTEST + (LONGEST - SHORTEST) * rng.beta(2, 3, len(labels))).astype(np.int64)
    document = np.repeat(np.arange(len(labels)), lengths)
    words = draw_zipf(BACKGROUND, len(document), rng)
    topical = np.flatnonzero(rng.random(len(document)) < rng.beta(*TOPICAL, len(labels))[document])
    sources = _sources(tree, labels[document[topical]], rng)
    words[topical] = own[sources, draw_zipf(OWN_WORDS, len(topical), rng)]
    return write_sentences([*frequent, *others, *unique], words, lengths, rng)


def _sources(tree: _Tree, labels: Ints, rng: Generator) -> Ints:
    """Draw (T,) labels whose words are used, for T words of documents with the given (T, 5) labels."""
    place = np.floor(rng.random(len(labels)) * (labels >= 0).sum(axis=1)).astype(np.int64)
    label = labels[np.arange(len(labels)), place]
    parent = np.where(tree.parents[label] == NUM_LABELS, label, tree.parents[label])
    sibling = tree.siblings(label, rng, np.ones(NUM_LABELS))
    return np.choose(np.digitize(rng.random(len(label)), (OWN, OWN + PARENT)), [label, parent, sibling])


def _split(documents: int, rng: Generator) -> list[Ints]:
    """Return the row numbers of train, valid and test; the first K rows, one per label, are in train."""
    held_out = round(documents * HELD_OUT)
    rest = NUM_LABELS + rng.permutation(documents - NUM_LABELS)
    return [np.append(np.arange(NUM_LABELS), rest[2 * held_out :]), rest[:held_out], rest[held_out : 2 * held_out]]


def _documents(texts: list[str], labels: Ints, rng: Generator) -> pl.DataFrame:
    ids = pl.Series("id", 1 + rng.permutation(len(texts))).cast(pl.String).str.zfill(len(str(len(texts))))
    rows = [[str(label + 1) for label in row if label >= 0] for row in labels.tolist()]
    return pl.DataFrame({"id": "D" + ids, "text": texts, "labels": rows})


def _taxonomy(tree: _Tree, unique: list[str], rng: Generator) -> pl.DataFrame:
    second = make_words(NUM_LABELS, 2, rng)
    both = (rng.random(NUM_LABELS) < TWO_WORDS).tolist()
    names = [(one + f" {two}" * more).title() for one, two, more in zip(unique, second, both, strict=True)]
    parents = [None if parent == NUM_LABELS else str(parent + 1) for parent in tree.parents.tolist()]
    return pl.DataFrame({"id": [str(number + 1) for number in range(NUM_LABELS)], "parent": parents, "name": names})


def make_words(count: int, syllables: int, rng: Generator) -> list[str]:
    """Make distinct lower-case words with the given number of syllables.

    Words with different numbers of syllables differ. There are 540 with one syllable, and about 48,000 with two.

    >>> len(set(make_words(100, 2, np.random.default_rng(0))))
    100
    """
    words: dict[str, None] = {}  # ordered
    while len(words) < count:
        rows = rng.integers(len(SYLLABLES), size=(count, syllables)).tolist()
        ends = rng.integers(len(ENDS), size=count).tolist()
        for row, end in zip(rows, ends, strict=True):
            words["".join(SYLLABLES[syllable] for syllable in row) + ENDS[end]] = None
    return list(words)[:count]


def draw_zipf(count: int, draws: int, rng: Generator) -> Ints:
    """Draw (draws,) numbers in [0, count), n with probability proportional to 1 / (n + 1)."""
    weights = 1 / np.arange(1, count + 1)
    return rng.choice(count, draws, p=weights / weights.sum())


def write_sentences(vocabulary: list[str], words: Ints, lengths: Ints, rng: Generator) -> list[str]:
    """Return N texts of sentences, each with a capital at its beginning and a period at its end.

    The (T,) words are numbers in the vocabulary, text after text, and the (N,) lengths sum to T.
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
