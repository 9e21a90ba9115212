"""One autograd function for every fused loss, in eager torch, under torch.compile and under torch.func.

forward     the value, and in the same walk the gradient of each input that needs one
backward    hands these gradients out, times what comes from behind. They are not kept: `weight.grad`
            becomes that memory, not a copy of it
a second    backward, and the first one of reduction "none" (where a factor for each row comes from
            behind), walk again
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from hyperfocal.labels import SparseLabels
from hyperfocal.losses.backends import log_once
from hyperfocal.losses.checks import check_call, check_finite, check_vector
from hyperfocal.losses.opaque import call_walk
from hyperfocal.losses.options import LOSSES


def fused_loss(
    loss: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, labels: SparseLabels, mask: SparseLabels | None
) -> Tensor:
    """Return the loss of `hidden @ weight.T + bias` as something that autograd can go back through.

    Args:
        loss: a SeparableLoss or SoftmaxLoss: has `options`, `number`, `walks` and `from_logits`.
        hidden: (B, D) float.
        weight: (L, D) float.
        bias: (L,) float or None.
        labels: B rows over L labels.
        mask: pairs that do not count, or None.

    Raises:
        DataError: see `check_call`; with check_finite, NaN or infinity.
    """
    check_call(hidden, weight, bias, labels, mask)
    check_vector("positive_weight", loss.positive_weight, len(weight))
    check_vector("logit_shift", loss.logit_shift, len(weight))
    backend = loss.options.backend
    if backend == "reference":
        if not torch.compiler.is_compiling():  # a compiler cannot trace a logger
            log_once("backend reference", "backend reference (asked for)")
        if loss.options.check_finite:
            check_finite(hidden=hidden, weight=weight, bias=bias)
        logits: Tensor = loss.from_logits(functional.linear(hidden, weight, bias), labels, mask)
        return logits
    grad = torch.is_grad_enabled()
    needs = [grad and tensor is not None and tensor.requires_grad for tensor in (hidden, weight, bias)]
    pairs = [labels.indptr, labels.indices] + ([] if mask is None else [mask.indptr, mask.indices])
    each_row = loss.options.reduction == "none"
    value: Tensor = _FusedLoss.apply(  # type: ignore[no-untyped-call]
        hidden, weight, bias, loss.number, backend, product_dtype(hidden, weight), needs, each_row, *pairs
    )[0]
    return value


class _FusedLoss(torch.autograd.Function):
    @staticmethod
    def forward(
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        number: int,
        backend: str,
        dtype: torch.dtype,
        needs: list[bool],
        each_row: bool,
        *pairs: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        now = [False, False, False] if each_row else needs
        return call_walk(hidden, weight, bias, list(pairs), None, number, backend, dtype, now)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        hidden, weight, bias, number, backend, dtype, needs, each_row, *pairs = inputs
        ctx.save_for_backward(hidden, weight, bias, *pairs)  # for another walk
        ctx.mark_non_differentiable(*output[1:])
        ctx.set_materialize_grads(False)
        ctx.gradients = None if each_row else output[1:]
        ctx.how = number, backend, dtype, needs
        if not torch.compiler.is_compiling():
            ctx.loss = LOSSES[number]  # a loss that nobody else holds must live until the last backward
        ctx.no_gradient = [None] * (5 + len(pairs))
        ctx.dtypes = hidden.dtype, weight.dtype, None if bias is None else bias.dtype

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor | None, *_: None) -> tuple[Tensor | None, ...]:
        number, backend, dtype, needs = ctx.how
        if grad is None:  # nothing that follows depends on the value
            return (None, None, None, *ctx.no_gradient)
        gradients: tuple[Tensor, ...]
        if ctx.gradients is None:
            hidden, weight, bias, *pairs = ctx.saved_tensors
            gradients = call_walk(hidden, weight, bias, pairs, grad, number, backend, dtype, needs)[1:]
        else:
            gradients = tuple(scaled(gradient, grad) for gradient in ctx.gradients)
        if not torch.compiler.is_compiling():
            ctx.gradients = None
        found = zip(gradients, needs, ctx.dtypes, strict=True)
        returned = [gradient.to(dtype) if needed else None for gradient, needed, dtype in found]
        return (*returned, *ctx.no_gradient)


def scaled(gradient: Tensor, by: Tensor) -> Tensor:
    """Return gradient * by, in its own memory, and without a pass over it where `loss.backward()` asks for by = 1."""
    if torch.compiler.is_compiling():
        return gradient * by
    try:
        return gradient if by.device.type == "cpu" and float(by) == 1 else gradient.mul_(by)
    except RuntimeError:  # vmap lets nobody look into a tensor, nor write to one
        return gradient * by


def product_dtype(hidden: Tensor, weight: Tensor) -> torch.dtype:
    """Return the dtype of the matrix products: what autocast asks for, but never less than a float64 input."""
    device = hidden.device.type
    if torch.is_autocast_enabled(device) and torch.float64 not in (hidden.dtype, weight.dtype):
        return torch.get_autocast_dtype(device)
    return torch.promote_types(hidden.dtype, weight.dtype)
