"""Baselines that count: each is a popularity and, except the first and the last, an item-to-item matrix.

    score(user, b) = sum over the user's last `window` items a_1 (newest), a_2, ... of
                     decay^(j - 1) * matrix[a_j, b]      + 1e-6 * share of all events that are on b

popularity        no matrix
cooccurrence      matrix[a, b] = P(b in a user's items | a in them), the whole history counts
markov            matrix[a, b] = P(next item is b | item is a), the newest item counts
decayed_markov    the same matrix, the last five items count, each half as much as the next newer
item_knn          matrix[a, b] = n_ab / (sqrt(n_a n_b) + SHRINK), the cosine of two items, n their users; the whole
                  history counts, each item half as much as the next newer. Sarwar et al. 2001; Deshpande and
                  Karypis 2004, without their normalisation of rows
ease              matrix[a, b] = -P[a, b] / P[b, b], P = inverse(X'X + REGULARISATION I), X the binary users x items
                  matrix: the linear model that predicts each item from all others. Weights may be negative. The
                  history counts as for item_knn. Steck 2019 (EASE^R), there without decay
user_knn          no matrix: the most similar training users vote for what they took next, see `user_knn.py`

`ease` inverts a dense L x L matrix: about L^3 multiplications and 13 L^2 bytes, twice as many if float64 is needed.
Up to EASE_DEFAULT items it is fitted with every model, up to EASE_ITEMS if it is asked for by name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from scipy import sparse
from scipy.linalg import lapack
from torch import Tensor

from hyperfocal.errors import ConfigError
from hyperfocal.models.user_knn import DECAY, WINDOW, UserNeighbours
from hyperfocal.sequences import Sequences, user_blocks

POPULARITY_WEIGHT = 1e-6  # breaks ties, and ranks the items of a user without a known item
NEIGHBOURS = 500  # strongest entries per row; the others are dropped, so that memory is O(L)
BLOCK_EVENTS = 2**23  # events whose transitions are counted at once
BLOCK_NUMBERS = 2**23  # entries of the co-occurrence matrix that exist before the weak ones are dropped
SHRINK = 50.0  # item_knn: pulls the similarity of items with few users to 0
REGULARISATION = 200.0  # ease: lambda, in users
EASE_DEFAULT = 8_000  # items: its fit takes about ten seconds on one core
EASE_ITEMS = 20_000  # items: about 6 GB and three minutes on one core, estimated from 12,068 items
FLOAT32_CONDITION = 1e5  # ease: largest condition number for which float32 is exact to about 1%


class Kind(NamedTuple):
    """Weights of a history's items in a baseline."""

    window: int | None  # newest items that count; None: all
    decay: float  # weight of an item against the next newer one


KINDS = {
    "popularity": Kind(0, 1.0),
    "cooccurrence": Kind(None, 1.0),
    "markov": Kind(1, 1.0),
    "decayed_markov": Kind(5, 0.5),
    "item_knn": Kind(None, 0.5),
    "ease": Kind(None, 0.5),
    "user_knn": Kind(WINDOW, DECAY),
}
STREAMED = ("popularity", "markov", "decayed_markov", "user_knn")  # baselines with bounded memory


@dataclass(frozen=True, eq=False)
class Baseline:
    """A fitted baseline."""

    kind: Kind  # window and decay
    counts: Tensor  # (L,) int64, training events of each item
    matrix: sparse.csr_array | None  # (L, L) float32 CSR. None: the baseline has none
    neighbours: UserNeighbours | None = None  # of user_knn

    def scores(self, histories: Sequences) -> Tensor:
        """Return (U, L) float64 scores: float32 would round the popularity of all but the commonest items away."""
        shares = self.counts.double() / self.counts.sum().clamp(min=1)
        popularity = (POPULARITY_WEIGHT * shares).expand(len(histories), -1)
        if self.neighbours is not None:
            return torch.from_numpy(self.neighbours.scores(histories)).add_(popularity)
        if self.matrix is None:
            return popularity.clone()
        weights = _history_weights(histories, self.kind)
        return torch.from_numpy((weights @ self.matrix).toarray()).double().add_(popularity)

    def widened(self, num_items: int) -> Baseline:
        """Return the baseline over more items, the last of which are new and have no count."""
        more = num_items - len(self.counts)
        counts = torch.cat([self.counts, self.counts.new_zeros(more)])
        if self.matrix is None:
            neighbours = None if self.neighbours is None else self.neighbours.widened(num_items)
            return Baseline(self.kind, counts, None, neighbours)
        matrix = self.matrix
        arrays = (matrix.data, matrix.indices, np.pad(matrix.indptr, (0, more), mode="edge"))
        return Baseline(self.kind, counts, sparse.csr_array(arrays, shape=(num_items, num_items)))

    def tensors(self) -> dict[str, Tensor]:
        """Return the tensors of a file, from which `from_tensors` builds the baseline."""
        if self.neighbours is not None:
            return {"counts": self.counts} | self.neighbours.tensors()
        if self.matrix is None:
            return {"counts": self.counts}
        arrays = {"indptr": self.matrix.indptr, "indices": self.matrix.indices, "data": self.matrix.data}
        return {"counts": self.counts} | {name: torch.from_numpy(array) for name, array in arrays.items()}

    @classmethod
    def from_tensors(cls, name: str, tensors: dict[str, Tensor]) -> Baseline:
        """Return the baseline with the results of `tensors()`; `name` is a key of KINDS.

        Raises:
            ValueError: the tensors are not a valid CSR matrix, or not valid users.
        """
        size = len(tensors["counts"])
        if name == "user_knn":
            return cls(KINDS[name], tensors["counts"].long(), None, UserNeighbours.from_tensors(tensors, size))
        matrix = None
        if "data" in tensors:
            arrays = tuple(tensors[key].numpy() for key in ("data", "indices", "indptr"))
            matrix = sparse.csr_array(arrays, shape=(size, size))
            matrix.check_format(full_check=True)  # products would read memory at any wrong index
        return cls(KINDS[name], tensors["counts"].long(), matrix)


def default_baselines(num_items: int, *, streamed: bool = False) -> list[str]:
    """Return the names of the baselines that are quick enough to fit with every model.

    If the log is streamed, because it may be larger than memory, only one baseline has a matrix, and the memory of
    user_knn is bounded.
    """
    if streamed:
        return ["popularity", "decayed_markov", "user_knn"]
    return [name for name in KINDS if name != "ease" or num_items <= EASE_DEFAULT]


def check_size(name: str, num_items: int) -> None:
    """Raise ConfigError if the model is `ease` and the catalogue has more than EASE_ITEMS items."""
    if name == "ease" and num_items > EASE_ITEMS:
        raise ConfigError(
            f"model ease over {num_items:,} items is not allowed: it inverts a dense matrix of items x items. "
            f"Expected at most {EASE_ITEMS:,} items. Choose item_knn, or leave rare items out of the log"
        )


def fit_baseline(name: str, sequences: Sequences) -> Baseline:
    """Return the named baseline, fitted on every event of the sequences.

    Raises:
        ConfigError: `ease` over more than EASE_ITEMS items.
    """
    check_size(name, sequences.num_items)
    counts = torch.bincount(sequences.items, minlength=sequences.num_items)
    if name == "user_knn":
        return Baseline(KINDS[name], counts, None, UserNeighbours.of(sequences))
    matrices = {
        "cooccurrence": _cooccurrence,
        "markov": _transitions,
        "decayed_markov": _transitions,
        "item_knn": _cosines,
        "ease": _ease,
    }
    return Baseline(KINDS[name], counts, matrices[name](sequences) if name in matrices else None)


def _transitions(sequences: Sequences) -> sparse.csr_array:
    """Return P(next is b | a) as an (L, L) matrix."""
    size = sequences.num_items
    counts: Any = sparse.csr_array((size, size), dtype=np.float32)
    for users in user_blocks(sequences.offsets.numpy(), BLOCK_EVENTS):
        block = sequences.block(users.start, users.stop)
        same_user = (block.users.diff() == 0).numpy()
        items = block.items.numpy()
        pairs = (items[:-1][same_user], items[1:][same_user])
        ones = np.ones(len(pairs[0]), dtype=np.float32)
        counts = counts + sparse.coo_array((ones, pairs), shape=(size, size)).tocsr()
    return _strongest(_scaled(counts, np.repeat(counts.sum(1), np.diff(counts.indptr))))


def _cooccurrence(sequences: Sequences) -> sparse.csr_array:
    """Return P(b in a user's items | a in them) as an (L, L) matrix without a diagonal."""
    users = sequences.as_labels().counts().numpy()
    return _divide_together(sequences, lambda rows, columns: users[rows])


def _cosines(sequences: Sequences) -> sparse.csr_array:
    """Return n_ab / (sqrt(n_a n_b) + SHRINK) as an (L, L) matrix without a diagonal."""
    roots = np.sqrt(sequences.as_labels().counts().numpy())
    return _divide_together(sequences, lambda rows, columns: roots[rows] * roots[columns] + SHRINK)


def _divide_together(
    sequences: Sequences, divisors: Callable[[np.ndarray, np.ndarray], np.ndarray]
) -> sparse.csr_array:
    """Return the strongest n_ab / divisors(a, b) of each row."""
    blocks = []
    for start, together in _together(sequences):
        rows = np.repeat(np.arange(start, start + together.shape[0]), np.diff(together.indptr))
        blocks.append(_strongest(_scaled(together, divisors(rows, together.indices))))
    return _stacked(blocks)


def _ease(sequences: Sequences) -> sparse.csr_array:
    """Return -P[a, b] / P[b, b] as an (L, L) matrix without a diagonal."""
    size = sequences.num_items
    gram = np.zeros((size, size), dtype=np.float32)
    for start, together in _together(sequences):
        gram[start : start + together.shape[0]] = together.toarray()
    np.fill_diagonal(gram, sequences.as_labels().counts().numpy() + REGULARISATION)
    weights = _inverse(gram)
    weights /= -weights.diagonal()
    np.fill_diagonal(weights, 0)
    step = max(BLOCK_NUMBERS // max(size, 1), 1)
    return _stacked([_strongest(sparse.csr_array(weights[start : start + step])) for start in range(0, size, step)])


def _inverse(gram: np.ndarray) -> np.ndarray:
    """Return the inverse of a symmetric matrix with eigenvalues >= REGULARISATION; its memory is overwritten."""
    condition = gram.sum(1).max(initial=0) / REGULARISATION  # the largest row sum is at least the largest eigenvalue
    if condition > FLOAT32_CONDITION:
        gram = gram.astype(np.float64)
    functions: Any = lapack.get_lapack_funcs(("potrf", "potri"), (gram,))
    factorise, invert = functions
    factor, failed = factorise(gram.T, overwrite_a=True)  # .T: LAPACK works in place on columns
    assert failed == 0, "X'X + lambda I is positive definite"
    upper, failed = invert(factor, overwrite_c=True)
    assert failed == 0, "a Cholesky factor has no zero on its diagonal"
    inverse: np.ndarray = np.triu(upper)
    inverse += np.triu(upper, 1).T
    return inverse


def _together(sequences: Sequences) -> Iterator[tuple[int, sparse.csr_array]]:
    """Yield (first row, rows) of the (L, L) matrix that counts users with both items, without a diagonal."""
    labels = sequences.as_labels()
    shape = (len(sequences), sequences.num_items)
    ones = np.ones(labels.num_positives, dtype=np.float32)
    users_by_items = sparse.csr_array((ones, labels.indices.numpy(), labels.indptr.numpy()), shape=shape)
    items_by_users = users_by_items.T.tocsr()
    step = max(BLOCK_NUMBERS // max(shape[1], 1), 1)
    for start in range(0, shape[1], step):
        together = (items_by_users[start : start + step] @ users_by_items).tocsr()
        together.setdiag(0, k=start)
        together.eliminate_zeros()
        yield start, together


def _scaled(counts: sparse.csr_array, divisors: np.ndarray) -> sparse.csr_array:
    """Return the matrix with every stored entry divided by its divisor."""
    return sparse.csr_array((counts.data / divisors, counts.indices, counts.indptr), shape=counts.shape)


def _strongest(matrix: sparse.csr_array) -> sparse.csr_array:
    """Return float32 with the NEIGHBOURS entries per row that are farthest from 0; of equal ones the first."""
    matrix.sort_indices()
    for row in np.flatnonzero(np.diff(matrix.indptr) > NEIGHBOURS):
        entries = matrix.data[matrix.indptr[row] : matrix.indptr[row + 1]]  # a view
        strength = np.abs(entries)
        weakest = np.partition(strength, -NEIGHBOURS)[-NEIGHBOURS]  # of the entries to keep
        equals = np.flatnonzero(strength == weakest)
        entries[equals[NEIGHBOURS - np.count_nonzero(strength > weakest) :]] = 0
        entries[strength < weakest] = 0
    matrix.eliminate_zeros()
    return matrix.astype(np.float32, copy=False)


def _stacked(blocks: list[sparse.csr_array]) -> sparse.csr_array:
    matrix: sparse.csr_array = sparse.vstack(blocks, format="csr")
    return matrix


def _history_weights(histories: Sequences, kind: Kind) -> sparse.csr_array:
    """Return decay^age at each item that counts, as a (U, L) matrix; the weights of repeated items add up."""
    ages = histories.offsets[1:].repeat_interleave(histories.lengths) - 1 - torch.arange(len(histories.items))
    counts = ages < (len(ages) if kind.window is None else kind.window)
    values = torch.tensor(kind.decay).pow(ages[counts]).numpy()
    places = (histories.users[counts].numpy(), histories.items[counts].numpy())
    shape = (len(histories), histories.num_items)
    return sparse.coo_array((values, places), shape=shape).tocsr()
