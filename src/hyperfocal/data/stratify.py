"""Splits of documents that keep the share of every label, and never part a group.

Iterative stratification, Sechidis, Tsoumakas & Vlahavas 2011, "On the Stratification of Multi-Label Data",
Algorithm 1: the label with the fewest documents left is dealt out first, each document to the fold that still
lacks most of that label, at a tie to the one that lacks most documents. We differ: what is dealt out is a group,
which weighs as many documents of a label as it holds, heavy ones first; documents without labels come last; and
the first fold, where it trains, gets a document of every label.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray

from hyperfocal.data.dealing import Deal
from hyperfocal.data.texts import Documents
from hyperfocal.errors import DataError, LeakError
from hyperfocal.labels import SparseLabels

Ints = NDArray[np.int64]


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
