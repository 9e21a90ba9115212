"""SparseLabels: which labels are right for each example, without a B x L matrix."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from hyperfocal.errors import DataError


@dataclass(frozen=True, eq=False)
class SparseLabels:
    """The positive labels of B examples, in compressed sparse rows (CSR).

    The labels of example i are `indices[indptr[i]:indptr[i + 1]]`, ascending and without duplicates.
    Build it with `from_lists`, `from_scipy`, `from_padded` or `from_csr`, which check and clean.

    Attributes:
        indptr: (B + 1,) int64, row pointers: starts at 0, never falls, ends at the number of positives.
        indices: (P,) int64, label ids in [0, num_labels).
        num_labels: L.
    """

    indptr: Tensor
    indices: Tensor
    num_labels: int

    @classmethod
    def from_lists(cls, lists: Iterable[Sequence[int]], *, num_labels: int) -> SparseLabels:
        """Build from one list of label ids an example.

        Raises:
            DataError: a label id outside [0, num_labels), with its row.

        >>> SparseLabels.from_lists([[3, 1, 3], []], num_labels=4).to_dense().tolist()
        [[0.0, 1.0, 0.0, 1.0], [0.0, 0.0, 0.0, 0.0]]
        """
        rows = [list(row) for row in lists]
        lengths = torch.tensor([0, *map(len, rows)], dtype=torch.int64)
        flat = torch.tensor([label for row in rows for label in row], dtype=torch.int64)
        return cls.from_csr(lengths.cumsum(0), flat, num_labels=num_labels)

    @classmethod
    def from_scipy(cls, matrix: Any) -> SparseLabels:
        """Build from a (B, L) scipy sparse matrix; a stored zero is not a label."""
        csr = matrix.tocsr().copy()
        csr.sum_duplicates()
        csr.eliminate_zeros()
        indptr, indices = (torch.from_numpy(part.astype("int64")) for part in (csr.indptr, csr.indices))
        return cls.from_csr(indptr, indices, num_labels=csr.shape[1])

    @classmethod
    def from_padded(cls, ids: Tensor, *, num_labels: int, padding: int = -1) -> SparseLabels:
        """Build from a (B, N) integer tensor in which `padding` fills the short rows."""
        if ids.ndim != 2 or ids.is_floating_point() or ids.is_complex():
            raise DataError(f"padded labels: expected a (B, N) integer tensor, got {tuple(ids.shape)} {ids.dtype}")
        ids = ids.long()  # first: 255 in uint8 equals -1
        kept = ids != padding
        return cls.from_csr(_pointers(kept.sum(1)), ids[kept], num_labels=num_labels)

    @classmethod
    def from_csr(cls, indptr: Tensor, indices: Tensor, *, num_labels: int) -> SparseLabels:
        """Build from row pointers and label ids; duplicates in a row become one positive.

        Raises:
            DataError: pointers that do not start at 0, fall, or do not end at len(indices); a label
                id outside [0, num_labels). The message names the row.
        """
        indptr, indices = indptr.long(), indices.long()
        _check_pointers(indptr, len(indices))
        rows = _rows(indptr)
        outside = ((indices < 0) | (indices >= num_labels)).nonzero()
        if len(outside):
            first = int(outside[0])
            raise DataError(
                f"labels: row {int(rows[first])} has label id {int(indices[first])}; "
                f"allowed are 0 to {num_labels - 1} (num_labels={num_labels})"
            )
        keys = torch.unique(rows * num_labels + indices)  # sorted: by row, then by label
        counts = torch.bincount(keys // max(num_labels, 1), minlength=len(indptr) - 1)
        return cls(_pointers(counts), keys % max(num_labels, 1), num_labels)

    def __len__(self) -> int:
        """Return B, the number of examples."""
        return len(self.indptr) - 1

    @property
    def num_positives(self) -> int:
        """Return P, the number of (example, label) pairs."""
        return len(self.indices)

    @property
    def rows(self) -> Tensor:
        """Return (P,) int64, the example of each positive."""
        return _rows(self.indptr)

    def counts(self) -> Tensor:
        """Return (L,) int64, the number of examples of each label."""
        return torch.bincount(self.indices, minlength=self.num_labels)

    def select(self, examples: Tensor) -> SparseLabels:
        """Return the labels of the given examples ((N,) int64), in that order and without a loop."""
        starts = self.indptr[examples]
        lengths = self.indptr[examples + 1] - starts
        indptr = _pointers(lengths)
        offsets = torch.repeat_interleave(starts - indptr[:-1], lengths)
        places = offsets + torch.arange(int(indptr[-1]), device=offsets.device)
        return SparseLabels(indptr, self.indices[places], self.num_labels)

    def to(self, device: torch.device | str) -> SparseLabels:
        """Return the same labels on another device."""
        return SparseLabels(self.indptr.to(device), self.indices.to(device), self.num_labels)

    def to_dense(self, dtype: torch.dtype = torch.float32) -> Tensor:
        """Return the (B, L) matrix of zeros and ones. For tests and small problems."""
        dense = torch.zeros(len(self), self.num_labels, dtype=dtype, device=self.indices.device)
        dense[self.rows, self.indices] = 1
        return dense


def _rows(indptr: Tensor) -> Tensor:
    return torch.repeat_interleave(torch.arange(len(indptr) - 1, device=indptr.device), indptr.diff())


def _pointers(lengths: Tensor) -> Tensor:
    return torch.cat([lengths.new_zeros(1), lengths.cumsum(0)])


def _check_pointers(indptr: Tensor, num_ids: int) -> None:
    if indptr.ndim != 1 or len(indptr) == 0 or int(indptr[0]) != 0:
        raise DataError("labels: row pointers must be one-dimensional and start at 0")
    falls = (indptr.diff() < 0).nonzero()
    if len(falls):
        raise DataError(f"labels: row pointers fall at row {int(falls[0])}; they must never fall")
    if int(indptr[-1]) != num_ids:
        raise DataError(f"labels: the last row pointer is {int(indptr[-1])} but there are {num_ids} label ids")
