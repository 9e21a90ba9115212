"""Classify texts with onnxruntime and numpy alone. `hyperfocal export` writes this file as classifier.py.

A run that reads a sentence encoder needs the package `tokenizers` too, or vectors of the texts: `scores(texts, dense)`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from hyperfocal.export.standalone.ngrams import Ngrams

BATCH = 32  # texts at once
MOST_NUMBERS = 2**24  # n-grams times labels at once, which the graph holds in memory


class Classifier:
    """What `hyperfocal export` wrote to a folder."""

    def __init__(self, folder: Path, options: Any = None) -> None:
        names = ("settings", "vocabulary", "thresholds")
        self.settings, vocabulary, self.decisions = (
            json.loads((folder / f"{name}.json").read_text(encoding="utf-8")) for name in names
        )
        self.labels: list[str] = vocabulary["labels"]
        self.ngrams = Ngrams(vocabulary["ngrams"]) if vocabulary["ngrams"] else None
        self.thresholds = np.array([self.decisions["thresholds"][label] for label in self.labels], np.float32)
        self.head = onnxruntime.InferenceSession(folder / "model.onnx", options)
        self.encoder = None
        if self.settings["encoder"] == "exported":
            from tokenizers import Tokenizer

            self.tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
            self.encoder = onnxruntime.InferenceSession(folder / "encoder.onnx", options)

    def scores(self, texts: Sequence[str], dense: NDArray[np.float32] | None = None) -> NDArray[np.float32]:
        """Return (B, L) logits; `dense` are (B, D) vectors of the texts, where the encoder was not exported."""
        if self.settings["encoder"] == "apart" and dense is None:
            raise ValueError(
                f"this run reads vectors of a sentence encoder ({self.settings['encoder_name']}), which was not "
                "exported. Give them as `dense`, (B, D) float32, each scaled to a mean square of 1"
            )
        blocks = [self._block(texts[at : at + BATCH], dense, at) for at in range(0, len(texts), BATCH)]
        return np.concatenate(blocks) if blocks else np.zeros((0, len(self.labels)), np.float32)

    def _block(self, texts: Sequence[str], dense: NDArray[np.float32] | None, start: int) -> NDArray[np.float32]:
        inputs: dict[str, Any] = {}
        if self.ngrams:
            inputs["columns"], inputs["values"] = self.ngrams.rows(texts)
            if len(texts) > 1 and inputs["columns"].size * len(self.labels) > MOST_NUMBERS:
                half = len(texts) // 2
                parts = (self._block(texts[:half], dense, start), self._block(texts[half:], dense, start + half))
                return np.concatenate(parts)
        if self.encoder:
            read = self.tokenizer.encode_batch(list(texts))
            tokens = {"ids": [each.ids for each in read], "mask": [each.attention_mask for each in read]}
            arrays = {name: np.array(part, np.int64) for name, part in tokens.items()}
            inputs["dense"] = self.encoder.run(["vectors"], arrays)[0]
        elif dense is not None:
            inputs["dense"] = dense[start : start + len(texts)]
        return np.asarray(self.head.run(["scores"], inputs)[0])

    def decide(self, scores: NDArray[np.float32]) -> list[list[str]]:
        """Return the labels that (B, L) scores decide for, in the order of the vocabulary."""
        decided = scores > self.thresholds
        if top := min(self.decisions["top_k"], scores.shape[1]):
            decided = np.zeros_like(decided)
            np.put_along_axis(decided, np.argpartition(-scores, top - 1, axis=1)[:, :top], True, axis=1)
        elif self.decisions["minimum_one"]:
            empty = ~decided.any(1)
            decided[empty, scores[empty].argmax(1)] = True
        found = [{self.labels[label] for label in row.nonzero()[0]} for row in decided]
        above = self.settings["parents"]
        whole = [names.union(*(above.get(name, ()) for name in names)) for names in found]
        return [[label for label in self.labels if label in names] for names in whole]
