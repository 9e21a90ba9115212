"""What this process may use of its machine: cores, threads and the device."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import torch

from hyperfocal.distributed import local_processes
from hyperfocal.errors import ConfigError

CPU_SHARE = Path("/sys/fs/cgroup/cpu.max")  # of a container


def training_device(asked: str = "auto") -> str:
    """Return "cpu" or "cuda"; "auto" is cuda where torch sees such a device.

    Raises:
        ConfigError: cuda was asked for and there is none.
    """
    found = torch.cuda.is_available()
    if asked == "cuda" and not found:
        raise ConfigError("train.device = 'cuda' is not allowed: torch sees no CUDA device here. Expected auto or cpu")
    return "cuda" if found and asked != "cpu" else "cpu"


def set_threads(asked: int) -> int:
    """Let torch use that many CPU threads, never more than this process has cores; return how many.

    0 asks for as many as the variable OMP_NUM_THREADS says, else one a core. A container's share counts as cores.
    """
    threads = min(asked or allowed_threads(), count_cores())
    torch.set_num_threads(threads)
    return threads


def allowed_threads() -> int:
    """Return how many threads the variable OMP_NUM_THREADS allows, never more than the cores; without it the cores.

    A 1 in one of several processes of this machine is torchrun's own default and says nothing.
    """
    allowed, cores = os.environ.get("OMP_NUM_THREADS", ""), count_cores()
    if local_processes() > 1 and allowed == "1":
        return cores
    return min((int(allowed) if allowed.isdecimal() else 0) or cores, cores)


def count_cores() -> int:
    """Return the cores that this process may use, its share of them beside others that train the same model.

    A container's share counts as cores.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(min(cores, _quota()) // local_processes(), 1)


def _quota() -> int:
    """Return the processors that a container's share amounts to, at least 1; without a limit a large number."""
    try:
        share, period = CPU_SHARE.read_text().split()
        return max(int(share) // int(period), 1)
    except (OSError, ValueError):  # no container, or "max"
        return sys.maxsize
