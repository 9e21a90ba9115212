"""One autograd function for every fused loss, in eager torch, under torch.compile and under torch.func.

forward     the value, and in the same walk the gradient of each input that needs one
backward    hands these gradients out, times what comes from behind. They are not kept: `weight.grad`
            becomes that memory, not a copy of it
a second    backward, and the first one of reduction "none" (where a factor for each row comes from
            behind), walk again

The walk as a function of tensors and numbers alone, and as the operator `hyperfocal::walk`.

A walk is plain Python over sparse labels, which no compiler can trace. A compiled graph therefore calls it
as one opaque operator, which finds its loss by number.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from hyperfocal.labels import SparseLabels
from hyperfocal.losses.backends import choose
from hyperfocal.losses.options import LOSSES, check_call, check_finite, check_vector, log_once, row_scale
from hyperfocal.losses.walk import Problem


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


def call_walk(*arguments: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Call `_walk`, as an operator while a compiler traces."""
    called: tuple[Tensor, Tensor, Tensor, Tensor] = (_walk_op if torch.compiler.is_compiling() else _walk)(*arguments)
    return called


def _walk(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    pairs: list[Tensor],
    grad: Tensor | None,
    number: int,
    backend: str,
    dtype: torch.dtype,
    needs: list[bool],
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the value and the gradients of hidden, weight and bias; an empty tensor where none is needed.

    Args:
        hidden: (B, D), weight (L, D) and bias (L,) or None.
        pairs: row pointers and ids of the labels and, if there is one, of the mask.
        grad: what the value is multiplied with behind this function, () or (B,), or None for 1.
        number: of the loss.
        backend: which of its walks, or "auto".
        dtype: of the matrix products.
        needs: whether hidden, weight and bias need a gradient.
    """
    loss: Any = LOSSES[number]
    options = loss.options
    if options.check_finite:
        check_finite(hidden=hidden, weight=weight, bias=bias)
    with torch.no_grad(), torch.autocast(hidden.device.type, enabled=False):
        labels, mask = _labels(pairs, len(weight), hidden.device)
        scale = row_scale(labels, mask, options, exact_dtype(dtype))
        scale = scale if grad is None else scale * grad
        problem = Problem(hidden, weight, bias, labels, mask, scale, dtype=dtype, needs=needs, options=options)
        rows, gradients = loss.walks[choose(backend, loss, hidden.device)](loss, problem)
        value = rows * scale
    found = [hidden.new_empty(0) if gradient is None else gradient for gradient in gradients]
    return value if options.reduction == "none" else value.sum(), found[0], found[1], found[2]


_walk_op = torch.library.custom_op("hyperfocal::walk", _walk, mutates_args=())


@_walk_op.register_fake
def _(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    pairs: list[Tensor],
    grad: Tensor | None,
    number: int,
    backend: str,
    dtype: torch.dtype,
    needs: list[bool],
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    loss: Any = LOSSES[number]
    exact, none = exact_dtype(dtype), [hidden.new_empty(0) for _ in needs]
    value = hidden.new_empty((len(hidden),) if loss.options.reduction == "none" else (), dtype=exact)
    grad_hidden = torch.empty_like(hidden, dtype=exact) if needs[0] else none[0]
    grad_weight = torch.empty_like(weight) if needs[1] else none[1]
    return value, grad_hidden, grad_weight, torch.empty_like(bias) if needs[2] and bias is not None else none[2]


def _labels(pairs: list[Tensor], num_labels: int, device: torch.device) -> tuple[SparseLabels, SparseLabels | None]:
    """Return the positives that count, and the mask, on the device of hidden."""
    labels = SparseLabels(pairs[0], pairs[1], num_labels).to(device)
    if len(pairs) == 2:
        return labels, None
    mask = SparseLabels(pairs[2], pairs[3], num_labels).to(device)
    return labels.without(mask), mask


def exact_dtype(dtype: torch.dtype) -> torch.dtype:
    """Return the dtype of everything that is no matrix product."""
    return torch.promote_types(dtype, torch.float32)
