"""Classify texts with onnxruntime and numpy alone. `hyperfocal export` writes this file.

A run that uses a sentence encoder also needs the package `tokenizers`, or the texts' vectors: `scores(texts, dense)`.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

BATCH = 32  # texts per call of the networks
MOST_NUMBERS = 2**24  # n-grams times labels per call, which the graph holds in memory
WORD = re.compile(r"(?u)\b\w\w+\b")
WORD_CHARACTER = re.compile(r"\w")
SHORTEST_CHARS = 3
NAME_WORD = re.compile(r"[^\W_]+")
SUFFIXES = ("ings", "ing", "ies", "ied", "ss", "es", "ed", "s", "e", "y")
SHORTEST_STEM = 3


class Classifier:
    """The model of a folder that `hyperfocal export` wrote."""

    def __init__(self, folder: Path, options: Any = None) -> None:
        names = ("settings", "vocabulary", "thresholds")
        self.settings, vocabulary, self.decisions = (
            json.loads((folder / f"{name}.json").read_text(encoding="utf-8")) for name in names
        )
        self.labels: list[str] = vocabulary["labels"]
        self.ngrams = Ngrams(vocabulary["ngrams"]) if vocabulary["ngrams"] else None
        self.thresholds = np.array([self.decisions["thresholds"][label] for label in self.labels], np.float32)
        self.opinions = Opinions(folder) if self.settings["opinions"] else None
        self.head = onnxruntime.InferenceSession(folder / "model.onnx", options)
        self.encoder = None
        if self.settings["encoder"] == "exported":
            from tokenizers import Tokenizer

            self.tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
            self.encoder = onnxruntime.InferenceSession(folder / "encoder.onnx", options)

    def scores(self, texts: Sequence[str], dense: NDArray[np.float32] | None = None) -> NDArray[np.float32]:
        """Return (B, L) logits; `dense` are (B, D) vectors of the texts, needed if the encoder was not exported."""
        return self.answer(texts, dense)[0]

    def answer(
        self, texts: Sequence[str], dense: NDArray[np.float32] | None = None
    ) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """Return (B, L) logits, and (B,) whether any part of each text is known; arguments as in `scores`.

        A text is known if one of its n-grams is a feature or, with a sentence encoder, if it has a word.
        """
        if self.settings["encoder"] == "apart" and dense is None:
            raise ValueError(
                f"this run needs vectors of a sentence encoder ({self.settings['encoder_name']}), which was not "
                "exported. Give them as `dense`, (B, D) float32, each scaled to a mean square of 1"
            )
        blocks = [self._block(texts[at : at + BATCH], dense, at) for at in range(0, len(texts), BATCH)]
        if not blocks:
            return np.zeros((0, len(self.labels)), np.float32), np.zeros(0, np.bool_)
        return _joined(blocks)

    def _block(
        self, texts: Sequence[str], dense: NDArray[np.float32] | None, start: int
    ) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        inputs: dict[str, Any] = {}
        has_word = self.settings["encoder"] != "none"
        known = np.array([has_word and WORD_CHARACTER.search(text) is not None for text in texts], np.bool_)
        if self.ngrams:
            inputs["columns"], inputs["values"] = self.ngrams.rows(texts)
            if len(texts) > 1 and inputs["columns"].size * len(self.labels) > MOST_NUMBERS:
                half = len(texts) // 2
                return _joined(
                    [self._block(texts[:half], dense, start), self._block(texts[half:], dense, start + half)]
                )
            known |= (inputs["values"] != 0).any(1)
        if self.encoder:
            encodings = self.tokenizer.encode_batch(list(texts))
            tokens = {"ids": [each.ids for each in encodings], "mask": [each.attention_mask for each in encodings]}
            arrays = {name: np.array(rows, np.int64) for name, rows in tokens.items()}
            inputs["dense"] = self.encoder.run(["vectors"], arrays)[0]
        elif dense is not None:
            inputs["dense"] = dense[start : start + len(texts)]
        scores = np.asarray(self.head.run(["scores"], inputs)[0])
        return scores if self.opinions is None else self.opinions.added(scores, texts, inputs.get("dense")), known

    def probabilities(self, scores: NDArray[np.float32]) -> NDArray[np.float64]:
        """Return (B, L) probabilities; those of a run with one label per text sum to 1."""
        logits = scores.astype(np.float64)
        if not self.decisions.get("one", ""):
            return 1 / (1 + np.exp(-logits))
        logits = logits / self.decisions["temperature"]
        powers = np.exp(logits - logits.max(1, keepdims=True))
        shares: NDArray[np.float64] = powers / powers.sum(1, keepdims=True)
        return shares

    def decide(self, scores: NDArray[np.float32]) -> list[list[str]]:
        """Return the labels that (B, L) scores decide for, in the order of the vocabulary."""
        decided = scores > self.thresholds
        if one := self.decisions.get("one", ""):
            best = (scores - self.thresholds if one == "balanced" else scores).argmax(1)
            return [[self.labels[label]] for label in best]
        if top := min(self.decisions["top_k"], scores.shape[1]):
            decided = np.zeros_like(decided)
            np.put_along_axis(decided, np.argpartition(-scores, top - 1, axis=1)[:, :top], True, axis=1)
        elif self.decisions["minimum_one"]:
            empty = ~decided.any(1)
            decided[empty, scores[empty].argmax(1)] = True
        rows = [{self.labels[label] for label in row.nonzero()[0]} for row in decided]
        parents = self.settings["parents"]
        complete = [names.union(*(parents.get(name, ()) for name in names)) for names in rows]
        return [[label for label in self.labels if label in names] for names in complete]


class Opinions:
    """What the label texts say of a text, from opinions.json and label_vectors.npz."""

    def __init__(self, folder: Path) -> None:
        value = json.loads((folder / "opinions.json").read_text(encoding="utf-8"))
        self.weights, self.counted = value["weights"], np.array(value["labels"], np.float32)
        self.stems = {name: list(zip(*pairs, strict=True)) for name, pairs in value["stems"].items()}
        vectors = folder / "label_vectors.npz"
        self.vectors = dict(np.load(vectors, allow_pickle=False)) if vectors.is_file() else {}

    def added(
        self, scores: NDArray[np.float32], texts: Sequence[str], dense: NDArray[np.float32] | None
    ) -> NDArray[np.float32]:
        """Return (B, L) logits with the opinions about B texts, of which `dense` are the vectors, if any."""
        sums = np.zeros_like(scores)
        for name, weight in self.weights.items():
            if name == "similarity":
                assert dense is not None, "an encoder gave its opinion in training"
                length = np.maximum(np.sqrt((dense**2).sum(1, keepdims=True)), np.float32(1e-12))
                sums += weight * 10 * (dense / length @ self.vectors["label_vectors"].T - self.vectors["label_means"])
            else:
                for row, text in enumerate(texts):
                    self._match(sums[row], text if name == "text" else text.split("\n", 1)[0], weight)
        return np.asarray(scores + sums * self.counted, np.float32)

    def _match(self, row: NDArray[np.float32], text: str, weight: float) -> None:
        """Add, times a weight, the share of each label's name that is in a text."""
        for each in {stem(word) for word in NAME_WORD.findall(text.lower())} & self.stems.keys():
            labels, shares = self.stems[each]
            row[list(labels)] += np.float32(weight) * np.array(shares, np.float32)


def stem(word: str) -> str:
    """Return a word in lower case without a common English ending, if 3 letters are left."""
    word = word.lower()
    ending = next((end for end in SUFFIXES if word.endswith(end) and len(word) - len(end) >= SHORTEST_STEM), "")
    return word if ending == "ss" else word.removesuffix(ending)


def _joined(
    blocks: Sequence[tuple[NDArray[np.float32], NDArray[np.bool_]]],
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    scores, known = zip(*blocks, strict=True)
    return np.concatenate(scores), np.concatenate(known)


class Ngrams:
    """Fitted n-grams of words and characters, from the value of "ngrams" in vocabulary.json.

    words   of two or more letters, digits or underscores, in lower case, and sequences of them joined by a space
    chars   sequences of 3 or more characters within a word, which has a space before and after it

    The value of an n-gram t in a text is (1 + ln tf) * idf(t). The values of the words are scaled to length 1, and so
    are those of the chars. With both kinds, each is then divided by sqrt(2), so that the whole text has length 1.
    """

    def __init__(self, value: dict[str, Any]) -> None:
        self.longest, self.hashed = value["longest"], value["hashed"]
        self.idf = {kind: np.asarray(weights, dtype=np.float32) for kind, weights in value["idf"].items()}
        self.columns = {kind: {term: at for at, term in enumerate(terms)} for kind, terms in value["terms"].items()}

    def rows(self, texts: Sequence[str]) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Return (B, K) columns and values; a row with fewer than K n-grams ends in column 0 with value 0."""
        rows = [self._row(text) for text in texts]
        width = max([1, *(len(columns) for columns, _ in rows)])
        columns, values = np.zeros((len(texts), width), np.int64), np.zeros((len(texts), width), np.float32)
        for row, (own_columns, own_values) in enumerate(rows):
            columns[row, : len(own_columns)], values[row, : len(own_values)] = own_columns, own_values
        return columns, values

    def _row(self, text: str) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        pairs, start = [], 0
        for kind, idf in self.idf.items():
            columns, values = self._row_of_kind(kind, text)
            pairs.append((columns + start, values * np.float32(len(self.idf) ** -0.5)))
            start += len(idf)
        columns, values = (np.concatenate(each) for each in zip(*pairs, strict=True))
        return columns, values

    def _row_of_kind(self, kind: str, text: str) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        split = words if kind == "words" else chars
        terms, size = split(text.lower(), self.longest[kind]), len(self.idf[kind])
        if self.hashed:
            counts = Counter(abs(murmur3(term.encode())) % size for term in terms)
        else:
            known = self.columns[kind]
            counts = Counter(known[term] for term in terms if term in known)
        columns = np.fromiter(counts.keys(), np.int64, len(counts))
        values = (1 + np.log(np.fromiter(counts.values(), np.float32, len(counts)))) * self.idf[kind][columns]
        return columns, values / max(np.float32(np.sqrt((values**2).sum())), np.float32(1e-30))


def words(text: str, longest: int) -> Iterator[str]:
    """Yield every sequence of 1 to `longest` words, joined by a space."""
    tokens = WORD.findall(text)
    for size in range(1, longest + 1):
        yield from (" ".join(tokens[start : start + size]) for start in range(len(tokens) - size + 1))


def chars(text: str, longest: int) -> Iterator[str]:
    """Yield every sequence of 3 to `longest` characters of each word; a shorter word is yielded whole, once."""
    for word in text.split():
        padded = f" {word} "
        for size in range(SHORTEST_CHARS, longest + 1):
            yield padded[:size]
            if size >= len(padded):
                break
            yield from (padded[start : start + size] for start in range(1, len(padded) - size + 1))


def murmur3(content: bytes) -> int:
    """Return the signed 32-bit MurmurHash3 with seed 0 (Austin Appleby, public domain)."""
    state, whole = 0, len(content) - len(content) % 4
    for start in range(0, whole, 4):
        state ^= _mixed(int.from_bytes(content[start : start + 4], "little"))
        state = (_rotated(state, 13) * 5 + 0xE6546B64) & 0xFFFFFFFF
    state ^= _mixed(int.from_bytes(content[whole:], "little")) ^ len(content)
    state = ((state ^ state >> 16) * 0x85EBCA6B) & 0xFFFFFFFF
    state = ((state ^ state >> 13) * 0xC2B2AE35) & 0xFFFFFFFF
    state ^= state >> 16
    return state - (1 << 32) if state >> 31 else state


def _mixed(word: int) -> int:
    return _rotated(word * 0xCC9E2D51 & 0xFFFFFFFF, 15) * 0x1B873593 & 0xFFFFFFFF


def _rotated(word: int, by: int) -> int:
    return (word << by | word >> 32 - by) & 0xFFFFFFFF
