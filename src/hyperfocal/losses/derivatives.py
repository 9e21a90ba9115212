"""Derivatives of the fused losses of any order: under create_graph=True, torch.func and forward-mode AD.

With F the value as a function of x = (hidden, weight, bias), g a factor of the value, and v and w tangents of x, each
of three autograd functions returns numbers of a walk, and its derivatives are the other functions:

    Value       F(x)                                 backward  Gradients           jvp  Second
    Gradients   g F'(x)                              backward  Second              jvp  Second and Gradients
    Second      g F''(x) v, and F'(x) v              backward  of F'(x) v: Second and Gradients

The derivative of g F''(x) v is a third one. It is rare, and plain autograd over the dense formula computes it.
vmap calls a function once per element of its batch.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from hyperfocal.errors import ConfigError
from hyperfocal.losses.dense_derivatives import dense_jvp, dense_vjp
from hyperfocal.losses.functorch import in_transform
from hyperfocal.losses.walk import Tangents
from hyperfocal.losses.walk_operator import LOSSES, NO_NEEDS, Call, call_curvature, call_walk, exact_dtype


class Value(torch.autograd.Function):
    """F(x)."""

    @staticmethod
    def forward(hidden: Tensor, weight: Tensor, bias: Tensor | None, call: Call, *pairs: Tensor) -> Tensor:
        """Return the value, () or (B,)."""
        return call_walk(hidden, weight, bias, list(pairs), None, call.number, call.dtype, list(NO_NEEDS))[0]

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        """Save the inputs."""
        *tensors, call = inputs[:4]
        _save(ctx, call, *tensors, *inputs[4:])

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None) -> tuple[Tensor | None, ...]:
        """Return grad * F'(x)."""
        *tensors, call, pairs = _saved(ctx, 3)
        gradients: Sequence[Tensor | None] = (None, None, None)
        if grad is not None:
            gradients = _gradients(tensors, grad, replace(call, needs=ctx.needs_input_grad[:3]), pairs)
        return (*gradients, None, *[None] * len(pairs))

    @staticmethod
    def jvp(ctx: Any, *tangents: Tensor | None) -> Tensor:
        """Return F'(x) @ tangents."""
        *tensors, call, pairs = _saved(ctx, 3)
        along = _second(tensors, None, tangents[:3], call, pairs)[3]
        assert along is not None
        return along

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], *inputs: Any) -> tuple[Any, Any]:
        """Return the values of a batch."""
        return _each(Value, info.batch_size, in_dims, inputs)


class Gradients(torch.autograd.Function):
    """g F'(x): the gradients of hidden, weight and bias; an empty tensor for each one that is not needed."""

    @staticmethod
    def forward(
        hidden: Tensor, weight: Tensor, bias: Tensor | None, grad: Tensor, call: Call, *pairs: Tensor
    ) -> tuple[Tensor, ...]:
        """Return three tensors; that of hidden in float32 or float64."""
        return call_walk(hidden, weight, bias, list(pairs), grad, call.number, call.dtype, list(call.needs))[1:]

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        """Save the inputs."""
        *tensors, call = inputs[:5]
        _save(ctx, call, *tensors, *inputs[5:])
        ctx.mark_non_differentiable(*(each for each, need in zip(output, call.needs, strict=True) if not need))

    @staticmethod
    def backward(ctx: Any, *tangents: Tensor | None) -> tuple[Tensor | None, ...]:
        """Return g F''(x) @ tangents and F'(x) @ tangents."""
        *tensors, grad, call, pairs = _saved(ctx, 4)
        curved: Sequence[Tensor | None] = (None, None, None, None)
        if any(tangent is not None for tangent in tangents):
            curved = _second(tensors, grad, tangents, replace(call, needs=ctx.needs_input_grad[:3]), pairs)
        return (*curved, None, *[None] * len(pairs))

    @staticmethod
    def jvp(ctx: Any, *tangents: Tensor | None) -> tuple[Tensor | None, ...]:
        """Return g F''(x) @ tangents + (tangent of g) F'(x)."""
        *tensors, grad, call, pairs = _saved(ctx, 4)
        *tangents_x, tangent_g = tangents[:4]
        terms = []
        if any(tangent is not None for tangent in tangents_x):
            terms.append(_second(tensors, grad, tangents_x, call, pairs)[:3])
        if tangent_g is not None:
            terms.append(_gradients(tensors, tangent_g, call, pairs))
        totals = (_sum(each) for each in zip(*terms, strict=True))
        exact = exact_dtype(call.dtype)  # of the gradient of hidden
        return tuple(each if i or each is None else each.to(exact) for i, each in enumerate(totals))

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], *inputs: Any) -> tuple[Any, Any]:
        """Return the gradients of a batch."""
        return _each(Gradients, info.batch_size, in_dims, inputs)


class Second(torch.autograd.Function):
    """g F''(x) v, three tensors, of which one that is not needed is empty; and F'(x) v, like the value.

    The inputs are x, g, v, the Call and the pairs. g is None if only F'(x) v is needed; a None in v is 0.
    """

    @staticmethod
    def forward(*inputs: Any) -> tuple[Tensor, ...]:
        """Return four tensors."""
        tensors, grad, tangents, call, pairs = inputs[:3], inputs[3], Tangents(*inputs[4:7]), inputs[7], inputs[8:]
        return call_curvature(tensors, pairs, grad, tangents, call.number, call.dtype, call.needs)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        """Save the inputs."""
        *tensors, call = inputs[:8]
        _save(ctx, call, *tensors, *inputs[8:])
        ctx.mark_non_differentiable(*(each for each, need in zip(output, call.needs, strict=False) if not need))

    @staticmethod
    def backward(ctx: Any, *tangents: Tensor | None) -> tuple[Tensor | None, ...]:
        """Return the derivatives by x, g and v."""
        *saved, call, pairs = _saved(ctx, 7)
        *curved, along = tangents
        returned: Sequence[Tensor | None] = [None] * 7
        if any(tangent is not None for tangent in curved):
            returned = dense_vjp(saved, tangents, call, pairs)
        elif along is not None:
            by_x = replace(call, needs=ctx.needs_input_grad[:3])
            by_v = replace(call, needs=ctx.needs_input_grad[4:7])
            x = _second(saved[:3], along, saved[4:], by_x, pairs)[:3]
            returned = (*x, None, *_gradients(saved[:3], along, by_v, pairs))
        return (*returned, None, *[None] * len(pairs))

    @staticmethod
    def jvp(ctx: Any, *tangents: Tensor | None) -> tuple[Tensor | None, ...]:
        """Return the directional derivatives of the outputs.

        Raises:
            ConfigError: outside torch.func, whose levels of forward mode torch.autograd.forward_ad cannot nest.
        """
        if not in_transform():
            raise ConfigError(
                "torch.autograd.forward_ad cannot reach the second derivative of a fused loss. Use torch.func.jvp, or "
                "`backend='reference'`"
            )
        *saved, call, pairs = _saved(ctx, 7)
        return dense_jvp(saved, tangents[:7], call, pairs)

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], *inputs: Any) -> tuple[Any, Any]:
        """Return the derivatives of a batch."""
        return _each(Second, info.batch_size, in_dims, inputs)


def _save(ctx: Any, call: Call, *tensors: Tensor | None) -> None:
    ctx.save_for_backward(*tensors)
    ctx.save_for_forward(*tensors)
    ctx.set_materialize_grads(False)
    ctx.call = call
    ctx.loss = LOSSES[call.number]  # a loss that nobody else holds must live until the last backward


def _saved(ctx: Any, count: int) -> tuple[Any, ...]:
    """Return the first `count` saved tensors, the call, and the other saved tensors as one tuple."""
    tensors = ctx.saved_tensors
    return (*tensors[:count], ctx.call, tensors[count:])


def _gradients(
    tensors: Sequence[Tensor | None], grad: Tensor, call: Call, pairs: Sequence[Tensor]
) -> list[Tensor | None]:
    """Return g F'(x) in the dtypes of x, None if not needed."""
    gradients = Gradients.apply(*tensors, grad, call, *pairs)  # type: ignore[no-untyped-call]
    each = zip(gradients, tensors, call.needs, strict=True)
    return [one.to(like.dtype) if need and like is not None else None for one, like, need in each]


def _second(
    tensors: Sequence[Tensor | None],
    grad: Tensor | None,
    tangents: Sequence[Tensor | None],
    call: Call,
    pairs: Sequence[Tensor],
) -> list[Tensor | None]:
    """Return g F''(x) v, None if not needed, and F'(x) v."""
    *curved, along = Second.apply(*tensors, grad, *tangents, call, *pairs)  # type: ignore[no-untyped-call]
    return [*(one if need else None for one, need in zip(curved, call.needs, strict=True)), along]


def _sum(terms: Sequence[Tensor | None]) -> Tensor | None:
    total, *others = terms
    for other in others:
        total = None if total is None or other is None else total + other
    return total


def _each(function: Any, size: int, in_dims: tuple[Any, ...], inputs: tuple[Any, ...]) -> tuple[Any, Any]:
    """Return the outputs of a function for each element of a batch, stacked, and their batch axis, 0.

    An empty batch calls the function once, for the shapes: the sum over an empty axis is an element of zeros.
    """
    batched = [dim is not None and isinstance(value, Tensor) for value, dim in zip(inputs, in_dims, strict=True)]

    def call(number: int) -> Any:
        each = zip(inputs, in_dims, batched, strict=True)
        return function.apply(*(element(value, dim, number) if own else value for value, dim, own in each))

    def element(batch: Tensor, dim: int, number: int) -> Tensor:
        return batch.select(dim, number) if size else batch.sum(dim, dtype=batch.dtype)

    outputs = [call(number) for number in range(max(size, 1))]
    if isinstance(outputs[0], Tensor):
        return torch.stack(outputs)[:size], 0
    return tuple(torch.stack(each)[:size] for each in zip(*outputs, strict=True)), (0,) * len(outputs[0])
