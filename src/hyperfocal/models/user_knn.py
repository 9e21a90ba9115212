"""Neighbours of the baseline `user_knn`: the training users most like this one vote for what they took next.

    similarity(u, v) = sum over the items a that u and v share of 0.8^age(a) * idf(a)^2,   idf(a) = log(1 + N / n_a)
    score(u, b)      = sum over the 300 training users v with the largest similarity, and over the events of v on b, of
                       similarity(u, v)^1.5 * vote

    vote             = 0.8^(d - 1) for the d-th event of v after its last event on the newest item that they share
                     = 0.1         for that event and those before it

age(a) is 0 for the newest item of u, 1 for the one before it; the newest 50 items count, each at its newest place. N is
the number of training users, n_a that of training users with item a. Of equally similar users the first are neighbours.
A training user who is scored is among its own neighbours. Its history ends with the newest shared item, so that nothing
follows, and it votes only for items that it has.

Sources: VS-KNN of Jannach and Ludewig 2017 (newer items weigh more) and Ludewig and Jannach 2018 (rare items weigh
more). Here the neighbours are users and not sessions, the idf is that of both users, as in a cosine of idf vectors, and
what a neighbour took after the shared item weighs more than what came before.

Memory: the last MOST_USERS training users, fewer if they have more than MOST_EVENTS events; 4 bytes per event and 8 per
user in the file, 12 and 16 in memory, 205 MB at most. Work per user: the sum of n_a over the history for the
similarities, and 300 times the mean length of a training history for the votes. BLOCK_USERS users are scored at once,
each with at most N similarities of 8 bytes.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import sparse
from torch import Tensor

from hyperfocal.sequences import Sequences

NEIGHBOURS = 300
WINDOW = 50  # newest items of the history that count: 0.8^50 is 1e-5
DECAY = 0.8  # weight of an item of the history against the next newer one
AFTER = 0.8  # vote for an event of a neighbour against the event before it
BEFORE = 0.1  # vote for an event that is not after the shared item
POWER = 1.5
MOST_USERS = 2**18  # training users, the last ones in the order of the log
MOST_EVENTS = 2**24  # of these users
BLOCK_USERS = 32  # users scored at once


@dataclass(frozen=True, eq=False)
class UserNeighbours:
    """The training users among whom neighbours are searched.

    Attributes:
        sequences: events of N users, items as int32.
    """

    sequences: Sequences

    @classmethod
    def of(cls, sequences: Sequences) -> UserNeighbours:
        """Return the last MOST_USERS of the users, fewer if they have more than MOST_EVENTS events."""
        size, offsets = len(sequences), sequences.offsets
        by_events = int(torch.searchsorted(offsets, int(offsets[-1]) - MOST_EVENTS))
        last = sequences.block(max(by_events, size - MOST_USERS, 0), size)
        return cls(Sequences(last.items.to(torch.int32, copy=True), last.offsets, last.num_items))

    @cached_property
    def _index(self) -> sparse.csr_array:
        """(L, N) float32: idf(a)^2 at the users of each item."""
        items, users = self.sequences.items.numpy(), self.sequences.users.numpy()
        shape = (self.sequences.num_items, len(self.sequences))
        index: Any = sparse.coo_array((np.ones(len(items), dtype=np.float32), (items, users)), shape=shape).tocsr()
        users_of_item = np.diff(index.indptr)
        squares = np.log1p(shape[1] / np.maximum(users_of_item, 1)).astype(np.float32) ** 2
        index.data = np.repeat(squares, users_of_item)
        return cast(sparse.csr_array, index)

    def scores(self, histories: Sequences) -> NDArray[np.float64]:
        """Return (U, L) scores of U histories."""
        scores = np.zeros((len(histories), histories.num_items))
        for start in range(0, len(histories), BLOCK_USERS):
            block = histories.block(start, start + BLOCK_USERS)
            scores[start : start + len(block)] = self._score_block(newest_weights(block))
        return scores

    def _score_block(self, weights: sparse.csr_array) -> NDArray[np.float64]:
        """Return the scores of the users with these weights of their items, (U, L): every event is a vote."""
        users, neighbours, similarities = _nearest(weights @ self._index)
        events = self.sequences.select(torch.from_numpy(neighbours))
        items, lengths = events.items.numpy(), events.lengths.numpy()
        owners = np.repeat(users, lengths)
        after = _places_after_shared(weights.toarray()[owners, items], events.offsets.numpy())
        decay = np.concatenate([[BEFORE], AFTER ** np.arange(after.max(initial=0))])  # of the votes, by `after`
        votes = decay[np.maximum(after, 0)] * np.repeat(similarities**POWER, lengths)
        numbers, size = owners * weights.shape[1] + items, weights.shape[0] * weights.shape[1]
        return np.bincount(numbers, weights=votes, minlength=size).reshape(weights.shape).astype(np.float64, copy=False)

    def widened(self, num_items: int) -> UserNeighbours:
        """Return the neighbours over more items, the last of which no training user has."""
        return UserNeighbours(Sequences(self.sequences.items, self.sequences.offsets, num_items))

    def tensors(self) -> dict[str, Tensor]:
        """Return the tensors of a file, from which `from_tensors` builds the neighbours."""
        return {"items": self.sequences.items, "offsets": self.sequences.offsets}

    @classmethod
    def from_tensors(cls, tensors: dict[str, Tensor], num_items: int) -> UserNeighbours:
        """Return the neighbours with the results of `tensors()`.

        Raises:
            ValueError: the offsets do not fit the items, or an item is outside the catalogue.
        """
        items, offsets = tensors["items"].to(torch.int32), tensors["offsets"].long()
        if len(offsets) == 0 or bool((offsets.diff() < 0).any()) or offsets[[0, -1]].tolist() != [0, len(items)]:
            raise ValueError("the offsets of its users do not fit their items")
        if bool(((items < 0) | (items >= num_items)).any()):
            raise ValueError("an item of its users is outside the catalogue")
        return cls(Sequences(items, offsets, num_items))


def newest_weights(histories: Sequences) -> sparse.csr_array:
    """Return (U, L) float32: 0.8^age at the newest place of each of the newest WINDOW items, as CSR."""
    ends = np.repeat(histories.offsets[1:].numpy(), histories.lengths.numpy())
    ages = (ends - 1 - np.arange(len(ends)))[::-1]  # newest first within each user
    places = (histories.users.numpy() * histories.num_items + histories.items.numpy())[::-1]
    numbers, first = np.unique(places[ages < WINDOW], return_index=True)
    values = (DECAY ** ages[ages < WINDOW][first]).astype(np.float32)
    shape = (len(histories), histories.num_items)
    return sparse.coo_array((values, np.divmod(numbers, shape[1])), shape=shape).tocsr()


def _nearest(similarities: Any) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
    """Return (user, neighbour, similarity) of the NEIGHBOURS largest entries per row; of equal ones the first."""
    users, neighbours, values = [], [], []
    for user in range(similarities.shape[0]):
        row = slice(similarities.indptr[user], similarities.indptr[user + 1])
        columns, entries = similarities.indices[row], similarities.data[row]
        if len(entries) > NEIGHBOURS:
            weakest = np.partition(entries, -NEIGHBOURS)[-NEIGHBOURS]
            above, equal = np.flatnonzero(entries > weakest), np.flatnonzero(entries == weakest)
            equal = equal[np.argsort(columns[equal])][: NEIGHBOURS - len(above)]
            chosen = np.concatenate([above, equal])
            columns, entries = columns[chosen], entries[chosen]
        order = np.argsort(columns)  # sums do not depend on the order in which scipy multiplies
        users.append(np.full(len(order), user))
        neighbours.append(columns[order].astype(np.int64))
        values.append(entries[order].astype(np.float64))
    return np.concatenate(users), np.concatenate(neighbours), np.concatenate(values)


def _places_after_shared(weights: NDArray[np.float32], offsets: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return, for each event, how far it is after its row's last event on the newest shared item.

    Args:
        weights: (E,) of the events' items in the history of the user who is scored; 0: not in it.
        offsets: (rows + 1,) of the rows in the events; no row is empty.
    """
    if len(weights) == 0:
        return np.empty(0, dtype=np.int64)
    starts, lengths = offsets[:-1], np.diff(offsets)
    newest = np.repeat(np.maximum.reduceat(weights, starts), lengths)
    places = np.arange(len(weights))
    last: NDArray[np.int64] = np.repeat(np.maximum.reduceat(np.where(weights == newest, places, -1), starts), lengths)
    return np.subtract(places, last, dtype=np.int64)
