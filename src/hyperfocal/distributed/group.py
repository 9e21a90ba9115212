"""The process group: join it, ask for rank and size, and report the loss of another process.

The launcher, usually torchrun, sets for each process its number RANK, the number of processes WORLD_SIZE, and the
address of process 0, MASTER_ADDR and MASTER_PORT. Outside of `processes()` there is one process, number 0.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor

from hyperfocal.errors import ConfigError, TrainingError

TIMEOUT = "HYPERFOCAL_TIMEOUT"  # seconds that a process waits for the others before it fails
SECONDS = 1800  # by default
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
            "See that process's error message. The last checkpoint is intact: start all processes again with --resume"
        ) from error


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(". ")
