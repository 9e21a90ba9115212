"""Item vectors: the sum of a learned vector per item and a vector computed from the item's features.

    v_i = keep_i * own_i + bag_i @ T + numbers_i @ N + c    (D + 1 numbers: the vector, and the output bias)

own_i is the learned vector. bag_i holds the weights of the item's values, T (V, D + 1) a row per value, N (F, D + 1) a
row per number, c is shared by all items. In training, keep_i is 0 for a random fraction of the items in each step, as
inputs and as targets, and 1 for the others. So the features learn to do without own_i, and the same model scores an
item without any event by its features.
Source: the dropout of the preference vectors in Volkovs et al. 2017, DropoutNet.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

FEATURE_STD = 0.02


class ItemFeatures(NamedTuple):
    """The features of L items."""

    offsets: Tensor  # (L + 1,) int64, where the values of each item begin
    values: Tensor  # (nnz,) int64 in [0, num_values)
    weights: Tensor  # (nnz,) float32, of the values
    numbers: Tensor  # (L, F) float32
    popularity: Tensor  # (L,) float32, standardised ln(1 + training events); dropped together with the learned vector
    num_values: int  # V

    def each(self, change: Callable[[Tensor], Tensor]) -> ItemFeatures:
        """Return the features with a function applied to every tensor, as to move them to another device."""
        changed: Any = {name: change(value) for name, value in self._asdict().items() if isinstance(value, Tensor)}
        return self._replace(**changed)

    def followed_by(self, others: ItemFeatures) -> ItemFeatures:
        """Return the features of these items, then of others with the same values and numbers."""
        shifted = others._replace(offsets=others.offsets[1:] + self.offsets[-1])
        joined = [torch.cat(pair) for pair in zip(self[:5], shifted[:5], strict=True)]
        return ItemFeatures._make([*joined, self.num_values])


class FeatureVectors(nn.Module):
    """Adds the vectors of the features to the learned item vectors.

    Args:
        features: of the training items.
        width: D.
        drop: fraction of the items whose learned vector is dropped in each training step.
        bias: initial output bias of every item.
    """

    def __init__(self, features: ItemFeatures, width: int, drop: float, *, bias: float) -> None:
        super().__init__()
        self.features, self.drop = features, drop
        self.table = nn.Parameter(torch.randn(max(features.num_values, 1), width + 1) * FEATURE_STD)
        self.numbers = nn.Parameter(torch.zeros(features.numbers.shape[1], width + 1))
        self.popularity = nn.Parameter(torch.zeros(width + 1))
        self.shared = nn.Parameter(functional.pad(torch.zeros(width), (0, 1), value=bias))

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> FeatureVectors:
        """Apply a function, as a move to another device, to the parameters and the features."""
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        self.features = self.features.each(fn)
        return self

    def forward(self, own: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
        """Return the (L, D) vectors and (L,) biases of the training items from their (L, D) and (L,) learned ones."""
        own = torch.cat([own, bias[:, None]], 1) + self.features.popularity[:, None] * self.popularity
        if self.training and self.drop:
            own = own * (torch.rand(len(own), 1, device=own.device) >= self.drop)
        whole = own + self.of(self.features)
        return whole[:, :-1], whole[:, -1]

    def of(self, features: ItemFeatures) -> Tensor:
        """Return the (L, D + 1) vectors and biases of any items by their features alone."""
        bags: Tensor = functional.embedding_bag(
            features.values, self.table, features.offsets[:-1], per_sample_weights=features.weights, mode="sum"
        )
        return bags + features.numbers @ self.numbers + self.shared
