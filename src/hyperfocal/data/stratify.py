"""Split documents so that every part has its size and its share of each label, and no group is divided.

Iterative stratification, Sechidis, Tsoumakas & Vlahavas 2011, "On the Stratification of Multi-Label Data",
Algorithm 1: take the label with the fewest documents left, and assign each of its documents to the fold that is
shortest of the label, at a tie to the one that is shortest of documents. Differences: groups are assigned, not
documents; a group counts as many documents of a label as it holds, and large ones come first; documents without labels
come last; the first fold, if it is for training, gets a document of every label; and at the end `fold_sizes.py` gives
the folds their sizes, which Algorithm 1 misses by several percent.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import polars as pl
import torch

from hyperfocal.data.documents import Documents
from hyperfocal.data.fold_sizes import balance
from hyperfocal.data.folds import UNASSIGNED, Folds, Ints
from hyperfocal.data.splits import check_leak
from hyperfocal.errors import DataError
from hyperfocal.labels import SparseLabels

ALGORITHM = 2  # raise it if the same documents get other folds: a run that is resumed would mix both


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
    if len(documents) == 1:
        raise DataError(
            "one document (n_samples=1) cannot be split into training and validation. Give more documents, or the "
            "held-out ones with `valid=`"
        )
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
    """Return the fold of each document, so that every fold has its share of the documents and of every label.

    Without groups, sizes are exact except for rounding, unless fold 0 needs more documents to have every label. With
    groups, they are as near as moving one group, or swapping two, can bring them.

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
    folds = Folds(labels, units, weights / weights.sum(), seed=seed)
    _assign_all(folds)
    if first_trains:
        _complete_first(folds)
    balance(folds, complete=first_trains)
    return folds.folds[units]


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


def _assign_all(folds: Folds) -> None:
    """Assign every unit: first those of the label with the fewest units left, last those without labels."""
    left = folds.num_units()
    while (left[:-1] > 0).any():
        left -= _assign(folds, int(np.where(left[:-1] > 0, left[:-1], np.iinfo(np.int64).max).argmin()))
    _assign(folds, len(left) - 1)


def _assign(folds: Folds, label: int) -> Ints:
    """Assign the units left of a label, the largest first, each to the fold that is shortest of it.

    Returns:
        (L + 1,) int64, how many of them have each label.
    """
    units, weights = folds.units_of(label)
    left = folds.folds[units] == UNASSIGNED
    units, weights = units[left], weights[left]
    order = np.lexsort((folds.order[units], -weights))
    units, weights = units[order], weights[order]
    labels = folds.assign(units, _choose(folds, label, weights.tolist(), folds.sizes(units).tolist()))
    return np.bincount(labels, minlength=len(folds.totals))


def _choose(folds: Folds, label: int, weights: list[int], sizes: list[int]) -> Ints:
    lack = (folds.wanted[:, label] - folds.counts[:, label]).tolist()
    room = (folds.wanted[:, -1] - folds.counts[:, -1]).tolist()
    draw = folds.random.random(len(lack)).tolist()
    chosen = []
    for weight, size in zip(weights, sizes, strict=True):
        fold = max(range(len(lack)), key=lambda each: (lack[each], room[each], draw[each]))
        lack[fold] -= weight
        room[fold] -= size
        chosen.append(fold)
    return np.array(chosen, dtype=np.int64)


def _complete_first(folds: Folds) -> None:
    """Move to fold 0 the smallest unit of each label that has none there."""
    for label in np.flatnonzero((folds.counts[0] == 0) & (folds.totals > 0)):
        if folds.counts[0, label] == 0:
            units, _ = folds.units_of(int(label))
            folds.move(int(units[folds.sizes(units).argmin()]), 0)
