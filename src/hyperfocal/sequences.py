"""Sequences, the item numbers of each user in time order, in one flat array."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hyperfocal.labels import SparseLabels, row_pointers


@dataclass(frozen=True, eq=False)
class Sequences:
    """The item numbers of U users, oldest first.

    The items of user u are `items[offsets[u]:offsets[u + 1]]`. Unlike in SparseLabels, order and repeats count.

    Attributes:
        items: (N,) int64, item numbers in [0, num_items); int32 if they are mapped from a file.
        offsets: (U + 1,) int64, starts at 0 and ends at N.
        num_items: size of the catalogue.
    """

    items: Tensor
    offsets: Tensor
    num_items: int

    @classmethod
    def empty(cls, num_items: int) -> Sequences:
        """Return the sequences of zero users."""
        return cls(torch.empty(0, dtype=torch.int64), torch.zeros(1, dtype=torch.int64), num_items)

    def __len__(self) -> int:
        """Return U, the number of users."""
        return len(self.offsets) - 1

    @property
    def lengths(self) -> Tensor:
        """Return (U,) int64, the number of items of each user."""
        return self.offsets.diff()

    @property
    def users(self) -> Tensor:
        """Return (N,) int64, the user of each item."""
        return torch.from_numpy(np.repeat(np.arange(len(self)), self.lengths.numpy()))  # torch would start threads

    def block(self, start: int, stop: int) -> Sequences:
        """Return users start to stop - 1."""
        stop = min(stop, len(self))
        first, last = int(self.offsets[start]), int(self.offsets[stop])
        return Sequences(self.items[first:last], self.offsets[start : stop + 1] - first, self.num_items)

    def select(self, users: Tensor) -> Sequences:
        """Return the sequences of the given users ((V,) int64), in that order."""
        lengths = self.lengths[users]
        offsets = row_pointers(lengths)
        shifts = self.offsets[users] - offsets[:-1]
        places = torch.from_numpy(np.repeat(shifts.numpy(), lengths.numpy())) + torch.arange(int(offsets[-1]))
        return Sequences(self.items[places], offsets, self.num_items)

    def first(self, counts: Tensor) -> Sequences:
        """Return the oldest items of each user, `counts` ((U,) int64) of them."""
        owners = self.users
        early = torch.arange(len(self.items)) - self.offsets[owners] < counts[owners]
        return Sequences(self.items[early], row_pointers(counts), self.num_items)

    def last(self, count: int) -> Tensor:
        """Return (U, count) int64: each user's newest items, newest last.

        Short histories are padded on the left with `num_items`, which is not an item.
        """
        places = self.offsets[1:, None] + torch.arange(-count, 0)  # (U, count)
        inside = places >= self.offsets[:-1, None]
        if len(self.items) == 0:
            return torch.full(places.shape, self.num_items, dtype=torch.int64)
        return torch.where(inside, self.items[places.clamp(min=0)], self.num_items)

    def as_labels(self) -> SparseLabels:
        """Return the distinct items of each user, without their order."""
        return SparseLabels.from_csr(self.offsets, self.items, num_labels=self.num_items)


def user_blocks(offsets: NDArray[np.int64], events: int) -> Iterator[slice]:
    """Yield blocks of users, from their (U + 1,) offsets, with about `events` events each; no user is in two blocks.

    >>> list(user_blocks(np.array([0, 3, 4, 9, 10]), 4))
    [slice(0, 2, None), slice(2, 3, None), slice(3, 4, None)]
    """
    inner = np.searchsorted(offsets, np.arange(events, offsets[-1], events))
    edges = np.unique(np.concatenate([[0], inner, [len(offsets) - 1]])).tolist()
    yield from map(slice, edges[:-1], edges[1:])
