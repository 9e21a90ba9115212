"""Plain dense maths: the truth of every test, and `from_logits`."""

from typing import Protocol

import torch
from torch import Tensor

from hyperfocal.labels import SparseLabels

REDUCTIONS = ("positives", "batch", "mean", "sum")


class ScalarPair(Protocol):
    """What a separable loss must give: pos(z) and neg(z), elementwise."""

    def positive(self, logits: Tensor) -> Tensor:
        """Return pos(z)."""
        ...

    def negative(self, logits: Tensor) -> Tensor:
        """Return neg(z)."""
        ...


def divisor(labels: SparseLabels, reduction: str) -> int:
    """Return what the sum over examples and labels is divided by; never 0."""
    batch = len(labels)
    sizes = {"positives": labels.num_positives, "batch": batch, "mean": batch * labels.num_labels, "sum": 1}
    return max(sizes[reduction], 1)


def dense_loss(pair: ScalarPair, logits: Tensor, labels: SparseLabels, *, reduction: str) -> Tensor:
    """Return sum over (i, l) of y * pos(z) + (1 - y) * neg(z), divided as `reduction` says.

    Args:
        pair: the two scalar functions.
        logits: (B, L) float.
        labels: B rows over L labels.
        reduction: "positives", "batch", "mean" or "sum".

    Returns:
        Scalar; autograd gives its gradient.

    Raises:
        ValueError: shapes that do not match.
    """
    if logits.shape != (len(labels), labels.num_labels):
        raise ValueError(f"logits are {tuple(logits.shape)} but labels are {(len(labels), labels.num_labels)}")
    right = labels.to(logits.device).to_dense(logits.dtype).bool()
    dtype = torch.promote_types(logits.dtype, torch.float32)  # float16 ends at 65504
    total = pair.positive(logits)[right].sum(dtype=dtype) + pair.negative(logits)[~right].sum(dtype=dtype)
    return total / divisor(labels, reduction)
