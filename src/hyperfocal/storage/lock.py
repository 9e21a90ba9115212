"""Locks on folders, so that each has one writer at a time.

A lock is flock(2), which the system releases when its process ends, however it ends. Machines that share a network file
system see each other's locks if that file system supports them. If it does not, one warning says so, and no writer is
refused.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import time
from contextlib import suppress
from datetime import datetime
from functools import cache
from pathlib import Path
from socket import gethostname

from hyperfocal.errors import RunError

logger = logging.getLogger("hyperfocal")
PAUSE_SECONDS = 0.05  # between two looks at a lock that another process holds
ATTEMPTS = 100  # to make a folder and lock it before another process removes it as empty
LOCK = ".lock"  # a file in the folder; its text names the process that writes


class FolderLock:
    """The right to write to a folder, from `__enter__` to `__exit__`; the folder is made if it is missing.

    The lock is a file in the folder, so it is the same one by whatever path, mount or link a process gets there.

    Args:
        folder: without links.
        patience: seconds to wait while another process has the right.

    Raises:
        RunError: another process has the right; the folder cannot be written.
    """

    def __init__(self, folder: Path, patience: float = 0) -> None:
        self.folder, self._patience = folder, patience
        self._made: list[Path] = []  # folders that were missing, inner ones first
        self._held: list[int] = []  # descriptors

    def __enter__(self) -> FolderLock:
        """Lock the folder."""
        try:
            self._make_and_lock()
        except OSError as error:
            self._remove_empty()
            raise RunError(
                f"cannot write {self.folder}: [Errno {error.errno}] {error.strerror}. Free some space or choose "
                "another folder"
            ) from error
        except BaseException:
            self._remove_empty()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        """Release the lock, and remove its file."""
        path = self.folder / LOCK
        with suppress(OSError):
            state = path.stat()
            if any(os.path.samestat(state, os.fstat(number)) for number in self._held):
                path.unlink()  # while it is locked: who waits for it sees that it is gone, and makes another
        for number in self._held:
            os.close(number)
        self._held.clear()
        self._remove_empty()

    def extend_to(self, folder: Path) -> None:
        """Lock another folder too, which will take the place of this one.

        Raises:
            RunError: another process writes to it.
            OSError: the lock cannot be made.
        """
        number, deadline = None, time.monotonic() + self._patience
        while number is None:
            try:
                number = _open_locked(folder / LOCK)
            except BlockingIOError as error:
                if time.monotonic() >= deadline:
                    raise RunError(f"{folder}: {error} is writing to it. Wait until it ends") from None
                time.sleep(PAUSE_SECONDS)
        self._held.append(number)
        holder = {"pid": os.getpid(), "host": gethostname(), "since": f"{datetime.now().astimezone():%F %T %z}"}
        with suppress(OSError):  # a full disk: the lock holds all the same
            os.ftruncate(number, 0)
            os.pwrite(number, json.dumps(holder).encode(), 0)

    def _make_and_lock(self) -> None:
        """Lock the folder; make it again as often as another lock, which made it, removes it as empty."""
        for attempt in range(ATTEMPTS):
            try:
                self._make_folders()
                self.extend_to(self.folder)
                return
            except FileNotFoundError:
                if attempt == ATTEMPTS - 1:
                    raise

    def _make_folders(self) -> None:
        missing = self.folder
        while not missing.exists():
            if missing not in self._made:
                self._made.append(missing)
            missing = missing.parent
        self.folder.mkdir(parents=True, exist_ok=True)

    def _remove_empty(self) -> None:
        """Remove the folders that this lock made and that nothing was written to."""
        with suppress(OSError):
            for folder in self._made:
                folder.rmdir()
        self._made.clear()


def _open_locked(path: Path) -> int | None:
    """Return the descriptor of a lock file that this process locked; None: its owner removed it at this moment.

    Raises:
        BlockingIOError: another process holds the lock; the error says which.
    """
    try:
        number = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
    except PermissionError:
        if not path.exists():
            raise
        number = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)  # of another user; a lock needs no right to write to it
    try:
        _lock(number)
        if os.path.samestat(path.stat(), os.fstat(number)):
            return number
    except FileNotFoundError:
        pass
    except BlockingIOError:
        holder = _holder(number)
        os.close(number)
        raise BlockingIOError(holder) from None
    os.close(number)
    return None


def _holder(number: int) -> str:
    """Return the words for the process that an open lock file names."""
    with suppress(OSError, ValueError, KeyError, TypeError):
        facts = json.loads(os.pread(number, 1_000, 0))
        return f"process {facts['pid']:d} on {facts['host']}, since {facts['since']},"
    return "another process"


def _lock(number: int) -> None:
    """Lock an open file, if its file system has locks.

    Raises:
        BlockingIOError: another process holds the lock.
    """
    try:
        fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise
    except OSError as error:
        _warn(str(error))


@cache
def _warn(reason: str) -> None:
    """Log once that the file system has no locks."""
    logger.warning("this file system has no locks (%s): do not let two commands write to one folder at a time", reason)
