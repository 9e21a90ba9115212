"""Binary cross-entropy and focal loss, and the scalar function of all focal losses with its slope."""

from typing import Unpack

import torch
from torch import Tensor
from torch.nn import functional

from hyperfocal.losses.options import LossOptions, check_range
from hyperfocal.losses.separable import SeparableLoss
from hyperfocal.losses.terms import FocalTerms, ValueAndSlope


class BCELoss(SeparableLoss):
    """Binary cross-entropy: pos(z) = softplus(-z), neg(z) = softplus(z). Options: see LossOptions."""

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

    @property
    def focal_terms(self) -> FocalTerms | None:
        """Return gamma 0, or None in a subclass, which may change pos and neg."""
        return FocalTerms(0.0) if type(self) is BCELoss else None


class FocalLoss(SeparableLoss):
    """Focal loss: cross-entropy in which terms that are already right count little.

    With p = sigmoid(z):

        pos(z) = alpha       * (1 - p)^gamma * -log(p)
        neg(z) = (1 - alpha) * p^gamma       * -log(1 - p)

    Both are f(z) = sigmoid(z)^gamma * softplus(z), at -z and at z, so nothing is divided by p, and
    value and gradient are finite for every logit. The gradient goes through the focal factor.

    Args:
        gamma: in [0, 5]; 0 is (weighted) binary cross-entropy.
        alpha: in [0, 1], the weight of the positives, and 1 - alpha that of the negatives; None: both 1.
        options: see LossOptions; the paper's reduction is "positives".

    Raises:
        ConfigError: gamma or alpha out of range; an option that is not allowed.

    Source: Lin et al. 2017, equations 4 and 5.

    >>> FocalLoss(gamma=2.0, alpha=0.25, positive_weight=[1.0, 7.0])
    FocalLoss(gamma=2.0, alpha=0.25, reduction='positives', positive_weight=(2,))
    """

    def __init__(self, gamma: float = 2.0, alpha: float | None = None, **options: Unpack[LossOptions]) -> None:
        super().__init__(**options)
        check_range("gamma", gamma, 0, 5)
        if alpha is not None:
            check_range("alpha", alpha, 0, 1, otherwise=", or None")
        self.gamma = gamma
        self.alpha = alpha

    def extra_repr(self) -> str:
        """Return the settings that `print` shows."""
        return f"gamma={self.gamma}, alpha={self.alpha}, {super().extra_repr()}"

    def positive(self, logits: Tensor) -> Tensor:
        """Return alpha * (1 - p)^gamma * -log(p)."""
        return self._weights[0] * focal(-logits, self.gamma)

    def negative(self, logits: Tensor) -> Tensor:
        """Return (1 - alpha) * p^gamma * -log(1 - p)."""
        return self._weights[1] * focal(logits, self.gamma)

    def positive_with_slope(self, logits: Tensor) -> ValueAndSlope:
        """Return pos(z) and its derivative, -alpha * f'(-z)."""
        value, slope = focal_with_slope(-logits, self.gamma)
        return self._weights[0] * value, -self._weights[0] * slope

    def negative_with_slope(self, logits: Tensor) -> ValueAndSlope:
        """Return neg(z) and its derivative, (1 - alpha) * f'(z)."""
        value, slope = focal_with_slope(logits, self.gamma)
        weight = self._weights[1]
        return (value, slope) if weight == 1 else (value.mul_(weight), slope.mul_(weight))

    @property
    def focal_terms(self) -> FocalTerms | None:
        """Return gamma and both weights, or None in a subclass, which may change pos and neg."""
        positive, negative = self._weights
        return FocalTerms(float(self.gamma), negative, positive) if type(self) is FocalLoss else None

    @property
    def _weights(self) -> tuple[float, float]:
        return (1.0, 1.0) if self.alpha is None else (self.alpha, 1 - self.alpha)


def focal(logits: Tensor, gamma: float, *, detach: bool = False) -> Tensor:
    """Return f(z) = sigmoid(z)^gamma * softplus(z); with `detach`, autograd takes sigmoid(z)^gamma as a constant."""
    power = _power(logits, gamma)
    return (power.detach() if detach else power) * functional.softplus(logits)


def focal_with_slope(logits: Tensor, gamma: float, *, detach: bool = False) -> ValueAndSlope:
    """Return f(z) and f'(z) = p^gamma * (gamma * (1 - p) * softplus(z) + p), or p^gamma * p with `detach`."""
    p = torch.sigmoid(logits)
    power = p**gamma if float(gamma).is_integer() else _power(logits, gamma)
    value = functional.softplus(logits)
    slope = p if detach else torch.addcmul(p, 1 - p, value, value=gamma)
    return value.mul_(power), slope.mul_(power)


def _power(logits: Tensor, gamma: float) -> Tensor:
    """Return sigmoid(z)^gamma, in log space unless gamma is an integer."""
    if float(gamma).is_integer():
        return torch.sigmoid(logits) ** int(gamma)
    return torch.exp(gamma * functional.logsigmoid(logits))
