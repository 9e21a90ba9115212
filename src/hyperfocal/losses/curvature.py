"""The walks of second derivatives, chunk by chunk, in plain torch and for every backend.

With S the slopes d loss / d logits, v the tangents of hidden, weight and bias, and T the tangents of the logits,

    T = v.hidden @ weight.T + hidden @ v.weight.T + v.bias

the gradients times v are the sum over all logits of scale * S * T. With K the derivative of sum(S * T) by the logits:

    by hidden   scale * (K @ weight + S @ v.weight)
    by weight   (scale * K).T @ hidden + (scale * S).T @ v.hidden
    by bias     scale @ K

and (S * T).sum(1) is the directional derivative of the loss of each row. Memory: some twenty tensors of one chunk,
(B, C), and the results. The dense twin is autograd twice over `from_logits`.

Separable losses: K = S' * T elementwise, by autograd over one chunk at a time. One walk.

Softmax losses: a row's loss f depends on its logits y = (z + shift) / temperature by the log-sum-exp n, the logits y[l]
of its positives and the sum of all. With p = exp(y - n), a = df/dn and t the tangents of y, dn = sum of p * t:

    K = p * (a' + a * (t - dn))  +  a[l]' at a positive l

where a' and a[l]' are the derivatives of a * dn + sum of a[l] * t[l]. Three walks: for n, for dn and t[l], for K.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from hyperfocal.labels import SparseLabels
from hyperfocal.losses.terms import SeparableFormula, SeparableTerms, SoftmaxFormula, SoftmaxTerms
from hyperfocal.losses.torch_walks import Normaliser, fill_masked, first_walk, row_sums, softmax_logits
from hyperfocal.losses.walk import Chunk, Problem, RowsAndGradients, Tangents, Walk, positive_weights


class CurvatureWalk:
    """The walk of one problem whose tensors have the dtype of its scale, with the tangents of its logits."""

    def __init__(self, problem: Problem, tangents: Tangents, *, shift: Tensor | None) -> None:
        self.walk, self.tangents = Walk(problem, shift=shift), tangents
        self.scaled = None if tangents.hidden is None else tangents.hidden * problem.scale[:, None]
        self.rows = torch.zeros_like(problem.scale)

    def logit_tangents(self, chunk: Chunk) -> Tensor:
        """Return T of C labels, (B, C), 0 at masked pairs."""
        problem, own = self.walk.problem, self.tangents
        total = problem.hidden.new_zeros(len(problem.hidden), chunk.span.stop - chunk.span.start)
        if own.hidden is not None:
            total.addmm_(own.hidden, problem.weight[chunk.span].T)
        if own.weight is not None:
            total.addmm_(problem.hidden, own.weight[chunk.span].T)
        if own.bias is not None:
            total += own.bias[chunk.span]
        return fill_masked(total, chunk, 0)

    def add(self, chunk: Chunk, tangents: Tensor, slope: Tensor, curved: Tensor) -> None:
        """Add what the C labels of a chunk contribute; T, S and K are (B, C)."""
        span, walk = chunk.span, self.walk
        self.rows += (slope * tangents).sum(1)
        walk.add(span, curved)
        if walk.grad_hidden is not None and self.tangents.weight is not None:
            walk.grad_hidden.addmm_(slope, self.tangents.weight[span])
        if walk.grad_weight is not None and self.scaled is not None:
            walk.grad_weight[span] += slope.T @ self.scaled

    def results(self) -> RowsAndGradients:
        """Return the directional derivative of each row, unscaled, and the scaled derivatives that are needed."""
        return self.rows, self.walk.gradients()


def separable_curvature(
    formula: SeparableFormula, terms: SeparableTerms, problem: Problem, tangents: Tangents
) -> RowsAndGradients:
    """Return the directional derivative of each row, (B,), and the scaled derivatives that are needed."""
    walk = CurvatureWalk(problem, tangents, shift=terms.shift)
    weights = positive_weights(terms.positive_weight, problem)
    for chunk in walk.walk.chunks:
        logits = fill_masked(walk.walk.logits(chunk.span), chunk, 0)
        own = None if weights is None else weights[chunk.order]
        factors = None if terms.term_weights is None else terms.term_weights(chunk.span).to(logits)
        logit_tangents = walk.logit_tangents(chunk)
        walk.add(chunk, logit_tangents, *_slope_and_curvature(formula, logits, logit_tangents, chunk, own, factors))
    return walk.results()


def _slope_and_curvature(
    formula: SeparableFormula,
    logits: Tensor,
    logit_tangents: Tensor,
    chunk: Chunk,
    weights: Tensor | None,
    factors: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """Return S and K of a chunk, (B, C), without their graph, which ends here."""
    with torch.inference_mode(False), torch.enable_grad():
        point = logits.detach().requires_grad_()
        (slope,) = derivatives(_separable_sum(formula, point, chunk, weights, factors), point, again=True)
        (curved,) = derivatives((slope * logit_tangents).sum(), point, again=False)
    return slope.detach(), curved


def _separable_sum(
    formula: SeparableFormula, logits: Tensor, chunk: Chunk, weights: Tensor | None, factors: Tensor | None
) -> Tensor:
    """Return the sum of the terms of a chunk; the arguments are those of `torch_walks.separable_walk`."""
    positive = formula.positive(logits[chunk.positives])
    value = formula.negative(logits.index_put(chunk.positives, logits.new_zeros(())))  # 0 * infinity would be NaN
    value = value.index_put(chunk.positives, positive if weights is None else positive * weights)
    value = value if factors is None else value * factors
    if chunk.masked is not None:
        value = value.index_put(chunk.masked, value.new_zeros(()))
    return value.sum()


def derivatives(value: Tensor, *points: Tensor, again: bool) -> list[Tensor]:
    """Return d value / d point of each point, which can be differentiated if `again`; 0 if the value is a constant."""
    if not value.requires_grad:
        return [torch.zeros_like(point) for point in points]
    slopes = torch.autograd.grad(value, points, create_graph=again, allow_unused=True)
    return [torch.zeros_like(point) if slope is None else slope for slope, point in zip(slopes, points, strict=True)]


class Partials(NamedTuple):
    """The derivatives of the rows' losses, and those of their directional derivatives."""

    by_sum: Tensor  # (B,) a, the derivative by the log-sum-exp
    by_total: Tensor  # (B,) the derivative by the sum of all logits
    by_positive: Tensor  # (P,)
    curved_sum: Tensor  # (B,) a'
    curved_positive: Tensor  # (P,)


def softmax_curvature(
    formula: SoftmaxFormula, terms: SoftmaxTerms, problem: Problem, tangents: Tangents
) -> RowsAndGradients:
    """Return the directional derivative of each row, (B,), and the scaled derivatives that are needed."""
    walk = CurvatureWalk(problem, tangents, shift=terms.shift)
    normaliser = first_walk(terms, walk.walk)
    mean, moved = _tangent_sums(terms, walk, normaliser)
    partials = _partials(formula, terms, problem, normaliser, mean, moved)
    for chunk in walk.walk.chunks:
        p, t = _probabilities(terms, walk, normaliser, chunk), walk.logit_tangents(chunk) / terms.temperature
        slope = p * partials.by_sum[:, None] + partials.by_total[:, None]
        curved = p * (partials.curved_sum[:, None] + partials.by_sum[:, None] * (t - mean[:, None]))
        slope[chunk.positives] += partials.by_positive[chunk.order]
        curved[chunk.positives] += partials.curved_positive[chunk.order]
        slope, curved = (fill_masked(each, chunk, 0).div_(terms.temperature) for each in (slope, curved))
        walk.add(chunk, t * terms.temperature, slope, curved)
    return walk.results()


def _probabilities(terms: SoftmaxTerms, walk: CurvatureWalk, normaliser: Normaliser, chunk: Chunk) -> Tensor:
    """Return p of a chunk, (B, C), 0 at masked pairs."""
    logits = fill_masked(softmax_logits(terms, walk.walk, chunk), chunk, -torch.inf)
    return logits.sub_(normaliser.peak[:, None]).exp_().div_(normaliser.sum[:, None])


def _tangent_sums(terms: SoftmaxTerms, walk: CurvatureWalk, normaliser: Normaliser) -> tuple[Tensor, Tensor]:
    """Return dn, (B,), and the tangent of each positive's y, (P,)."""
    mean, moved = torch.zeros_like(walk.rows), torch.empty_like(normaliser.positives)
    for chunk in walk.walk.chunks:
        t = walk.logit_tangents(chunk) / terms.temperature
        mean += (_probabilities(terms, walk, normaliser, chunk) * t).sum(1)
        moved[chunk.order] = t[chunk.positives]
    return mean, moved


def _partials(
    formula: SoftmaxFormula, terms: SoftmaxTerms, problem: Problem, normaliser: Normaliser, mean: Tensor, moved: Tensor
) -> Partials:
    """Return the derivatives of the rows' losses by log-sum-exp, sum and positives; `mean` and `moved` are tangents."""
    labels, peak = problem.labels, normaliser.peak
    with torch.inference_mode(False), torch.enable_grad():
        sums = normaliser.sum.log().requires_grad_()  # n - peak, the difference that float32 holds exactly enough
        positives = (normaliser.positives - peak[labels.rows]).requires_grad_()
        value = _positive_sums(formula, terms, problem, positives - sums[labels.rows])
        epsilon = terms.label_smoothing
        smoothed = (labels.lengths > 0).to(sums) * epsilon
        value = value + smoothed * sums
        by_sum, by_positive = derivatives(value.sum(), sums, positives, again=True)
        along = (by_sum * mean).sum() + (by_positive * moved).sum()
        curved = derivatives(along, sums, positives, again=False)
    counted = torch.full_like(labels.lengths, labels.num_labels)
    counted = (counted if problem.mask is None else counted - problem.mask.lengths).clamp(min=1)
    return Partials(*(each.detach() for each in (by_sum, -smoothed / counted, by_positive, *curved)))


def _positive_sums(formula: SoftmaxFormula, terms: SoftmaxTerms, problem: Problem, log_p: Tensor) -> Tensor:
    """Return the part of the positives in the loss of each row, (B,), from log p of each, (P,)."""
    labels: SparseLabels = problem.labels
    share = (1 - terms.label_smoothing) / labels.lengths.clamp(min=1)[labels.rows].to(log_p)
    weight = positive_weights(terms.positive_weight, problem)
    value = share * formula.focal(log_p)
    return row_sums(value if weight is None else value * weight, labels)
