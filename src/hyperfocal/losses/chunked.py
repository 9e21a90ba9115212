"""The fused loss in plain torch: a walk over label chunks that holds one chunk of logits at a time.

For each chunk of C labels: z = hidden @ weight[chunk].T + bias[chunk] is (B, C) and stays in cache;
neg(z) and its slope are one elementwise pass; the few positives of the chunk are corrected in place;
then slope @ weight[chunk] is added to the gradient of hidden, and slope.T @ hidden *is* the gradient
of the chunk's weight. Loss and all gradients come out of one walk: three matrix products, as an
unfused layer needs, and O(B x C) extra memory. Its dense twin is `reference.dense_loss`.
"""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from hyperfocal.labels import SparseLabels
from hyperfocal.losses.reference import divisor

CHUNK_NUMBERS_CPU = 2**18  # logits a chunk: 1 MiB of float32, about the second-level cache of a core
CHUNK_NUMBERS_GPU = 2**26  # 256 MiB: large enough that kernel launches do not show


class SlopePair(Protocol):
    """What the walk needs of a loss: value and derivative of both scalar functions."""

    def positive_with_slope(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        """Return pos(z) and pos'(z)."""
        ...

    def negative_with_slope(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        """Return neg(z) and neg'(z)."""
        ...


def chunk_size(batch: int, device: torch.device) -> int:
    """Return how many labels one chunk holds, from the batch and the memory it should stay in."""
    numbers = CHUNK_NUMBERS_CPU if device.type == "cpu" else CHUNK_NUMBERS_GPU
    return max(numbers // max(batch, 1), 64)


def fused_loss(
    pair: SlopePair, hidden: Tensor, weight: Tensor, bias: Tensor | None, labels: SparseLabels, *, reduction: str
) -> Tensor:
    """Return the loss of `hidden @ weight.T + bias` as a scalar that autograd can go back through.

    Args:
        pair: value and slope of the two scalar functions.
        hidden: (B, D) float.
        weight: (L, D) float.
        bias: (L,) float or None.
        labels: B rows over L labels.
        reduction: what the sum is divided by: "positives", "batch", "mean" or "sum".

    Raises:
        ValueError: shapes that do not match.
    """
    _check_shapes(hidden, weight, bias, labels)
    loss: Tensor = _FusedLoss.apply(hidden, weight, bias, pair, labels, 1 / divisor(labels, reduction))  # type: ignore[no-untyped-call]
    return loss


class _FusedLoss(torch.autograd.Function):
    """Computes the gradients in the forward walk and hands them out in backward."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        pair: SlopePair,
        labels: SparseLabels,
        scale: float,
    ) -> Tensor:
        total, gradients = _walk(pair, hidden, weight, bias, labels, scale, ctx.needs_input_grad[:3])
        ctx.save_for_backward(*gradients)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        gradients = [None if g is None else _scaled(g, grad) for g in ctx.saved_tensors]
        return (*gradients, None, None, None)


def _scaled(gradient: Tensor, by: Tensor) -> Tensor:
    """Return gradient * by, sparing the pass over memory when `loss.backward()` asks for by = 1."""
    return gradient if by.device.type == "cpu" and float(by) == 1 else gradient * by


def _walk(
    pair: SlopePair,
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    labels: SparseLabels,
    scale: float,
    needs: tuple[bool, ...],
) -> tuple[Tensor, tuple[Tensor | None, ...]]:
    """Return scale * loss, and scale * the gradients of hidden, weight and bias that are needed."""
    needs_hidden, needs_weight, needs_bias = needs
    grad_hidden = torch.zeros_like(hidden) if needs_hidden else None
    grad_weight = torch.empty_like(weight) if needs_weight else None
    grad_bias = torch.empty_like(bias) if needs_bias and bias is not None else None
    scaled_hidden = hidden * scale
    size = chunk_size(len(hidden), hidden.device)
    rows, columns, bounds = _positives_by_chunk(labels, size)
    total = hidden.new_zeros((), dtype=torch.promote_types(hidden.dtype, torch.float32))
    for number, start in enumerate(range(0, len(weight), size)):
        chunk = slice(start, start + size)
        logits = hidden @ weight[chunk].T if bias is None else torch.addmm(bias[chunk], hidden, weight[chunk].T)
        here = slice(bounds[number], bounds[number + 1])
        value, slope = _value_and_slope(pair, logits, rows[here], columns[here] - start, total.dtype)
        total += value
        if grad_hidden is not None:
            grad_hidden.addmm_(slope, weight[chunk])
        if grad_weight is not None:
            torch.mm(slope.T, scaled_hidden, out=grad_weight[chunk])
        if grad_bias is not None:
            torch.sum(slope, 0, out=grad_bias[chunk]).mul_(scale)
    return total * scale, (None if grad_hidden is None else grad_hidden.mul_(scale), grad_weight, grad_bias)


def _value_and_slope(
    pair: SlopePair, logits: Tensor, rows: Tensor, columns: Tensor, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """Return the summed loss of one (B, C) chunk, in `dtype`, and the slope at every logit."""
    value, slope = pair.negative_with_slope(logits)
    right = logits[rows, columns]
    right_value, right_slope = pair.positive_with_slope(right)
    total = value.sum(dtype=dtype) + (right_value - value[rows, columns]).sum(dtype=dtype)  # float16 ends at 65504
    slope[rows, columns] = right_slope
    return total, slope


def _positives_by_chunk(labels: SparseLabels, size: int) -> tuple[Tensor, Tensor, list[int]]:
    """Return example and label of each positive in label order, and where each chunk begins."""
    columns, order = labels.indices.sort()
    edges = torch.arange(0, labels.num_labels + size, size, device=columns.device)
    return labels.rows[order], columns, torch.searchsorted(columns, edges).tolist()


def _check_shapes(hidden: Tensor, weight: Tensor, bias: Tensor | None, labels: SparseLabels) -> None:
    if hidden.ndim != 2 or weight.ndim != 2 or hidden.shape[1] != weight.shape[1]:
        raise ValueError(
            f"expected hidden (B, D) and weight (L, D), got {tuple(hidden.shape)} and {tuple(weight.shape)}"
        )
    if (len(labels), labels.num_labels) != (len(hidden), len(weight)):
        raise ValueError(
            f"labels are {len(labels)} rows over {labels.num_labels} labels, "
            f"but hidden has {len(hidden)} rows and weight {len(weight)} labels"
        )
    if bias is not None and bias.shape != (len(weight),):
        raise ValueError(f"expected bias ({len(weight)},), got {tuple(bias.shape)}")
