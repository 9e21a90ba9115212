"""Splits of documents that keep the share of every label, and never part a group.

Iterative stratification, Sechidis, Tsoumakas & Vlahavas 2011, "On the Stratification of Multi-Label Data",
Algorithm 1: the label with the fewest documents left is dealt out first, each document to the fold that still
lacks most of that label, at a tie to the one that lacks most documents. We differ: what is dealt out is a group,
which weighs as many documents of a label as it holds, heavy ones first; documents without labels come last; and
the first fold, where it trains, gets a document of every label.

How stratification deals documents out to folds, label by label.
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
from hyperfocal.errors import DataError, LeakError
from hyperfocal.labels import SparseLabels

Ints = NDArray[np.int64]
Signed = NDArray[np.signedinteger[Any]]  # of any width


def stratified_folds(
    labels: SparseLabels, groups: Ints | None, shares: Sequence[float], *, seed: int, first_trains: bool = True
) -> Ints:
    """Return the fold of each document, so that every fold has its share of every label.

    Args:
        labels: of N documents.
        groups: (N,) integers, documents with equal ones stay together; None is each for itself.
        shares: of the F folds, each above 0; their sum is the whole.
        seed: of the order in which documents are dealt out, and of ties.
        first_trains: whether no label may lack a document in fold 0; False for cross-validation.

    Returns:
        (N,) int64 in [0, F).

    Raises:
        DataError: no share, or one that is not above 0; groups of another length.
    """
    parts = np.asarray(shares, dtype=np.float64)
    if not parts.size or not (np.isfinite(parts) & (parts > 0)).all():
        raise DataError(f"shares: {list(shares)} is not allowed. Expected a number above 0 for each fold")
    if groups is not None and len(groups) != len(labels):
        raise DataError(f"groups: {len(groups):,} for {len(labels):,} documents. Give one for each")
    units = np.arange(len(labels)) if groups is None else np.unique(groups, return_inverse=True)[1]
    deal = Deal(labels, units, parts / parts.sum(), seed=seed)
    deal.run()
    if first_trains:
        deal.complete_first()
        deal.top_up()
    return deal.folds[units]


def split_documents(documents: Documents, *, fraction: float, seed: int) -> tuple[Ints, Ints]:
    """Return the rows that train and the rows held out: `fraction` of the documents, and of each label.

    A label's only group trains.

    Args:
        documents: N documents with labels.
        fraction: in (0, 1).
        seed: as in `stratified_folds`.

    Returns:
        two arrays of int64 row numbers, ascending, together 0 to N - 1.

    Raises:
        DataError: a part would be empty, for there is but one group, or each is the only one of some label.
    """
    labels, groups = number_labels(documents.labels), documents.group_numbers()
    folds = stratified_folds(labels, groups, (1 - fraction, fraction), seed=seed)
    train, held_out = np.flatnonzero(folds == 0), np.flatnonzero(folds == 1)
    if not len(train) or not len(held_out):
        count = len(documents) if groups is None else len(np.unique(groups))
        raise DataError(
            f"{len(documents):,} documents in {count:,} groups cannot be split: one part would be empty, or training "
            "without the only group of a label. Give more documents, or the held-out ones with --valid FILE"
        )
    return train, held_out


def number_labels(labels: pl.Series) -> SparseLabels:
    """Return (N,) List(String) labels as numbers, in the order of their names."""
    flat = labels.explode().drop_nulls()
    codes = flat.cast(pl.Enum(flat.unique().cast(pl.String).sort())).to_physical().cast(pl.Int64).to_numpy()
    ends = np.concatenate([[0], labels.list.len().to_numpy()]).cumsum().astype(np.int64)
    return SparseLabels.from_csr(torch.from_numpy(ends), torch.from_numpy(codes.copy()), num_labels=flat.n_unique())


def refuse_shared_groups(train: Documents, held_out: Documents, *, name: str) -> None:
    """Raise LeakError if a group, or a document without one, of `held_out` (called `name`) is in training too.

    Documents without a group are told by their ids; ids that are only row numbers tell nothing.
    """
    ids, other_ids = train.ids, held_out.ids
    if train.groups is not None and held_out.groups is not None:
        _refuse_shared(train.groups, held_out.groups, "groups", name)
        ids, other_ids = ids.filter(train.groups.is_null()), other_ids.filter(held_out.groups.is_null())
    if not (train.numbered or held_out.numbered):
        _refuse_shared(ids, other_ids, "documents", name)


def _refuse_shared(train: pl.Series, held_out: pl.Series, what: str, name: str) -> None:
    found = held_out.drop_nulls().unique(maintain_order=True)
    shared = found.filter(found.is_in(train.drop_nulls().unique().implode()))
    if len(shared):
        raise LeakError(
            f"{name}: {len(shared):,} of its {len(found):,} {what} are in training too, first {shared[0]!r}. "
            f"Keep each in one part: remove these {what} from one of the files"
        )


UNDEALT = -1


class Deal:
    """U units (groups of documents) on their way to F folds.

    A last label beside the L stands for "is a document": its shares are those of the documents.

    Attributes:
        folds: (U,) int64, the fold of each unit, or UNDEALT.
        dealt: (F, L + 1) int64, documents of each label in each fold.
        wanted: (F, L + 1) float, documents of each label that each fold should have.
    """

    def __init__(self, labels: SparseLabels, units: Signed, shares: NDArray[np.float64], *, seed: int) -> None:
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

    def _choose(self, label: int, weights: list[int], sizes: list[int]) -> Signed:
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

    def _holders(self, label: int) -> tuple[Signed, Signed]:
        """Return the units that have a label, and in how many documents."""
        starts, units, counts = self._units
        part = slice(starts[label], starts[label + 1])
        return units[part], counts[part]

    def _sizes(self, units: Signed) -> Signed:
        """Return how many documents each unit has."""
        starts, _, counts = self._labels
        return counts[starts[units + 1] - 1]

    def _gather(self, units: Signed) -> tuple[Signed, Signed, Signed]:
        """Return the labels of units one after the other, in how many documents each, and how many a unit has."""
        starts, labels, counts = self._labels
        lengths = starts[units + 1] - starts[units]
        ends = lengths.cumsum()
        places = np.repeat(starts[units] - ends + lengths, lengths) + np.arange(lengths.sum())
        return labels[places], counts[places], lengths
