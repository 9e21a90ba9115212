"""Recommend the next items with onnxruntime and numpy alone. `hyperfocal export` writes this file as recommender.py."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from hyperfocal.export.standalone.counting import Counted


class Recommender:
    """What `hyperfocal export` wrote to a folder: a network, something that counts, or a blend of both."""

    def __init__(self, folder: Path, options: Any = None) -> None:
        self.settings = json.loads((folder / "settings.json").read_text(encoding="utf-8"))
        self.items: list[str] = json.loads((folder / "vocabulary.json").read_text(encoding="utf-8"))["items"]
        self.numbers = {item: number for number, item in enumerate(self.items)}
        network, counts, weight = folder / "model.onnx", folder / "counts.npz", self.settings["weight"]
        self.network = onnxruntime.InferenceSession(network, options) if weight < 1 else None
        self.counted = Counted(counts, self.settings) if weight > 0 else None

    def rank(
        self, histories: Sequence[Sequence[str]], k: int, *, repeats: bool = False
    ) -> list[tuple[list[str], list[float]]]:
        """Return for each history the best k items and their scores; fewer where none is left."""
        if not 1 <= k <= len(self.items):
            raise ValueError(f"k = {k} is not allowed. Expected 1 to {len(self.items):,}, the number of items")
        if not histories:
            return []
        rows = [[self.numbers[item] for item in history if item in self.numbers] for history in histories]
        scores = self.scores(rows)
        for row, seen in zip(scores, rows, strict=True):
            row[[] if repeats else seen] = -np.inf
        best = np.argpartition(-scores, k - 1, axis=1)[:, :k]
        best = np.take_along_axis(best, np.argsort(-np.take_along_axis(scores, best, 1), axis=1, kind="stable"), 1)
        ranked = zip(scores, best, strict=True)
        kept = [(row, [int(item) for item in items if row[item] > -np.inf]) for row, items in ranked]
        return [([self.items[item] for item in items], [float(row[item]) for item in items]) for row, items in kept]

    def scores(self, rows: Sequence[Sequence[int]]) -> NDArray[np.float64]:
        """Return (B, L) scores of item numbers: (1 - w) softmax(network) + w counted / its sum, or one of them."""
        weight = self.settings["weight"]
        counted = self.counted.scores(rows) if self.counted else np.zeros((len(rows), 1))
        if self.network is None and not self.settings["blend"]:
            return np.asarray(counted)
        counted = counted / np.maximum(counted.sum(1, keepdims=True), 1e-300)
        if self.network is None:
            return np.asarray(counted)
        logits = self.network.run(["scores"], {"items": self._filled(rows)})[0].astype(np.float64)
        if not self.settings["blend"]:
            return np.asarray(logits)
        shares = np.exp(logits - logits.max(1, keepdims=True))
        return np.asarray((1 - weight) * shares / shares.sum(1, keepdims=True) + weight * counted)

    def _filled(self, rows: Sequence[Sequence[int]]) -> NDArray[np.int64]:
        """Return (B, T) the newest items, newest last, filled up on the left with L, which is no item."""
        most = self.settings["history"]
        width = most if self.settings["fixed"] else max(min(max(map(len, rows), default=1), most), 1)
        filled = np.full((len(rows), width), len(self.items), dtype=np.int64)
        for place, row in enumerate(rows):
            newest = row[-width:]
            filled[place, width - len(newest) :] = newest
        return filled
