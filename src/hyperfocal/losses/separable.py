"""Separable losses: two scalar functions, one for positives and one for negatives.

A new loss is a subclass with `positive` and `negative`; their derivatives come from autograd unless
the `_with_slope` pair is given too. Everything else (sparse positives, label chunks, weights, masks,
reductions, gradients) is written once: in `chunked.py`, and densely in `reference.py`.
"""

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from hyperfocal.errors import ConfigError
from hyperfocal.labels import SparseLabels
from hyperfocal.losses.fused import fused_loss
from hyperfocal.losses.native import FocalTerms
from hyperfocal.losses.options import Options, register, weight_vector
from hyperfocal.losses.reference import dense_loss, separable_rows
from hyperfocal.losses.terms import ValueAndSlope
from hyperfocal.losses.torch_walks import native_walk, separable_walk
from hyperfocal.losses.triton_walks import separable_triton_walk
from hyperfocal.losses.walk import Problem, RowsAndGradients

SeparableWalk = Callable[["SeparableLoss", Problem], RowsAndGradients]


class SeparableLoss(nn.Module):
    """The base of every loss that is a pair of scalar functions.

    With y = 1 for the labels of an example and 0 for all others, the loss of example i is

        sum over l of  r[i, l] * (y * w[l] * pos(z[i, l] + s[l]) + (1 - y) * neg(z[i, l] + s[l]))

    where z are the logits, w the `positive_weight`, s the `logit_shift` and r the `term_weights`; without
    them w = 1, s = 0 and r = 1. Pairs in the mask are left out of the sum.

    Args:
        reduction, positive_weight, ignore_empty, backend, chunk_labels, check_finite: see LossOptions.

    Raises:
        ConfigError: an option that is not allowed.

    >>> class Squared(SeparableLoss):
    ...     def positive(self, logits):
    ...         return (1 - logits) ** 2
    ...     def negative(self, logits):
    ...         return logits**2
    """

    walks: ClassVar[dict[str, SeparableWalk]] = {
        "chunked": separable_walk,
        "native": native_walk,
        "triton": separable_triton_walk,
    }
    positive_weight: Tensor | None
    logit_shift: Tensor | None

    def __init__(
        self,
        *,
        reduction: str = "positives",
        positive_weight: Tensor | Sequence[float] | None = None,
        ignore_empty: bool = False,
        backend: str = "auto",
        chunk_labels: int | None = None,
        check_finite: bool = False,
    ) -> None:
        super().__init__()
        self.options = Options(
            reduction=reduction,
            ignore_empty=ignore_empty,
            backend=backend,
            chunk_labels=chunk_labels,
            check_finite=check_finite,
        )
        self.register_buffer("positive_weight", weight_vector(positive_weight), persistent=False)
        self.register_buffer("logit_shift", None, persistent=False)
        self.number = register(self)

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Restore a copied or unpickled loss under a number of its own."""
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        self.number = register(self)

    @property
    def reduction(self) -> str:
        """Return what the sum is divided by."""
        return self.options.reduction

    def extra_repr(self) -> str:
        """Return the settings that `print` shows."""
        weights = "" if self.positive_weight is None else f", positive_weight=({len(self.positive_weight)},)"
        return f"reduction={self.reduction!r}{weights}"

    def positive(self, logits: Tensor) -> Tensor:
        """Return pos(z), elementwise: the loss of a logit whose label is right."""
        raise NotImplementedError(f"{type(self).__name__} must define positive(logits)")

    def negative(self, logits: Tensor) -> Tensor:
        """Return neg(z), elementwise: the loss of a logit whose label is wrong."""
        raise NotImplementedError(f"{type(self).__name__} must define negative(logits)")

    def positive_with_slope(self, logits: Tensor) -> ValueAndSlope:
        """Return pos(z) and its derivative, in memory of their own."""
        return _slope_by_autograd(self.positive, logits)

    def negative_with_slope(self, logits: Tensor) -> ValueAndSlope:
        """Return neg(z) and its derivative, in memory of their own."""
        return _slope_by_autograd(self.negative, logits)

    @property
    def native_terms(self) -> FocalTerms | None:
        """Return what the native pass and the Triton kernels compute for this loss, or None where they cannot."""
        return None

    def term_weights(self, labels: SparseLabels) -> Callable[[slice], Tensor] | None:
        """Return a function from a chunk of C labels to the weights r of its terms, (B, C), or None for 1.

        Args:
            labels: the positives of the batch that count.
        """
        return None

    def forward(
        self,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        labels: SparseLabels,
        mask: SparseLabels | None = None,
    ) -> Tensor:
        """Return the loss of `hidden @ weight.T + bias`, whose B x L logits never exist as a whole.

        Gradients reach hidden, weight and bias, not parameters that the loss itself may have.

        Args:
            hidden: (B, D) float, what the encoder gives.
            weight: (L, D) float, a row a label.
            bias: (L,) float or None.
            labels: B rows over L labels, on any device.
            mask: B rows over L labels, or None: pairs whose term and gradient are exactly 0, positives
                too (padding, items of the history, labels that nobody annotated).

        Returns:
            Scalar, reduced as `reduction` says, or (B,) for "none". float32, float64 for float64 inputs.

        Raises:
            DataError: tensors that are no floats, whose shapes do not match, that are on several devices
                or of several dtypes outside autocast; with check_finite, NaN or infinity.
        """
        return fused_loss(self, hidden, weight, bias, labels, mask)

    def from_logits(self, logits: Tensor, labels: SparseLabels, mask: SparseLabels | None = None) -> Tensor:
        """Return the same number from (B, L) logits, by plain dense maths and autograd."""
        return dense_loss(self, logits, labels, mask)

    def dense_rows(self, logits: Tensor, labels: SparseLabels, mask: SparseLabels | None) -> Tensor:
        """Return (B,), the loss of each row from dense logits."""
        return separable_rows(self, logits, labels, mask)


def _slope_by_autograd(function: Callable[[Tensor], Tensor], logits: Tensor) -> ValueAndSlope:
    """Return value and derivative of any elementwise function, in memory of their own."""
    with torch.inference_mode(False), torch.enable_grad():
        point = (logits.clone() if logits.is_inference() else logits.detach()).requires_grad_()
        value = function(point)
        if value.shape != logits.shape:
            name = getattr(function, "__qualname__", "the function")
            raise ConfigError(
                f"{name} gave {tuple(value.shape)} for logits {tuple(logits.shape)}. Expected one a logit"
            )
        if not value.requires_grad:  # a constant
            return value.clone(), torch.zeros_like(logits)
        (slope,) = torch.autograd.grad(value.sum(), point)
    return value.detach().clone(), slope.clone()  # z itself shares memory, the slope of z + 1 is one number, expanded
