"""Differentiate every fused loss by one autograd function, in eager torch and under torch.compile.

forward     returns the value and, from the same walk, computes the gradient of each input that needs one
backward    returns these gradients times the incoming gradient. They are not kept: `weight.grad` becomes that
            memory, not a copy of it
again       a second backward, and the first one of reduction "none" (whose incoming gradient has a factor per
            row), walk again. So does a backward with create_graph=True: its gradients are differentiable

Under torch.func and forward-mode AD the functions of `derivatives.py` compute everything.
"""

from typing import Any

import torch
from torch import Tensor

from hyperfocal.labels import SparseLabels
from hyperfocal.losses.derivatives import Gradients, Value
from hyperfocal.losses.functorch import is_transformed
from hyperfocal.losses.terms import Walkable
from hyperfocal.losses.walk_operator import LOSSES, Call, call_walk, factor_op, product_dtype


def fused_loss(
    loss: Walkable, hidden: Tensor, weight: Tensor, bias: Tensor | None, labels: SparseLabels, mask: SparseLabels | None
) -> Tensor:
    """Return the loss of `hidden @ weight.T + bias`, differentiable by autograd, from checked arguments.

    Raises:
        DataError: with check_finite, NaN or infinity.
    """
    grad = torch.is_grad_enabled()
    needs = [grad and tensor is not None and tensor.requires_grad for tensor in (hidden, weight, bias)]
    pairs = [labels.indptr, labels.indices] + ([] if mask is None else [mask.indptr, mask.indices])
    dtype, each_row = product_dtype(hidden, weight), loss.options.reduction == "none"
    if not torch.compiler.is_compiling() and is_transformed(hidden, weight, bias):
        transformed: Tensor = Value.apply(hidden, weight, bias, Call(loss.number, dtype), *pairs)  # type: ignore[no-untyped-call]
        return transformed
    value: Tensor = _FusedLoss.apply(  # type: ignore[no-untyped-call]
        hidden, weight, bias, loss.number, dtype, needs, each_row, *pairs
    )[0]
    return value


class _FusedLoss(torch.autograd.Function):
    @staticmethod
    def forward(*inputs: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        hidden, weight, bias, number, dtype, needs, each_row, *pairs = inputs
        now = [False, False, False] if each_row else needs
        return call_walk(hidden, weight, bias, pairs, None, number, dtype, now)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        hidden, weight, bias, number, dtype, needs, each_row, *pairs = inputs
        ctx.save_for_backward(hidden, weight, bias, *pairs)  # for another walk
        ctx.mark_non_differentiable(*output[1:])
        ctx.set_materialize_grads(False)
        ctx.gradients = None if each_row else output[1:]
        ctx.how = number, dtype, needs
        if not torch.compiler.is_compiling():
            ctx.loss = LOSSES[number]  # a loss that nobody else holds must live until the last backward
        ctx.no_gradient = [None] * (4 + len(pairs))
        ctx.dtypes = hidden.dtype, weight.dtype, None if bias is None else bias.dtype

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None, *_: None) -> tuple[Tensor | None, ...]:
        if grad is None:  # nothing that follows depends on the value
            return (None, None, None, *ctx.no_gradient)
        differentiable = not torch.compiler.is_compiling() and torch.is_grad_enabled()
        if ctx.gradients is None or differentiable:
            gradients = _walk_again(ctx, grad)
        elif torch.compiler.is_compiling():
            factor = factor_op(grad, *ctx.saved_tensors[:3])
            gradients = [gradient * factor for gradient in ctx.gradients]
        else:
            gradients = [scaled(gradient, grad) for gradient in ctx.gradients]
        if not torch.compiler.is_compiling():
            ctx.gradients = None
        each = zip(gradients, ctx.how[2], ctx.dtypes, strict=True)
        returned = [gradient.to(own) if needed else None for gradient, needed, own in each]
        return (*returned, *ctx.no_gradient)


def _walk_again(ctx: Any, grad: Tensor) -> list[Tensor]:
    """Return the gradients of hidden, weight and bias times the incoming gradient, differentiable in eager torch."""
    (hidden, weight, bias, *pairs), (number, dtype, needs) = ctx.saved_tensors, ctx.how
    if torch.compiler.is_compiling():
        return list(call_walk(hidden, weight, bias, pairs, grad, number, dtype, needs)[1:])
    call = Call(number, dtype, tuple(needs))
    return list(Gradients.apply(hidden, weight, bias, grad, call, *pairs))  # type: ignore[no-untyped-call]


def scaled(gradient: Tensor, by: Tensor) -> Tensor:
    """Return gradient * by, computed in place, and without a pass over it if by = 1, as in `loss.backward()`."""
    try:
        return gradient if by.device.type == "cpu" and float(by) == 1 else gradient.mul_(by)
    except RuntimeError:  # vmap forbids to read a tensor's number, and to write to it
        return gradient * by
