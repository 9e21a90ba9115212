"""Softmax losses over all labels: multi-positive cross-entropy, softmax focal, logit adjustment."""

from collections.abc import Sequence
from typing import Unpack

import torch
from torch import Tensor

from hyperfocal.errors import ConfigError
from hyperfocal.labels import SparseLabels
from hyperfocal.losses.base import FusedLoss
from hyperfocal.losses.curvature import softmax_curvature
from hyperfocal.losses.options import WalkOptions, check_range, label_vector
from hyperfocal.losses.terms import SoftmaxTerms, ValueAndSlope
from hyperfocal.losses.torch_walks import softmax_walk
from hyperfocal.losses.triton_walks import softmax_triton_walk
from hyperfocal.losses.walk import Problem, RowsAndGradients, Tangents


class SoftmaxLoss(FusedLoss):
    """Cross-entropy over all labels, for any number of positives per example.

    With p = softmax over l of (z[i, l] / temperature + tau * log_prior[l]), and P the positives of example i:

        loss of i = (1 - e) * mean over l in P of w[l] * (1 - p[l])^gamma * -log(p[l])
                    + e     * mean over all l of                            -log(p[l])

    where w is the `positive_weight` and e the `label_smoothing`. An example without positives has loss 0.
    A pair in the mask is not a label of the softmax: it is in none of the sums and means.

    Args:
        temperature: above 0.
        label_smoothing: e, in [0, 1).
        log_prior: (L,), the log of each label's frequency, or None. Training with it and ranking by z
            alone is logit adjustment: rare labels are not ranked down because they are rare.
        tau: at least 0, the strength of the adjustment.
        gamma: in [0, 5]; 0 is cross-entropy.
        reduction: see LossOptions; here the sum over *examples* is divided, and the default is "batch".
        options: positive_weight, ignore_empty, backend, chunk_labels, check_finite; see LossOptions.

    Raises:
        ConfigError: a number out of range; a log_prior that is not finite; an option that is not allowed.

    Source: Menon et al. 2021, Long-tail learning via logit adjustment, equation 10. With one positive, no
    weight and reduction "batch" this is torch.nn.functional.cross_entropy.
    """

    walks = {"chunked": softmax_walk, "triton": softmax_triton_walk}  # noqa: RUF012

    def __init__(
        self,
        *,
        temperature: float = 1.0,
        label_smoothing: float = 0.0,
        log_prior: Tensor | Sequence[float] | None = None,
        tau: float = 1.0,
        gamma: float = 0.0,
        reduction: str = "batch",
        **options: Unpack[WalkOptions],
    ) -> None:
        super().__init__(reduction=reduction, **options)
        if not 0 < temperature < torch.inf:
            raise ConfigError(f"temperature = {temperature!r} is not allowed. Expected a number above 0")
        if not 0 <= label_smoothing < 1:
            raise ConfigError(f"label_smoothing = {label_smoothing!r} is not allowed. Expected 0 or more, below 1")
        check_range("tau", tau, 0, torch.inf)
        check_range("gamma", gamma, 0, 5)
        prior = label_vector("log_prior", log_prior)
        self.logit_shift = None if prior is None else tau * prior
        self.temperature, self.label_smoothing, self.tau, self.gamma = temperature, label_smoothing, tau, gamma

    def extra_repr(self) -> str:
        """Return the settings that `print` shows."""
        numbers = f"temperature={self.temperature}, label_smoothing={self.label_smoothing}, gamma={self.gamma}"
        prior = "" if self.logit_shift is None else f", log_prior=({len(self.logit_shift)},), tau={self.tau}"
        return f"{numbers}{prior}, {super().extra_repr()}"

    def focal(self, log_p: Tensor) -> Tensor:
        """Return (1 - p)^gamma * -log(p) from log(p), elementwise."""
        rest = (-torch.expm1(log_p)).clamp(min=torch.finfo(log_p.dtype).tiny)  # 0^gamma has an infinite slope
        return -log_p if self.gamma == 0 else -log_p * rest**self.gamma

    def focal_with_slope(self, log_p: Tensor) -> ValueAndSlope:
        """Return (1 - p)^gamma * -log(p), and (1 - p)^gamma * (gamma * p * log(p) / (1 - p) - 1), its d / d log(p)."""
        rest = -torch.expm1(log_p)
        power = rest**self.gamma
        ratio = torch.where(rest > 0, log_p / rest, -1)
        return -log_p * power, power * (self.gamma * log_p.exp() * ratio - 1)

    def terms(self, labels: SparseLabels) -> SoftmaxTerms:
        """Return the functions and numbers that the walks ask for."""
        return SoftmaxTerms(
            focal=self.focal_with_slope,
            temperature=self.temperature,
            label_smoothing=self.label_smoothing,
            positive_weight=self.positive_weight,
            shift=None if self.logit_shift is None else self.temperature * self.logit_shift,
        )

    def curvature(self, problem: Problem, tangents: Tangents) -> RowsAndGradients:
        """Return the directional derivative of each row, (B,), and the derivatives of the gradients @ tangents."""
        return softmax_curvature(self, self.terms(problem.labels), problem, tangents)

    def dense_rows(self, logits: Tensor, labels: SparseLabels, mask: SparseLabels | None) -> Tensor:
        """Return the undivided loss of each row, (B,), by the formula of this class."""
        empty = labels.lengths == 0
        logits = logits / self.temperature
        if self.logit_shift is not None:
            logits = logits + self.logit_shift.to(logits)
        ignored = torch.zeros_like(logits, dtype=torch.bool) if mask is None else mask.to_dense(torch.bool)
        logits = logits.masked_fill(ignored, -torch.inf).masked_fill(empty[:, None], 0)
        log_p = logits.log_softmax(1)
        positive = self.focal(log_p[labels.rows, labels.indices])
        if self.positive_weight is not None:
            positive = positive * self.positive_weight.to(positive)[labels.indices]
        sums = positive.new_zeros(len(labels)).index_add(0, labels.rows, positive)
        smooth = -log_p.masked_fill(ignored, 0).sum(1) / (~ignored).sum(1).clamp(min=1)
        epsilon = self.label_smoothing
        rows = (1 - epsilon) * sums / labels.lengths.clamp(min=1) + (epsilon * smooth if epsilon else 0)
        return rows.masked_fill(empty, 0)
