"""Folders and files that only this user, or root, can change.

A cache holds code and numbers, so a folder that another user can write to is not used. An owner cannot be forged:
whatever somebody puts in place of a folder belongs to him. Therefore each folder is opened, its owner and mode are
read from the descriptor, and its files are opened relative to this descriptor and checked in turn.
"""

from __future__ import annotations

import errno
import grp
import logging
import os
import pwd
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from io import BufferedReader
from pathlib import Path
from typing import IO

logger = logging.getLogger(__name__)
ROOT = 0  # the user who can change everything anyway
FOLDER_MODE, FILE_MODE = 0o700, 0o600
NO_LINK, NO_WAIT, ONLY_FOLDER = os.O_NOFOLLOW, os.O_NONBLOCK, os.O_DIRECTORY
VARIABLE = "HYPERFOCAL_CACHE"
NO_HOME = "/dev/null"  # the HOME of a user who has none: not even root can make a folder in it
_warned: set[Path] = set()  # folders whose reason has been logged
ACL = "system.posix_acl_access"


class NotPrivateError(PermissionError):
    """Another user can change a file or a folder."""


def check_private(number: int, what: str = "it") -> None:
    """Raise NotPrivateError if another user owns an open file or folder, or can write to it.

    A group that has no other member is as private as its user: many systems give each user one, and umask 002.
    """
    state = os.fstat(number)
    _check_owner(state, what)
    if state.st_mode & stat.S_IWOTH or (state.st_mode & stat.S_IWGRP and not _has_own_group(number, state)):
        mode = stat.S_IMODE(state.st_mode)
        raise NotPrivateError(f"other users can write to {what}, mode {mode:04o}; `chmod go-w` changes that")


def _check_owner(state: os.stat_result, what: str) -> None:
    if state.st_uid not in (ROOT, os.geteuid()):
        raise NotPrivateError(f"{what} belongs to another user, uid {state.st_uid}")


def _has_own_group(number: int, state: os.stat_result) -> bool:
    with suppress(OSError, AttributeError):  # macOS has no getxattr
        os.getxattr(number, ACL)
        return False  # the mode of the group stands for users in a list
    return _is_alone(state.st_gid, os.geteuid())


@cache
def _is_alone(group: int, user: int) -> bool:
    """Return whether a group has the name of the user, is his first one, and has no other member."""
    try:
        own, entry = pwd.getpwuid(user), grp.getgrgid(group)
        others = {one.pw_name for one in pwd.getpwall() if one.pw_gid == group} | set(entry.gr_mem)
    except KeyError:
        return False
    return own.pw_gid == group and entry.gr_name == own.pw_name and others <= {own.pw_name}


@contextmanager
def opened(path: str | Path, *, within: int | None = None) -> Iterator[int]:
    """Yield a descriptor of a private folder.

    Args:
        path: of the folder.
        within: descriptor of the folder that `path` is relative to; `path` is then no link. None: none.

    Raises:
        NotPrivateError: another user can change it.
        OSError: it cannot be opened.
    """
    number = os.open(path, os.O_RDONLY | ONLY_FOLDER | (0 if within is None else NO_LINK), dir_fd=within)
    try:
        check_private(number)
        yield number
    finally:
        os.close(number)


def check_usable(path: Path, *, below_own: bool = False) -> None:
    """Raise the error of `cache_folder` if the folder cannot be opened or surely cannot be made; make nothing."""
    _check_links(path.absolute())
    if path.exists():
        with opened(path):
            return
    place = next(folder for folder in path.absolute().parents if folder.is_dir())
    if below_own:
        _check_owner(place.stat(), f"the folder {place}")
    if not os.access(place, os.W_OK | os.X_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(place))


@contextmanager
def cache_folder(path: Path, *, below_own: bool = False) -> Iterator[int]:
    """Yield a descriptor of a private folder, which is made if it is missing.

    Args:
        path: of the folder. Links on the way count if this user or root made them.
        below_own: refuse to make it in the folder of another user, as root does under sudo with HOME unchanged.

    Raises:
        NotPrivateError: another user can change it, or set a link on the way.
        OSError: it cannot be opened or made.
    """
    _check_links(path.absolute())
    if not path.is_dir():
        if below_own:
            place = next(folder for folder in path.absolute().parents if folder.is_dir())
            _check_owner(place.stat(), f"the folder {place}")
        for part in (*reversed(path.parents), path):
            with suppress(FileExistsError):  # also a file, which is refused below
                part.mkdir(FOLDER_MODE)
    with opened(path) as number:
        yield number


def _check_links(path: Path) -> None:
    with suppress(FileNotFoundError):
        path.stat()  # raises an OSError for links in a circle
    for part in (path, *path.parents):
        if part.is_symlink():
            _check_owner(part.lstat(), f"the link {part}")
            _check_links(part.parent / part.readlink())


def path_of(number: int, path: Path) -> Path:
    """Return a path of an open file or folder that stays valid if it, or a folder above it, is renamed or replaced.

    Args:
        number: descriptor of it; the path is valid until this is closed.
        path: what it was opened as; returned if the system has no such path, or hides it, as from a user who was root.
    """
    own = f"/proc/self/fd/{number}"
    return Path(own) if os.path.exists(own) else path  # noqa: PTH110 - Path.exists() raises for what may not be seen


def names_in(folder: int) -> list[str]:
    """Return the names in an open folder."""
    with os.scandir(folder) as entries:
        return [entry.name for entry in entries]


def open_file(name: str, folder: int) -> BufferedReader:
    """Open a private file of an open folder for reading.

    Raises:
        NotPrivateError: another user can change it; it is a link, a pipe or a device.
        OSError: it cannot be opened.
    """
    try:
        number = os.open(name, os.O_RDONLY | NO_WAIT | NO_LINK, dir_fd=folder)
    except OSError as error:
        raise (NotPrivateError(f"{name} is a link") if error.errno == errno.ELOOP else error) from None
    try:
        if not stat.S_ISREG(os.fstat(number).st_mode):
            raise NotPrivateError(f"{name} is not a file")
        check_private(number, name)
        return os.fdopen(number, "rb")
    except BaseException:
        os.close(number)
        raise


def create_file(name: str, folder: int) -> IO[bytes]:
    """Create a private file in an open folder and open it for writing.

    Raises:
        FileExistsError: the name is taken, maybe by a link.
        OSError: it cannot be created.
    """
    number = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | NO_LINK, FILE_MODE, dir_fd=folder)
    return os.fdopen(number, "wb")


def warn_unused(folder: Path, error: OSError) -> None:
    """Log why a cache is not used, once for each folder."""
    if folder in _warned:
        return
    _warned.add(folder)
    reason = str(error) if isinstance(error, NotPrivateError) else f"{error.strerror or error}"
    logger.warning(
        "cache %s: is not used (%s). Mend that, or name another folder with the variable %s", folder, reason, VARIABLE
    )
