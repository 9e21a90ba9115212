"""The values that a walk asks of a loss: its scalar functions and its numbers per label."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple, Protocol

from torch import Tensor

from hyperfocal.losses.options import Options
from hyperfocal.losses.walk import Problem, RowsAndGradients, Tangents

ValueAndSlope = tuple[Tensor, Tensor]
TermWeights = Callable[[slice], Tensor]  # from C labels to the factors r of their terms, (B, C)


class Walkable(Protocol):
    """A loss that the fused call finds by its number."""

    number: int
    options: Options

    def walk(self, problem: Problem) -> RowsAndGradients:
        """Return the unscaled loss of each row, (B,), and the scaled gradients that are needed."""

    def curvature(self, problem: Problem, tangents: Tangents) -> RowsAndGradients:
        """Return the directional derivative of each row, (B,), and the derivatives of the gradients @ tangents."""


class SeparableFormula(Protocol):
    """The two scalar functions of a separable loss, differentiable by autograd."""

    def positive(self, logits: Tensor) -> Tensor:
        """Return pos(z)."""

    def negative(self, logits: Tensor) -> Tensor:
        """Return neg(z)."""


class SoftmaxFormula(Protocol):
    """The scalar function of a softmax loss, differentiable by autograd."""

    def focal(self, log_p: Tensor) -> Tensor:
        """Return (1 - p)^gamma * -log(p)."""


class FocalTerms(NamedTuple):
    """The pair neg(z) = negative * f(z), pos(z) = positive * f(-z), which compiled kernels compute.

    f(z) = sigmoid(z)^gamma * softplus(z).
    """

    gamma: float
    negative: float = 1.0
    positive: float = 1.0


@dataclass(frozen=True, eq=False, kw_only=True)
class SeparableTerms:
    """The functions and numbers of a separable loss; the formula is in SeparableLoss."""

    positive: Callable[[Tensor], ValueAndSlope]  # value and slope of pos(z), in memory that the walk may overwrite
    negative: Callable[[Tensor], ValueAndSlope]  # value and slope of neg(z), in memory that the walk may overwrite
    focal: FocalTerms | None  # pos and neg in the form that compiled kernels compute, or None if they have no such form
    term_weights: TermWeights | None  # r, or None for 1
    positive_weight: Tensor | None  # (L,) w, or None for 1
    shift: Tensor | None  # (L,), added to the logits, or None

    def of(self, span: slice) -> SeparableTerms:
        """Return the terms for the labels of a span, numbered from its first."""
        shift, weight = _cut(self.shift, span), _cut(self.positive_weight, span)
        factors = None if self.term_weights is None else _shifted(self.term_weights, span.start)
        return replace(self, term_weights=factors, positive_weight=weight, shift=shift)


@dataclass(frozen=True, eq=False, kw_only=True)
class SoftmaxTerms:
    """The functions and numbers of a softmax loss; the formula is in SoftmaxLoss."""

    focal: Callable[[Tensor], ValueAndSlope]  # returns (1 - p)^gamma * -log(p) and its slope from log(p)
    temperature: float  # above 0
    label_smoothing: float  # e, in [0, 1)
    positive_weight: Tensor | None  # (L,) w, or None for 1
    shift: Tensor | None  # (L,), added to the logits before they are divided by the temperature, or None

    def of(self, span: slice) -> SoftmaxTerms:
        """Return the terms for the labels of a span, numbered from its first."""
        return replace(self, positive_weight=_cut(self.positive_weight, span), shift=_cut(self.shift, span))


def _cut(vector: Tensor | None, span: slice) -> Tensor | None:
    return None if vector is None else vector[span]


def _shifted(weights: TermWeights, first: int) -> TermWeights:
    return lambda span: weights(slice(span.start + first, span.stop + first))
