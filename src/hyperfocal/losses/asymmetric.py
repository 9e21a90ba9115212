"""Asymmetric loss (ASL): separate focal exponents for positives and negatives, and a margin for easy negatives."""

from typing import Unpack

import torch
from torch import Tensor

from hyperfocal.errors import ConfigError
from hyperfocal.losses.focal import focal, focal_with_slope
from hyperfocal.losses.options import LossOptions, check_range
from hyperfocal.losses.separable import SeparableLoss
from hyperfocal.losses.terms import ValueAndSlope


class AsymmetricLoss(SeparableLoss):
    """Asymmetric loss.

    With p = sigmoid(z) and p_m = max(p - margin, 0):

        pos(z) = (1 - p)^gamma_positive * -log(p)
        neg(z) = p_m^gamma_negative     * -log(1 - p_m)

    A negative with p <= margin has loss 0 and slope 0. For p > margin

        neg'(z) = p_m^g * (g * -log(1 - p_m) / p_m + 1 / (1 - p_m)) * p * (1 - p)

    Args:
        gamma_positive: in [0, 5].
        gamma_negative: in [0, 5].
        margin: in [0, 1); 0 is focal loss with two gammas.
        detach: whether the focal factors are constants for the gradient (the option
            disable_torch_grad_focal_loss of the authors' program). The value stays the same.
        options: see LossOptions.

    Raises:
        ConfigError: gamma or margin out of range; an option that is not allowed.

    Source: Ridnik et al. 2021, Asymmetric Loss For Multi-Label Classification, equations 4 to 7.
    """

    def __init__(
        self,
        gamma_positive: float = 0.0,
        gamma_negative: float = 4.0,
        margin: float = 0.05,
        *,
        detach: bool = False,
        **options: Unpack[LossOptions],
    ) -> None:
        super().__init__(**options)
        check_range("gamma_positive", gamma_positive, 0, 5)
        check_range("gamma_negative", gamma_negative, 0, 5)
        if not 0 <= margin < 1:
            raise ConfigError(f"margin = {margin!r} is not allowed. Expected a number from 0 and below 1")
        self.gamma_positive = gamma_positive
        self.gamma_negative = gamma_negative
        self.margin = margin
        self.detach = detach

    def extra_repr(self) -> str:
        """Return the settings that `print` shows."""
        gammas = f"gamma_positive={self.gamma_positive}, gamma_negative={self.gamma_negative}"
        return f"{gammas}, margin={self.margin}, detach={self.detach}, {super().extra_repr()}"

    def positive(self, logits: Tensor) -> Tensor:
        """Return (1 - p)^gamma_positive * -log(p)."""
        return focal(-logits, self.gamma_positive, detach=self.detach)

    def negative(self, logits: Tensor) -> Tensor:
        """Return p_m^gamma_negative * -log(1 - p_m)."""
        if self.margin == 0:
            return focal(logits, self.gamma_negative, detach=self.detach)
        active, p_m, rest = self._shifted(logits)
        power = torch.where(active, p_m**self.gamma_negative, 0)
        return (power.detach() if self.detach else power) * -torch.log(rest)

    def positive_with_slope(self, logits: Tensor) -> ValueAndSlope:
        """Return pos(z) and its derivative."""
        value, slope = focal_with_slope(-logits, self.gamma_positive, detach=self.detach)
        return value, slope.neg_()

    def negative_with_slope(self, logits: Tensor) -> ValueAndSlope:
        """Return neg(z) and its derivative."""
        if self.margin == 0:
            return focal_with_slope(logits, self.gamma_negative, detach=self.detach)
        active, p_m, rest = self._shifted(logits)
        power = torch.where(active, p_m**self.gamma_negative, 0)
        cross = -torch.log(rest)
        inner = 1 / rest if self.detach else self.gamma_negative * cross / p_m + 1 / rest
        return power * cross, power * inner * torch.sigmoid(logits) * torch.sigmoid(-logits)

    def _shifted(self, logits: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return whether p > margin, and if so p_m and 1 - p_m = sigmoid(-z) + margin; otherwise 1 and 1."""
        shifted = torch.sigmoid(logits) - self.margin
        active = shifted > 0
        rest = torch.sigmoid(-logits) + self.margin
        return active, torch.where(active, shifted, 1), torch.where(active, rest, 1)
