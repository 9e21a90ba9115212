"""File descriptors of this process: as many as its connections need, and whether any is left."""

from __future__ import annotations

import errno
import os
import resource
import sys
from pathlib import Path

OTHER_FILES = 200  # descriptors for anything but connections: a run that is loaded, shared counters, libraries


def reserve(connections: int) -> int:
    """Raise the limit of open files to what the connections need, if allowed; return how many connections fit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = connections + OTHER_FILES
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return connections
    allowed = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
    return max(1, min(connections, allowed - OTHER_FILES))


def any_left() -> bool:
    """Return whether this process can open another file."""
    try:
        os.close(os.dup(0))
    except OSError as error:
        return error.errno not in (errno.EMFILE, errno.ENFILE)
    return True


def open_standard_ones() -> None:
    """Open the null device as stdin, stdout or stderr if it is closed: else a connection would get its number."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number
    sys.stdout = sys.stdout or Path(os.devnull).open("w")  # noqa: SIM115 - Python has None for a closed stream
    sys.stderr = sys.stderr or Path(os.devnull).open("w")  # noqa: SIM115
