"""Separable losses: two scalar functions, one for positives and one for negatives.

A new loss is a subclass with `positive` and `negative`. Autograd computes their derivatives unless the subclass
also defines the `_with_slope` pair. Everything else (sparse positives, label chunks, weights, masks, reductions,
gradients) is written once: in `base.py` and `torch_walks.py`, and densely in `SeparableLoss.dense_rows`.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from hyperfocal.errors import ConfigError
from hyperfocal.labels import SparseLabels
from hyperfocal.losses.base import FusedLoss
from hyperfocal.losses.curvature import separable_curvature
from hyperfocal.losses.terms import FocalTerms, SeparableTerms, TermWeights, ValueAndSlope
from hyperfocal.losses.torch_walks import native_walk, separable_walk
from hyperfocal.losses.triton_walks import separable_triton_walk
from hyperfocal.losses.walk import Problem, RowsAndGradients, Tangents


class SeparableLoss(FusedLoss):
    """The base of every loss that is a pair of scalar functions.

    With y = 1 for the labels of an example and 0 for all others, the loss of example i is

        sum over l of  r[i, l] * (y * w[l] * pos(z[i, l] + s[l]) + (1 - y) * neg(z[i, l] + s[l]))

    where z are the logits, w the `positive_weight`, s the `logit_shift` and r the `term_weights`; without
    them w = 1, s = 0 and r = 1. Pairs in the mask are left out of the sum.

    Options: see LossOptions.

    >>> class Squared(SeparableLoss):
    ...     def positive(self, logits):
    ...         return (1 - logits) ** 2
    ...     def negative(self, logits):
    ...         return logits**2
    """

    walks = {"chunked": separable_walk, "native": native_walk, "triton": separable_triton_walk}  # noqa: RUF012

    def positive(self, logits: Tensor) -> Tensor:
        """Return pos(z), elementwise: the loss of a logit whose label is right."""
        raise NotImplementedError(f"{type(self).__name__} must define positive(logits)")

    def negative(self, logits: Tensor) -> Tensor:
        """Return neg(z), elementwise: the loss of a logit whose label is wrong."""
        raise NotImplementedError(f"{type(self).__name__} must define negative(logits)")

    def positive_with_slope(self, logits: Tensor) -> ValueAndSlope:
        """Return pos(z) and its derivative, in memory that the caller may overwrite."""
        return _slope_by_autograd(self.positive, logits)

    def negative_with_slope(self, logits: Tensor) -> ValueAndSlope:
        """Return neg(z) and its derivative, in memory that the caller may overwrite."""
        return _slope_by_autograd(self.negative, logits)

    @property
    def focal_terms(self) -> FocalTerms | None:
        """Return pos and neg in the form that the native pass and the Triton kernels compute, or None."""
        return None

    def term_weights(self, labels: SparseLabels) -> TermWeights | None:
        """Return a function from a slice of C labels to the weights r of their terms, (B, C), or None for r = 1."""
        return None

    def covers(self, backend: str) -> bool:
        """Return whether a backend can compute this loss, if it is available."""
        return backend == "chunked" or self.focal_terms is not None

    def terms(self, labels: SparseLabels) -> SeparableTerms:
        """Return the functions and numbers that the walks ask for."""
        return SeparableTerms(
            positive=self.positive_with_slope,
            negative=self.negative_with_slope,
            focal=self.focal_terms,
            term_weights=self.term_weights(labels),
            positive_weight=self.positive_weight,
            shift=self.logit_shift,
        )

    def curvature(self, problem: Problem, tangents: Tangents) -> RowsAndGradients:
        """Return the directional derivative of each row, (B,), and the derivatives of the gradients @ tangents."""
        return separable_curvature(self, self.terms(problem.labels), problem, tangents)

    def dense_rows(self, logits: Tensor, labels: SparseLabels, mask: SparseLabels | None) -> Tensor:
        """Return the undivided loss of each row, (B,), by the formula of this class."""
        ignored = None if mask is None else mask.to_dense(torch.bool)
        if ignored is not None:
            logits = logits.masked_fill(ignored, 0)  # a NaN here would survive a multiplication by 0
        if self.logit_shift is not None:
            logits = logits + self.logit_shift.to(logits)
        right = labels.to_dense(torch.bool)
        positive = self.positive(logits.masked_fill(~right, 0))  # of the others, an infinity times 0 would be NaN
        if self.positive_weight is not None:
            positive = positive * self.positive_weight.to(logits)
        losses = torch.where(right, positive, self.negative(logits.masked_fill(right, 0)))
        weights = self.term_weights(labels)
        if weights is not None:
            losses = losses * weights(slice(None)).to(logits)
        return (losses if ignored is None else losses.masked_fill(ignored, 0)).sum(1)


def _slope_by_autograd(function: Callable[[Tensor], Tensor], logits: Tensor) -> ValueAndSlope:
    """Return value and derivative of any elementwise function, in memory that the caller may overwrite."""
    with torch.inference_mode(False), torch.enable_grad():
        point = (logits.clone() if logits.is_inference() else logits.detach()).requires_grad_()
        value = function(point)
        if value.shape != logits.shape:
            name = getattr(function, "__qualname__", "the function")
            raise ConfigError(
                f"{name} gave {tuple(value.shape)} for logits {tuple(logits.shape)}. Expected one loss per logit"
            )
        if not value.requires_grad:  # a constant
            return value.clone(), torch.zeros_like(logits)
        (slope,) = torch.autograd.grad(value.sum(), point)
    return value.detach().clone(), slope.clone()  # z itself shares memory, the slope of z + 1 is one number, expanded
