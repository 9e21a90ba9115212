"""The separable losses over label chunks, in plain torch: value and all gradients come out of one walk.

Of each chunk of logits, neg(z) and its slope are one elementwise pass, and the few positives are corrected
in place. The B x L logits never exist as a whole. Its dense twin is `reference.separable_rows`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from hyperfocal.losses.backends import log_once
from hyperfocal.losses.native import focal_pass_
from hyperfocal.losses.walk import Chunk, Problem, RowsAndGradients, Walk, positive_weights

if TYPE_CHECKING:
    from hyperfocal.losses.separable import SeparableLoss


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
