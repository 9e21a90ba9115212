"""The order of an epoch: everything at random, or, of more than memory may hold, a buffer after the other."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

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
