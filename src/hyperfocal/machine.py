"""Cores, threads and the device that this process may use."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import torch

from hyperfocal.distributed import local_processes
from hyperfocal.errors import ConfigError

CPU_SHARE = Path("/sys/fs/cgroup/cpu.max")  # of a container


def training_device(asked: str = "auto") -> str:
    """Return "cpu" or "cuda"; "auto" is cuda if torch sees a CUDA device.

    Raises:
        ConfigError: cuda was asked for and there is none.
    """
    available = torch.cuda.is_available()
    if asked == "cuda" and not available:
        raise ConfigError("train.device = 'cuda' is not allowed: torch sees no CUDA device here. Expected auto or cpu")
    return "cuda" if available and asked != "cpu" else "cpu"


def set_threads(asked: int) -> int:
    """Set the number of CPU threads of torch, at most one per core of this process, and return it.

    0 means OMP_NUM_THREADS, or one per core without this variable; see `count_cores`.
    """
    threads = min(asked or allowed_threads(), count_cores())
    torch.set_num_threads(threads)
    return threads


def allowed_threads() -> int:
    """Return the variable OMP_NUM_THREADS, at most the number of cores; without the variable the number of cores.

    In one of several processes on this machine, 1 is torchrun's default and is ignored.
    """
    allowed, cores = os.environ.get("OMP_NUM_THREADS", ""), count_cores()
    if local_processes() > 1 and allowed == "1":
        return cores
    return min((int(allowed) if allowed.isdecimal() else 0) or cores, cores)


def count_cores() -> int:
    """Return the number of cores for this process: those of the container or machine, divided by its processes."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(min(cores, _quota()) // local_processes(), 1)


def _quota() -> int:
    """Return the CPU limit of the container in cores, at least 1; without a limit a large number."""
    try:
        quota, period = CPU_SHARE.read_text().split()
        return max(int(quota) // int(period), 1)
    except (OSError, ValueError):  # not a container, or "max"
        return sys.maxsize
