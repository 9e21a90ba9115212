"""What the processes exchange: every one has to call these functions, in the same order."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from hyperfocal.distributed.group import is_first, lost_contact, world_size
from hyperfocal.errors import DataError, HyperfocalError

Found = TypeVar("Found")


def all_reduce(tensor: Tensor, *, largest: bool = False) -> Tensor:
    """Return the sum, or the largest, of the tensors of all processes, in place and with the same bits in each."""
    if world_size() > 1:
        with lost_contact():
            dist.all_reduce(tensor, dist.ReduceOp.MAX if largest else dist.ReduceOp.SUM)
    return tensor


def all_gather(tensor: Tensor) -> list[Tensor]:
    """Return the tensors of all processes, by their numbers; all are of one shape and dtype."""
    if world_size() == 1:
        return [tensor]
    found = [torch.empty_like(tensor) for _ in range(world_size())]
    with lost_contact():
        dist.all_gather(found, tensor.contiguous())
    return found


def from_first(tensor: Tensor) -> Tensor:
    """Return the tensor of the first process, written over this one's, which is of the same shape and dtype."""
    if world_size() > 1:
        with lost_contact():
            dist.broadcast(tensor, src=0)
    return tensor


def gather_objects(value: Found) -> list[Found]:
    """Return the values of all processes, by their numbers."""
    found: list[Any] = [value] * world_size()
    if world_size() > 1:
        with lost_contact():
            dist.all_gather_object(found, value)
    return found


def sum_number(number: float) -> float:
    """Return the sum of a number over all processes; by way of the CPU where it can be, which waits for no GPU."""
    if world_size() == 1:
        return number
    device = "cpu" if "cpu:" in dist.get_backend_config() else "cuda"
    return float(all_reduce(torch.tensor(number, dtype=torch.float64, device=device)))


def any_process(flag: bool) -> bool:
    """Return whether the flag is up in one of the processes."""
    return sum_number(float(flag)) > 0


def on_first(function: Callable[[], Found]) -> Found:
    """Call a function in the first process; return in every process what it returned, or raise what it raised."""
    if world_size() == 1:
        return function()
    found: list[Any] = [None, None]
    if is_first():
        try:
            found[0] = function()
        except HyperfocalError as error:
            found[1] = error
    with lost_contact():
        dist.broadcast_object_list(found, src=0)
    if found[1] is not None:
        raise found[1]
    result: Found = found[0]
    return result


def refuse_different(what: str, value: str) -> None:
    """Raise DataError, in every process, unless all have the same value."""
    values = gather_objects(value)
    other = next((number for number, found in enumerate(values) if found != values[0]), None)
    if other is not None:
        raise DataError(
            f"process {other} has {what} other than process 0. Give every process the same files and settings, and the "
            "same version of hyperfocal"
        )
