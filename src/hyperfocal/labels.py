"""SparseLabels, the positive labels of each example without a B x L matrix; buckets of labels by their frequency."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hyperfocal.errors import DataError

HEAD = 200  # training examples at least
TAIL = 20  # fewer training examples than this
BUCKETS = ("head", "medium", "tail")


@dataclass(frozen=True, eq=False)
class SparseLabels:
    """The positive labels of B examples, in compressed sparse rows (CSR).

    The labels of example i are `indices[indptr[i]:indptr[i + 1]]`, ascending and without duplicates.
    Build it with `from_lists`, `from_scipy`, `from_padded` or `from_csr`, which check and clean.

    Attributes:
        indptr: (B + 1,) int64, row pointers: starts at 0, never decreases, ends at the number of positives.
        indices: (P,) int64, label ids in [0, num_labels).
        num_labels: L.
    """

    indptr: Tensor
    indices: Tensor
    num_labels: int

    @classmethod
    def from_lists(cls, lists: Iterable[Sequence[int]], *, num_labels: int) -> SparseLabels:
        """Build from one list of label ids per example.

        Raises:
            DataError: a label id that is not an integer or is outside [0, num_labels), with its row.

        >>> SparseLabels.from_lists([[3, 1, 3], []], num_labels=4).to_dense().tolist()
        [[0.0, 1.0, 0.0, 1.0], [0.0, 0.0, 0.0, 0.0]]
        """
        rows = [row.tolist() if isinstance(row, Tensor) else list(row) for row in lists]
        lengths = torch.tensor([0, *map(len, rows)], dtype=torch.int64)
        return cls.from_csr(lengths.cumsum(0), _ids(rows), num_labels=num_labels)

    @classmethod
    def from_scipy(cls, matrix: Any) -> SparseLabels:
        """Build from a (B, L) scipy sparse matrix of 0 and 1; a stored zero is not a label.

        Raises:
            DataError: an entry other than 0 and 1, with its row and column; not a scipy matrix of two dimensions.
        """
        if not hasattr(matrix, "tocoo") or len(matrix.shape) != 2:
            kind = f"{getattr(matrix, 'shape', '')} {type(matrix).__name__}".strip()
            raise DataError(
                f"labels: {kind} is not a (B, L) scipy matrix. Convert an array with scipy.sparse.csr_array"
            )
        check_matrix(matrix)
        csr = matrix.tocsr()
        if not csr.data.all():
            csr = csr.copy()  # a CSR matrix is the caller's
            csr.eliminate_zeros()
        indptr, indices = (torch.from_numpy(array.astype("int64")) for array in (csr.indptr, csr.indices))
        return cls.from_csr(indptr, indices, num_labels=csr.shape[1])

    @classmethod
    def from_dense(cls, dense: Tensor) -> SparseLabels:
        """Build from a (B, L) tensor of 0 and 1, or of bools.

        Raises:
            DataError: an entry other than 0 and 1, with its row and column; not a tensor of two dimensions.
        """
        if not isinstance(dense, Tensor) or dense.ndim != 2 or dense.layout != torch.strided:
            kind = f"{tuple(dense.shape)} {dense.layout}" if isinstance(dense, Tensor) else type(dense).__name__
            raise DataError(f"labels: {kind} is not a dense (B, L) tensor. Convert an array with torch.from_numpy")
        rows, labels = dense.nonzero().unbind(1)
        if dense.dtype != torch.bool:  # no need to gather them
            check_indicator(dense[rows, labels], lambda at: (int(rows[at]), int(labels[at])))
        indptr = torch.searchsorted(rows, torch.arange(len(dense) + 1, device=rows.device))
        return cls(indptr, labels, dense.shape[1])

    @classmethod
    def from_padded(cls, ids: Tensor, *, num_labels: int, padding: int = -1) -> SparseLabels:
        """Build from a (B, N) integer tensor in which `padding` fills the short rows.

        Raises:
            DataError: another shape or dtype; an id that is neither padding nor in [0, num_labels).
        """
        if ids.ndim != 2 or not _is_integer(ids):
            raise DataError(f"padded labels: expected a (B, N) integer tensor, got {tuple(ids.shape)} {ids.dtype}")
        ids = ids.long()  # first: 255 in uint8 equals -1
        real = ids != padding
        try:
            return cls.from_csr(row_pointers(real.sum(1)), ids[real], num_labels=num_labels)
        except DataError:
            if len(negative := ids[real & (ids < 0)]):
                raise DataError(
                    f"padded labels: {int(negative[0])} is neither a label id from 0 to {num_labels - 1} nor the "
                    f"padding {padding}. Name another padding with `padding=`"
                ) from None
            raise

    @classmethod
    def from_csr(cls, indptr: Tensor, indices: Tensor, *, num_labels: int) -> SparseLabels:
        """Build from row pointers and label ids; duplicates in a row become one positive.

        Raises:
            DataError: pointers that do not start at 0, decrease, or do not end at len(indices); a label
                id outside [0, num_labels), both with the row; tensors that do not hold integers or are
                not one-dimensional; num_labels below 0.
        """
        _check_csr(indptr, indices, num_labels)
        indptr, indices = indptr.long(), indices.long()
        rows = _rows(indptr, len(indices))
        outside = ((indices < 0) | (indices >= num_labels)).nonzero()
        if len(outside):
            first = int(outside[0])
            raise DataError(
                f"labels: row {int(rows[first])} has label id {int(indices[first])}. "
                f"Expected 0 to {num_labels - 1} (num_labels={num_labels})"
            )
        keys = torch.unique(rows * num_labels + indices)  # sorted: by row, then by label
        counts = torch.bincount(keys // max(num_labels, 1), minlength=len(indptr) - 1)
        return cls(row_pointers(counts), keys % max(num_labels, 1), num_labels)

    def __len__(self) -> int:
        """Return B, the number of examples."""
        return len(self.indptr) - 1

    @property
    def num_positives(self) -> int:
        """Return P, the number of (example, label) pairs."""
        return len(self.indices)

    @property
    def lengths(self) -> Tensor:
        """Return (B,) int64, the number of labels of each example."""
        return self.indptr.diff()

    @property
    def rows(self) -> Tensor:
        """Return (P,) int64, the example of each positive."""
        return _rows(self.indptr, len(self.indices))

    @property
    def keys(self) -> Tensor:
        """Return (P,) int64, row * L + label: one number for each pair, ascending."""
        return self.rows * self.num_labels + self.indices

    def counts(self) -> Tensor:
        """Return (L,) int64, the number of examples of each label."""
        return torch.bincount(self.indices, minlength=self.num_labels)

    def select(self, examples: Tensor) -> SparseLabels:
        """Return the labels of the given examples ((N,) integers in [0, B)), in that order and without a loop.

        Raises:
            DataError: examples that are not integers, or are outside [0, B).
        """
        if examples.ndim != 1 or not _is_integer(examples):
            raise DataError(f"examples: expected (N,) integers, got {tuple(examples.shape)} {examples.dtype}")
        outside = examples[(examples < 0) | (examples >= len(self))]
        if len(outside):
            raise DataError(f"examples: {int(outside[0])} is not allowed. Expected 0 or more and below {len(self)}")
        examples = examples.long()
        starts = self.indptr[examples]
        lengths = self.indptr[examples + 1] - starts
        indptr = row_pointers(lengths)
        offsets = torch.repeat_interleave(starts - indptr[:-1], lengths)
        places = offsets + torch.arange(int(indptr[-1]), device=offsets.device)
        return SparseLabels(indptr, self.indices[places], self.num_labels)

    def followed_by(self, others: SparseLabels) -> SparseLabels:
        """Return the labels of these examples followed by the labels of the others, over the same L labels."""
        indptr = torch.cat([self.indptr, others.indptr[1:] + self.indptr[-1]])
        return SparseLabels(indptr, torch.cat([self.indices, others.indices]), self.num_labels)

    def without(self, others: SparseLabels) -> SparseLabels:
        """Return the pairs that are not among `others`, which has the same B examples and L labels.

        Labels without data (device "meta") stay as they are: the number of the pairs depends on the data.
        """
        if not has_data(self.indices):
            return self
        rest = ~self.among(others)
        lengths = torch.bincount(self.rows[rest], minlength=len(self))
        return SparseLabels(row_pointers(lengths), self.indices[rest], self.num_labels)

    def among(self, others: SparseLabels) -> Tensor:
        """Return (P,) bool: whether each pair is also in `others`, which has the same B examples and L labels."""
        return torch.isin(self.keys, others.keys, assume_unique=True)

    def holds(self, ids: Tensor) -> Tensor:
        """Return (B, N) bool: whether each of N label ids ((N,) int64) is a label of each example."""
        rows = torch.arange(len(self), device=ids.device)[:, None]
        wanted = rows * self.num_labels + ids
        keys = torch.cat([self.keys, self.keys.new_full((1,), len(self) * self.num_labels)])  # a sentinel
        return keys[torch.searchsorted(keys, wanted)] == wanted

    def to(self, device: torch.device | str) -> SparseLabels:
        """Return the same labels on another device."""
        return SparseLabels(self.indptr.to(device), self.indices.to(device), self.num_labels)

    def to_dense(self, dtype: torch.dtype = torch.float32) -> Tensor:
        """Return the (B, L) matrix of zeros and ones. For tests and small problems."""
        dense = torch.zeros(len(self), self.num_labels, dtype=dtype, device=self.indices.device)
        dense[self.rows, self.indices] = 1
        return dense


def has_data(tensor: Tensor) -> bool:
    """Return whether a tensor holds numbers: not one of device "meta", and no FakeTensor outside a compiler's trace."""
    return torch.compiler.is_compiling() or not (tensor.device.type == "meta" or hasattr(tensor, "fake_mode"))


def check_matrix(matrix: Any) -> None:
    """Check that the entries of a scipy matrix are 0 or 1; errors as in `check_indicator`."""
    if matrix.format in ("csr", "csc", "coo") and ((matrix.data == 0) | (matrix.data == 1)).all():
        return  # without the memory of another format
    entries = matrix.tocoo()
    check_indicator(entries.data, lambda at: (int(entries.row[at]), int(entries.col[at])))


def check_indicator(entries: Any, place: Callable[[int], tuple[int, int]]) -> None:
    """Check that the entries of an indicator matrix are 0 or 1.

    Args:
        entries: (P,) array or tensor. The zeros may be left out.
        place: returns the row and the column of an entry.

    Raises:
        DataError: an entry is another number, such as a soft label, a count, an ignore index or NaN.
    """
    if entries.dtype in (np.bool_, torch.bool):
        return
    wrong = (entries != 0) & (entries != 1)
    if not wrong.any():
        return
    first = int(wrong.nonzero()[0][0])
    value, (row, column) = entries[first].item(), place(first)
    raise DataError(f"labels: row {row}, column {column} is {value:.6g}. Expected 0 or 1: {_how_to_mend(value)}")


def _how_to_mend(value: float) -> str:
    """Return what to do with an entry of an indicator matrix that is neither 0 nor 1."""
    if not value >= 0:  # nan too
        return "set missing and ignored entries to 0, and give a loss these pairs as its `mask`"
    if value == int(min(value, 2.0**62)):
        return "if these are counts, pass `labels > 0`"
    return "cut soft labels at a threshold first, as in `labels > 0.5`"


def _is_integer(tensor: Tensor) -> bool:
    return not (tensor.is_floating_point() or tensor.is_complex() or tensor.dtype == torch.bool)


def _ids(rows: list[list[int]]) -> Tensor:
    """Return the ids of all rows in one tensor; raise DataError, with the row, for an id that is not an integer."""
    flat = [label for row in rows for label in row]
    if flat and np.asarray(flat).dtype.kind not in "iu":
        wrong = ((number, label) for number, row in enumerate(rows) for label in row)
        row, label = next(pair for pair in wrong if np.asarray(pair[1]).dtype.kind not in "iu")
        raise DataError(f"labels: row {row} has label id {label!r}. Expected an integer: number the labels first")
    return torch.tensor(flat, dtype=torch.int64)


def _rows(indptr: Tensor, num_ids: int) -> Tensor:
    places = torch.arange(num_ids, device=indptr.device)
    return torch.searchsorted(indptr, places, right=True) - 1  # repeat_interleave starts threads even for a few ids


def row_pointers(lengths: Tensor) -> Tensor:
    """Return the (B + 1,) int64 row pointers of rows with the given lengths, (B,) int64 or bool."""
    return torch.cat([lengths.new_zeros(1), lengths.cumsum(0)])


def _check_csr(indptr: Tensor, indices: Tensor, num_labels: int) -> None:
    if num_labels < 0:
        raise DataError(f"labels: num_labels = {num_labels} is not allowed. Expected 0 or more")
    if indptr.ndim != 1 or len(indptr) == 0 or int(indptr[0]) != 0:
        raise DataError("labels: row pointers must be one-dimensional and start at 0")
    if indices.ndim != 1:
        raise DataError(f"labels: label ids must be one-dimensional, got {tuple(indices.shape)}")
    if not _is_integer(indptr) or (len(indices) and not _is_integer(indices)):
        raise DataError(f"labels: expected integers, got row pointers {indptr.dtype} and label ids {indices.dtype}")
    drops = (indptr.diff() < 0).nonzero()
    if len(drops):
        raise DataError(f"labels: row pointers decrease at row {int(drops[0])}. Expected pointers that never decrease")
    if int(indptr[-1]) != len(indices):
        raise DataError(f"labels: the last row pointer is {int(indptr[-1])} but there are {len(indices)} label ids")


def bucket_masks(counts: Tensor) -> dict[str, Tensor]:
    """Return a (L,) bool mask for each bucket of labels, by their (L,) integer numbers of training examples.

    head: count >= 200, medium: 20 <= count < 200, tail: count < 20.

    >>> {name: mask.tolist() for name, mask in bucket_masks(torch.tensor([500, 20, 0])).items()}
    {'head': [True, False, False], 'medium': [False, True, False], 'tail': [False, False, True]}
    """
    return {"head": counts >= HEAD, "medium": (counts >= TAIL) & (counts < HEAD), "tail": counts < TAIL}


def bucket_means(values: Tensor, counts: Tensor) -> dict[str, Tensor]:
    """Return the means over all labels ("macro") and over head, medium and tail labels, along the last axis.

    Args:
        values: (..., L) float; nan leaves a label out of the means.
        counts: (L,) integer, training examples of each label.

    Returns:
        name -> (...) float, nan for a bucket without a value.
    """
    masks = {"macro": torch.ones_like(counts, dtype=torch.bool)} | bucket_masks(counts)
    return {name: values[..., mask].nanmean(-1) for name, mask in masks.items()}
