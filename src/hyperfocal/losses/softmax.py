"""Softmax losses over all labels: multi-positive cross-entropy, softmax focal, logit adjustment."""

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from hyperfocal.errors import ConfigError
from hyperfocal.labels import SparseLabels
from hyperfocal.losses.fused import fused_loss
from hyperfocal.losses.options import Options, check_range, label_vector, register, weight_vector
from hyperfocal.losses.reference import dense_loss, softmax_rows
from hyperfocal.losses.terms import ValueAndSlope
from hyperfocal.losses.torch_walks import softmax_walk
from hyperfocal.losses.triton_walks import softmax_triton_walk
from hyperfocal.losses.walk import Problem, RowsAndGradients

SoftmaxWalk = Callable[["SoftmaxLoss", Problem], RowsAndGradients]


class SoftmaxLoss(nn.Module):
    """Cross-entropy over all labels, for any number of positives an example.

    With p = softmax over l of (z[i, l] / temperature + tau * log_prior[l]), and P the positives of example i:

        loss of i = (1 - e) * mean over l in P of w[l] * (1 - p[l])^gamma * -log(p[l])
                    + e     * mean over all l of                            -log(p[l])

    where w is the `positive_weight` and e the `label_smoothing`. An example without positives has loss 0.
    A pair in the mask is no label of the softmax: it is in none of the sums and means.

    Args:
        temperature: above 0.
        label_smoothing: e, in [0, 1).
        log_prior: (L,), the log of each label's frequency, or None. Training with it and ranking by z
            alone is logit adjustment: rare labels are not ranked down for being rare.
        tau: at least 0, the strength of the adjustment.
        gamma: in [0, 5]; 0 is cross-entropy.
        reduction: see LossOptions; here the sum over *examples* is divided, and the default is "batch".
        positive_weight, ignore_empty, backend, chunk_labels, check_finite: see LossOptions.

    Raises:
        ConfigError: a number out of range; a log_prior that is not finite; an option that is not allowed.

    Source: Menon et al. 2021, Long-tail learning via logit adjustment, equation 10. With one positive, no
    weight and reduction "batch" this is torch.nn.functional.cross_entropy.
    """

    walks: ClassVar[dict[str, SoftmaxWalk]] = {"chunked": softmax_walk, "triton": softmax_triton_walk}
    positive_weight: Tensor | None
    logit_shift: Tensor | None

    def __init__(
        self,
        *,
        temperature: float = 1.0,
        label_smoothing: float = 0.0,
        log_prior: Tensor | Sequence[float] | None = None,
        tau: float = 1.0,
        gamma: float = 0.0,
        reduction: str = "batch",
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
        if not 0 < temperature < torch.inf:
            raise ConfigError(f"temperature = {temperature!r} is not allowed. Expected a number above 0")
        if not 0 <= label_smoothing < 1:
            raise ConfigError(f"label_smoothing = {label_smoothing!r} is not allowed. Expected 0 or more, below 1")
        check_range("tau", tau, 0, torch.inf)
        check_range("gamma", gamma, 0, 5)
        prior = label_vector("log_prior", log_prior)
        self.register_buffer("positive_weight", weight_vector(positive_weight), persistent=False)
        self.register_buffer("logit_shift", None if prior is None else tau * prior, persistent=False)
        self.temperature, self.label_smoothing, self.tau, self.gamma = temperature, label_smoothing, tau, gamma
        self.number = register(self)

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Restore a copied or unpickled loss under a number of its own."""
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        self.number = register(self)

    @property
    def reduction(self) -> str:
        """Return what the sum over examples is divided by."""
        return self.options.reduction

    def extra_repr(self) -> str:
        """Return the settings that `print` shows."""
        numbers = f"temperature={self.temperature}, label_smoothing={self.label_smoothing}, gamma={self.gamma}"
        prior = "" if self.logit_shift is None else f", log_prior=({len(self.logit_shift)},), tau={self.tau}"
        weights = "" if self.positive_weight is None else f", positive_weight=({len(self.positive_weight)},)"
        return f"{numbers}{prior}, reduction={self.reduction!r}{weights}"

    def focal(self, log_p: Tensor) -> Tensor:
        """Return (1 - p)^gamma * -log(p) from log(p), elementwise."""
        rest = (-torch.expm1(log_p)).clamp(min=torch.finfo(log_p.dtype).tiny)  # 0^gamma has an infinite slope
        return -log_p if self.gamma == 0 else -log_p * rest**self.gamma

    def focal_with_slope(self, log_p: Tensor) -> ValueAndSlope:
        """Return the same, and its derivative by log(p): (1 - p)^gamma * (gamma * p * log(p) / (1 - p) - 1)."""
        rest = -torch.expm1(log_p)
        power = rest**self.gamma
        ratio = torch.where(rest > 0, log_p / rest, -1)
        return -log_p * power, power * (self.gamma * log_p.exp() * ratio - 1)

    def forward(
        self,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        labels: SparseLabels,
        mask: SparseLabels | None = None,
    ) -> Tensor:
        """Return the loss of `hidden @ weight.T + bias`, whose B x L logits never exist as a whole.

        Arguments, result and errors are those of SeparableLoss.forward.
        """
        return fused_loss(self, hidden, weight, bias, labels, mask)

    def from_logits(self, logits: Tensor, labels: SparseLabels, mask: SparseLabels | None = None) -> Tensor:
        """Return the same number from (B, L) logits, by plain dense maths and autograd."""
        return dense_loss(self, logits, labels, mask)

    def dense_rows(self, logits: Tensor, labels: SparseLabels, mask: SparseLabels | None) -> Tensor:
        """Return (B,), the loss of each row from dense logits."""
        return softmax_rows(self, logits, labels, mask)
