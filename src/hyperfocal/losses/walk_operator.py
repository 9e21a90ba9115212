"""Call the walk of a loss from an autograd function: by plain Python, or in a compiled graph as one operator.

A walk is plain Python over sparse labels, which no compiler can trace. A compiled graph therefore calls it as one
opaque operator, `hyperfocal::walk`. A graph carries only tensors and numbers, so the operator finds its loss by number.
Both operators refuse to be differentiated: without a rule torch would treat their results as constants.
Tensors without data (device "meta", FakeTensor) get the shapes of the results.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import count
from typing import Any
from weakref import WeakValueDictionary

import torch
from torch import Tensor

from hyperfocal.errors import ConfigError
from hyperfocal.labels import SparseLabels, has_data
from hyperfocal.losses.functorch import is_older_batch
from hyperfocal.losses.options import Options, check_finite, is_autocast, row_scale
from hyperfocal.losses.terms import Walkable
from hyperfocal.losses.walk import Problem, Tangents

LOSSES: WeakValueDictionary[int, Any] = WeakValueDictionary()
_NUMBERS = count()

NO_NEEDS = (False, False, False)
Results = tuple[Tensor, Tensor, Tensor, Tensor]


@dataclass(frozen=True)
class Call:
    """The numbers of one call that are not tensors."""

    number: int  # of the loss
    dtype: torch.dtype  # of the matrix products
    needs: Sequence[bool] = NO_NEEDS  # whether hidden, weight and bias need a gradient


def register(loss: object) -> int:
    """Return a number, unique in this process, by which a compiled graph finds the loss in LOSSES."""
    number = next(_NUMBERS)
    LOSSES[number] = loss
    return number


def product_dtype(hidden: Tensor, weight: Tensor) -> torch.dtype:
    """Return the dtype of the matrix products: autocast's, unless an input is float64."""
    if is_autocast(hidden.device) and torch.float64 not in (hidden.dtype, weight.dtype):
        return torch.get_autocast_dtype(hidden.device.type)
    return torch.promote_types(hidden.dtype, weight.dtype)


def call_walk(*arguments: Any) -> Results:
    """Call `_walk`: as an operator while a compiler traces."""
    called: Results = (_walk_op if torch.compiler.is_compiling() else _walk)(*arguments)
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
    _check_not_batched(hidden, weight, bias, grad)
    if not has_data(hidden):
        shapes: Results = _shapes(hidden, weight, bias, pairs, grad, number, dtype, needs)
        return shapes
    if options.check_finite:
        check_finite(hidden=hidden, weight=weight, bias=bias)
    with torch.no_grad(), torch.autocast(hidden.device.type, enabled=False):
        labels, mask = unpacked(pairs, len(weight))
        problem = problem_of(options, (hidden, weight, bias), labels, mask, dtype, needs)
        problem = problem if grad is None else replace(problem, scale=problem.scale * grad)
        rows, gradients = loss.walk(problem)
        value = rows * problem.scale
    returned = _without_none(gradients, hidden)
    return value if options.reduction == "none" else value.sum(), returned[0], returned[1], returned[2]


_walk_op = torch.library.custom_op("hyperfocal::walk", _walk, mutates_args=())


@_walk_op.register_fake
def _shapes(*arguments: Any) -> Results:
    hidden, weight, bias, _, _, number, dtype, needs = arguments
    loss: Walkable = LOSSES[number]
    exact, none = exact_dtype(dtype), [hidden.new_empty(0) for _ in needs]
    value = hidden.new_empty((len(hidden),) if loss.options.reduction == "none" else (), dtype=exact)
    grad_hidden = torch.empty_like(hidden, dtype=exact) if needs[0] else none[0]
    grad_weight = torch.empty_like(weight) if needs[1] else none[1]
    return value, grad_hidden, grad_weight, torch.empty_like(bias) if needs[2] and bias is not None else none[2]


def _factor(by: Tensor, hidden: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Return the incoming gradient; a second derivative finds hidden, weight and bias in the graph and is refused."""
    return by.clone()


factor_op = torch.library.custom_op("hyperfocal::factor", _factor, mutates_args=())


@factor_op.register_fake
def _(by: Tensor, hidden: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return torch.empty_like(by)


def _refuse(ctx: Any, *_: Any) -> None:
    raise RuntimeError(
        "a fused loss under torch.compile has no second derivative. Call the loss outside the compiled function, or "
        "with `backend='reference'`"
    )


_walk_op.register_autograd(_refuse)
factor_op.register_autograd(_refuse)


def call_curvature(
    tensors: tuple[Tensor, Tensor, Tensor | None],
    pairs: Sequence[Tensor],
    grad: Tensor | None,
    tangents: Tangents,
    number: int,
    dtype: torch.dtype,
    needs: Sequence[bool],
) -> Results:
    """Return the derivatives of (gradients of the loss) @ tangents, where the gradients are scaled by `grad`.

    The maths is float32 or float64, whatever the dtype of the matrix products.

    Args:
        tensors: hidden, weight and bias.
        pairs, number, dtype, needs: see `_walk`.
        grad: the incoming gradient of the value, () or (B,), or None for 1.
        tangents: of the tensors.

    Returns:
        The derivatives by hidden, weight and bias, an empty tensor for each one that is not needed. Then the
        derivative by `grad`, which is the directional derivative of the value: () or (B,).
    """
    loss: Walkable = LOSSES[number]
    exact, hidden = exact_dtype(dtype), tensors[0]
    _check_not_batched(*tensors, grad, *tangents)
    if not has_data(hidden):
        along, *returned = _shapes(*tensors, pairs, grad, number, dtype, needs)
        return returned[0], returned[1], returned[2], along
    with torch.no_grad(), torch.autocast(hidden.device.type, enabled=False):
        labels, mask = unpacked(pairs, len(tensors[1]))
        wide = tuple(None if tensor is None else tensor.to(exact) for tensor in tensors)
        problem = problem_of(loss.options, wide, labels, mask, exact, needs)  # type: ignore[arg-type]
        scaled = problem if grad is None else replace(problem, scale=problem.scale * grad)
        own = Tangents(*(None if tangent is None else tangent.to(exact) for tangent in tangents))
        rows, gradients = loss.curvature(scaled, own)
        along = rows * problem.scale
        returned = _without_none(gradients, hidden)
        returned = [each.to(like.dtype) for each, like in zip(returned, tensors, strict=True) if like is not None]
    returned += [hidden.new_empty(0)] * (3 - len(returned))
    return returned[0], returned[1], returned[2], along if loss.options.reduction == "none" else along.sum()


def _check_not_batched(*tensors: Tensor | None) -> None:
    """Check that no tensor is a batch of torch.autograd's older vmap."""
    if any(tensor is not None and is_older_batch(tensor) for tensor in tensors):
        raise ConfigError(
            "a fused loss cannot be batched by `vectorize=True` or `is_grads_batched=True` of torch.autograd. Use "
            "jacrev, jacfwd or hessian of torch.func, or `backend='reference'`"
        )


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
    scale = row_scale(labels, mask, options, exact_dtype(dtype))
    return Problem(*tensors, labels, mask, scale, dtype=dtype, needs=needs, chunk_labels=options.chunk_labels)


def unpacked(pairs: Sequence[Tensor], num_labels: int) -> tuple[SparseLabels, SparseLabels | None]:
    """Return the labels and the mask, or None, from their row pointers and ids."""
    labels, *masks = (SparseLabels(*two, num_labels) for two in zip(pairs[::2], pairs[1::2], strict=True))
    return labels, masks[0] if masks else None


def exact_dtype(dtype: torch.dtype) -> torch.dtype:
    """Return the dtype of everything except matrix products: at least float32."""
    return torch.promote_types(dtype, torch.float32)


def _without_none(gradients: Sequence[Tensor | None], like: Tensor) -> list[Tensor]:
    return [like.new_empty(0) if gradient is None else gradient for gradient in gradients]
