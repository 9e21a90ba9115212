"""A small corpus that a linear model learns: labels in a long tail, each with its own words."""

import numpy as np

FAST = {"features.kind": "ngrams", "train.epochs": 3, "train.threads": 1}
NAMES = ["sport", "travel", "music", "food", "art", "chess"]  # the first in half of the documents, the last in few


def corpus(number=160, *, seed=0, names=NAMES):
    """Return texts and lists of labels; some documents have none."""
    rng = np.random.default_rng(seed)
    chosen = rng.random((number, len(names))) < 0.5 / np.arange(1, len(names) + 1)
    labels = [[name for name, used in zip(names, row, strict=True) if used] for row in chosen]
    noise = rng.choice(["the", "a", "of", "and", "old", "new"], size=(number, 6))
    texts = [
        " ".join([*words, *(f"{name}{rng.integers(2)}" for name in row)])
        for words, row in zip(noise, labels, strict=True)
    ]
    return texts, labels


def matrix(labels, names=NAMES):
    """Return the indicator matrix of lists of labels."""
    return np.array([[name in row for name in names] for row in labels], dtype=np.int64)
