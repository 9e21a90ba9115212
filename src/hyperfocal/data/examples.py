"""Training examples and holdouts cut from users' sequences, and the order of an epoch.

A network learns from examples, one cut each: a cut at c has the history `items[:c]` and the targets
`items[c : c + next]`. Or it learns from windows, at every position: a window has up to `history` items, and the targets
of each are the `ahead` items after it. The windows of a user have every position with a successor exactly once.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import polars as pl
import torch
from torch import Tensor

from hyperfocal.data.logs import Log, offsets_of
from hyperfocal.data.vocabulary import Vocabulary, encode_log
from hyperfocal.errors import DataError
from hyperfocal.labels import SparseLabels
from hyperfocal.sequences import Sequences

BUFFER = 2**20  # examples that are shuffled together
STRETCH = 2**12  # consecutive examples that stay in one buffer


@dataclass(frozen=True, eq=False)
class Examples:
    """N cuts in the sequences of U users; a batch is gathered by index, without a Python loop."""

    sequences: Sequences  # the users' items
    starts: Tensor  # (N,) int64, the place in `sequences.items` where each example's user begins
    cuts: Tensor  # (N,) int64, the place in `sequences.items` of the first target
    stops: Tensor  # (N,) int64, the place after the last target
    history: int  # T, items that the model reads
    skipped: int  # users too short for an example

    def __len__(self) -> int:
        """Return N."""
        return len(self.cuts)

    def batch(self, index: Tensor) -> tuple[Tensor, SparseLabels]:
        """Return the (B, T) histories, newest last, and the targets of the given examples ((B,) int64).

        Short histories are padded on the left with `sequences.num_items`.
        """
        items, padding = self.sequences.items, self.sequences.num_items
        starts, cuts, stops = self.starts[index, None], self.cuts[index, None], self.stops[index, None]
        places = cuts + torch.arange(-self.history, 0)  # (B, T)
        histories = torch.where(places >= starts, items[places.clamp(min=0)], padding)
        places = cuts + torch.arange(int((stops - cuts).max()))  # (B, next)
        targets = torch.where(places < stops, items[places.clamp(max=len(items) - 1)], -1)
        return histories, SparseLabels.from_padded(targets, num_labels=padding)


def cut_examples(sequences: Sequences, *, history: int, next_items: int, every: bool) -> Examples:
    """Return the training examples of users with at least history + 1 items.

    Args:
        history: T, items that the model reads.
        next_items: items in the target, fewer at a sequence's end.
        every: False: cut each user once, `next_items` before the end but not before `history`. True: also cut before
            each earlier item that has `history` items before it.
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


@dataclass(frozen=True, eq=False)
class Windows:
    """W windows; a batch is gathered by index, without a Python loop."""

    sequences: Sequences  # the users' items
    starts: Tensor  # (W,) int64, the place in `sequences.items` of each window's first item
    stops: Tensor  # (W,) int64, the place after its last item
    ends: Tensor  # (W,) int64, the place after its user's last item
    ahead: int  # number of items after a position that are its targets
    skipped: int  # users with fewer than two items

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
            (B, T) items, oldest first, padded on the right with `sequences.num_items`;
            (P,) int64, the places of the windows' items in the flattened (B * T);
            P rows of targets: the items that follow each.
        """
        items, padding = self.sequences.items, self.sequences.num_items
        starts, stops = self.starts[index, None], self.stops[index, None]
        places = starts + torch.arange(int((stops - starts).max()))  # (B, T)
        inside = places < stops
        inputs = torch.where(inside, items[places.clamp(max=len(items) - 1)], padding)
        ahead = min(self.ahead, int((self.ends[index, None] - starts).max()))  # none has more items after it
        following = places[inside][:, None] + torch.arange(1, ahead + 1)  # (P, ahead)
        ends = self.ends[index, None].expand_as(places)[inside][:, None]
        targets = torch.where(following < ends, items[following.clamp(max=len(items) - 1)], -1)
        return inputs, inside.flatten().nonzero()[:, 0], SparseLabels.from_padded(targets, num_labels=padding)


def cut_windows(sequences: Sequences, *, history: int, ahead: int = 1) -> Windows:
    """Return the windows of users with at least two items, counted back from the last item that has a successor.

    Args:
        history: length of the longest window.
        ahead: number of items after a position that are its targets, fewer at a sequence's end.
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


@dataclass(frozen=True, eq=False)
class Holdout:
    """Histories whose next items are known, to score a model on."""

    users: pl.Series  # (U,) text
    histories: Sequences  # U users, the items that the model may see
    truth: SparseLabels  # the true next items; ids from `num_items` on are not in training: they count as misses
    unknown: int = 0  # events of unknown items in the histories, left out
    skipped: int = 0  # users that cannot be scored: too short, or without a truth
    without_history: int = 0  # users with a truth but no row in the log of histories; scored on an empty history

    def __len__(self) -> int:
        """Return U."""
        return len(self.users)

    def first(self, count: int) -> Holdout:
        """Return the first users, at most `count`."""
        rows = torch.arange(min(count, len(self)))
        histories = self.histories.block(0, len(rows))
        return Holdout(self.users.head(len(rows)), histories, self.truth.select(rows), self.unknown, self.skipped)

    def describe(self) -> dict[str, int]:
        """Return how much is scored and how much is left out."""
        unseen = int((self.truth.indices >= self.histories.num_items).sum())
        return {
            "users": len(self),
            "skipped_users": self.skipped,
            "users_without_history": self.without_history,
            "unknown_events": self.unknown,
            "true_items": self.truth.num_positives,
            "unseen_true_items": unseen,
        }

    def check_users(self, name: str, known: str) -> None:
        """Raise DataError if no user can be scored, or no true item is known to the run.

        Args:
            name: of the log, for the message.
            known: the id of an item of training, for the message.
        """
        if 0 < len(self) == self.without_history:
            raise DataError(
                f"{name}: has none of the {len(self):,} users of the truth. Check that the two files belong together"
            )
        if self.truth.num_positives == 0:
            raise DataError(
                f"{name}: no user can be scored: {self.skipped:,} users are too short or have no true item. "
                "Give users with more items than `history=`, or a truth file with the same users"
            )
        if bool((self.truth.indices >= self.histories.num_items).all()):
            raise DataError(
                f"{name}: none of the {self.truth.num_positives:,} true items is known to the run, so all scores would "
                f"be 0. Write the ids as in training, for example {known!r}"
            )


def count_trained(holdout: Holdout, users: pl.Series, events: Sequences) -> int:
    """Return how many users of a holdout were trained on beyond their history: scoring them is no test.

    Args:
        holdout: users with histories and truth.
        users: ids of the training users.
        events: their training events. A user counts if there are more of them than items in the history, and if a true
            item is among them. Events after the training log do not count: they are a test in time.
    """
    rows = holdout.users.cast(pl.Enum(users.cast(pl.String)), strict=False).to_physical().cast(pl.Int64)
    scored = torch.from_numpy(rows.is_not_null().to_numpy().copy()).nonzero()[:, 0]
    trained = events.select(torch.from_numpy(rows.drop_nulls().to_numpy().copy()))
    truth, items = holdout.truth.select(scored), trained.as_labels()
    longer = trained.lengths > holdout.histories.select(scored).lengths
    has_true = torch.zeros(len(scored), dtype=torch.bool)
    has_true[truth.rows[truth.among(SparseLabels(items.indptr, items.indices, truth.num_labels))]] = True
    return int((longer & has_true).sum())


def hold_out_last(log: Log, vocabulary: Vocabulary, *, history: int, next_items: int) -> Holdout:
    """Cut each user with more than `history` items once: the last items are the truth, the others the history."""
    lengths = torch.from_numpy(log.lengths.copy())
    fits = (lengths > history).nonzero().squeeze(1)
    long = log.select(fits.numpy())
    lengths = lengths[fits]
    cuts = torch.maximum(torch.full_like(lengths, history), lengths - next_items)
    places = torch.arange(len(long.items)) - torch.from_numpy(long.offsets[:-1].copy()).repeat_interleave(lengths)
    is_history = pl.Series((places < cuts.repeat_interleave(lengths)).numpy())
    past = Log(long.users, long.items.filter(is_history), offsets_of(cuts.numpy()))
    future = Log(long.users, long.items.filter(~is_history), offsets_of((lengths - cuts).numpy()))
    return _holdout(past, future, vocabulary, skipped=len(log) - len(long))


def hold_out_truth(histories: Log, truth: Log, vocabulary: Vocabulary) -> Holdout:
    """Return every user of `truth` with the history of the same user, or an empty one if there is none."""
    rows = truth.users.cast(pl.Enum(histories.users), strict=False).to_physical().cast(pl.Int64)
    absent = pl.Series(histories.users.name, [""] if rows.null_count() else [], dtype=pl.String)
    offsets = np.append(histories.offsets, np.repeat(histories.offsets[-1:], len(absent)))
    padded = Log(pl.concat([histories.users, absent]), histories.items, offsets)
    past = padded.select(rows.fill_null(len(histories)).to_numpy())
    skipped = len(histories) - int(rows.drop_nulls().len())
    holdout = _holdout(Log(truth.users, past.items, past.offsets), truth, vocabulary, skipped=skipped)
    return replace(holdout, without_history=rows.null_count())


def _holdout(past: Log, future: Log, vocabulary: Vocabulary, *, skipped: int) -> Holdout:
    histories, unknown = encode_log(past, vocabulary)
    following, _ = encode_log(future, vocabulary.extended(future.items))
    return Holdout(past.users, histories, following.as_labels(), unknown, skipped)


def batches_at_random(count: int, batch_size: int, generator: torch.Generator, *, seed: int = 0) -> Sequence[Tensor]:
    """Return all numbers from 0 to `count` - 1 in random batches of `batch_size`; the last may be smaller.

    More than BUFFER numbers are shuffled buffer by buffer, see `buffers`.
    The generator draws the order; `seed` fixes the buffers, the same in each epoch.
    """
    shuffled = [block[torch.randperm(len(block), generator=generator)] for block in buffers(count, generator, seed)]
    batches: Sequence[Tensor] = torch.cat(shuffled).split(batch_size)
    return batches


def batches_by_length(lengths: Tensor, batch_size: int, generator: torch.Generator, *, seed: int = 0) -> list[Tensor]:
    """Return all numbers from 0 to W - 1 in batches of windows of similar length, so that padding is short.

    All batches have about the same total length, that of `batch_size` windows of average length. Their number is
    W / batch_size, rounded up, and does not depend on the generator. More than BUFFER windows are batched buffer by
    buffer, see `buffers`.

    Args:
        lengths: (W,) int64, 1 or more.
        batch_size: windows of average length per batch.
        generator: draws the order within equal lengths, and the order of the batches.
        seed: as in `batches_at_random`.
    """
    batches = []
    for windows in buffers(len(lengths), generator, seed):
        batches += [windows[batch] for batch in _batch_buffer(lengths[windows], batch_size, generator)]
    return batches


def _batch_buffer(lengths: Tensor, batch_size: int, generator: torch.Generator) -> list[Tensor]:
    """Return the batches of one buffer."""
    order = torch.randperm(len(lengths), generator=generator)
    order = order[lengths[order].argsort(stable=True)]
    count = -(-len(lengths) // batch_size)
    before = lengths[order].cumsum(0) - lengths[order]
    numbers = before * count // max(int(lengths.sum()), 1)
    sizes = torch.bincount(numbers, minlength=count)
    batches = [batch for batch in order.split(sizes.tolist()) if len(batch)]
    return [batches[place] for place in torch.randperm(len(batches), generator=generator).tolist()]


def buffers(count: int, generator: torch.Generator, seed: int) -> Iterator[Tensor]:
    """Yield all numbers from 0 to `count` - 1 in buffers of at most BUFFER, whose order the generator draws.

    A buffer consists of short stretches of the data, chosen by `seed`; from a mapped file, little is read at once.
    """
    if count <= BUFFER:
        yield torch.arange(count)
        return
    stretches = torch.arange(count).split(STRETCH)
    mixed = torch.randperm(len(stretches), generator=torch.Generator().manual_seed(seed)).tolist()
    size = BUFFER // STRETCH
    groups = [mixed[start : start + size] for start in range(0, len(mixed), size)]
    for place in torch.randperm(len(groups), generator=generator).tolist():
        yield torch.cat([stretches[number] for number in groups[place]])
