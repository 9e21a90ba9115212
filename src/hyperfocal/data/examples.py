"""Examples: histories cut from sequences, and the items that follow as targets.

A cut at c gives the history `items[:c]` and the targets `items[c : c + next]`.

Windows: stretches of users' sequences, from which an encoder learns at every position at once.

A window holds up to `history` items, and each of them is to be followed by the `ahead` items after it. Together the
windows of a user hold every position that has a successor exactly once.

The order of an epoch: everything at random, or, of more than memory may hold, a buffer after the other.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray
from torch import Tensor

from hyperfocal.data.logs import Log
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


@dataclass(frozen=True, eq=False)
class Windows:
    """W windows; a batch is gathered by index, without a Python loop.

    Attributes:
        sequences: the users' items.
        starts: (W,) int64, the place in `sequences.items` of each window's first item.
        stops: (W,) int64, the place after its last item.
        ends: (W,) int64, the place after its user's last item.
        ahead: items after a position that are its targets.
        skipped: users with fewer than two items.
    """

    sequences: Sequences
    starts: Tensor
    stops: Tensor
    ends: Tensor
    ahead: int
    skipped: int

    def __len__(self) -> int:
        """Return W."""
        return len(self.starts)

    @property
    def lengths(self) -> Tensor:
        """Return (W,) int64, the items of each window."""
        return self.stops - self.starts

    def batch(self, index: Tensor) -> tuple[Tensor, Tensor, SparseLabels]:
        """Return inputs, positions and targets of the given windows ((B,) int64).

        Returns:
            (B, T) items, oldest first, filled up on the right with the padding id, `sequences.num_items`;
            (P,) int64, the places of the windows' items in the flattened (B * T);
            P rows of targets: the items that follow each.
        """
        items, padding = self.sequences.items, self.sequences.num_items
        starts, stops = self.starts[index, None], self.stops[index, None]
        places = starts + torch.arange(int((stops - starts).max()))  # (B, T)
        inside = places < stops
        inputs = torch.where(inside, items[places.clamp(max=len(items) - 1)], padding)
        following = places[inside][:, None] + torch.arange(1, self.ahead + 1)  # (P, ahead)
        ends = self.ends[index, None].expand_as(places)[inside][:, None]
        targets = torch.where(following < ends, items[following.clamp(max=len(items) - 1)], -1)
        return inputs, inside.flatten().nonzero()[:, 0], SparseLabels.from_padded(targets, num_labels=padding)


def cut_windows(sequences: Sequences, *, history: int, ahead: int = 1) -> Windows:
    """Return the windows of all users with at least two items, counted back from the last item that has a successor.

    Args:
        sequences: the users' items.
        history: the longest window.
        ahead: items after a position that are its targets, fewer at a sequence's end.
    """
    firsts, ends = sequences.offsets[:-1], sequences.offsets[1:]
    fits = sequences.lengths > 1
    firsts, ends = firsts[fits], ends[fits]
    counts = (ends - 1 - firsts + history - 1) // history
    owners = torch.repeat_interleave(torch.arange(len(firsts)), counts)
    number = torch.arange(len(owners)) - (counts.cumsum(0) - counts)[owners]  # from the user's last window back
    stops = ends[owners] - 1 - number * history
    starts = torch.maximum(stops - history, firsts[owners])
    return Windows(sequences, starts, stops, ends[owners], ahead, int((~fits).sum()))


def batches_by_length(lengths: Tensor, batch_size: int, generator: torch.Generator, *, seed: int = 0) -> list[Tensor]:
    """Return all numbers from 0 to W - 1 in batches of about equal total length, each of windows of like length.

    So padding costs little. A batch holds as many positions as `batch_size` windows of average length do, and the
    number of batches is that of batches of `batch_size`, whatever the generator draws.

    More windows than a buffer holds are dealt out buffer by buffer (`shuffling.buffers`); inside each of them the
    generator draws everything that it draws for fewer windows.

    Args:
        lengths: (W,) int64, 1 or more.
        batch_size: windows of average length a batch.
        generator: draws the order within equal lengths, and the order of the batches.
        seed: of the buffers, the same in each epoch.
    """
    found = []
    for windows in buffers(len(lengths), generator, seed):
        found += [windows[batch] for batch in _dealt(lengths[windows], batch_size, generator)]
    return found


def _dealt(lengths: Tensor, batch_size: int, generator: torch.Generator) -> list[Tensor]:
    """Return the batches of one buffer."""
    order = torch.randperm(len(lengths), generator=generator)
    order = order[lengths[order].argsort(stable=True)]
    count = -(-len(lengths) // batch_size)
    before = lengths[order].cumsum(0) - lengths[order]
    numbers = before * count // max(int(lengths.sum()), 1)
    sizes = torch.bincount(numbers, minlength=count)
    batches = [batch for batch in order.split(sizes.tolist()) if len(batch)]
    return [batches[place] for place in torch.randperm(len(batches), generator=generator).tolist()]


BUFFER = 2**20  # examples that are shuffled together
STRETCH = 2**12  # examples that stand together in the file, and stay in one buffer


def batches_at_random(count: int, batch_size: int, generator: torch.Generator, *, seed: int = 0) -> Sequence[Tensor]:
    """Return all numbers from 0 to `count` - 1 in batches of `batch_size`, the last one of what is left.

    More than BUFFER are shuffled buffer by buffer, as `buffers` has them.

    Args:
        count: of the examples.
        batch_size: examples a batch.
        generator: draws the order.
        seed: of the buffers, the same in each epoch.
    """
    parts = [numbers[torch.randperm(len(numbers), generator=generator)] for numbers in buffers(count, generator, seed)]
    batches: Sequence[Tensor] = torch.cat(parts).split(batch_size)
    return batches


def buffers(count: int, generator: torch.Generator, seed: int) -> Iterator[Tensor]:
    """Yield all numbers from 0 to `count` - 1 in buffers of at most BUFFER, whose order the generator draws.

    So what an epoch reads of a file at a time is small. A buffer is many short stretches of the file, chosen by `seed`.
    """
    if count <= BUFFER:
        yield torch.arange(count)
        return
    stretches = torch.arange(count).split(STRETCH)
    mixed = torch.randperm(len(stretches), generator=torch.Generator().manual_seed(seed)).tolist()
    size = BUFFER // STRETCH
    parts = [mixed[start : start + size] for start in range(0, len(mixed), size)]
    for place in torch.randperm(len(parts), generator=generator).tolist():
        yield torch.cat([stretches[number] for number in parts[place]])
