"""Head, medium and tail: labels or items by how often training shows them."""

from __future__ import annotations

from torch import Tensor

HEAD = 200  # training examples, and more
TAIL = 20  # fewer training examples than this
BUCKETS = ("head", "medium", "tail")


def bucket_masks(counts: Tensor) -> dict[str, Tensor]:
    """Return a (L,) bool mask for each bucket.

    head: count >= 200, medium: 20 <= count < 200, tail: count < 20.

    Args:
        counts: (L,) integer, training examples of each label.

    >>> import torch
    >>> {name: mask.tolist() for name, mask in bucket_masks(torch.tensor([500, 20, 0])).items()}
    {'head': [True, False, False], 'medium': [False, True, False], 'tail': [False, False, True]}
    """
    return {"head": counts >= HEAD, "medium": (counts >= TAIL) & (counts < HEAD), "tail": counts < TAIL}
