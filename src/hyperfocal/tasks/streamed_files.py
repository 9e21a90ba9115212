"""Files larger than memory: which those are, and what is kept in the cache of what was made from one."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from hyperfocal.cache import Arrays, cached, hash_of
from hyperfocal.distributed import local_processes
from hyperfocal.errors import ConfigError, RunError

FORMAT = 1  # of the cached arrays; a change of what they hold makes a new number
MEMORY_SHARE = 1 / 16  # of the memory: a larger file is streamed, for as rows and text it takes ten times its size
MEMORY_LIMIT = Path("/sys/fs/cgroup/memory.max")  # of a container
ENDS = 2**16  # bytes at either end of a file that tell it from another of its size and time


def is_streamed(data: Any, asked: str, impossible: str) -> bool:
    """Return whether data are streamed: where it is asked for, or possible and the file is too large for memory.

    Args:
        data: path of a file, if it is possible.
        asked: `data.stream`: auto, on or off.
        impossible: why these data cannot be streamed, or "".

    Raises:
        ConfigError: asked for where it is not possible.
    """
    if asked == "on" and impossible:
        raise ConfigError(f"data.stream = 'on' is not allowed {impossible}. Leave it out to read into memory")
    return asked != "off" and not impossible and (asked == "on" or _is_large(Path(data)))


def _is_large(path: Path) -> bool:
    """Of several processes of this machine each has its share of the memory."""
    return path.is_file() and path.stat().st_size > MEMORY_SHARE * memory_bytes() / local_processes()


def memory_bytes() -> int:
    """Return the memory of the machine, or of the container if that is less."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    try:
        return min(memory, int(MEMORY_LIMIT.read_text()))
    except (OSError, ValueError):  # no container, or "max"
        return memory


def key_of(path: Path, columns: list[Any]) -> str:
    """Return a checksum of what is made from a file: its name, size, time and ends, and the columns that are read."""
    try:
        state = path.stat()
        with path.open("rb") as file:
            first = file.read(ENDS)
            file.seek(max(state.st_size - ENDS, 0))
            ends = hashlib.sha256(first + file.read()).hexdigest()
    except OSError:  # reading it will say what is wrong
        return hash_of(FORMAT, str(path), columns)
    return hash_of(FORMAT, str(path.resolve()), state.st_size, state.st_mtime_ns, ends, columns)


def kept(folder: Path, key: str, make: Callable[[Path], Arrays]) -> Arrays:
    """Return the arrays of a folder, mapped; or make them, in a folder beside that is gone then, and keep them.

    Raises:
        RunError: the folder cannot be written.
    """

    def build() -> Arrays:
        folder.mkdir(parents=True, exist_ok=True)
        return make(Path(room.enter_context(TemporaryDirectory(prefix=".building-", dir=folder))))

    try:
        with ExitStack() as room:
            return cached(folder, key, build)
    except OSError as error:
        raise RunError(
            f"cache {folder}: cannot be written ({error}). Free some space, or name another folder with the variable "
            "HYPERFOCAL_CACHE"
        ) from None
