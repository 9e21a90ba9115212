"""Differentiate every fused loss by one autograd function: in eager torch, under torch.compile and torch.func.

forward     returns the value and, from the same walk, computes the gradient of each input that needs one
backward    returns these gradients times the incoming gradient. They are not kept: `weight.grad` becomes that
            memory, not a copy of it
again       a second backward, and the first one of reduction "none" (whose incoming gradient has a factor per
            row), walk again

A walk is plain Python over sparse labels, which no compiler can trace. A compiled graph therefore calls it as one
opaque operator, `hyperfocal::walk`. A graph carries only tensors and numbers, so the operator finds its loss by number.
"""

from collections.abc import Sequence
from dataclasses import replace
from itertools import count
from typing import Any
from weakref import WeakValueDictionary

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from hyperfocal.labels import SparseLabels
from hyperfocal.losses.options import Options, check_finite, row_scale
from hyperfocal.losses.terms import Walkable
from hyperfocal.losses.walk import Problem

LOSSES: WeakValueDictionary[int, Any] = WeakValueDictionary()
_NUMBERS = count()


def register(loss: object) -> int:
    """Return a number, unique in this process, by which a compiled graph finds the loss in LOSSES."""
    number = next(_NUMBERS)
    LOSSES[number] = loss
    return number


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
    each_row = loss.options.reduction == "none"
    value: Tensor = _FusedLoss.apply(  # type: ignore[no-untyped-call]
        hidden, weight, bias, loss.number, product_dtype(hidden, weight), needs, each_row, *pairs
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
    @once_differentiable
    def backward(ctx: Any, grad: Tensor | None, *_: None) -> tuple[Tensor | None, ...]:
        number, dtype, needs = ctx.how
        if grad is None:  # nothing that follows depends on the value
            return (None, None, None, *ctx.no_gradient)
        gradients: tuple[Tensor, ...]
        if ctx.gradients is None:
            hidden, weight, bias, *pairs = ctx.saved_tensors
            gradients = call_walk(hidden, weight, bias, pairs, grad, number, dtype, needs)[1:]
        else:
            gradients = tuple(scaled(gradient, grad) for gradient in ctx.gradients)
        if not torch.compiler.is_compiling():
            ctx.gradients = None
        each = zip(gradients, needs, ctx.dtypes, strict=True)
        returned = [gradient.to(own) if needed else None for gradient, needed, own in each]
        return (*returned, *ctx.no_gradient)


def scaled(gradient: Tensor, by: Tensor) -> Tensor:
    """Return gradient * by, computed in place, and without a pass over it if by = 1, as in `loss.backward()`."""
    if torch.compiler.is_compiling():
        return gradient * by
    try:
        return gradient if by.device.type == "cpu" and float(by) == 1 else gradient.mul_(by)
    except RuntimeError:  # vmap forbids to read a tensor's number, and to write to it
        return gradient * by


def product_dtype(hidden: Tensor, weight: Tensor) -> torch.dtype:
    """Return the dtype of the matrix products: autocast's, unless an input is float64."""
    device = hidden.device.type
    if torch.is_autocast_enabled(device) and torch.float64 not in (hidden.dtype, weight.dtype):
        return torch.get_autocast_dtype(device)
    return torch.promote_types(hidden.dtype, weight.dtype)


def call_walk(*arguments: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Call `_walk`: as an operator while a compiler traces."""
    called: tuple[Tensor, Tensor, Tensor, Tensor] = (_walk_op if torch.compiler.is_compiling() else _walk)(*arguments)
    return called


def _walk(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    pairs: list[Tensor],
    grad: Tensor | None,
    number: int,
    dtype: torch.dtype,
    needs: list[bool],
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the value and the gradients of hidden, weight and bias; an empty tensor if a gradient is not needed.

    Args:
        pairs: row pointers and ids of the labels, and of the mask if there is one.
        grad: the incoming gradient of the value, () or (B,), or None for 1.
        number, dtype, needs: of the loss; of the matrix products; whether hidden, weight and bias need a gradient.
    """
    loss: Walkable = LOSSES[number]
    options = loss.options
    if options.check_finite:
        check_finite(hidden=hidden, weight=weight, bias=bias)
    labels, *masks = (SparseLabels(*two, len(weight)) for two in zip(pairs[::2], pairs[1::2], strict=True))
    with torch.no_grad(), torch.autocast(hidden.device.type, enabled=False):
        mask = masks[0] if masks else None
        problem = problem_of(options, (hidden, weight, bias), labels, mask, dtype, needs)
        problem = problem if grad is None else replace(problem, scale=problem.scale * grad)
        rows, gradients = loss.walk(problem)
        value = rows * problem.scale
    returned = [hidden.new_empty(0) if gradient is None else gradient for gradient in gradients]
    return value if options.reduction == "none" else value.sum(), returned[0], returned[1], returned[2]


_walk_op = torch.library.custom_op("hyperfocal::walk", _walk, mutates_args=())


@_walk_op.register_fake
def _(*arguments: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    hidden, weight, bias, _, _, number, dtype, needs = arguments
    loss: Walkable = LOSSES[number]
    exact, none = _exact(dtype), [hidden.new_empty(0) for _ in needs]
    value = hidden.new_empty((len(hidden),) if loss.options.reduction == "none" else (), dtype=exact)
    grad_hidden = torch.empty_like(hidden, dtype=exact) if needs[0] else none[0]
    grad_weight = torch.empty_like(weight) if needs[1] else none[1]
    return value, grad_hidden, grad_weight, torch.empty_like(bias) if needs[2] and bias is not None else none[2]


def problem_of(
    options: Options,
    tensors: tuple[Tensor, Tensor, Tensor | None],
    labels: SparseLabels,
    mask: SparseLabels | None,
    dtype: torch.dtype,
    needs: Sequence[bool],
) -> Problem:
    """Return the problem of one call over hidden, weight and bias, with its labels without masked pairs."""
    labels = labels.to(tensors[0].device)
    if mask is not None:
        mask = mask.to(tensors[0].device)
        labels = labels.without(mask)
    scale = row_scale(labels, mask, options, _exact(dtype))
    return Problem(*tensors, labels, mask, scale, dtype=dtype, needs=needs, chunk_labels=options.chunk_labels)


def _exact(dtype: torch.dtype) -> torch.dtype:
    """Return the dtype of everything except matrix products: at least float32."""
    return torch.promote_types(dtype, torch.float32)
