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


class Recommender:
    """The model of a folder that `hyperfocal export` wrote: a network, a model of counts, or a blend of both."""

    def __init__(self, folder: Path, options: Any = None) -> None:
        self.settings = json.loads((folder / "settings.json").read_text(encoding="utf-8"))
        vocabulary = json.loads((folder / "vocabulary.json").read_text(encoding="utf-8"))
        self.items: list[Id] = vocabulary["items"]
        self.whole = vocabulary.get("kind", "text") != "text"  # whether all ids are whole numbers
        self.numbers = {str(item): number for number, item in enumerate(self.items)}
        network, counts, weight = folder / "model.onnx", folder / "counts.npz", self.settings["weight"]
        self.network = onnxruntime.InferenceSession(network, options) if weight < 1 else None
        self.counted = Counted(counts, self.settings) if weight > 0 else None

    def rank(
        self, histories: Sequence[Sequence[Id]], k: int, *, repeats: bool = False
    ) -> list[tuple[list[Id], list[float]]]:
        """Return the best k items of each history and their scores; fewer if fewer are left.

        Args:
            histories: item ids of each user, oldest first; unknown ids are ignored.
            k: number of items.
            repeats: whether items of the history may be recommended.
        """
        if not 1 <= k <= len(self.items):
            raise ValueError(f"k = {k} is not allowed. Expected 1 to {len(self.items):,}, the number of items")
        if not histories:
            return []
        numbered = ([self.number(item) for item in history] for history in histories)
        rows = [[number for number in row if number >= 0] for row in numbered]
        scores = self.scores(rows)
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

    def known(self, histories: Sequence[Sequence[Id]]) -> list[bool]:
        """Return whether the model knows an item of each history; all others are ranked as an empty history is."""
        return [any(self.number(item) >= 0 for item in history) for history in histories]

    def number(self, item: Id) -> int:
        """Return the number of an item, -1 if it is unknown; 10, 10.0 and "10" are one id."""
        text = str(int(item)) if isinstance(item, float) and item.is_integer() else str(item)
        return self.numbers.get(re.sub(r"^(-?(?:0|[1-9]\d*))\.0+$", r"\1", text) if self.whole else text, -1)

    def scores(self, rows: Sequence[Sequence[int]]) -> NDArray[np.float64]:
        """Return (B, L) scores of histories of item numbers.

        scores = (1 - w) * softmax(network) + w * counted / sum of counted, or one of the two alone.
        """
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

    def _padded(self, rows: Sequence[Sequence[int]]) -> NDArray[np.int64]:
        """Return (B, T) the newest items, newest last, padded on the left with L, which is not an item."""
        most = self.settings["history"]
        width = most if self.settings["fixed"] else max(min(max(map(len, rows), default=1), most), 1)
        padded = np.full((len(rows), width), len(self.items), dtype=np.int64)
        for place, row in enumerate(rows):
            newest = row[-width:]
            padded[place, width - len(newest) :] = newest
        return padded


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
