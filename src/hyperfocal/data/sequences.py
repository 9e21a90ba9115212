"""Examples: histories cut from sequences, and the items that follow as targets.

A cut at c gives the history `items[:c]` and the targets `items[c : c + next]`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray
from torch import Tensor

from hyperfocal.data.tables import Log
from hyperfocal.data.vocabulary import Vocabulary, encode_log
from hyperfocal.errors import DataError
from hyperfocal.labels import SparseLabels
from hyperfocal.sequences import Sequences


@dataclass(frozen=True, eq=False)
class Examples:
    """N cuts through the sequences of U users; a batch is gathered by index, without a Python loop.

    Attributes:
        sequences: the users' items.
        starts: (N,) int64, where the user of each example begins in `sequences.items`.
        cuts: (N,) int64, the place in `sequences.items` of the first target.
        stops: (N,) int64, the place after the last target.
        history: T, items that the model reads.
        skipped: users too short for an example.
    """

    sequences: Sequences
    starts: Tensor
    cuts: Tensor
    stops: Tensor
    history: int
    skipped: int

    def __len__(self) -> int:
        """Return N."""
        return len(self.cuts)

    def batch(self, index: Tensor) -> tuple[Tensor, SparseLabels]:
        """Return the (B, T) histories, newest last, and the targets of the given examples ((B,) int64).

        Short histories are filled from the left with the padding id, `sequences.num_items`.
        """
        items, padding = self.sequences.items, self.sequences.num_items
        starts, cuts, stops = self.starts[index, None], self.cuts[index, None], self.stops[index, None]
        places = cuts + torch.arange(-self.history, 0)  # (B, T)
        histories = torch.where(places >= starts, items[places.clamp(min=0)], padding)
        places = cuts + torch.arange(int((stops - cuts).max()))  # (B, next)
        targets = torch.where(places < stops, items[places.clamp(max=len(items) - 1)], -1)
        return histories, SparseLabels.from_padded(targets, num_labels=padding)


@dataclass(frozen=True, eq=False)
class Holdout:
    """Histories whose next items are known: what a model is scored on.

    Attributes:
        users: (U,) text.
        histories: what the model may see. U users.
        truth: the true next items. Items that training never saw have ids from `num_items` on: nothing
            can hit them, yet they count.
        unknown: events of unknown items in the histories, left out.
        skipped: users that could not be scored: too short, or without a truth.
        without_history: users with a truth but no row in the log of histories; scored on an empty history.
    """

    users: pl.Series
    histories: Sequences
    truth: SparseLabels
    unknown: int = 0
    skipped: int = 0
    without_history: int = 0

    def __len__(self) -> int:
        """Return U."""
        return len(self.users)

    def first(self, count: int) -> Holdout:
        """Return the first users only, at most `count`."""
        rows = torch.arange(min(count, len(self)))
        histories = self.histories.block(0, len(rows))
        return Holdout(self.users.head(len(rows)), histories, self.truth.select(rows), self.unknown, self.skipped)

    def describe(self) -> dict[str, int]:
        """Return how much was scored and how much left out."""
        unseen = int((self.truth.indices >= self.histories.num_items).sum())
        return {
            "users": len(self),
            "skipped_users": self.skipped,
            "users_without_history": self.without_history,
            "unknown_events": self.unknown,
            "true_items": self.truth.num_positives,
            "unseen_true_items": unseen,
        }

    def refuse_empty(self, name: str) -> None:
        """Raise DataError, calling the log `name`, if no user can be scored."""
        if 0 < len(self) == self.without_history:
            raise DataError(f"{name}: none of the {len(self):,} users of the truth is in it. Are the two files a pair?")
        if self.truth.num_positives == 0:
            raise DataError(
                f"{name}: no user can be scored: {self.skipped:,} users are too short or have no true item. "
                "Give users with more items than --history, or a truth file with the same users"
            )


def cut_examples(sequences: Sequences, *, history: int, next_items: int, every: bool) -> Examples:
    """Return the training examples of users with at least history + 1 items.

    Args:
        sequences: the users' items.
        history: T, items that the model reads.
        next_items: items that are the target, fewer at a sequence's end.
        every: False cuts each user once, `next_items` before the end but never before `history`;
            True cuts before each item from there back to the first that has `history` items before it.
    """
    firsts, ends = sequences.offsets[:-1], sequences.offsets[1:]
    fits = sequences.lengths > history
    firsts, ends = firsts[fits], ends[fits]
    last_cuts = torch.maximum(firsts + history, ends - next_items)
    skipped = int((~fits).sum())
    if not every:
        return Examples(sequences, firsts, last_cuts, ends, history, skipped)
    counts = last_cuts - firsts - history + 1
    starts = firsts.repeat_interleave(counts)
    group = (counts.cumsum(0) - counts).repeat_interleave(counts)
    cuts = starts + history + torch.arange(len(starts)) - group
    stops = torch.minimum(cuts + next_items, ends.repeat_interleave(counts))
    return Examples(sequences, starts, cuts, stops, history, skipped)


def hold_out_last(log: Log, vocabulary: Vocabulary, *, history: int, next_items: int) -> Holdout:
    """Cut each user with more than `history` items once: what comes last is the truth, the rest history."""
    lengths = torch.from_numpy(log.lengths.copy())
    fits = (lengths > history).nonzero().squeeze(1)
    kept = log.select(fits.numpy())
    lengths = lengths[fits]
    cuts = torch.maximum(torch.full_like(lengths, history), lengths - next_items)
    places = torch.arange(len(kept.items)) - torch.from_numpy(kept.offsets[:-1].copy()).repeat_interleave(lengths)
    is_history = pl.Series((places < cuts.repeat_interleave(lengths)).numpy())
    past = Log(kept.users, kept.items.filter(is_history), _offsets(cuts))
    future = Log(kept.users, kept.items.filter(~is_history), _offsets(lengths - cuts))
    return _holdout(past, future, vocabulary, skipped=len(log) - len(kept))


def hold_out_truth(histories: Log, truth: Log, vocabulary: Vocabulary) -> Holdout:
    """Return every user of `truth` with the history of the same user, empty where there is none."""
    rows = truth.users.cast(pl.Enum(histories.users), strict=False).to_physical().cast(pl.Int64)
    absent = pl.Series(histories.users.name, [""] if rows.null_count() else [], dtype=pl.String)
    padded = Log(pl.concat([histories.users, absent]), histories.items, _with_empty(histories, len(absent)))
    past = padded.select(rows.fill_null(len(histories)).to_numpy())
    skipped = len(histories) - int(rows.drop_nulls().len())
    found = _holdout(Log(truth.users, past.items, past.offsets), truth, vocabulary, skipped=skipped)
    return replace(found, without_history=rows.null_count())


def _holdout(past: Log, future: Log, vocabulary: Vocabulary, *, skipped: int) -> Holdout:
    histories, unknown = encode_log(past, vocabulary)
    following, _ = encode_log(future, vocabulary.extended(future.items))
    return Holdout(past.users, histories, following.as_labels(), unknown, skipped)


def _offsets(lengths: Tensor) -> NDArray[np.int64]:
    return np.concatenate([[0], lengths.cumsum(0).numpy()]).astype(np.int64)


def _with_empty(log: Log, count: int) -> NDArray[np.int64]:
    return np.concatenate([log.offsets, np.repeat(log.offsets[-1:], count)])
