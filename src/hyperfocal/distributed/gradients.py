"""The two exchanges of data-parallel training: gradients are summed, rows of a batch are put together."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from hyperfocal.distributed.collectives import all_gather, all_reduce
from hyperfocal.distributed.group import rank, world_size

BUCKET_NUMBERS = 2**22  # gradients that travel together: 16 MiB of float32


def sum_gradients(parameters: Iterable[torch.nn.Parameter]) -> None:
    """Replace the gradients by their sums over all processes.

    Small ones travel together. A sparse gradient travels as rows and values, and gets the rows of all processes.

    Args:
        parameters: in the same order in every process, and the same of them with a gradient.
    """
    if world_size() == 1:
        return
    trained = [(parameter, parameter.grad) for parameter in parameters if parameter.grad is not None]
    for bucket in _buckets(gradient for _, gradient in trained if not gradient.is_sparse):
        _sum_bucket(bucket)
    for parameter, gradient in trained:
        if gradient.is_sparse:
            parameter.grad = _sum_sparse(gradient)


def _buckets(gradients: Iterable[Tensor]) -> Iterator[list[Tensor]]:
    """Yield gradients of one dtype and device, up to BUCKET_NUMBERS of them or one that is larger."""
    bucket: list[Tensor] = []
    for gradient in gradients:
        size = sum(map(Tensor.numel, bucket)) + gradient.numel()
        if bucket and (size > BUCKET_NUMBERS or _kind(gradient) != _kind(bucket[0])):
            yield bucket
            bucket = []
        bucket.append(gradient)
    if bucket:
        yield bucket


def _kind(tensor: Tensor) -> tuple[torch.dtype, torch.device]:
    return tensor.dtype, tensor.device


def _sum_bucket(bucket: list[Tensor]) -> None:
    if len(bucket) == 1 and bucket[0].is_contiguous():
        all_reduce(bucket[0])
        return
    flat = all_reduce(torch.cat([gradient.flatten() for gradient in bucket]))
    for gradient, part in zip(bucket, flat.split([gradient.numel() for gradient in bucket]), strict=True):
        gradient.copy_(part.view_as(gradient))


def _sum_sparse(gradient: Tensor) -> Tensor:
    """Return the sum of the sparse gradients of all processes."""
    own = gradient.coalesce()
    places, values = _gathered(own.indices().T)[0], _gathered(own.values())[0]
    return torch.sparse_coo_tensor(places.T, values, own.shape, check_invariants=False).coalesce()


def _gathered(rows: Tensor) -> tuple[Tensor, list[int]]:
    """Return the rows of all processes, (N, ...), one process after the other, and how many each has."""
    counts = [int(count) for count in all_gather(torch.tensor(len(rows), device=rows.device))]
    padding = [0, 0] * (rows.ndim - 1) + [0, max(counts) - len(rows)]
    parts = all_gather(functional.pad(rows, padding))
    return torch.cat([part[:count] for part, count in zip(parts, counts, strict=True)]), counts


def gather_rows(rows: Tensor) -> Tensor:
    """Return the rows of all processes, one process after the other, for autograd to go back through.

    A loss over them has to be the same in every process, as a ShardedLoss is: then the gradient that comes back is
    whole already, and each process takes that of its own rows.

    Args:
        rows: (B, D), those of this process; B may differ from one to the other.
    """
    found: Tensor = _GatherRows.apply(rows)  # type: ignore[no-untyped-call]
    return found


class _GatherRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> Tensor:
        found, counts = _gathered(rows)
        ctx.start, ctx.count = sum(counts[: rank()]), len(rows)
        return found

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return grad[ctx.start : ctx.start + ctx.count]
