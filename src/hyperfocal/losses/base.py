"""The base of every loss: options, checks, choice of the backend, the fused call and the dense call."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from hyperfocal.errors import ConfigError
from hyperfocal.labels import SparseLabels
from hyperfocal.losses import native, triton
from hyperfocal.losses.fused import fused_loss
from hyperfocal.losses.options import (
    Options,
    check_call,
    check_finite,
    check_logits,
    check_vector,
    row_scale,
    weight_vector,
)
from hyperfocal.losses.walk import Problem, RowsAndGradients, Tangents, log_once
from hyperfocal.losses.walk_operator import register

COVERED = {"native": "BCELoss and FocalLoss", "triton": "BCELoss, FocalLoss and SoftmaxLoss"}


class FusedLoss(nn.Module):
    """The base of every loss: fused with the last linear layer, so that the logits never exist as a whole.

    A subclass defines its `walks`, the `terms` that they ask for, and `dense_rows`; or else `compute` and
    `compute_dense`. Options: see LossOptions.
    """

    walks: ClassVar[Mapping[str, Callable[[Any, Problem], RowsAndGradients]]] = {}  # by backend
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
        self.options = Options(reduction, ignore_empty, backend, chunk_labels, check_finite)
        self.register_buffer("positive_weight", weight_vector(positive_weight), persistent=False)
        self.register_buffer("logit_shift", None, persistent=False)
        self.number = register(self)

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Restore a copied or unpickled loss, and register it under a new number."""
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        self.number = register(self)

    @property
    def reduction(self) -> str:
        """Return the name of the divisor; see LossOptions."""
        return self.options.reduction

    def extra_repr(self) -> str:
        """Return the settings that `print` shows."""
        weights = "" if self.positive_weight is None else f", positive_weight=({len(self.positive_weight)},)"
        return f"reduction={self.reduction!r}{weights}"

    def forward(
        self,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        labels: SparseLabels,
        mask: SparseLabels | None = None,
    ) -> Tensor:
        """Return the loss of the logits `hidden @ weight.T + bias`.

        The (B, L) logits never exist as a whole, except with backend "reference". Gradients reach hidden, weight and
        bias, and may be differentiated again: see `derivatives.py`. They reach parameters of the loss itself only with
        backend "reference" and in a sampled loss.

        Args:
            hidden: (B, D) float, the output of the encoder.
            weight: (L, D) float, a row per label.
            bias: (L,) float or None.
            labels: B rows over L labels, on any device.
            mask: B rows over L labels, or None: pairs whose term and gradient are exactly 0, positives
                too (padding, items of the history, labels that were not annotated).

        Returns:
            Scalar, divided according to `reduction`, or (B,) for "none". float32, or float64 for float64 inputs.

        Raises:
            DataError: tensors that are not floats, whose shapes do not match, that are on several devices
                or of several dtypes outside autocast; with check_finite, NaN or infinity.
            ConfigError: the backend that the options name is not available; a parameter or buffer of the loss itself
                requires a gradient, and the backend is not "reference".
        """
        check_call(hidden, weight, bias, labels, mask)
        self.check_vectors(len(weight))
        return self.compute(hidden, weight, bias, labels, mask)

    def from_logits(self, logits: Tensor, labels: SparseLabels, mask: SparseLabels | None = None) -> Tensor:
        """Return the number that `forward` returns from (B, L) logits, by plain dense maths and autograd.

        All maths is float32, or float64 for float64 logits: a sum in float16 ends at 65504.

        Raises:
            DataError: logits that are not floats; shapes that do not match; with check_finite, NaN or infinity.
        """
        check_logits(logits, labels, mask)
        self.check_vectors(labels.num_labels)
        if self.options.check_finite:
            check_finite(logits=logits)
        labels, mask = labels.to(logits.device), None if mask is None else mask.to(logits.device)
        return self.compute_dense(logits, labels, mask)

    def check_vectors(self, num_labels: int) -> None:
        """Raise DataError unless every vector of the loss has one number per label."""
        check_vector("positive_weight", self.positive_weight, num_labels)
        check_vector("logit_shift", self.logit_shift, num_labels)

    def compute(
        self, hidden: Tensor, weight: Tensor, bias: Tensor | None, labels: SparseLabels, mask: SparseLabels | None
    ) -> Tensor:
        """Return the loss of checked arguments."""
        if self.options.backend != "reference":
            self.check_parameters()
            return fused_loss(self, hidden, weight, bias, labels, mask)
        if not torch.compiler.is_compiling():  # a compiler cannot trace a logger
            log_once("backend reference", "backend reference (asked for)")
        if self.options.check_finite:
            check_finite(hidden=hidden, weight=weight, bias=bias)
        return self.from_logits(functional.linear(hidden, weight, bias), labels, mask)

    def check_parameters(self) -> None:
        """Raise ConfigError if a parameter or buffer of the loss itself requires a gradient; a walk computes none."""
        for name, tensor in (*self.named_parameters(), *self.named_buffers()):
            if tensor.requires_grad and torch.is_grad_enabled():
                raise ConfigError(
                    f"{type(self).__name__}.{name} requires a gradient, which the fused call does not compute. Freeze "
                    "it with requires_grad_(False), or use the loss itself with `backend='reference'`"
                )

    def compute_dense(self, logits: Tensor, labels: SparseLabels, mask: SparseLabels | None) -> Tensor:
        """Return the loss of checked (B, L) logits."""
        labels = labels if mask is None else labels.without(mask)
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        rows = self.dense_rows(logits, labels, mask) * row_scale(labels, mask, self.options, logits.dtype)
        return rows if self.reduction == "none" else rows.sum()

    def dense_rows(self, logits: Tensor, labels: SparseLabels, mask: SparseLabels | None) -> Tensor:
        """Return the undivided loss of each row, (B,): the definition of the loss, against which every test compares.

        Args:
            logits: (B, L) float32 or float64.
            labels: the positives, without masked ones.
            mask: the pairs that do not count, or None.
        """
        raise NotImplementedError(f"{type(self).__name__} must define dense_rows(logits, labels, mask)")

    def terms(self, labels: SparseLabels) -> Any:
        """Return the functions and numbers that the walks ask for, for a batch's positives without masked ones."""
        raise NotImplementedError(f"{type(self).__name__} must define terms(labels)")

    def walk(self, problem: Problem) -> RowsAndGradients:
        """Return the unscaled loss of each row, (B,), and the scaled gradients that are needed."""
        return self.walks[self.choose_backend(problem.hidden.device)](self.terms(problem.labels), problem)

    def curvature(self, problem: Problem, tangents: Tangents) -> RowsAndGradients:
        """Return the directional derivative of each row, (B,), and the derivatives of the gradients @ tangents.

        The first is unscaled. The others are scaled, and only those that are needed; see `curvature.py`.
        """
        raise NotImplementedError(f"{type(self).__name__} must define curvature(problem, tangents)")

    def choose_backend(self, device: torch.device) -> str:
        """Return the name of the walk to use for inputs on a device, and log the choice once with its reason.

        Raises:
            ConfigError: the backend that the options name is not available.
        """
        name, kind = self.options.backend, type(self).__name__
        if name == "auto":
            name, reason = self._fastest(device)
        elif missing := self._unavailable(name, device):
            raise ConfigError(f"backend = {name!r} is not available: {missing}. Use 'auto' or 'chunked'")
        else:
            reason = "asked for"
        log_once(f"backend {name} {device.type} {kind}", f"backend {name} on {device.type} for {kind} ({reason})")
        return name

    def covers(self, backend: str) -> bool:
        """Return whether a backend can compute this loss, if it is available."""
        return backend in self.walks

    def _fastest(self, device: torch.device) -> tuple[str, str]:
        """Return the fastest available backend, and the reason; Triton's interpreter on the CPU is never fast."""
        if device.type == "cuda":
            missing = self._unavailable("triton", device)
            return ("chunked", f"no Triton kernels: {missing}") if missing else ("triton", "auto: Triton kernels")
        missing = self._unavailable("native", device)
        return ("chunked", f"no native pass: {missing}") if missing else ("native", "auto: one compiled pass")

    def _unavailable(self, backend: str, device: torch.device) -> str:
        """Return the reason why a backend cannot compute this loss on a device, or "" if it can."""
        if backend == "chunked":
            return ""
        if not self.covers(backend):
            return f"it covers {COVERED[backend]}, not {type(self).__name__}"
        if backend == "triton":
            return triton.unavailable(device)
        return native.unavailable() if device.type == "cpu" else f"it runs on cpu, not {device.type}"
