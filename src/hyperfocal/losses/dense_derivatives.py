"""Derivatives of the second derivatives of a fused loss, by plain autograd over all B x L logits at once.

The dense twin of `derivatives.Second`, differentiable in reverse and forward mode any number of times. Memory: several
tensors of B x L per order.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional

from hyperfocal.losses.walk_operator import LOSSES, Call, exact_dtype, unpacked


def dense_vjp(
    saved: Sequence[Tensor | None], tangents: Sequence[Tensor | None], call: Call, pairs: Sequence[Tensor]
) -> list[Tensor | None]:
    """Return the derivatives of `Second` by x, g and v, from all B x L logits at once."""
    outputs = [number for number, tangent in enumerate(tangents) if tangent is not None]
    inputs = {number: tensor for number, tensor in enumerate(saved) if tensor is not None}
    back = torch.func.vjp(_second(call, pairs, list(inputs), outputs), *inputs.values())[1]
    derivatives = dict(zip(inputs, back(tuple(tangents[number] for number in outputs)), strict=True))
    return [derivatives.get(number) for number in range(7)]


def dense_jvp(
    saved: Sequence[Tensor | None], tangents: Sequence[Tensor | None], call: Call, pairs: Sequence[Tensor]
) -> tuple[Tensor | None, ...]:
    """Return the directional derivatives of the outputs of `Second`, from all B x L logits at once."""
    outputs = [number for number, need in enumerate((*call.needs, True)) if need]
    inputs = {number: tensor for number, tensor in enumerate(saved) if tensor is not None}
    own = (torch.zeros_like(tensor) if (v := tangents[number]) is None else v for number, tensor in inputs.items())
    function = _second(call, pairs, list(inputs), outputs)
    moved = torch.func.jvp(function, tuple(inputs.values()), tuple(own))[1]
    derivatives = dict(zip(outputs, moved, strict=True))
    return tuple(derivatives.get(number) for number in range(4))


def _second(
    call: Call, pairs: Sequence[Tensor], given: Sequence[int], wanted: Sequence[int]
) -> Callable[..., tuple[Tensor, ...]]:
    """Return `Second` as a plain function of its `given` inputs, with its `wanted` outputs."""
    value = _value(call, pairs, bias=2 in given)

    def second(*inputs: Tensor) -> tuple[Tensor, ...]:
        full = dict(zip(given, inputs, strict=True))
        x = {number: full[number] for number in range(3) if number in full}

        def gradients(grad: Tensor, *x: Tensor) -> tuple[Tensor, ...]:
            back: Callable[..., tuple[Tensor, ...]] = torch.func.vjp(value, *x)[1]
            return back(grad)

        grad = full[3] if 3 in full else torch.zeros_like(value(*x.values()))
        v = (full.get(4 + number, torch.zeros_like(tensor)) for number, tensor in x.items())
        along, *curved = torch.func.vjp(gradients, grad, *x.values())[1](tuple(v))
        outputs = dict(zip(x, curved, strict=True)) | {3: along}
        return tuple(outputs[number] for number in wanted)

    return second


def _value(call: Call, pairs: Sequence[Tensor], *, bias: bool) -> Callable[..., Tensor]:
    """Return F, over hidden and weight, and the bias if there is one."""
    loss, exact = LOSSES[call.number], exact_dtype(call.dtype)

    def value(hidden: Tensor, weight: Tensor, *rest: Tensor) -> Tensor:
        labels, mask = unpacked(pairs, len(weight))
        offset = rest[0].to(exact) if bias else None
        logits = functional.linear(hidden.to(exact), weight.to(exact), offset)
        mask = None if mask is None else mask.to(logits.device)
        result: Tensor = loss.compute_dense(logits, labels.to(logits.device), mask)
        return result

    return value
