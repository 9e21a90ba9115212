"""Find the words of label names in texts."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.sparse import csr_matrix, vstack

WORD = re.compile(r"[^\W_]+")
HUMP = re.compile(r"(?<=[a-z])(?=[A-Z])")  # between the words of camelCase
SUFFIXES = ("ings", "ing", "ies", "ied", "ss", "es", "ed", "s", "e", "y")
COMMON, MANY = 0.2, 100  # share of names from which on a stem is left out, if there are so many names
SHORTEST = 3  # letters of a stem
MOST_SEEN = 1_000_000  # distinct words of texts whose stems are remembered


def stem(word: str) -> str:
    """Return a word in lower case without a common English ending, if SHORTEST letters are left.

    >>> stem("Cookies"), stem("baking"), stem("baked"), stem("gas"), stem("business"), stem("businesses")
    ('cook', 'bak', 'bak', 'gas', 'business', 'business')
    """
    word = word.lower()
    ending = next((end for end in SUFFIXES if word.endswith(end) and len(word) - len(end) >= SHORTEST), "")
    return word if ending == "ss" else word.removesuffix(ending)


def name_stems(name: str) -> list[str]:
    """Return the distinct stems of a label name, in order. A word with humps is one word, as in texts.

    >>> name_stems("uitoolkit::appData, food_safety, JavaScript")
    ['uitoolkit', 'appdata', 'food', 'safet', 'javascript']
    """
    return list(dict.fromkeys(stem(word) for word in WORD.findall(name.lower())))


@dataclass(frozen=True, eq=False)
class NameMatcher:
    """Finds the names of L labels in texts.

        share(text, label) = sum of idf(s) over stems s of the name that occur in the text / sum over all stems s
        idf(s) = ln((L + 1) / labels with s in their name)

    A stem in more than a fifth of 100 names or more is left out: it says little, and would fill the shares.

    Attributes:
        columns: stem -> its row in `shares`.
        shares: (V, L) float32 CSR, idf(s) / the sum over the name, of each stem of each name.
    """

    columns: dict[str, int]
    shares: csr_matrix[np.float32]

    @classmethod
    def of(cls, names: Sequence[str], others: Sequence[str] = ()) -> NameMatcher:
        """Return the matcher of the names of L labels; a name without a letter or digit matches nothing.

        Args:
            names: L.
            others: names of other labels, which count in idf.
        """
        stems = [name_stems(name) for name in names]
        labels = Counter(each for row in [*stems, *map(name_stems, others)] for each in row)
        columns = {each: column for column, each in enumerate(dict.fromkeys(each for row in stems for each in row))}
        total = len(names) + len(others)
        most = total * COMMON if total >= MANY else total
        idf = {each: math.log((total + 1) / labels[each]) for each in columns}
        stems = [[each for each in row if labels[each] <= most] for row in stems]
        sums = [sum(idf[each] for each in row) or 1.0 for row in stems]
        entries = [(idf[s] / sums[label], columns[s], label) for label, row in enumerate(stems) for s in row]
        values, rows, places = zip(*entries, strict=True) if entries else ((), (), ())
        shape = (len(columns), len(names))
        return cls(columns, csr_matrix((np.asarray(values, dtype=np.float32), (rows, places)), shape=shape))

    def postings(self) -> dict[str, list[tuple[int, float]]]:
        """Return stem -> (label, share) of each label with that stem in its name."""
        rows = self.shares.tocsr()
        ends = zip(rows.indptr[:-1].tolist(), rows.indptr[1:].tolist(), strict=True)
        pairs = list(zip(rows.indices.tolist(), rows.data.tolist(), strict=True))
        return {each: pairs[start:end] for each, (start, end) in zip(self.columns, ends, strict=True)}

    def match(self, blocks: Iterable[Sequence[str]]) -> csr_matrix[np.float32]:
        """Return (N, L) shares of N texts, given in blocks; pairs without a common stem are not stored."""
        seen: dict[str, int] = {}
        parts: list[Any] = [self._occurrences(block, seen) @ self.shares for block in blocks]
        return csr_matrix(vstack(parts)) if parts else csr_matrix(np.zeros((0, self.shares.shape[1]), np.float32))

    def _occurrences(self, texts: Sequence[str], seen: dict[str, int]) -> csr_matrix[np.float32]:
        """Return (N, V) with a 1 for each stem in a text; `seen` holds the columns of words seen before, -1: none."""
        indptr, indices = [0], list[int]()
        for text in texts:
            if len(seen) > MOST_SEEN:
                seen.clear()
            inside = set()
            for word in WORD.findall(text.lower()):
                column = seen.get(word)
                if column is None:
                    column = seen[word] = self.columns.get(stem(word), -1)
                inside.add(column)
            inside.discard(-1)
            indices += sorted(inside)
            indptr.append(len(indices))
        return csr_matrix((np.ones(len(indices), np.float32), indices, indptr), shape=(len(texts), len(self.columns)))

    def matching_words(self, text: str, label: int) -> list[str]:
        """Return the distinct words of a text that a label's name has, in lower case and in order."""
        own = set(self.shares[:, [label]].nonzero()[0].tolist())
        words = dict.fromkeys(WORD.findall(text.lower()))
        return [word for word in words if self.columns.get(stem(word), -1) in own]
