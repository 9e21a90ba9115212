"""The walks in plain torch, and the one whose elementwise work is a compiled pass on the CPU.

Separable losses: neg(z) and its slope are one elementwise pass over each chunk of logits, and the few positives
are corrected in place. Value and all gradients come out of one walk.

Softmax losses: one walk for the log-sum-exp, one for the gradients. The first keeps for each row the largest
logit m so far and s = sum of exp(z - m), and the logit of each positive. Then the loss is known, and with it
every slope. With u = log p = (z - m) - log s of a positive, c = d loss / d u, and C = e - sum of the c of the
row, the slope at logit j is

    p[j] * C  -  e / (labels that count)  +  c[j] if j is a positive

so the second walk needs only p = exp(z - m) / s. m and s stay apart: log-sum-exp = m + log s would round u
to the precision of m.

The dense twins are `SeparableLoss.dense_rows` and `SoftmaxLoss.dense_rows`.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from hyperfocal.labels import SparseLabels
from hyperfocal.losses.native import focal_pass_
from hyperfocal.losses.terms import SeparableTerms, SoftmaxTerms
from hyperfocal.losses.walk import Chunk, Problem, RowsAndGradients, Walk, log_once, positive_weights


def separable_walk(terms: SeparableTerms, problem: Problem) -> RowsAndGradients:
    """Return the unscaled loss of each row, (B,), and the scaled gradients that are needed."""
    walk = Walk(problem, shift=terms.shift)
    weights = positive_weights(terms.positive_weight, problem)
    rows = torch.zeros_like(problem.scale)
    for chunk in walk.chunks:
        own = None if weights is None else weights[chunk.order]
        factors = None if terms.term_weights is None else terms.term_weights(chunk.span)
        value, slope = _value_and_slope(terms, walk.logits(chunk.span), chunk, own, factors)
        rows += value
        walk.add(chunk.span, slope)
    return rows, walk.gradients()


def _value_and_slope(
    terms: SeparableTerms, logits: Tensor, chunk: Chunk, weights: Tensor | None, factors: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Return the loss of each row in one chunk, (B,), and the slope at every logit, (B, C).

    Args:
        weights: a weight for each positive of the chunk, or None.
        factors: (B, C), a weight for each term, or None.
    """
    positive_logits = logits[chunk.positives]
    value, slope = terms.negative(logits)
    positive_value, positive_slope = terms.positive(positive_logits)
    if weights is not None:
        positive_value, positive_slope = positive_value * weights, positive_slope * weights
    value[chunk.positives], slope[chunk.positives] = positive_value, positive_slope
    if factors is not None:
        value, slope = value.mul_(factors), slope.mul_(factors)
    if chunk.masked is not None:
        value[chunk.masked] = slope[chunk.masked] = 0
    return value.sum(1), slope


def native_walk(terms: SeparableTerms, problem: Problem) -> RowsAndGradients:
    """Return what `separable_walk` returns; the elementwise work of a float32 chunk is one compiled pass."""
    if terms.focal is None or problem.scale.dtype != torch.float32:
        log_once("native float64", "backend native computes float32; float64 is chunked, in plain torch")
        return separable_walk(terms, problem)
    walk = Walk(problem, shift=terms.shift)
    full = problem.dtype == torch.float32  # a half-precision product is rounded once, after its bias is added
    offset = (
        walk.offset.contiguous() if full and walk.offset is not None else problem.scale.new_zeros(len(problem.weight))
    )
    weight = None if terms.positive_weight is None else terms.positive_weight.to(problem.scale).contiguous()
    rows = torch.zeros_like(problem.scale)
    for span in walk.spans:
        logits = walk.products(span) if full else walk.logits(span)
        rows += focal_pass_(logits, offset, terms.focal, span.start, problem.labels, problem.mask, weight)
        walk.add(span, logits)  # now slopes
    return rows, walk.gradients()


@dataclass(frozen=True, eq=False)
class Normaliser:
    """The sums over each row's logits, after the first walk of a softmax loss."""

    peak: Tensor  # (B,) m, the largest z of the labels that count
    sum: Tensor  # (B,) s, the sum of exp(z - m) over the labels that count, at least 1; 1 if no label counts
    total: Tensor  # (B,) sum of z over the labels that count, for the label smoothing
    positives: Tensor  # (P,) z of each positive, row by row


@dataclass(frozen=True, eq=False)
class Slopes:
    """The numbers from which the second walk computes the slope at each logit."""

    peak: Tensor  # (B,) m
    factor: Tensor  # (B,) C / s
    smoothing: Tensor | None  # (B,) e / (labels that count)
    positives: Tensor  # (P,) c of each positive, row by row


def softmax_walk(terms: SoftmaxTerms, problem: Problem) -> RowsAndGradients:
    """Return the unscaled loss of each row, (B,), and the scaled gradients that are needed."""
    walk = Walk(problem, shift=terms.shift)
    rows, slopes = rows_and_slopes(terms, problem, first_walk(terms, walk))
    second_walk(terms, walk, slopes)
    return rows, walk.gradients()


def first_walk(terms: SoftmaxTerms, walk: Walk) -> Normaliser:
    """Return the numbers from which the log-sum-exp and the slopes are computed."""
    scale = walk.problem.scale
    peak = torch.full_like(scale, torch.finfo(scale.dtype).min)
    sums, total = torch.zeros_like(scale), torch.zeros_like(scale)
    positives = scale.new_empty(walk.problem.labels.num_positives)
    for chunk in walk.chunks:
        logits = softmax_logits(terms, walk, chunk)
        positives[chunk.order] = logits[chunk.positives]
        if terms.label_smoothing > 0:
            total = total + fill_masked(logits, chunk, 0).sum(1)
        before, logits = peak, fill_masked(logits, chunk, -torch.inf)
        peak = torch.maximum(before, logits.amax(1))
        sums = sums * torch.exp(before - peak) + logits.sub_(peak[:, None]).exp_().sum(1)
    return Normaliser(peak, torch.where(sums == 0, 1, sums), total, positives)


def rows_and_slopes(terms: SoftmaxTerms, problem: Problem, normaliser: Normaliser) -> tuple[Tensor, Slopes]:
    """Return the unscaled loss of each row, (B,), and the numbers that the second walk needs."""
    labels, epsilon = problem.labels, terms.label_smoothing
    peak, log_sum = normaliser.peak, normaliser.sum.log()
    value, slope = terms.focal((normaliser.positives - peak[labels.rows]) - log_sum[labels.rows])
    share = (1 - epsilon) / labels.lengths.clamp(min=1)[labels.rows].to(value)
    weight = positive_weights(terms.positive_weight, problem)
    share = share if weight is None else share * weight
    rows, slope = row_sums(share * value, labels), share * slope
    factor = -row_sums(slope, labels)
    if epsilon == 0:
        return rows, Slopes(peak, factor / normaliser.sum, None, slope)
    smoothed = (labels.lengths > 0).to(rows) * epsilon
    counted = torch.full_like(rows, labels.num_labels)
    counted = (counted if problem.mask is None else counted - problem.mask.lengths).clamp(min=1)
    rows += smoothed * ((peak - normaliser.total / counted) + log_sum)
    return rows, Slopes(peak, (factor + smoothed) / normaliser.sum, smoothed / counted, slope)


def second_walk(terms: SoftmaxTerms, walk: Walk, slopes: Slopes) -> None:
    """Add up the gradients that are needed."""
    if any(walk.problem.needs):
        for chunk in walk.chunks:
            walk.add(chunk.span, _slope(terms, softmax_logits(terms, walk, chunk), chunk, slopes))


def _slope(terms: SoftmaxTerms, logits: Tensor, chunk: Chunk, slopes: Slopes) -> Tensor:
    """Return d loss / d (hidden @ weight.T) at every logit of a chunk, (B, C)."""
    slope = logits.sub_(slopes.peak[:, None]).exp_().mul_(slopes.factor[:, None])
    if slopes.smoothing is not None:
        slope -= slopes.smoothing[:, None]
    slope[chunk.positives] += slopes.positives[chunk.order]
    slope = fill_masked(slope, chunk, 0)
    return slope if terms.temperature == 1 else slope.div_(terms.temperature)


def softmax_logits(terms: SoftmaxTerms, walk: Walk, chunk: Chunk) -> Tensor:
    """Return the logits plus the shift, divided by the temperature, (B, C)."""
    logits = walk.logits(chunk.span)
    return logits if terms.temperature == 1 else logits.div_(terms.temperature)


def fill_masked(values: Tensor, chunk: Chunk, filling: float) -> Tensor:
    """Replace the values that do not count, in place."""
    if chunk.masked is not None:
        values[chunk.masked] = filling
    return values


def row_sums(values: Tensor, labels: SparseLabels) -> Tensor:
    """Return (B,), the sum over the positives of each row of a value per positive."""
    return values.new_zeros(len(labels)).index_add_(0, labels.rows, values)
