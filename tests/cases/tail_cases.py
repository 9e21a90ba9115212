"""Documents whose rare labels are too rare to learn, but whose names stand in the texts."""

import numpy as np

FREQUENT = ("sport", "music", "food")
RARE = tuple(f"{first}{last}" for first in ("zab", "tek", "mir", "lon", "pud") for last in ("ora", "ulm", "ixt", "ond"))
QUICK = {"features.kind": "ngrams", "features.min_documents": 2, "train.epochs": 3, "train.threads": 1}


def tail_corpus(number=400, *, seed=0):
    """Return texts and lists of labels: a frequent label with words of its own, and half of the time a rare one.

    The name of a rare label is in the text with an ending, in the first line or after it.
    """
    rng = np.random.default_rng(seed)
    texts, labels = [], []
    for _ in range(number):
        frequent = FREQUENT[rng.integers(3)]
        words = [f"{frequent[:2]}{rng.integers(4)}", *rng.choice(["old", "new", "the", "of"], size=4)]
        row, title = [frequent], "a title"
        if rng.random() < 0.5:
            rare = RARE[rng.integers(len(RARE))]
            row.append(rare)
            ending = rng.choice(["s", "ing", "ed", "es"])
            if rng.random() < 0.5:
                title = f"about {rare}{ending}"
            else:
                words.insert(2, f"{rare}{ending}")
        texts.append(f"{title}\n{' '.join(words)}")
        labels.append(row)
    return texts, labels
