"""Windows: stretches of users' sequences, from which an encoder learns at every position at once.

A window holds up to `history` items, and each of them is to be followed by the `ahead` items after it. Together the
windows of a user hold every position that has a successor exactly once.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from hyperfocal.data.shuffling import buffers
from hyperfocal.labels import SparseLabels
from hyperfocal.sequences import Sequences


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
