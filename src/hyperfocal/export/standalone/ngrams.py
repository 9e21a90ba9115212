"""N-grams of words and characters, in numpy alone. `hyperfocal export` writes this file as ngrams.py.

words   of two letters or digits and more, in small letters, and runs of them joined by a space
chars   runs of 3 and more characters inside a word, which has a space before and after it

The value of an n-gram t in a text is (1 + ln tf) * idf(t). The values of words have length 1, and so have those of
chars; where there are both, the whole has.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

WORD = re.compile(r"(?u)\b\w\w+\b")
SHORTEST_CHARS = 3


class Ngrams:
    """Fitted n-grams, from what vocabulary.json holds under "ngrams"."""

    def __init__(self, value: dict[str, Any]) -> None:
        self.longest, self.hashed = value["longest"], value["hashed"]
        self.idf = {name: np.asarray(part, dtype=np.float32) for name, part in value["idf"].items()}
        self.columns = {name: {term: at for at, term in enumerate(part)} for name, part in value["terms"].items()}

    def rows(self, texts: Sequence[str]) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Return (B, K) columns and values; a row with fewer than K n-grams ends in column 0 with value 0."""
        found = [self._row(text) for text in texts]
        width = max([1, *(len(columns) for columns, _ in found)])
        columns, values = np.zeros((len(texts), width), np.int64), np.zeros((len(texts), width), np.float32)
        for row, (own, numbers) in enumerate(found):
            columns[row, : len(own)], values[row, : len(own)] = own, numbers
        return columns, values

    def _row(self, text: str) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        parts, start = [], 0
        for name, idf in self.idf.items():
            own, values = self._part(name, text)
            parts.append((own + start, values * np.float32(len(self.idf) ** -0.5)))
            start += len(idf)
        columns, values = (np.concatenate(each) for each in zip(*parts, strict=True))
        return columns, values

    def _part(self, name: str, text: str) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        cut = words if name == "words" else chars
        terms, size = cut(text.lower(), self.longest[name]), len(self.idf[name])
        if self.hashed:
            counts = Counter(abs(murmur3(term.encode())) % size for term in terms)
        else:
            known = self.columns[name]
            counts = Counter(known[term] for term in terms if term in known)
        columns = np.fromiter(counts.keys(), np.int64, len(counts))
        values = (1 + np.log(np.fromiter(counts.values(), np.float32, len(counts)))) * self.idf[name][columns]
        return columns, values / max(np.float32(np.sqrt((values**2).sum())), np.float32(1e-30))


def words(text: str, longest: int) -> Iterator[str]:
    """Yield every run of 1 to `longest` words, joined by a space."""
    found = WORD.findall(text)
    for size in range(1, longest + 1):
        yield from (" ".join(found[start : start + size]) for start in range(len(found) - size + 1))


def chars(text: str, longest: int) -> Iterator[str]:
    """Yield every run of 3 to `longest` characters of each word; a word that is shorter is one, but once."""
    for word in text.split():
        padded = f" {word} "
        for size in range(SHORTEST_CHARS, longest + 1):
            yield padded[:size]
            if size >= len(padded):
                break
            yield from (padded[start : start + size] for start in range(1, len(padded) - size + 1))


def murmur3(content: bytes) -> int:
    """Return the signed 32-bit MurmurHash3 with seed 0 (Austin Appleby, public domain)."""
    found, whole = 0, len(content) - len(content) % 4
    for start in range(0, whole, 4):
        found ^= _mixed(int.from_bytes(content[start : start + 4], "little"))
        found = (_turned(found, 13) * 5 + 0xE6546B64) & 0xFFFFFFFF
    found ^= _mixed(int.from_bytes(content[whole:], "little")) ^ len(content)
    found = ((found ^ found >> 16) * 0x85EBCA6B) & 0xFFFFFFFF
    found = ((found ^ found >> 13) * 0xC2B2AE35) & 0xFFFFFFFF
    found ^= found >> 16
    return found - (1 << 32) if found >> 31 else found


def _mixed(word: int) -> int:
    return _turned(word * 0xCC9E2D51 & 0xFFFFFFFF, 15) * 0x1B873593 & 0xFFFFFFFF


def _turned(word: int, by: int) -> int:
    return (word << by | word >> 32 - by) & 0xFFFFFFFF
