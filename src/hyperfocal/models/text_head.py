"""The head of a classifier: a wide part over sparse features and a deep part over dense features.

    logits = x_sparse @ wide + deep(x_dense) + bias

The wide part has a weight for each feature and label, as a linear one-vs-rest model has. Its gradient has only the
rows of the features in the batch. It is trained by plain SGD: Adam's steps are as long for a feature of one document
as for a feature of a thousand documents, which overfits n-grams (NOTES.md has the numbers).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from hyperfocal.config.classify import HeadSettings


@dataclass(frozen=True, eq=False)
class SparseRows:
    """B rows of sparse features (CSR)."""

    indptr: Tensor  # (B + 1,) int64
    columns: Tensor  # (N,) int64 features; int32 in a file, which `select` converts to int64
    values: Tensor  # (N,) float32

    def __len__(self) -> int:
        """Return B."""
        return len(self.indptr) - 1

    def select(self, rows: Tensor) -> SparseRows:
        """Return the given rows ((N,) int64), in that order."""
        lengths = self.indptr[rows + 1] - self.indptr[rows]
        indptr = functional.pad(lengths.cumsum(0), (1, 0))
        places = torch.repeat_interleave(self.indptr[rows] - indptr[:-1], lengths) + torch.arange(int(indptr[-1]))
        return SparseRows(indptr, self.columns[places].long(), self.values[places])

    def followed_by(self, other: SparseRows) -> SparseRows:
        """Return these rows followed by the other rows, over the same columns."""
        indptr = torch.cat([self.indptr, other.indptr[1:] + self.indptr[-1]])
        return SparseRows(indptr, torch.cat([self.columns, other.columns]), torch.cat([self.values, other.values]))

    def dropout(self, rate: float) -> SparseRows:
        """Return the rows with a random `rate` of the values set to 0 and the other values scaled up."""
        return SparseRows(self.indptr, self.columns, functional.dropout(self.values, rate))


@dataclass(frozen=True, eq=False)
class Features:
    """The input of a head: sparse rows, dense rows ((B, D) float32), or both for the same documents."""

    sparse: SparseRows | None
    dense: Tensor | None

    def __len__(self) -> int:
        """Return B."""
        part = self.dense if self.sparse is None else self.sparse
        assert part is not None, "features need a sparse or a dense part"
        return len(part)

    def select(self, rows: Tensor) -> Features:
        """Return the given rows ((N,) int64), in that order."""
        sparse = None if self.sparse is None else self.sparse.select(rows)
        return Features(sparse, None if self.dense is None else self.dense[rows])


def join(first: Features, second: Features) -> Features:
    """Return the features of `first` followed by those of `second`, which have the same parts."""
    sparse = dense = None
    if first.sparse is not None and second.sparse is not None:
        sparse = first.sparse.followed_by(second.sparse)
    if first.dense is not None and second.dense is not None:
        dense = torch.cat([first.dense, second.dense])
    return Features(sparse, dense)


class TextHead(nn.Module):
    """Scores L labels from sparse features, dense features, or both.

    Args:
        num_sparse: V, columns of the sparse part; 0 for none.
        num_dense: D, width of the dense part; 0 for none.
        settings: linear or mlp, and its size. The wide part is always linear.
        bias: (L,) initial output bias: the prior of each label.
    """

    def __init__(self, num_sparse: int, num_dense: int, settings: HeadSettings, *, bias: Tensor) -> None:
        super().__init__()
        self.input_dropout = settings.input_dropout
        labels = len(bias)
        self.wide = nn.Parameter(torch.zeros(num_sparse, labels)) if num_sparse else None
        self.hidden = _hidden_layer(num_dense, settings) if num_dense and settings.name == "mlp" else None
        width = settings.width if self.hidden is not None else num_dense
        self.weight = nn.Parameter(torch.randn(labels, width) * 0.01) if num_dense else None
        self.bias = nn.Parameter(bias.clone())

    @property
    def sparse_parameters(self) -> list[nn.Parameter]:
        """Return the parameters with a sparse gradient."""
        return [] if self.wide is None else [self.wide]

    @property
    def num_hidden(self) -> int:
        """Return W, the width of the deep part's input of the output layer, or V without a deep part."""
        part = self.weight if self.wide is None or self.weight is not None else self.wide.T
        assert part is not None, "a head has a wide or a deep part"
        return part.shape[1]

    def hidden_of(self, dense: Tensor) -> Tensor:
        """Return the input of the last layer, (B, W), from (B, D) dense features."""
        dense = functional.dropout(dense, self.input_dropout, self.training)
        hidden: Tensor = dense if self.hidden is None else self.hidden(dense)
        return hidden

    def forward(self, features: Features) -> Tensor:
        """Return (B, L) logits."""
        logits: Any = self.bias
        if features.dense is not None and self.weight is not None:
            logits = logits + self.hidden_of(features.dense) @ self.weight.T
        if features.sparse is not None and self.wide is not None:
            sparse = features.sparse.dropout(self.input_dropout) if self.training else features.sparse
            logits = logits + wide_logits(sparse, self.wide)
        result: Tensor = logits
        return result


def _hidden_layer(num_dense: int, settings: HeadSettings) -> nn.Sequential:
    return nn.Sequential(nn.Linear(num_dense, settings.width), nn.ReLU(), nn.Dropout(settings.dropout))


def wide_logits(rows: SparseRows, weight: Tensor) -> Tensor:
    """Return rows @ weight, (B, L), of sparse rows over V features and a (V, L) weight.

    The gradient of the weight is a sparse tensor that has only the rows of the batch's features. The values get no
    gradient.
    """
    logits: Tensor = _WideLogits.apply(rows.indptr, rows.columns, rows.values, weight)  # type: ignore[no-untyped-call]
    return logits


class _WideLogits(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, indptr: Tensor, columns: Tensor, values: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(indptr, columns, values)
        ctx.shape = weight.shape
        return functional.embedding_bag(columns, weight, indptr[:-1], mode="sum", per_sample_weights=values)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[None, None, None, Tensor]:
        indptr, columns, values = ctx.saved_tensors
        (gradient,) = gradients
        order = torch.argsort(columns)  # by feature: each feature is one bag of documents
        sorted_columns = columns[order]
        features, lengths = torch.unique_consecutive(sorted_columns, return_counts=True)
        documents = (torch.searchsorted(indptr, torch.arange(len(columns)), right=True) - 1)[order]
        offsets = lengths.cumsum(0) - lengths
        rows = functional.embedding_bag(
            documents, gradient.contiguous(), offsets, mode="sum", per_sample_weights=values[order]
        )
        sparse = torch.sparse_coo_tensor(features[None], rows, ctx.shape, is_coalesced=True, check_invariants=False)
        return None, None, None, sparse
