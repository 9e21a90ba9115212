"""Item vectors: each item's own, and what its features say.

    v_i = keep_i * own_i + bag_i @ T + numbers_i @ N + c    (D + 1 numbers: the vector, and the output bias)

c is what all items share, bag_i are the weights of the values that the item has, T (V, D + 1) a row a value,
N (F, D + 1) a row a number. In training keep_i is 0 for a random share of the items in each step, as inputs and as
targets, and 1 for the others: so the features learn to stand alone, and an item that nobody has touched yet is scored
from them by the same model.
Source: the dropout of the preference vectors in Volkovs et al. 2017, DropoutNet.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

FEATURE_STD = 0.02


class ItemFeatures(NamedTuple):
    """What is known of L items.

    Attributes:
        offsets: (L + 1,) int64, where each item's values begin.
        values: (nnz,) int64 in [0, num_values).
        weights: (nnz,) float32, of each value.
        numbers: (L, F) float32.
        popularity: (L,) float32, standardised ln(1 + training events); it counts as part of the item's own vector.
        num_values: V.
    """

    offsets: Tensor
    values: Tensor
    weights: Tensor
    numbers: Tensor
    popularity: Tensor
    num_values: int

    def each(self, change: Callable[[Tensor], Tensor]) -> ItemFeatures:
        """Return the features with every tensor changed, as by a move to another device."""
        return ItemFeatures(
            change(self.offsets),
            change(self.values),
            change(self.weights),
            change(self.numbers),
            change(self.popularity),
            self.num_values,
        )

    def followed_by(self, others: ItemFeatures) -> ItemFeatures:
        """Return the features of these items and then of others, which have the same values and numbers."""
        return ItemFeatures(
            torch.cat([self.offsets, others.offsets[1:] + self.offsets[-1]]),
            torch.cat([self.values, others.values]),
            torch.cat([self.weights, others.weights]),
            torch.cat([self.numbers, others.numbers]),
            torch.cat([self.popularity, others.popularity]),
            self.num_values,
        )


class FeatureVectors(nn.Module):
    """The part of the item vectors that comes from features.

    Args:
        features: of the training items.
        width: D.
        drop: share of the items whose own vector is left out in each training step.
        bias: where every output bias starts.
    """

    def __init__(self, features: ItemFeatures, width: int, drop: float, *, bias: float) -> None:
        super().__init__()
        self.features, self.drop = features, drop
        self.table = nn.Parameter(torch.randn(max(features.num_values, 1), width + 1) * FEATURE_STD)
        self.numbers = nn.Parameter(torch.zeros(features.numbers.shape[1], width + 1))
        self.popularity = nn.Parameter(torch.zeros(width + 1))
        self.shared = nn.Parameter(functional.pad(torch.zeros(width), (0, 1), value=bias))

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> FeatureVectors:
        """Take the features along, where the parameters are moved to another device."""
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        self.features = self.features.each(fn)
        return self

    def forward(self, own: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
        """Return the (L, D) vectors and (L,) biases of the training items, of (L, D) and (L,) own ones."""
        own = torch.cat([own, bias[:, None]], 1) + self.features.popularity[:, None] * self.popularity
        if self.training and self.drop:
            own = own * (torch.rand(len(own), 1, device=own.device) >= self.drop)
        whole = own + self.of(self.features)
        return whole[:, :-1], whole[:, -1]

    def of(self, features: ItemFeatures) -> Tensor:
        """Return (L, D + 1) of any items, new ones too: what their features say."""
        bags: Tensor = functional.embedding_bag(
            features.values, self.table, features.offsets[:-1], per_sample_weights=features.weights, mode="sum"
        )
        return bags + features.numbers @ self.numbers + self.shared
