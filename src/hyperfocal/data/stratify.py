"""Split documents so that every part has its share of each label, and no group is divided.

Iterative stratification, Sechidis, Tsoumakas & Vlahavas 2011, "On the Stratification of Multi-Label Data",
Algorithm 1: take the label with the fewest documents left, and assign each of its documents to the fold that is
shortest of the label, at a tie to the one that is shortest of documents. Differences: groups are assigned, not
documents; a group counts as many documents of a label as it holds, and large ones come first; documents without labels
come last; and the first fold, if it is for training, gets a document of every label.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray
from scipy.sparse import coo_array

from hyperfocal.data.documents import Documents
from hyperfocal.data.splits import check_leak
from hyperfocal.errors import DataError
from hyperfocal.labels import SparseLabels

UNASSIGNED = -1
Ints = NDArray[np.int64]
AnyInts = NDArray[np.signedinteger[Any]]  # of any width


def split_documents(documents: Documents, *, fraction: float, seed: int) -> tuple[Ints, Ints]:
    """Return the rows for training and the rows held out: `fraction` of the documents, and of each label.

    The only group of a label is for training.

    Args:
        documents: N documents with labels.
        fraction: in (0, 1).
        seed: as in `stratified_folds`.

    Returns:
        two arrays of int64 row numbers, ascending, together 0 to N - 1.

    Raises:
        DataError: a part would be empty, because there is only one group, or each is the only one of some label.
    """
    labels, groups = number_labels(documents.labels), documents.group_numbers()
    folds = stratified_folds(labels, groups, (1 - fraction, fraction), seed=seed)
    train, held_out = np.flatnonzero(folds == 0), np.flatnonzero(folds == 1)
    if not len(train) or not len(held_out):
        count = len(documents) if groups is None else len(np.unique(groups))
        raise DataError(
            f"{len(documents):,} documents in {count:,} groups cannot be split: one part would be empty, or a label "
            "would have no group in training. Give more documents, or the held-out ones with `valid=`"
        )
    return train, held_out


def stratified_folds(
    labels: SparseLabels, groups: Ints | None, shares: Sequence[float], *, seed: int, first_trains: bool = True
) -> Ints:
    """Return the fold of each document, so that every fold has its share of every label.

    Args:
        labels: of N documents.
        groups: (N,) integers; documents with equal ones stay together. None: no groups.
        shares: of the F folds, each above 0; they need not sum to 1.
        seed: of the order in which documents are assigned, and of ties.
        first_trains: whether fold 0 must have a document of every label; False for cross-validation.

    Returns:
        (N,) int64 in [0, F).

    Raises:
        DataError: no share, or one that is not above 0; a wrong number of groups.
    """
    weights = np.asarray(shares, dtype=np.float64)
    if not weights.size or not (np.isfinite(weights) & (weights > 0)).all():
        raise DataError(f"shares: {list(shares)} is not allowed. Expected a number above 0 for each fold")
    if groups is not None and len(groups) != len(labels):
        raise DataError(f"groups: {len(groups):,} for {len(labels):,} documents. Give one for each document")
    units = np.arange(len(labels)) if groups is None else np.unique(groups, return_inverse=True)[1]
    assignment = _Assignment(labels, units, weights / weights.sum(), seed=seed)
    assignment.run()
    if first_trains:
        assignment.complete_first()
        assignment.top_up()
    return assignment.folds[units]


def number_labels(labels: pl.Series) -> SparseLabels:
    """Return (N,) List(String) labels as numbers, in the order of their names."""
    flat = labels.explode().drop_nulls()
    codes = flat.cast(pl.Enum(flat.unique().cast(pl.String).sort())).to_physical().cast(pl.Int64).to_numpy()
    ends = np.concatenate([[0], labels.list.len().to_numpy()]).cumsum().astype(np.int64)
    return SparseLabels.from_csr(torch.from_numpy(ends), torch.from_numpy(codes.copy()), num_labels=flat.n_unique())


def check_distinct_groups(train: Documents, held_out: Documents, *, name: str) -> None:
    """Raise LeakError if a group of `held_out`, called `name` in the message, is in training too.

    Documents without a group are compared by id, unless ids are only row numbers.
    """
    ids, other_ids = train.ids, held_out.ids
    if train.groups is not None and held_out.groups is not None:
        check_leak(train.groups, held_out.groups, units="groups", name=name)
        ids, other_ids = ids.filter(train.groups.is_null()), other_ids.filter(held_out.groups.is_null())
    if not (train.numbered or held_out.numbered):
        check_leak(ids, other_ids, units="documents", name=name)


class _Assignment:
    """The assignment of U units (groups of documents) to F folds.

    After the L labels comes one that every document has, so that its share is the share of documents.
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
        self._random = np.random.default_rng(seed)
        self._order = self._random.permutation(shape[0])
        self._left = np.diff(by_label.indptr).astype(np.int64)  # unassigned units of each label
        self.folds = np.full(shape[0], UNASSIGNED)  # (U,) the fold of each unit
        self.counts = np.zeros((len(shares), shape[1]), dtype=np.int64)  # documents of each label in each fold
        self.wanted = shares[:, None] * np.bincount(columns, minlength=shape[1])  # as many as there should be

    def run(self) -> None:
        """Assign every unit: first those of the label with the fewest units left, last those without labels."""
        while (self._left[:-1] > 0).any():
            self._assign(int(np.where(self._left[:-1] > 0, self._left[:-1], np.iinfo(np.int64).max).argmin()))
        self._assign(len(self._left) - 1)

    def complete_first(self) -> None:
        """Move to fold 0 the smallest unit of each label that has none there."""
        for label in np.flatnonzero((self.counts[0] == 0) & (self.wanted[0] > 0)):
            if self.counts[0, label] == 0:
                units, _ = self._units_of(int(label))
                self._move(int(units[self._sizes(units).argmin()]), 0)

    def top_up(self) -> None:
        """Move units from fold 0 to folds short of documents, if these are short of the unit's labels too.

        Fold 0 keeps at least one document of every label.
        """
        for fold in range(1, len(self.counts)):
            units = np.flatnonzero(self.folds == 0)
            for unit in units[np.lexsort((self._order[units], self._sizes(units)))].tolist():
                if self.wanted[fold, -1] - self.counts[fold, -1] <= 0:
                    break
                if self._may_move(unit, fold):
                    self._move(unit, fold)

    def _assign(self, label: int) -> None:
        """Assign the units left of a label, the largest first, each to the fold that is shortest of it."""
        units, weights = self._units_of(label)
        left = self.folds[units] == UNASSIGNED
        units, weights = units[left], weights[left]
        order = np.lexsort((self._order[units], -weights))
        units, weights = units[order], weights[order]
        folds = self._choose(label, weights.tolist(), self._sizes(units).tolist())
        self.folds[units] = folds
        labels, counts, lengths = self._gather(units)
        np.add.at(self.counts, (np.repeat(folds, lengths), labels), counts)
        np.subtract.at(self._left, labels, 1)

    def _choose(self, label: int, weights: list[int], sizes: list[int]) -> AnyInts:
        lack = (self.wanted[:, label] - self.counts[:, label]).tolist()
        room = (self.wanted[:, -1] - self.counts[:, -1]).tolist()
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
        short = self.wanted[fold, labels] - self.counts[fold, labels]
        fits = counts[-1] < 2 * short[-1] or self.counts[fold, -1] == 0
        return bool(fits and (short > 0).all() and (self.counts[0, labels] > counts).all())

    def _move(self, unit: int, fold: int) -> None:
        labels, counts, _ = self._gather(np.array([unit]))
        self.counts[self.folds[unit], labels] -= counts
        self.counts[fold, labels] += counts
        self.folds[unit] = fold

    def _units_of(self, label: int) -> tuple[AnyInts, AnyInts]:
        """Return the units that have a label, and how many of their documents have it."""
        starts, units, counts = self._units
        rows = slice(starts[label], starts[label + 1])
        return units[rows], counts[rows]

    def _sizes(self, units: AnyInts) -> AnyInts:
        """Return the number of documents of each unit."""
        starts, _, counts = self._labels
        return counts[starts[units + 1] - 1]

    def _gather(self, units: AnyInts) -> tuple[AnyInts, AnyInts, AnyInts]:
        """Return the labels of units, unit after unit, the documents with each, and the number of labels per unit."""
        starts, labels, counts = self._labels
        lengths = starts[units + 1] - starts[units]
        ends = lengths.cumsum()
        places = np.repeat(starts[units] - ends + lengths, lengths) + np.arange(lengths.sum())
        return labels[places], counts[places], lengths
