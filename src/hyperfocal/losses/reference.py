"""Plain dense maths: the truth of every test, and `from_logits`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from hyperfocal.labels import SparseLabels
from hyperfocal.losses.options import check_finite, check_logits, check_vector, row_scale

if TYPE_CHECKING:
    from hyperfocal.losses.separable import SeparableLoss
    from hyperfocal.losses.softmax import SoftmaxLoss


def dense_loss(
    loss: SeparableLoss | SoftmaxLoss, logits: Tensor, labels: SparseLabels, mask: SparseLabels | None
) -> Tensor:
    """Return the loss of (B, L) logits, reduced as the loss says; autograd gives its gradient.

    All maths is float32, or float64 for float64 logits: a sum in float16 ends at 65504.

    Raises:
        DataError: logits that are no floats; shapes that do not match; with check_finite, NaN or infinity.
    """
    check_logits(logits, labels, mask)
    check_vector("positive_weight", loss.positive_weight, labels.num_labels)
    check_vector("logit_shift", loss.logit_shift, labels.num_labels)
    if loss.options.check_finite:
        check_finite(logits=logits)
    labels, mask = labels.to(logits.device), None if mask is None else mask.to(logits.device)
    labels = labels if mask is None else labels.without(mask)
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    rows = loss.dense_rows(logits, labels, mask) * row_scale(labels, mask, loss.options, logits.dtype)
    return rows if loss.options.reduction == "none" else rows.sum()


def separable_rows(loss: SeparableLoss, logits: Tensor, labels: SparseLabels, mask: SparseLabels | None) -> Tensor:
    """Return (B,): sum over l of r * (y * w * pos(z + s) + (1 - y) * neg(z + s)); see SeparableLoss.

    Args:
        loss: gives pos, neg, w, s and r.
        logits: (B, L) float32 or float64.
        labels: the positives that count.
        mask: the pairs that do not count.
    """
    ignored = None if mask is None else mask.to_dense(torch.bool)
    if ignored is not None:
        logits = logits.masked_fill(ignored, 0)  # NaN here would survive a multiplication with 0
    if loss.logit_shift is not None:
        logits = logits + loss.logit_shift.to(logits)
    positive = loss.positive(logits)
    if loss.positive_weight is not None:
        positive = positive * loss.positive_weight.to(logits)
    terms = torch.where(labels.to_dense(torch.bool), positive, loss.negative(logits))
    weights = loss.term_weights(labels)
    if weights is not None:
        terms = terms * weights(slice(None)).to(logits)
    return (terms if ignored is None else terms.masked_fill(ignored, 0)).sum(1)


def softmax_rows(loss: SoftmaxLoss, logits: Tensor, labels: SparseLabels, mask: SparseLabels | None) -> Tensor:
    """Return (B,): the softmax loss of each row, 0 for a row without positives; see SoftmaxLoss.

    Args:
        loss: gives temperature, smoothing, shift, weights and gamma.
        logits: (B, L) float32 or float64.
        labels: the positives that count.
        mask: the pairs that do not count.
    """
    empty = labels.lengths == 0
    logits = logits / loss.temperature
    if loss.logit_shift is not None:
        logits = logits + loss.logit_shift.to(logits)
    ignored = torch.zeros_like(logits, dtype=torch.bool) if mask is None else mask.to_dense(torch.bool)
    logits = logits.masked_fill(ignored, -torch.inf).masked_fill(empty[:, None], 0)
    log_p = logits.log_softmax(1)
    right = loss.focal(log_p[labels.rows, labels.indices])
    if loss.positive_weight is not None:
        right = right * loss.positive_weight.to(right)[labels.indices]
    sums = right.new_zeros(len(labels)).index_add(0, labels.rows, right)
    smooth = -log_p.masked_fill(ignored, 0).sum(1) / (~ignored).sum(1).clamp(min=1)
    epsilon = loss.label_smoothing
    rows = (1 - epsilon) * sums / labels.lengths.clamp(min=1) + (epsilon * smooth if epsilon else 0)
    return rows.masked_fill(empty, 0)
