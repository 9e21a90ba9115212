"""Cores, threads, memory, device and cache folder that this process may use."""

from __future__ import annotations

import os
import re
import resource
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from hyperfocal.distributed import local_processes
from hyperfocal.errors import ConfigError
from hyperfocal.parts import total_size
from hyperfocal.private.folders import NO_HOME, VARIABLE, check_usable, warn_unused
from hyperfocal.private.work import process_folder

CPU_SHARE = Path("/sys/fs/cgroup/cpu.max")  # of a container
CGROUP, CGROUPS = Path("/proc/self/cgroup"), Path("/sys/fs/cgroup")  # of this process; of all
MEMORY_INFO, STATUS = Path("/proc/meminfo"), Path("/proc/self/status")
MEMORY_SHARE = 1 / 16  # of the memory; a larger file is streamed, because its rows and texts take ten times its size


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


def is_streamed(data: Any, asked: str, impossible: str) -> bool:
    """Return whether data are streamed: if asked for, or if possible and the file is too large for memory.

    Args:
        data: path of a file if streaming is possible; else anything.
        asked: `data.stream`: auto, on or off.
        impossible: why these data cannot be streamed. "": they can.

    Raises:
        ConfigError: streaming is asked for and not possible.
    """
    if asked == "on" and impossible:
        raise ConfigError(f"data.stream = 'on' is not allowed {impossible}. Leave it out to read into memory")
    return asked != "off" and not impossible and (asked == "on" or _is_large(Path(data)))


def _is_large(path: Path) -> bool:
    """Compare with an equal share of the memory for each process of this machine."""
    return total_size(path) > MEMORY_SHARE * memory_bytes() / local_processes()


def memory_bytes() -> int:
    """Return the memory of the machine, or of the container if that is less."""
    return min([_machine_bytes(), *_cgroup_limits()])


def _machine_bytes() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def largest_memory() -> tuple[int, str]:
    """Return the most bytes that this process can ever use, and the name of the limit.

    The limits are the memory of the machine or of the cgroup, each with the swap space, and the limits of the process
    (`ulimit -v`, `ulimit -d`). What other programs use is not subtracted, because they may end.
    """
    return min((limit, name) for limit, _, name in _limits())


def free_memory() -> tuple[int, str]:
    """Return the most bytes that this process can ever use in addition, and the name of the limit.

    Of a limit of the process, the part that is used is subtracted; of the machine, nothing.
    """
    return min((limit - used, name) for limit, used, name in _limits())


def _limits() -> list[tuple[int, int, str]]:
    """Return each limit in bytes, what this process has used of it, and its name."""
    swap = _swap_bytes()
    limits = [(_machine_bytes() + swap, 0, "this machine")]
    limits += [(limit + swap, 0, "the cgroup") for limit in _cgroup_limits()]
    for kind, size, option in ((resource.RLIMIT_AS, "VmSize", "-v"), (resource.RLIMIT_DATA, "VmData", "-d")):
        soft, _ = resource.getrlimit(kind)
        if soft != resource.RLIM_INFINITY:
            limits.append((soft, _used_bytes(size), f"the limit `ulimit {option}`"))
    return limits


def _used_bytes(size: str) -> int:
    """Return the address space (VmSize) or the data (VmData) of this process in bytes; 0 where Linux does not tell."""
    with suppress(OSError):
        match = re.search(rf"^{size}:\s+(\d+) kB", STATUS.read_text(), re.MULTILINE)
        return int(match[1]) * 1024 if match else 0
    return 0


def _swap_bytes() -> int:
    with suppress(OSError):
        match = re.search(r"^SwapTotal:\s+(\d+) kB", MEMORY_INFO.read_text(), re.MULTILINE)
        return int(match[1]) * 1024 if match else 0
    return 0


def _cgroup_limits() -> list[int]:
    """Return the memory limits of the cgroups that hold this process, of version 1 or 2."""
    files = [CGROUPS / "memory.max"]  # of a container that sees nothing above itself
    with suppress(OSError):
        for line in CGROUP.read_text().splitlines():
            _, controllers, name = line.split(":", 2)
            if controllers in ("", "memory"):
                folder = CGROUPS / controllers / name.strip("/")
                limit = "memory.limit_in_bytes" if controllers else "memory.max"
                files += [place / limit for place in (folder, *folder.parents) if place.is_relative_to(CGROUPS)]
    limits = []
    for file in files:
        with suppress(OSError, ValueError):  # no such cgroup here, or "max"
            limits.append(int(file.read_text()))
    return limits


def default_cache() -> Path:
    """Return the folder that the variable HYPERFOCAL_CACHE names, else `hyperfocal` in XDG_CACHE_HOME or ~/.cache.

    If it cannot be used, the reason is logged once, and a temporary folder serves until the process ends.
    """
    named = os.environ.get(VARIABLE, "")
    folder = Path(named or "~/.cache/hyperfocal")
    try:
        folder = Path(named) if named else _user_caches() / "hyperfocal"
        check_usable(folder, below_own=not named)
        return folder
    except OSError as error:
        warn_unused(folder, error)
    try:
        return process_folder()
    except OSError:  # nothing can be written: every user of this folder then does without it
        return folder


def _user_caches() -> Path:
    """Return the folder of the user's caches.

    Raises:
        OSError: the user has no home.
    """
    named = os.environ.get("XDG_CACHE_HOME", "")
    if Path(named).is_absolute():
        return Path(named)
    try:
        home = Path.home()
    except RuntimeError:
        home = Path(NO_HOME)
    if str(home) == NO_HOME:
        raise OSError("the user has no home folder")
    return home / ".cache"
