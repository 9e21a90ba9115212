"""The walk as a function of tensors and numbers alone, and as the operator `hyperfocal::walk`.

A walk is plain Python over sparse labels, which no compiler can trace. A compiled graph therefore calls it
as one opaque operator, which finds its loss by number.
"""

from typing import Any

import torch
from torch import Tensor

from hyperfocal.labels import SparseLabels
from hyperfocal.losses.backends import choose
from hyperfocal.losses.checks import check_finite
from hyperfocal.losses.options import LOSSES
from hyperfocal.losses.reduction import row_scale
from hyperfocal.losses.walk import Problem


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
