"""Folds of documents, and how many documents of each label every fold has."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array

from hyperfocal.labels import SparseLabels

UNASSIGNED = -1
Ints = NDArray[np.int64]
AnyInts = NDArray[np.signedinteger[Any]]  # of any width


class Folds:
    """Partition U units (groups of documents) into F folds.

    After the L labels comes one that every document has, so that its share is the share of documents.

    Attributes:
        random: draws what `seed` decides.
        order: (U,) a permutation, by which ties are broken.
        folds: (U,) int64, the fold of each unit, or UNASSIGNED.
        counts: (F, L + 1) int64, documents of each label in each fold.
        wanted: (F, L + 1) float64, as many as there should be.
        totals: (L + 1,) int64, documents of each label.
    """

    def __init__(self, labels: SparseLabels, units: AnyInts, shares: NDArray[np.float64], *, seed: int) -> None:
        shape = (int(units.max(initial=-1)) + 1, labels.num_labels + 1)
        small = units.astype(np.int32)  # for 10 million documents, int64 would take another gigabyte
        rows = np.concatenate([small[labels.rows.numpy()], small])
        last = np.full(len(units), labels.num_labels, dtype=np.int32)
        columns = np.concatenate([labels.indices.numpy().astype(np.int32), last])
        by_label = coo_array((np.ones(len(rows), dtype=np.int32), (rows, columns)), shape).tocsc()
        by_unit = by_label.tocsr()  # labels of each unit, ascending, so that the added label is last
        self._labels = (by_unit.indptr.astype(np.int64), by_unit.indices, by_unit.data)
        self._units = (by_label.indptr.astype(np.int64), by_label.indices, by_label.data)
        self.random = np.random.default_rng(seed)
        self.order = self.random.permutation(shape[0])
        self.folds = np.full(shape[0], UNASSIGNED)
        self.counts = np.zeros((len(shares), shape[1]), dtype=np.int64)
        self.totals = np.bincount(columns, minlength=shape[1])
        self.wanted = shares[:, None] * self.totals

    def assign(self, units: AnyInts, folds: AnyInts) -> AnyInts:
        """Assign units that have no fold; return their labels, one after the other."""
        self.folds[units] = folds
        labels, counts, lengths = self.gather(units)
        np.add.at(self.counts, (np.repeat(folds, lengths), labels), counts)
        return labels

    def move(self, unit: int, fold: int) -> None:
        """Move a unit to another fold."""
        labels, counts, _ = self.gather(np.array([unit]))
        self.counts[self.folds[unit], labels] -= counts
        self.counts[fold, labels] += counts
        self.folds[unit] = fold

    def num_units(self) -> Ints:
        """Return (L + 1,) int64, the number of units of each label."""
        return np.diff(self._units[0])

    def units_of(self, label: int) -> tuple[AnyInts, AnyInts]:
        """Return the units that have a label, and how many of their documents have it."""
        starts, units, counts = self._units
        rows = slice(starts[label], starts[label + 1])
        return units[rows], counts[rows]

    def sizes(self, units: AnyInts) -> AnyInts:
        """Return the number of documents of each unit."""
        starts, _, counts = self._labels
        return counts[starts[units + 1] - 1]

    def gather(self, units: AnyInts) -> tuple[AnyInts, AnyInts, AnyInts]:
        """Return the labels of units, unit after unit, the documents with each, and the number of labels per unit."""
        starts, labels, counts = self._labels
        lengths = starts[units + 1] - starts[units]
        ends = lengths.cumsum()
        places = np.repeat(starts[units] - ends + lengths, lengths) + np.arange(lengths.sum())
        return labels[places], counts[places], lengths
