"""Head, medium and tail: buckets of labels or items by their number of training examples."""

from __future__ import annotations

import torch
from torch import Tensor

HEAD = 200  # training examples at least
TAIL = 20  # fewer training examples than this
BUCKETS = ("head", "medium", "tail")


def bucket_masks(counts: Tensor) -> dict[str, Tensor]:
    """Return a (L,) bool mask for each bucket of labels, by their (L,) integer numbers of training examples.

    head: count >= 200, medium: 20 <= count < 200, tail: count < 20.

    >>> {name: mask.tolist() for name, mask in bucket_masks(torch.tensor([500, 20, 0])).items()}
    {'head': [True, False, False], 'medium': [False, True, False], 'tail': [False, False, True]}
    """
    return {"head": counts >= HEAD, "medium": (counts >= TAIL) & (counts < HEAD), "tail": counts < TAIL}


def bucket_means(values: Tensor, counts: Tensor) -> dict[str, Tensor]:
    """Return the means over all labels ("macro") and over head, medium and tail labels, along the last axis.

    Args:
        values: (..., L) float; nan leaves a label out of the means.
        counts: (L,) integer, training examples of each label.

    Returns:
        name -> (...) float, nan for a bucket without a value.
    """
    masks = {"macro": torch.ones_like(counts, dtype=torch.bool)} | bucket_masks(counts)
    return {name: values[..., mask].nanmean(-1) for name, mask in masks.items()}
