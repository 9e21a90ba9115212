"""Work folders that are removed at the end, or by the next process if their process was killed.

A work folder holds a file that its process keeps locked. The lock ends with the process, however it ends, so a folder
whose lock is free is a leftover. Other folders, such as a user's `.hyperfocal-notes`, are never removed: a leftover has
a name as `_make` gives it, and it has a lock or is empty.
"""

from __future__ import annotations

import atexit
import fcntl
import os
import re
import secrets
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import cache
from pathlib import Path

from hyperfocal.private.folders import FILE_MODE, FOLDER_MODE, ROOT, names_in, opened

LOCK = ".lock"  # file of a work folder
WORK, TEMPORARY = ".work-", "hyperfocal-work-"  # begin the names of work folders: in a cache, in the system's folder
NUMBER_BYTES = 8  # of the random number that ends such a name, in hexadecimal digits
EARLIER = re.compile(r"\.building-[a-z0-9_]{8}|\.[0-9a-f]{32}\..+|native-[0-9a-f]{20}\.\d+\.so")  # without a lock
EARLIER_SECONDS = 24 * 60 * 60  # without a change, until a leftover of an earlier version is removed


class _BusyError(Exception):
    """Another process locks a work folder, or has removed it."""


@contextmanager
def work_folder(parent: int, prefix: str = WORK, *, clean: bool = True) -> Iterator[tuple[str, int]]:
    """Yield the name and a descriptor of a new folder, which is removed at the end; remove leftovers first.

    Args:
        parent: descriptor of the folder that holds it.
        prefix: of its name.
        clean: whether leftovers are removed, for which all names in `parent` are read.

    Raises:
        OSError: it cannot be made.
    """
    if clean:
        remove_leftovers(parent, prefix)
    with ExitStack() as stack:
        name = _make(parent, prefix, stack)
        yield name, stack.enter_context(_opened_any(name, within=parent))


@contextmanager
def temporary_folder(place: Path | None = None, prefix: str = TEMPORARY, *, clean: bool = True) -> Iterator[Path]:
    """Yield a new work folder by its path.

    Args:
        place: the folder that holds it. None: the system's folder for temporary files.
        prefix, clean: as in `work_folder`.

    Raises:
        OSError: it cannot be made.
    """
    place = place or Path(tempfile.gettempdir())
    with _opened_any(place) as parent, work_folder(parent, prefix, clean=clean) as (name, _):
        yield place / name


@cache
def process_folder() -> Path:
    """Return the temporary folder of this process, which is removed at its end.

    Raises:
        OSError: it cannot be made.
    """
    stack = ExitStack()
    folder = stack.enter_context(temporary_folder())
    atexit.register(stack.close)
    return folder


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """Keep a work folder of another process from being removed if that process is killed; the last one removes it.

    Raises:
        OSError: it is gone.
    """
    with opened(folder) as number, ExitStack() as stack:
        _lock(number, stack, share=True)
        yield
    with suppress(OSError, _BusyError), _opened_any(folder.parent) as parent:
        _remove_dead(folder.name, parent)


def is_name(name: str, prefix: str) -> bool:
    """Return whether a name is one of a work folder."""
    return re.fullmatch(rf"{re.escape(prefix)}[0-9a-f]{{{2 * NUMBER_BYTES}}}", name) is not None


def remove_leftovers_in(place: Path, prefix: str) -> None:
    """Remove the work folders of dead processes in a folder, if there are any."""
    with suppress(OSError), _opened_any(place) as parent:
        remove_leftovers(parent, prefix)


def remove_leftovers(parent: int, prefix: str) -> None:
    """Remove the work folders of dead processes in an open folder."""
    with suppress(OSError):
        for name in names_in(parent):
            with suppress(OSError, _BusyError):
                if is_name(name, prefix):
                    _remove_dead(name, parent)
                elif EARLIER.fullmatch(name) and prefix == WORK:
                    _remove_earlier(name, parent)


def _remove_dead(name: str, parent: int) -> None:
    with _opened_any(name, within=parent) as folder, ExitStack() as stack:
        if os.geteuid() == ROOT != os.fstat(folder).st_uid:  # only root could remove what is another user's
            return
        try:
            _lock(folder, stack, share=False)
        except FileNotFoundError:  # killed before it made the lock
            os.rmdir(name, dir_fd=parent)  # an error if the folder is not empty, and so not a work folder
            return
        _remove_all(name, parent)


def _remove_all(name: str, parent: int) -> None:
    """Remove a work folder, and its lock after all else: a kill leaves a folder that has a lock or is empty."""
    with suppress(OSError):
        os.rmdir(name, dir_fd=parent)  # an empty folder, also if no more files can be opened
        return
    with suppress(OSError), _opened_any(name, within=parent) as folder:
        for inner in names_in(folder):
            if inner != LOCK:
                shutil.rmtree(inner, ignore_errors=True, dir_fd=folder)  # nothing for a file or a link
                with suppress(OSError):
                    os.unlink(inner, dir_fd=folder)
        if names_in(folder) == [LOCK]:
            os.unlink(LOCK, dir_fd=folder)
        os.rmdir(name, dir_fd=parent)


def _remove_earlier(name: str, parent: int) -> None:
    """Remove what an earlier version left, which locked nothing, if it has not changed for a day."""
    if time.time() - _last_change(name, parent) > EARLIER_SECONDS:
        with suppress(NotADirectoryError):
            shutil.rmtree(name, dir_fd=parent)
            return
        os.unlink(name, dir_fd=parent)


def _last_change(name: str, parent: int) -> float:
    """Return the time of the last change of a file, or of a folder and its files."""
    changes = [os.stat(name, dir_fd=parent, follow_symlinks=False).st_mtime]
    for _, folders, files, number in os.fwalk(name, dir_fd=parent):
        changes += [os.stat(one, dir_fd=number, follow_symlinks=False).st_mtime for one in (*folders, *files)]
    return max(changes)


def _remove(name: str, parent: int, process: int) -> None:
    if os.getpid() == process:  # not a fork, which ends its copy of everything
        _remove_all(name, parent)


def _make(parent: int, prefix: str, stack: ExitStack) -> str:
    """Make and lock a folder with a random name until the stack is closed, which removes it; return the name."""
    while True:
        name = prefix + secrets.token_hex(NUMBER_BYTES)
        os.mkdir(name, FOLDER_MODE, dir_fd=parent)
        with ExitStack() as attempt:
            lock = attempt.enter_context(ExitStack())  # is closed after the removal
            attempt.callback(_remove, name, parent, os.getpid())
            with suppress(FileNotFoundError, _BusyError), _opened_any(name, within=parent) as folder:
                _lock(folder, lock, share=True, create=True)  # until then it is a leftover to other processes
                stack.enter_context(attempt.pop_all())
                return name


@contextmanager
def _opened_any(path: str | Path, *, within: int | None = None) -> Iterator[int]:
    """Yield a descriptor of a folder; `within` as in `opened`.

    Its owner and mode are not checked: a file system without them, such as vfat, reports any for a folder just made.
    """
    number = os.open(path, os.O_RDONLY | (0 if within is None else os.O_NOFOLLOW), dir_fd=within)
    try:
        yield number
    finally:
        os.close(number)


def _lock(folder: int, stack: ExitStack, *, share: bool, create: bool = False) -> None:
    """Lock a work folder until the stack is closed.

    Args:
        folder: descriptor of it.
        stack: closes the lock.
        share: with the other processes that use it; False: alone, to remove it.
        create: the lock if it is missing.

    Raises:
        _BusyError: another process locks it, or has removed it.
        FileNotFoundError: it has no lock.
        OSError: it cannot be locked here.
    """
    number = os.open(LOCK, os.O_RDWR | os.O_NOFOLLOW | (os.O_CREAT if create else 0), FILE_MODE, dir_fd=folder)
    stack.callback(os.close, number)
    try:
        fcntl.flock(number, (fcntl.LOCK_SH if share else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        raise _BusyError from None
    except OSError as error:  # a file system without such locks
        if share:
            return
        raise OSError("it cannot be locked") from error
    if os.stat(LOCK, dir_fd=folder, follow_symlinks=False).st_ino != os.fstat(number).st_ino:
        raise _BusyError
