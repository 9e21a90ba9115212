"""Data-parallel training by several processes: the process group, and the exchanges between the processes.

The launcher, usually torchrun, sets for each process its number RANK, the number of processes WORLD_SIZE, and the
address of process 0, MASTER_ADDR and MASTER_PORT. Outside of `processes()` there is one process, number 0, and every
function here does nothing. Otherwise all processes have to call the functions that exchange something, in the same
order: `all_reduce` and all after it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from hyperfocal.errors import ConfigError, DataError, HyperfocalError, TrainingError

TIMEOUT = "HYPERFOCAL_TIMEOUT"  # seconds that a process waits for the others before it fails
SECONDS = 1800  # by default
BUCKET_NUMBERS = 2**22  # gradients that travel together: 16 MiB of float32

Value = TypeVar("Value")

_joined = False


@contextmanager
def processes() -> Iterator[None]:
    """Join the WORLD_SIZE processes; do nothing if WORLD_SIZE is 1 or not set.

    An existing process group, as Ray Train makes one, is used and stays open. Tensors on the CPU travel by gloo.
    Tensors on GPUs travel by NCCL if each process of the machine has a separate GPU, the one numbered LOCAL_RANK.

    Raises:
        ConfigError: one of the variables is missing or not a number; an existing group has no backend for the CPU.
        TrainingError: the other processes do not answer within HYPERFOCAL_TIMEOUT seconds.
    """
    global _joined
    if _joined or not (dist.is_initialized() or _number("WORLD_SIZE", 1) > 1):
        yield
        return
    ours = not dist.is_initialized()
    if ours:
        _meet()
    elif "cpu:" not in (backends := str(dist.get_backend_config())):
        raise ConfigError(
            f"the existing process group ({backends}) cannot send tensors on the CPU, such as random states and n-gram "
            'weights. Create it with backend="cpu:gloo,cuda:nccl"'
        )
    _joined = True
    try:
        yield
    finally:
        _joined = False
        if ours:
            dist.destroy_process_group()


def _meet() -> None:
    """Initialise torch.distributed from the environment."""
    count, number = _number("WORLD_SIZE"), _number("RANK")
    local, neighbours = _number("LOCAL_RANK", number), _number("LOCAL_WORLD_SIZE", 1)
    for name in ("MASTER_ADDR", "MASTER_PORT"):
        if not os.environ.get(name):
            raise ConfigError(f"WORLD_SIZE = {count}, but {name} is not set. Start the processes with torchrun")
    gpus = torch.cuda.device_count()
    if gpus:
        torch.cuda.set_device(local % gpus)
    backend = "cpu:gloo,cuda:nccl" if gpus >= neighbours else "gloo"
    try:
        dist.init_process_group(backend, timeout=timedelta(seconds=_number(TIMEOUT, SECONDS)))
    except (RuntimeError, ValueError) as error:
        place = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
        raise TrainingError(
            f"process {number} of {count} cannot meet the others at {place}: {_first_line(error)}. "
            "Start all processes, and check that they can reach this address"
        ) from error


def _number(name: str, default: int | None = None) -> int:
    text = os.environ.get(name, "" if default is None else str(default))
    if not text.isdecimal():
        raise ConfigError(
            f"{name} = {text!r} is not allowed with several processes. Expected a whole number; torchrun sets it"
        )
    return int(text)


def world_size() -> int:
    """Return the number of processes that train together."""
    return dist.get_world_size() if _joined else 1


def rank() -> int:
    """Return the number of this process, from 0."""
    return dist.get_rank() if _joined else 0


def is_first() -> bool:
    """Return whether this is process 0: the one that validates, writes files and prints."""
    return rank() == 0


def local_processes() -> int:
    """Return the number of processes on this machine, LOCAL_WORLD_SIZE, or 1 if it is not set."""
    return max(_number("LOCAL_WORLD_SIZE", 1), 1) if _joined else 1


def share_of(index: Tensor) -> Tensor:
    """Return this process's examples of a batch, every n-th one; there may be none."""
    return index[rank() :: world_size()]


def refuse_several(command: str) -> None:
    """Raise ConfigError if this is one of several processes, each of which would run the whole command."""
    if _number("WORLD_SIZE", 1) > 1:
        raise ConfigError(f"`{command}` does not run in several processes, only `fit` does. Start it without torchrun")


@contextmanager
def lost_contact() -> Iterator[None]:
    """Raise TrainingError for the error of an exchange in which another process has ended or does not answer."""
    try:
        yield
    except RuntimeError as error:
        if isinstance(error, torch.OutOfMemoryError) or "CUDA error" in str(error):  # of this process, reported late
            raise
        raise TrainingError(
            f"process {rank()} of {world_size()} lost contact with another process ({_first_line(error)}). "
            "See the error message of that process. The last checkpoint is intact: start all again with `resume=True`"
        ) from error


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(". ")


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
        kinds = {(each.dtype, each.device) for each in (*bucket[:1], gradient)}
        if bucket and (size > BUCKET_NUMBERS or len(kinds) > 1):
            yield bucket
            bucket = []
        bucket.append(gradient)
    if bucket:
        yield bucket


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
