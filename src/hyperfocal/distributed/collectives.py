"""Collective operations: every process has to call these functions, in the same order.

The first functions exchange tensors and values. `sum_gradients` and `gather_rows` are the two exchanges of
data-parallel training.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from hyperfocal.distributed.group import is_first, lost_contact, rank, world_size
from hyperfocal.errors import DataError, HyperfocalError

BUCKET_NUMBERS = 2**22  # gradients that travel together: 16 MiB of float32

Value = TypeVar("Value")


def all_reduce(tensor: Tensor, *, largest: bool = False) -> Tensor:
    """Return the sum, or the largest, of the tensors of all processes, in place and with the same bits in each."""
    if world_size() > 1:
        with lost_contact():
            dist.all_reduce(tensor, dist.ReduceOp.MAX if largest else dist.ReduceOp.SUM)
    return tensor


def all_gather(tensor: Tensor) -> list[Tensor]:
    """Return the tensors of all processes, by rank; all have the same shape and dtype."""
    if world_size() == 1:
        return [tensor]
    tensors = [torch.empty_like(tensor) for _ in range(world_size())]
    with lost_contact():
        dist.all_gather(tensors, tensor.contiguous())
    return tensors


def from_first(tensor: Tensor) -> Tensor:
    """Return the tensor of process 0, written over this process's tensor of the same shape and dtype."""
    if world_size() > 1:
        with lost_contact():
            dist.broadcast(tensor, src=0)
    return tensor


def gather_objects(value: Value) -> list[Value]:
    """Return the values of all processes, by rank."""
    values: list[Any] = [value] * world_size()
    if world_size() > 1:
        with lost_contact():
            dist.all_gather_object(values, value)
    return values


def sum_number(number: float) -> float:
    """Return the sum of a number over all processes, on the CPU if possible, so that no process waits for its GPU."""
    if world_size() == 1:
        return number
    device = "cpu" if "cpu:" in dist.get_backend_config() else "cuda"
    return float(all_reduce(torch.tensor(number, dtype=torch.float64, device=device)))


def any_process(flag: bool) -> bool:
    """Return whether the flag is set in any process."""
    return sum_number(float(flag)) > 0


def on_first(function: Callable[[], Value]) -> Value:
    """Call a function in process 0; in every process return its result, or raise its HyperfocalError."""
    if world_size() == 1:
        return function()
    outcome: list[Any] = [None, None]  # result and error
    if is_first():
        try:
            outcome[0] = function()
        except HyperfocalError as error:
            outcome[1] = error
    with lost_contact():
        dist.broadcast_object_list(outcome, src=0)
    if outcome[1] is not None:
        raise outcome[1]
    result: Value = outcome[0]
    return result


def refuse_different(name: str, value: str) -> None:
    """Raise DataError, in every process, unless the value is the same in all."""
    values = gather_objects(value)
    other = next((number for number, one in enumerate(values) if one != values[0]), None)
    if other is not None:
        raise DataError(
            f"process {other} and process 0 have different {name}. Give every process the same files, the same "
            "settings and the same version of hyperfocal"
        )


def sum_gradients(parameters: Iterable[torch.nn.Parameter]) -> None:
    """Replace the gradients by their sums over all processes.

    Small gradients travel together. A sparse gradient travels as rows and values, and gets the rows of all processes.

    Args:
        parameters: in the same order in every process; the same ones must have a gradient in every process.
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
    """Yield gradients of one dtype and device, up to BUCKET_NUMBERS numbers, or one larger gradient."""
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
    for gradient, total in zip(bucket, flat.split([gradient.numel() for gradient in bucket]), strict=True):
        gradient.copy_(total.view_as(gradient))


def _sum_sparse(gradient: Tensor) -> Tensor:
    """Return the sum of the sparse gradients of all processes."""
    own = gradient.coalesce()
    places, values = _all_rows(own.indices().T)[0], _all_rows(own.values())[0]
    return torch.sparse_coo_tensor(places.T, values, own.shape, check_invariants=False).coalesce()


def gather_rows(rows: Tensor) -> Tensor:
    """Return the rows of all processes, by rank, differentiable by autograd.

    A loss over them has to be the same in every process, as a ShardedLoss is: then the incoming gradient is already
    complete, and each process takes the gradient of its own rows.

    Args:
        rows: (B, D), the rows of this process; B may differ between processes.
    """
    gathered: Tensor = _GatherRows.apply(rows)  # type: ignore[no-untyped-call]
    return gathered


class _GatherRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> Tensor:
        gathered, counts = _all_rows(rows)
        ctx.start, ctx.count = sum(counts[: rank()]), len(rows)
        return gathered

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return grad[ctx.start : ctx.start + ctx.count]


def _all_rows(rows: Tensor) -> tuple[Tensor, list[int]]:
    """Return the rows of all processes, (N, ...), by rank, and the number of rows of each process."""
    counts = [int(count) for count in all_gather(torch.tensor(len(rows), device=rows.device))]
    padding = [0, 0] * (rows.ndim - 1) + [0, max(counts) - len(rows)]
    padded = all_gather(functional.pad(rows, padding))
    return torch.cat([own[:count] for own, count in zip(padded, counts, strict=True)]), counts
