"""The separable losses over label chunks, in plain torch: value and all gradients come out of one walk.

Of each chunk of logits, neg(z) and its slope are one elementwise pass, and the few positives are corrected
in place. The B x L logits never exist as a whole. Its dense twin is `reference.separable_rows`.

The softmax losses over label chunks: one walk for the log-sum-exp, one for the gradients.

The first walk keeps of each row the largest logit m so far and s = sum of exp(z - m), and of each positive
its logit. Then the loss is known, and with it every slope. With u = log p = (z - m) - log s of a positive,
c = d loss / d u, and C = e - sum of the c of the row, the slope at logit j is

    p[j] * C  -  e / (labels that count)  +  c[j] if j is a positive

so the second walk needs p = exp(z - m) / s alone. m and s stay apart: log-sum-exp = m + log s would round u
to the precision of m. Its dense twin is `reference.softmax_rows`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from hyperfocal.labels import SparseLabels
from hyperfocal.losses.native import focal_pass_
from hyperfocal.losses.options import log_once
from hyperfocal.losses.walk import Chunk, Problem, RowsAndGradients, Walk, positive_weights

if TYPE_CHECKING:
    from hyperfocal.losses.separable import SeparableLoss
    from hyperfocal.losses.softmax import SoftmaxLoss


def separable_walk(loss: SeparableLoss, problem: Problem) -> RowsAndGradients:
    """Return the loss of each row, (B,) and not scaled, and the scaled gradients that are needed; in plain torch."""
    walk = Walk(problem, shift=loss.logit_shift)
    right_weight = positive_weights(loss.positive_weight, problem)
    term_weights = loss.term_weights(problem.labels)
    rows = torch.zeros_like(problem.scale)
    for chunk in walk.chunks:
        right = None if right_weight is None else right_weight[chunk.order]
        every = None if term_weights is None else term_weights(chunk.labels)
        value, slope = value_and_slope(loss, walk.logits(chunk.labels), chunk, right, every)
        rows += value
        walk.add(chunk.labels, slope)
    return rows, walk.gradients()


def native_walk(loss: SeparableLoss, problem: Problem) -> RowsAndGradients:
    """Return the same, all elementwise work of a float32 chunk being one compiled pass."""
    terms = loss.native_terms
    if terms is None or problem.scale.dtype != torch.float32:
        log_once("native float64", "backend native computes float32; float64 is chunked, in plain torch")
        return separable_walk(loss, problem)
    walk = Walk(problem, shift=loss.logit_shift)
    whole = problem.dtype == torch.float32  # a half product is rounded once, with its bias in it
    inside = (
        walk.offset.contiguous() if whole and walk.offset is not None else problem.scale.new_zeros(len(problem.weight))
    )
    label_weight = None if loss.positive_weight is None else loss.positive_weight.to(problem.scale).contiguous()
    rows = torch.zeros_like(problem.scale)
    for part in walk.parts:
        logits = walk.products(part) if whole else walk.logits(part)
        rows += focal_pass_(logits, inside, terms, part.start, problem.labels, problem.mask, label_weight)
        walk.add(part, logits)  # now slopes
    return rows, walk.gradients()


def value_and_slope(
    loss: SeparableLoss, logits: Tensor, chunk: Chunk, right_weight: Tensor | None, term_weight: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Return the loss of each row in one chunk, (B,), and the slope at every logit, (B, C).

    Args:
        loss: gives value and slope of both scalar functions.
        logits: (B, C) float32 or float64.
        chunk: which logits are positives, and which do not count.
        right_weight: a weight for each positive of the chunk, or None.
        term_weight: (B, C), a weight for each term, or None.
    """
    right = logits[chunk.right]
    value, slope = loss.negative_with_slope(logits)
    right_value, right_slope = loss.positive_with_slope(right)
    if right_weight is not None:
        right_value, right_slope = right_value * right_weight, right_slope * right_weight
    value[chunk.right], slope[chunk.right] = right_value, right_slope
    if term_weight is not None:
        value, slope = value.mul_(term_weight), slope.mul_(term_weight)
    if chunk.masked is not None:
        value[chunk.masked] = slope[chunk.masked] = 0
    return value.sum(1), slope


@dataclass(frozen=True, eq=False)
class Normaliser:
    """What the first walk finds."""

    peak: Tensor  # (B,) m, the largest z of the labels that count
    sum: Tensor  # (B,) s, the sum of exp(z - m) over them, at least 1; 1 where none counts
    total: Tensor  # (B,) sum of z over the labels that count, for the label smoothing
    right: Tensor  # (P,) z of each positive, row by row


@dataclass(frozen=True, eq=False)
class Slopes:
    """What the second walk needs, beside the logits."""

    peak: Tensor  # (B,) m
    factor: Tensor  # (B,) C / s
    smoothing: Tensor | None  # (B,) e / (labels that count)
    right: Tensor  # (P,) c of each positive, row by row


def softmax_walk(loss: SoftmaxLoss, problem: Problem) -> RowsAndGradients:
    """Return the loss of each row, (B,) and not scaled, and the scaled gradients that are needed."""
    walk = softmax_chunks(loss, problem)
    rows, slopes = rows_and_slopes(loss, problem, first_walk(loss, walk, problem))
    second_walk(loss, walk, slopes)
    return rows, walk.gradients()


def softmax_chunks(loss: SoftmaxLoss, problem: Problem) -> Walk:
    """Return the chunks over which both walks go."""
    return Walk(problem, shift=None if loss.logit_shift is None else loss.temperature * loss.logit_shift)


def second_walk(loss: SoftmaxLoss, walk: Walk, slopes: Slopes) -> None:
    """Add up the gradients that are needed."""
    if any(walk.problem.needs):
        for chunk in walk.chunks:
            walk.add(chunk.labels, _slope(loss, _logits(loss, walk, chunk), chunk, slopes))


def first_walk(loss: SoftmaxLoss, walk: Walk, problem: Problem) -> Normaliser:
    """Return what the log-sum-exp and the slopes are made of."""
    scale = problem.scale
    peak = torch.full_like(scale, torch.finfo(scale.dtype).min)
    found, total = torch.zeros_like(scale), torch.zeros_like(scale)
    right = scale.new_empty(problem.labels.num_positives)
    for chunk in walk.chunks:
        logits = _logits(loss, walk, chunk)
        right[chunk.order] = logits[chunk.right]
        if loss.label_smoothing > 0:
            total = total + _without_masked(logits, chunk, 0).sum(1)
        before, logits = peak, _without_masked(logits, chunk, -torch.inf)
        peak = torch.maximum(before, logits.amax(1))
        found = found * torch.exp(before - peak) + logits.sub_(peak[:, None]).exp_().sum(1)
    return Normaliser(peak, torch.where(found == 0, 1, found), total, right)


def rows_and_slopes(loss: SoftmaxLoss, problem: Problem, found: Normaliser) -> tuple[Tensor, Slopes]:
    """Return the loss of each row, (B,) and not scaled, and what the second walk needs."""
    labels, epsilon = problem.labels, loss.label_smoothing
    value, slope = loss.focal_with_slope((found.right - found.peak[labels.rows]) - found.sum.log()[labels.rows])
    share = (1 - epsilon) / labels.lengths.clamp(min=1)[labels.rows].to(value)
    weight = positive_weights(loss.positive_weight, problem)
    share = share if weight is None else share * weight
    rows, slope = _row_sums(share * value, labels), share * slope
    factor = -_row_sums(slope, labels)
    if epsilon == 0:
        return rows, Slopes(found.peak, factor / found.sum, None, slope)
    smoothed = (labels.lengths > 0).to(rows) * epsilon
    counted = torch.full_like(rows, labels.num_labels)
    counted = (counted if problem.mask is None else counted - problem.mask.lengths).clamp(min=1)
    rows += smoothed * ((found.peak - found.total / counted) + found.sum.log())
    return rows, Slopes(found.peak, (factor + smoothed) / found.sum, smoothed / counted, slope)


def _slope(loss: SoftmaxLoss, logits: Tensor, chunk: Chunk, slopes: Slopes) -> Tensor:
    """Return d loss / d (hidden @ weight.T) at every logit of a chunk, (B, C)."""
    slope = logits.sub_(slopes.peak[:, None]).exp_().mul_(slopes.factor[:, None])
    if slopes.smoothing is not None:
        slope -= slopes.smoothing[:, None]
    slope[chunk.right] += slopes.right[chunk.order]
    slope = _without_masked(slope, chunk, 0)
    return slope if loss.temperature == 1 else slope.div_(loss.temperature)


def _without_masked(values: Tensor, chunk: Chunk, filling: float) -> Tensor:
    """Put a number in place of the values that do not count."""
    if chunk.masked is not None:
        values[chunk.masked] = filling
    return values


def _logits(loss: SoftmaxLoss, walk: Walk, chunk: Chunk) -> Tensor:
    logits = walk.logits(chunk.labels)
    return logits if loss.temperature == 1 else logits.div_(loss.temperature)


def _row_sums(values: Tensor, labels: SparseLabels) -> Tensor:
    """Return (B,), the sum of a value for each positive over the positives of each row."""
    return values.new_zeros(len(labels)).index_add_(0, labels.rows, values)
