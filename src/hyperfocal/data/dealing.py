"""How stratification deals documents out to folds, label by label."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array

from hyperfocal.labels import SparseLabels

UNDEALT = -1
Ints = NDArray[np.signedinteger[Any]]


class Deal:
    """U units (groups of documents) on their way to F folds.

    A last label beside the L stands for "is a document": its shares are those of the documents.

    Attributes:
        folds: (U,) int64, the fold of each unit, or UNDEALT.
        dealt: (F, L + 1) int64, documents of each label in each fold.
        wanted: (F, L + 1) float, documents of each label that each fold should have.
    """

    def __init__(self, labels: SparseLabels, units: Ints, shares: NDArray[np.float64], *, seed: int) -> None:
        shape = (int(units.max(initial=-1)) + 1, labels.num_labels + 1)
        small = units.astype(np.int32)  # of 10 million documents int64 would take another gigabyte
        rows = np.concatenate([small[labels.rows.numpy()], small])
        last = np.full(len(units), labels.num_labels, dtype=np.int32)
        columns = np.concatenate([labels.indices.numpy().astype(np.int32), last])
        by_label = coo_array((np.ones(len(rows), dtype=np.int32), (rows, columns)), shape).tocsc()
        by_unit = by_label.tocsr()  # of each unit: its labels, ascending, so that the last one stands last
        self._labels = (by_unit.indptr.astype(np.int64), by_unit.indices, by_unit.data)
        self._units = (by_label.indptr.astype(np.int64), by_label.indices, by_label.data)
        self._random = np.random.default_rng(seed)
        self._order = self._random.permutation(shape[0])
        self._left = np.diff(by_label.indptr).astype(np.int64)  # units not dealt out yet, of each label
        self.folds = np.full(shape[0], UNDEALT)
        self.dealt = np.zeros((len(shares), shape[1]), dtype=np.int64)
        self.wanted = shares[:, None] * np.bincount(columns, minlength=shape[1])

    def run(self) -> None:
        """Deal every unit out, by the label with the fewest units left, those without labels last."""
        while (self._left[:-1] > 0).any():
            self._deal(int(np.where(self._left[:-1] > 0, self._left[:-1], np.iinfo(np.int64).max).argmin()))
        self._deal(len(self._left) - 1)

    def complete_first(self) -> None:
        """Move to fold 0 the smallest unit of each label that has none there."""
        for label in np.flatnonzero((self.dealt[0] == 0) & (self.wanted[0] > 0)):
            if self.dealt[0, label] == 0:
                units, _ = self._holders(int(label))
                self._move(int(units[self._sizes(units).argmin()]), 0)

    def top_up(self) -> None:
        """Move units from fold 0 to folds short of documents, where the labels are short too and fold 0 keeps some."""
        for fold in range(1, len(self.dealt)):
            units = np.flatnonzero(self.folds == 0)
            for unit in units[np.lexsort((self._order[units], self._sizes(units)))].tolist():
                if self.wanted[fold, -1] - self.dealt[fold, -1] <= 0:
                    break
                if self._may_move(unit, fold):
                    self._move(unit, fold)

    def _deal(self, label: int) -> None:
        """Deal out what is left of a label: its heaviest units first, each to the fold that lacks most."""
        units, weights = self._holders(label)
        undealt = self.folds[units] == UNDEALT
        units, weights = units[undealt], weights[undealt]
        order = np.lexsort((self._order[units], -weights))
        units, weights = units[order], weights[order]
        folds = self._choose(label, weights.tolist(), self._sizes(units).tolist())
        self.folds[units] = folds
        labels, counts, lengths = self._gather(units)
        np.add.at(self.dealt, (np.repeat(folds, lengths), labels), counts)
        np.subtract.at(self._left, labels, 1)

    def _choose(self, label: int, weights: list[int], sizes: list[int]) -> Ints:
        lack = (self.wanted[:, label] - self.dealt[:, label]).tolist()
        room = (self.wanted[:, -1] - self.dealt[:, -1]).tolist()
        draw = self._random.random(len(lack)).tolist()
        chosen = []
        for weight, size in zip(weights, sizes, strict=True):
            fold = max(range(len(lack)), key=lambda each: (lack[each], room[each], draw[each]))
            lack[fold] -= weight
            room[fold] -= size
            chosen.append(fold)
        return np.array(chosen, dtype=np.int64)

    def _may_move(self, unit: int, fold: int) -> bool:
        labels, counts, _ = self._gather(np.array([unit]))
        short = self.wanted[fold, labels] - self.dealt[fold, labels]
        fits = counts[-1] < 2 * short[-1] or self.dealt[fold, -1] == 0
        return bool(fits and (short > 0).all() and (self.dealt[0, labels] > counts).all())

    def _move(self, unit: int, fold: int) -> None:
        labels, counts, _ = self._gather(np.array([unit]))
        self.dealt[self.folds[unit], labels] -= counts
        self.dealt[fold, labels] += counts
        self.folds[unit] = fold

    def _holders(self, label: int) -> tuple[Ints, Ints]:
        """Return the units that have a label, and in how many documents."""
        starts, units, counts = self._units
        part = slice(starts[label], starts[label + 1])
        return units[part], counts[part]

    def _sizes(self, units: Ints) -> Ints:
        """Return how many documents each unit has."""
        starts, _, counts = self._labels
        return counts[starts[units + 1] - 1]

    def _gather(self, units: Ints) -> tuple[Ints, Ints, Ints]:
        """Return the labels of units one after the other, in how many documents each, and how many a unit has."""
        starts, labels, counts = self._labels
        lengths = starts[units + 1] - starts[units]
        ends = lengths.cumsum()
        places = np.repeat(starts[units] - ends + lengths, lengths) + np.arange(lengths.sum())
        return labels[places], counts[places], lengths
