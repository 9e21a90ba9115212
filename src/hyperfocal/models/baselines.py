"""Baselines: what counting alone achieves. Each is a popularity and, but for the first, an item-to-item matrix.

    score(user, b) = sum over the user's last `window` items a_1 (newest), a_2, ... of
                     decay^(j - 1) * matrix[a_j, b]      + 1e-6 * share of all events that are on b

popularity        no matrix
cooccurrence      matrix[a, b] = P(b in a user's items | a in them), the whole history counts
markov            matrix[a, b] = P(next item is b | item is a), the newest item counts
decayed_markov    the same matrix, the last five items count, each half as much as the next newer
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from scipy import sparse
from torch import Tensor

from hyperfocal.sequences import Sequences

POPULARITY_WEIGHT = 1e-6  # breaks ties, and ranks for a user without a known item
NEIGHBOURS = 500  # strongest entries of a row that are kept, so that memory is O(L)
BLOCK_NUMBERS = 2**23  # entries of the co-occurrence matrix that exist before the weak ones are dropped


class Kind(NamedTuple):
    """How a baseline reads a history."""

    window: int | None  # newest items that count; None is all
    decay: float  # weight of an item against the next newer one


KINDS = {
    "popularity": Kind(0, 1.0),
    "cooccurrence": Kind(None, 1.0),
    "markov": Kind(1, 1.0),
    "decayed_markov": Kind(5, 0.5),
}


@dataclass(frozen=True, eq=False)
class Baseline:
    """A fitted baseline.

    Attributes:
        kind: window and decay.
        counts: (L,) int64, training events of each item.
        matrix: (L, L) float32 CSR, or None.
    """

    kind: Kind
    counts: Tensor
    matrix: sparse.csr_array | None

    def scores(self, histories: Sequences) -> Tensor:
        """Return (U, L) float64 scores: float32 would round the popularity of all but the commonest items away."""
        shares = self.counts.double() / self.counts.sum().clamp(min=1)
        popularity = (POPULARITY_WEIGHT * shares).expand(len(histories), -1)
        if self.matrix is None:
            return popularity.clone()
        weights = _history_weights(histories, self.kind)
        return torch.from_numpy((weights @ self.matrix).toarray()).double().add_(popularity)

    def widened(self, num_items: int) -> Baseline:
        """Return the baseline over more items: of the last ones, which are new, nothing was counted."""
        more = num_items - len(self.counts)
        counts = torch.cat([self.counts, self.counts.new_zeros(more)])
        if self.matrix is None:
            return Baseline(self.kind, counts, None)
        matrix = self.matrix
        parts = (matrix.data, matrix.indices, np.pad(matrix.indptr, (0, more), mode="edge"))
        return Baseline(self.kind, counts, sparse.csr_array(parts, shape=(num_items, num_items)))

    def tensors(self) -> dict[str, Tensor]:
        """Return what `from_tensors` needs, ready for safetensors."""
        if self.matrix is None:
            return {"counts": self.counts}
        parts = {"indptr": self.matrix.indptr, "indices": self.matrix.indices, "data": self.matrix.data}
        return {"counts": self.counts} | {name: torch.from_numpy(part) for name, part in parts.items()}

    @classmethod
    def from_tensors(cls, name: str, tensors: dict[str, Tensor]) -> Baseline:
        """Build from `tensors()`; `name` is a key of KINDS."""
        size = len(tensors["counts"])
        matrix = None
        if "data" in tensors:
            parts = tuple(tensors[part].numpy() for part in ("data", "indices", "indptr"))
            matrix = sparse.csr_array(parts, shape=(size, size))
        return cls(KINDS[name], tensors["counts"], matrix)


def fit_baseline(name: str, sequences: Sequences) -> Baseline:
    """Return the named baseline, fitted on every event of the sequences."""
    counts = torch.bincount(sequences.items, minlength=sequences.num_items)
    matrices = {"cooccurrence": _cooccurrence, "markov": _transitions, "decayed_markov": _transitions}
    return Baseline(KINDS[name], counts, matrices[name](sequences) if name in matrices else None)


def _transitions(sequences: Sequences) -> sparse.csr_array:
    """Return P(next is b | a) as an (L, L) matrix."""
    same_user = (sequences.users.diff() == 0).numpy()
    items = sequences.items.numpy()
    return _rows_to_shares(_counted(items[:-1][same_user], items[1:][same_user], sequences.num_items), divisor=None)


def _cooccurrence(sequences: Sequences) -> sparse.csr_array:
    """Return P(b in a user's items | a in them) as an (L, L) matrix without a diagonal."""
    labels = sequences.as_labels()
    shape = (len(sequences), sequences.num_items)
    ones = np.ones(labels.num_positives, dtype=np.float32)
    users_by_items = sparse.csr_array((ones, labels.indices.numpy(), labels.indptr.numpy()), shape=shape)
    items_by_users, counts = users_by_items.T.tocsr(), labels.counts().numpy()
    step = max(BLOCK_NUMBERS // max(shape[1], 1), 1)
    blocks = []
    for start in range(0, shape[1], step):
        together = (items_by_users[start : start + step] @ users_by_items).tocsr()
        together.setdiag(0, k=start)
        together.eliminate_zeros()
        blocks.append(_rows_to_shares(together, divisor=counts[start : start + step]))
    matrix: sparse.csr_array = sparse.vstack(blocks, format="csr")
    return matrix


def _counted(rows: np.ndarray, columns: np.ndarray, size: int) -> sparse.csr_array:
    return sparse.coo_array((np.ones(len(rows), dtype=np.float32), (rows, columns)), shape=(size, size)).tocsr()


def _rows_to_shares(counts: sparse.csr_array, *, divisor: np.ndarray | None) -> sparse.csr_array:
    """Divide each row by its divisor (its sum where None) and keep its strongest entries."""
    divisor = counts.sum(1) if divisor is None else divisor
    lengths = np.diff(counts.indptr)
    shares = counts.data / np.repeat(np.maximum(divisor, 1), lengths)
    rows = np.repeat(np.arange(counts.shape[0]), lengths)
    order = np.lexsort((counts.indices, -shares, rows))  # by row, then strongest first
    rank = np.arange(len(rows)) - np.repeat(counts.indptr[:-1], lengths)
    kept = np.sort(order[rank < NEIGHBOURS])
    values = (shares[kept].astype(np.float32), (rows[kept], counts.indices[kept]))
    return sparse.coo_array(values, shape=counts.shape).tocsr()


def _history_weights(histories: Sequences, kind: Kind) -> sparse.csr_array:
    """Return decay^(age) at each item that counts, as a (U, L) matrix; repeats add up."""
    ages = histories.offsets[1:].repeat_interleave(histories.lengths) - 1 - torch.arange(len(histories.items))
    counts = ages < (len(ages) if kind.window is None else kind.window)
    values = torch.tensor(kind.decay).pow(ages[counts]).numpy()
    places = (histories.users[counts].numpy(), histories.items[counts].numpy())
    shape = (len(histories), histories.num_items)
    return sparse.coo_array((values, places), shape=shape).tocsr()
