"""The similarity of two items: the cosine of their vectors in a network, or an item-to-item matrix.

A matrix is that of the baseline `item_knn`: n_ab / (sqrt(n_a n_b) + SHRINK), the cosine of the items as sets of users.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from scipy import sparse
from torch import Tensor
from torch.nn import functional


@dataclass(frozen=True, eq=False)
class Similarity:
    """The similarity of L items; one of `vectors` and `matrix` is None.

    Attributes:
        vectors: (L, D) float32 of length 1, or zeros.
        matrix: (L, L) CSR without a diagonal.
    """

    vectors: Tensor | None
    matrix: sparse.csr_array | None = None

    @classmethod
    def of_vectors(cls, vectors: Tensor) -> Similarity:
        """Return the cosines of (L, D) vectors."""
        return cls(functional.normalize(vectors.detach().float().cpu(), dim=1))

    def rows(self, items: Tensor) -> Tensor:
        """Return (N, L) float32, the similarity of (N,) items to all."""
        if self.vectors is not None:
            return self.vectors[items] @ self.vectors.T
        assert self.matrix is not None
        return torch.from_numpy(self.matrix[items.numpy()].toarray()).float()

    def between(self, item: int, others: Tensor) -> Tensor:
        """Return (N,) float32, the similarity of an item to (N,) others."""
        if self.vectors is not None:
            return self.vectors[others] @ self.vectors[item]
        assert self.matrix is not None
        return torch.from_numpy(self.matrix[[item]].toarray()[0]).float()[others]
