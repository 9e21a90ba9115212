"""What the loss of each example is multiplied with before all are added up."""

import torch
from torch import Tensor

from hyperfocal.labels import SparseLabels
from hyperfocal.losses.options import Options


def row_scale(labels: SparseLabels, mask: SparseLabels | None, options: Options, dtype: torch.dtype) -> Tensor:
    """Return (B,): 1 / divisor for an example that counts, 0 for one that is ignored.

    Args:
        labels: the positives that count.
        mask: the pairs that do not count.
        options: its `reduction` and `ignore_empty` decide.
        dtype: of the result.
    """
    terms = torch.full_like(labels.lengths, labels.num_labels)
    return scale_of(labels.lengths, terms if mask is None else terms - mask.lengths, options, dtype)


def divisor(labels: SparseLabels, options: Options) -> int | None:
    """Return the count by which the sum over the examples is divided, without a mask; None for no division.

    0 stays 0, where the loss itself divides by 1: a part of a batch without positives counts for nothing.

    Losses of parts of a batch, each times its own divisor, sum to that of the batch times the sum of the divisors.

    >>> labels = SparseLabels.from_lists([[0, 2], [], [1]], num_labels=3)
    >>> [divisor(labels, Options(reduction=name)) for name in ("positives", "batch", "mean", "sum")]
    [3, 3, 9, None]
    >>> divisor(labels, Options(reduction="batch", ignore_empty=True))
    2
    """
    if options.reduction in ("sum", "none"):
        return None
    rows = int(labels.lengths.count_nonzero()) if options.ignore_empty else len(labels)
    return {"positives": labels.num_positives, "batch": rows, "mean": rows * labels.num_labels}[options.reduction]


def scale_of(positives: Tensor, terms: Tensor, options: Options, dtype: torch.dtype) -> Tensor:
    """Return the same from the number of positives and of terms of each example, (B,); never divides by 0."""
    counted = (positives > 0) if options.ignore_empty else torch.ones_like(positives, dtype=torch.bool)
    scale = counted.to(dtype)
    if options.reduction in ("sum", "none"):
        return scale
    sizes = {"positives": positives, "batch": counted, "mean": terms * counted}
    return scale / sizes[options.reduction].sum().clamp(min=1)
