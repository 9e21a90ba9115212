"""Recommend the next items with onnxruntime and numpy alone. `hyperfocal export` writes this file."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

Id = str | int | float
NETWORK = "network"  # its name among the parts of a blend
SMALLEST_SHARE = 1e-3  # added to every share, so that one part cannot rule an item out


class Recommender:
    """The model of a folder that `hyperfocal export` wrote: a network, a model of counts, or a blend of both."""

    def __init__(self, folder: Path, options: Any = None) -> None:
        self.settings = json.loads((folder / "settings.json").read_text(encoding="utf-8"))
        vocabulary = json.loads((folder / "vocabulary.json").read_text(encoding="utf-8"))
        self.items: list[Id] = vocabulary["items"]
        self.whole = vocabulary.get("kind", "text") != "text"  # whether all ids are whole numbers
        self.numbers = {str(item): number for number, item in enumerate(self.items)}
        network, weight, parts = folder / "model.onnx", self.settings["weight"], self.settings.get("parts", {})
        self.network = onnxruntime.InferenceSession(network, options) if weight < 1 else None
        self.counted = counted_model(folder / "counts.npz", self.settings) if weight > 0 and not parts else None
        self.parts = {
            name: None if name == NETWORK else counted_model(folder / f"{name}.npz", part)
            for name, part in parts.items()
        }

    def rank(
        self,
        histories: Sequence[Sequence[Id]],
        k: int,
        *,
        repeats: bool = False,
        only: Sequence[Id] | None = None,
        exclude: Sequence[Id] = (),
    ) -> list[tuple[list[Id], list[float]]]:
        """Return the best k items of each history and their scores; fewer if fewer are left.

        Args:
            histories: item ids of each user, oldest first; unknown ids are ignored.
            k: number of items.
            repeats: whether items of the history may be recommended.
            only: the only items that may be recommended. None: all.
            exclude: items that are never recommended.
        """
        if not 1 <= k <= len(self.items):
            raise ValueError(f"k = {k} is not allowed. Expected 1 to {len(self.items):,}, the number of items")
        if not histories:
            return []
        numbered = ([self.number(item) for item in history] for history in histories)
        rows = [[number for number in row if number >= 0] for row in numbered]
        scores = self.scores(rows)
        scores[:, self._refused(only, exclude)] = -np.inf
        for row, seen in zip(scores, rows, strict=True):
            row[[] if repeats else seen] = -np.inf
        best = np.argpartition(-scores, k - 1, axis=1)[:, :k]
        best = np.take_along_axis(best, np.argsort(-np.take_along_axis(scores, best, 1), axis=1, kind="stable"), 1)
        allowed = [
            [int(item) for item in items if row[item] > -np.inf] for row, items in zip(scores, best, strict=True)
        ]
        return [
            ([self.items[item] for item in items], [float(row[item]) for item in items])
            for row, items in zip(scores, allowed, strict=True)
        ]

    def _refused(self, only: Sequence[Id] | None, exclude: Sequence[Id]) -> NDArray[np.bool_]:
        """Return (L,) whether an item may not be recommended."""
        refused = np.full(len(self.items), only is not None)
        refused[[number for item in only or () if (number := self.number(item)) >= 0]] = False
        refused[[number for item in exclude if (number := self.number(item)) >= 0]] = True
        return refused

    def known(self, histories: Sequence[Sequence[Id]]) -> list[bool]:
        """Return whether the model knows an item of each history; all others are ranked as an empty history is."""
        return [any(self.number(item) >= 0 for item in history) for history in histories]

    def number(self, item: Id) -> int:
        """Return the number of an item, -1 if it is unknown; 10, 10.0 and "10" are one id."""
        text = str(int(item)) if isinstance(item, float) and item.is_integer() else str(item)
        return self.numbers.get(re.sub(r"^(-?(?:0|[1-9]\d*))\.0+$", r"\1", text) if self.whole else text, -1)

    def scores(self, rows: Sequence[Sequence[int]]) -> NDArray[np.float64]:
        """Return (B, L) scores of histories of item numbers.

        scores = (1 - w) * softmax(network) + w * counted / sum of counted, or one of the two alone; with parts, the
        sum over them of w * log softmax(network) and of w * log(counted / sum of counted + 0.001).
        """
        if self.parts:
            return self._blended(rows)
        weight = self.settings["weight"]
        counted = self.counted.scores(rows) if self.counted else np.zeros((len(rows), 1))
        if self.network is None and not self.settings["blend"]:
            return np.asarray(counted)
        counted = counted / np.maximum(counted.sum(1, keepdims=True), 1e-300)
        if self.network is None:
            return np.asarray(counted)
        logits = self.network.run(["scores"], {"items": self._padded(rows)})[0].astype(np.float64)
        if not self.settings["blend"]:
            return np.asarray(logits)
        shares = np.exp(logits - logits.max(1, keepdims=True))
        return np.asarray((1 - weight) * shares / shares.sum(1, keepdims=True) + weight * counted)

    def _blended(self, rows: Sequence[Sequence[int]]) -> NDArray[np.float64]:
        total = np.zeros((len(rows), len(self.items)))
        for name, part in self.parts.items():
            weight = self.settings["parts"][name]["weight"]
            if part is None and self.network is not None:
                logits = self.network.run(["scores"], {"items": self._padded(rows)})[0].astype(np.float64)
                logits -= logits.max(1, keepdims=True)
                total += weight * (logits - np.log(np.exp(logits).sum(1, keepdims=True)))
            elif part is not None:
                counted = np.maximum(part.scores(rows), 0)
                shares = counted / np.maximum(counted.sum(1, keepdims=True), 1e-300)
                total += weight * np.log(shares + SMALLEST_SHARE)
        return total

    def _padded(self, rows: Sequence[Sequence[int]]) -> NDArray[np.int64]:
        """Return (B, T) the newest items, newest last, padded on the left with L, which is not an item."""
        most = self.settings["history"]
        width = most if self.settings["fixed"] else max(min(max(map(len, rows), default=1), most), 1)
        padded = np.full((len(rows), width), len(self.items), dtype=np.int64)
        for place, row in enumerate(rows):
            newest = row[-width:]
            padded[place, width - len(newest) :] = newest
        return padded


class Neighbours:
    """The 300 training users most like a user vote for the items that they took, the next ones most.

    similarity = sum over shared items a of the newest 50: 0.8^age * idf(a)^2, idf(a) = log(1 + users / users with a)
    score(b)   = sum over neighbours and their events on b of similarity^1.5 * vote + popularity[b]
    vote       = 0.8^(d - 1) for the d-th event after the neighbour's last event on the newest shared item, else 0.1
    """

    def __init__(self, path: Path) -> None:
        with np.load(path, allow_pickle=False) as arrays:
            self.items, self.offsets = arrays["items"].astype(np.int64), arrays["offsets"]
            self.popularity = arrays["popularity"]
        users = np.repeat(np.arange(len(self.offsets) - 1), np.diff(self.offsets))
        pairs = np.unique(np.stack([self.items, users], 1), axis=0)
        self.users, self.starts = pairs[:, 1], np.searchsorted(pairs[:, 0], np.arange(len(self.popularity) + 1))
        self.idf = np.log1p((len(self.offsets) - 1) / np.maximum(np.diff(self.starts), 1)).astype(np.float32) ** 2

    def scores(self, histories: Sequence[Sequence[int]]) -> NDArray[np.float64]:
        """Return (B, L) scores of histories of item numbers, oldest first."""
        return np.asarray([self._score(history) for history in histories])

    def _score(self, history: Sequence[int]) -> NDArray[np.float64]:
        weights = np.zeros(len(self.popularity), dtype=np.float32)
        for age, item in enumerate(reversed(history[-50:])):
            weights[item] = weights[item] or 0.8**age
        similarity = np.zeros(len(self.offsets) - 1, dtype=np.float32)
        for item in np.flatnonzero(weights).tolist():
            similarity[self.users[self.starts[item] : self.starts[item + 1]]] += weights[item] * self.idf[item]
        scores: NDArray[np.float64] = self.popularity.astype(np.float64)
        for user in np.argsort(-similarity, kind="stable")[:300]:
            if similarity[user] > 0:
                items = self.items[self.offsets[user] : self.offsets[user + 1]]
                own = weights[items]
                after = np.arange(len(items)) - np.flatnonzero(own == own.max())[-1]
                votes = np.where(after > 0, 0.8 ** np.maximum(after - 1, 0), 0.1)
                np.add.at(scores, items, float(similarity[user]) ** 1.5 * votes)
        return scores


def counted_model(path: Path, settings: dict[str, Any]) -> Counted | Neighbours:
    """Return the model of counts in a file: the neighbours of a user, or a matrix."""
    with np.load(path, allow_pickle=False) as arrays:
        neighbours = "offsets" in arrays.files
    return Neighbours(path) if neighbours else Counted(path, settings)


class Counted:
    """A model of counts: the popularity of the items and a sparse item-to-item matrix.

    score(user, b) = sum over the user's last `window` items a_1 (newest), a_2, ... of decay^(j - 1) * matrix[a_j, b]
                     + popularity[b]

    Row a of the matrix is data[indptr[a]:indptr[a + 1]] in the columns indices[indptr[a]:indptr[a + 1]].
    """

    def __init__(self, path: Path, settings: dict[str, Any]) -> None:
        with np.load(path, allow_pickle=False) as arrays:
            self.arrays = {name: arrays[name] for name in arrays.files}
        self.window, self.decay = settings["window"], settings["decay"]

    def scores(self, histories: Sequence[Sequence[int]]) -> NDArray[np.float64]:
        """Return (B, L) scores of histories of item numbers, oldest first; an item that occurs twice counts twice."""
        popularity = self.arrays["popularity"]
        scores = np.zeros((len(histories), len(popularity)), dtype=np.float32)
        for row, history in zip(scores, histories, strict=True):
            for age, item in enumerate(reversed(history[-self.window :] if self.window else history)):
                self._add(row, item, self.decay**age)
        return np.asarray(scores + popularity)

    def _add(self, row: NDArray[np.float32], item: int, weight: float) -> None:
        if "indptr" in self.arrays and weight > 1e-30:
            start, end = self.arrays["indptr"][item : item + 2]
            row[self.arrays["indices"][start:end]] += np.float32(weight) * self.arrays["data"][start:end]
