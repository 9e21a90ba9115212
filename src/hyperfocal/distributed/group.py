"""The processes that work together: how one joins them, which one it is, and what happens when another one is gone.

torchrun, or whatever else starts them, tells each process its number, RANK, how many there are, WORLD_SIZE, and where
the first one is, MASTER_ADDR and MASTER_PORT. Outside of `processes()` there is one process, number 0.
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

TIMEOUT = "HYPERFOCAL_TIMEOUT"  # seconds that a process waits for the others before it gives up
SECONDS = 1800
_joined = False


@contextmanager
def processes() -> Iterator[None]:
    """Join the processes that WORLD_SIZE speaks of; with WORLD_SIZE 1 or none do nothing.

    A process group that exists already, as Ray Train makes one, is used and left as it is. Tensors on the CPU travel
    by gloo; those on GPUs by NCCL where each process of the machine has a GPU of its own, the one numbered LOCAL_RANK.

    Raises:
        ConfigError: one of the variables is missing or no number; a group that exists has no backend for the CPU.
        TrainingError: the others cannot be met within HYPERFOCAL_TIMEOUT seconds.
    """
    global _joined
    if _joined or not (dist.is_initialized() or _number("WORLD_SIZE", 1) > 1):
        yield
        return
    ours = not dist.is_initialized()
    if ours:
        _meet()
    elif "cpu:" not in (found := str(dist.get_backend_config())):
        raise ConfigError(
            f"the process group that is there ({found}) does not carry tensors of the CPU, as random states and "
            'n-gram weights are. Make it with backend="cpu:gloo,cuda:nccl"'
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
    local, beside = _number("LOCAL_RANK", number), _number("LOCAL_WORLD_SIZE", 1)
    for name in ("MASTER_ADDR", "MASTER_PORT"):
        if not os.environ.get(name):
            raise ConfigError(f"WORLD_SIZE = {count}, but {name} is not set. Start the processes with torchrun")
    gpus = torch.cuda.device_count()
    if gpus:
        torch.cuda.set_device(local % gpus)
    backend = "cpu:gloo,cuda:nccl" if gpus >= beside else "gloo"
    try:
        dist.init_process_group(backend, timeout=timedelta(seconds=_number(TIMEOUT, SECONDS)))
    except (RuntimeError, ValueError) as error:
        place = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
        raise TrainingError(
            f"process {number} of {count} cannot meet the others at {place}: {_first_line(error)}. Are all started, "
            "and can they reach that place?"
        ) from error


def _number(name: str, default: int | None = None) -> int:
    text = os.environ.get(name, "" if default is None else str(default))
    if not text.isdecimal():
        raise ConfigError(
            f"{name} = {text!r} is not allowed in a process of several. Expected a whole number; torchrun sets it"
        )
    return int(text)


def world_size() -> int:
    """Return how many processes work together."""
    return dist.get_world_size() if _joined else 1


def rank() -> int:
    """Return the number of this process, from 0."""
    return dist.get_rank() if _joined else 0


def is_first() -> bool:
    """Return whether this is process 0: the one that validates, writes files and prints."""
    return rank() == 0


def local_processes() -> int:
    """Return how many of the processes share this machine, by LOCAL_WORLD_SIZE; 1 where it does not tell."""
    return max(_number("LOCAL_WORLD_SIZE", 1), 1) if _joined else 1


def share_of(index: Tensor) -> Tensor:
    """Return this process's part of a batch, every n-th example; it may be empty."""
    return index[rank() :: world_size()]


def refuse_several(command: str) -> None:
    """Raise ConfigError if this is one of several processes, for a command that would do everything in each of them."""
    if _number("WORLD_SIZE", 1) > 1:
        raise ConfigError(f"`{command}` does not run in several processes, only `fit` does. Start it without torchrun")


@contextmanager
def lost_contact() -> Iterator[None]:
    """Turn the error of an exchange whose other side is gone, or silent for too long, into TrainingError."""
    try:
        yield
    except RuntimeError as error:
        if isinstance(error, torch.OutOfMemoryError) or "CUDA error" in str(error):  # of this process, told late
            raise
        raise TrainingError(
            f"process {rank()} of {world_size()} lost contact with another one ({_first_line(error)}). Its own message "
            "says why it ended. The last checkpoint is whole: start all processes again, with --resume"
        ) from error


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(". ")
