"""Separable losses: two scalar functions, one for positives and one for negatives.

    sum over all (i, l) of neg(z[i, l])  +  sum over the positives (i, l) of pos(z[i, l]) - neg(z[i, l])

A new loss is a subclass with `positive` and `negative`; their derivatives come from autograd unless
the `_with_slope` pair is given too. Everything else (sparse positives, label chunks, reductions,
gradients) is written once, in `chunked.py`.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from hyperfocal.errors import ConfigError
from hyperfocal.labels import SparseLabels
from hyperfocal.losses.chunked import fused_loss
from hyperfocal.losses.reference import REDUCTIONS, dense_loss

ValueAndSlope = tuple[Tensor, Tensor]


class SeparableLoss(nn.Module):
    """The base of every loss that is a pair of scalar functions.

    Args:
        reduction: what the sum over all examples and labels is divided by: "positives", the number of
            positives in the batch (at least 1), as in the focal loss paper; "batch", B; "mean", B x L;
            "sum", 1.

    Raises:
        ConfigError: an unknown reduction.
    """

    def __init__(self, *, reduction: str = "positives") -> None:
        super().__init__()
        if reduction not in REDUCTIONS:
            raise ConfigError(f"reduction = {reduction!r} is not allowed. Expected one of {', '.join(REDUCTIONS)}")
        self.reduction = reduction

    def positive(self, logits: Tensor) -> Tensor:
        """Return pos(z), elementwise: the loss of a logit whose label is right."""
        raise NotImplementedError(f"{type(self).__name__} must define positive(logits)")

    def negative(self, logits: Tensor) -> Tensor:
        """Return neg(z), elementwise: the loss of a logit whose label is wrong."""
        raise NotImplementedError(f"{type(self).__name__} must define negative(logits)")

    def positive_with_slope(self, logits: Tensor) -> ValueAndSlope:
        """Return pos(z) and its derivative."""
        return _slope_by_autograd(self.positive, logits)

    def negative_with_slope(self, logits: Tensor) -> ValueAndSlope:
        """Return neg(z) and its derivative."""
        return _slope_by_autograd(self.negative, logits)

    def forward(self, hidden: Tensor, weight: Tensor, bias: Tensor | None, labels: SparseLabels) -> Tensor:
        """Return the loss of `hidden @ weight.T + bias`, whose B x L logits never exist as a whole.

        Args:
            hidden: (B, D) float, what the encoder gives.
            weight: (L, D) float, a row a label.
            bias: (L,) float or None.
            labels: B rows over L labels.

        Returns:
            Scalar, reduced as `reduction` says.

        Raises:
            ValueError: shapes that do not match.
        """
        return fused_loss(self, hidden, weight, bias, labels, reduction=self.reduction)

    def from_logits(self, logits: Tensor, labels: SparseLabels) -> Tensor:
        """Return the same number from (B, L) logits, by plain dense maths and autograd."""
        return dense_loss(self, logits, labels, reduction=self.reduction)


class BCELoss(SeparableLoss):
    """Binary cross-entropy: pos(z) = softplus(-z), neg(z) = softplus(z)."""

    def positive(self, logits: Tensor) -> Tensor:
        """Return softplus(-z) = -log sigmoid(z)."""
        return functional.softplus(-logits)

    def negative(self, logits: Tensor) -> Tensor:
        """Return softplus(z) = -log(1 - sigmoid(z))."""
        return functional.softplus(logits)

    def positive_with_slope(self, logits: Tensor) -> ValueAndSlope:
        """Return softplus(-z) and -sigmoid(-z)."""
        return functional.softplus(-logits), -torch.sigmoid(-logits)

    def negative_with_slope(self, logits: Tensor) -> ValueAndSlope:
        """Return softplus(z) and sigmoid(z)."""
        return functional.softplus(logits), torch.sigmoid(logits)


class FocalLoss(SeparableLoss):
    """Focal loss: cross-entropy in which what is already right counts little.

    With p = sigmoid(z):

        pos(z) = alpha       * (1 - p)^gamma * -log(p)
        neg(z) = (1 - alpha) * p^gamma       * -log(1 - p)

    Both are f(z) = sigmoid(z)^gamma * softplus(z), at -z and at z, so nothing is ever divided by p and
    value and gradient are finite for every logit. The gradient goes through the focal factor.

    Args:
        gamma: in [0, 5]; 0 is (weighted) binary cross-entropy.
        alpha: in [0, 1], the weight of the positives against 1 - alpha of the negatives; None weighs
            both with 1.
        reduction: see SeparableLoss; the paper's is "positives".

    Raises:
        ConfigError: gamma or alpha out of range.

    Source: Lin et al. 2017, equations 4 and 5.
    """

    def __init__(self, gamma: float = 2.0, alpha: float | None = None, *, reduction: str = "positives") -> None:
        super().__init__(reduction=reduction)
        if not 0 <= gamma <= 5:
            raise ConfigError(f"gamma = {gamma!r} is not allowed. Expected a number from 0 to 5")
        if alpha is not None and not 0 <= alpha <= 1:
            raise ConfigError(f"alpha = {alpha!r} is not allowed. Expected a number from 0 to 1, or None")
        self.gamma = gamma
        self.alpha = alpha

    def extra_repr(self) -> str:
        """Return the settings that `print` shows."""
        return f"gamma={self.gamma}, alpha={self.alpha}, reduction={self.reduction!r}"

    def positive(self, logits: Tensor) -> Tensor:
        """Return alpha * (1 - p)^gamma * -log(p)."""
        return self._weights[0] * _focal_power(-logits, self.gamma) * functional.softplus(-logits)

    def negative(self, logits: Tensor) -> Tensor:
        """Return (1 - alpha) * p^gamma * -log(1 - p)."""
        return self._weights[1] * _focal_power(logits, self.gamma) * functional.softplus(logits)

    def positive_with_slope(self, logits: Tensor) -> ValueAndSlope:
        """Return pos(z) and its derivative, -alpha * f'(-z)."""
        value, slope = _focal_with_slope(-logits, self.gamma)
        return self._weights[0] * value, -self._weights[0] * slope

    def negative_with_slope(self, logits: Tensor) -> ValueAndSlope:
        """Return neg(z) and its derivative, (1 - alpha) * f'(z)."""
        value, slope = _focal_with_slope(logits, self.gamma)
        weight = self._weights[1]
        return (value, slope) if weight == 1 else (value.mul_(weight), slope.mul_(weight))

    @property
    def _weights(self) -> tuple[float, float]:
        return (1.0, 1.0) if self.alpha is None else (self.alpha, 1 - self.alpha)


def _focal_power(logits: Tensor, gamma: float) -> Tensor:
    """Return sigmoid(z)^gamma; in log space, where a whole power does not spare the logarithm."""
    if float(gamma).is_integer():
        return torch.sigmoid(logits) ** int(gamma)
    return torch.exp(gamma * functional.logsigmoid(logits))


def _focal_with_slope(logits: Tensor, gamma: float) -> ValueAndSlope:
    """Return f(z) = p^gamma * softplus(z) and f'(z) = p^gamma * (gamma * (1 - p) * softplus(z) + p)."""
    p = torch.sigmoid(logits)
    power = p**gamma if float(gamma).is_integer() else _focal_power(logits, gamma)
    value = functional.softplus(logits)
    slope = torch.addcmul(p, 1 - p, value, value=gamma).mul_(power)
    return value.mul_(power), slope


def _slope_by_autograd(function: Callable[[Tensor], Tensor], logits: Tensor) -> ValueAndSlope:
    with torch.enable_grad():
        point = logits.detach().requires_grad_()
        value = function(point)
        if not value.requires_grad:  # a constant
            return value, torch.zeros_like(logits)
        (slope,) = torch.autograd.grad(value.sum(), point)
    return value.detach(), slope.contiguous()  # the slope of z + 1 is one number, expanded; the walk writes into it
