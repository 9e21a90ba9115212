"""Scores that come from counting, in numpy alone. `hyperfocal export` writes this file as counting.py.

score(user, b) = sum over the user's last `window` items a_1 (newest), a_2, ... of decay^(j - 1) * matrix[a_j, b]
                 + popularity[b]
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray


class Counted:
    """A popularity and an item-to-item matrix, kept by rows: row a is data[indptr[a]:indptr[a + 1]]."""

    def __init__(self, path: Path, kind: dict[str, Any]) -> None:
        with np.load(path, allow_pickle=False) as arrays:
            self.parts = {name: arrays[name] for name in arrays.files}
        self.window, self.decay = kind["window"], kind["decay"]

    def scores(self, histories: Sequence[Sequence[int]]) -> NDArray[np.float64]:
        """Return (B, L) scores of item numbers, oldest first; an item that stands twice counts twice."""
        popularity = self.parts["popularity"]
        found = np.zeros((len(histories), len(popularity)), dtype=np.float32)
        for row, history in zip(found, histories, strict=True):
            for age, item in enumerate(reversed(history[-self.window :] if self.window else history)):
                self._add(row, item, self.decay**age)
        return np.asarray(found + popularity)

    def _add(self, row: NDArray[np.float32], item: int, weight: float) -> None:
        if "indptr" in self.parts and weight > 1e-30:
            start, end = self.parts["indptr"][item : item + 2]
            row[self.parts["indices"][start:end]] += np.float32(weight) * self.parts["data"][start:end]
