"""Replace a folder by another one in a single step, so that a kill leaves the old or the new one and never neither.

Linux exchanges two names by renameat2(2) and macOS by renamex_np(2), on all usual local file systems. Others, such as
NFS, only rename: there the old folder is called .NAME.replaced for a moment, and `restore` renames it back if a process
was killed in that moment. Readers and writers of a run call `restore` first.
"""

from __future__ import annotations

import ctypes
import errno
import os
import shutil
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from uuid import uuid4

from hyperfocal.errors import RunError
from hyperfocal.storage.lock import LOCK, FolderLock
from hyperfocal.storage.whole import ASIDE, aside_folder, finish, flush, is_own_folder

HERE = -100  # AT_FDCWD: paths are relative to the working directory
EXCHANGE = 2  # RENAME_EXCHANGE of Linux and RENAME_SWAP of macOS
UNSUPPORTED = (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP)
MOMENT_SECONDS = 1.0  # that a living process may need between two renames


def whole_folder(
    path: Path, write: Callable[[Path], None], lock: FolderLock, belongs: Callable[[str], bool] = lambda name: True
) -> None:
    """Replace the folder `path`, or make it, once `write` has written everything to a temporary folder.

    Args:
        path: the folder, without links.
        write: gets an empty folder next to `path`.
        lock: of `path`.
        belongs: whether a name in `path` is part of what is replaced. All others stay in the folder.

    Raises:
        OSError: it cannot be written or exchanged, or the working folder is inside; `path` is unchanged.
    """
    if (closed := _closed_folder(path)) is not None:
        number = _why_closed(closed)
        raise OSError(number, os.strerror(number), str(closed))
    if _is_working_folder(path):
        raise OSError(errno.EBUSY, "it is the working folder")
    remove_replaced(path)
    with aside_folder(path.parent) as aside:
        fresh = aside / path.name
        fresh.mkdir()
        _write(write, fresh, path)
        finish(fresh, like=path)
        _link_others(path, fresh, belongs)
        fresh.chmod(path.stat().st_mode)
        lock.extend_to(fresh)
        put_in_place(fresh, path)
        if fresh.exists():
            _link_others(fresh, path, belongs)  # files that were written during the exchange
    with suppress(OSError):  # the new folder is in place: that a power failure might undo this is no reason to fail
        flush(path.parent)


def _is_working_folder(path: Path) -> bool:
    """Return whether this process, and so the shell that started it, works in a folder or below it."""
    with suppress(OSError):
        return Path.cwd().is_relative_to(path)
    return False


def why_fixed(path: Path) -> str:
    """Return why a folder cannot be replaced in one step, or ""."""
    if _is_working_folder(path):
        return "it is the working folder"
    if path.is_mount():
        return "it is a mount point"
    closed = _closed_folder(path) or (None if os.access(path.parent, os.W_OK) else path.parent)
    return "" if closed is None else f"{closed}: {os.strerror(_why_closed(closed))}"


def _why_closed(folder: Path) -> int:
    return errno.EROFS if os.statvfs(folder).f_flag & os.ST_RDONLY else errno.EACCES


def _closed_folder(path: Path) -> Path | None:
    """Return a folder below `path`, or itself, that this user may not read and change; None: there is none."""
    for folder, _, _ in os.walk(path):
        if not os.access(folder, os.R_OK | os.W_OK | os.X_OK):
            return Path(folder)
    return None


def _write(write: Callable[[Path], None], fresh: Path, path: Path) -> None:
    """Let `write` write, and name the folder that the user knows in its error."""
    try:
        write(fresh)
    except RunError as error:
        raise RunError(str(error).replace(str(fresh), str(path))) from error.__cause__


def _link_others(source: Path, target: Path, belongs: Callable[[str], bool] = lambda name: False) -> None:
    """Give the files in `source` that are not replaced a second name in `target`, unless it has newer ones."""
    for entry in source.iterdir():
        if entry.name == LOCK or entry.name.startswith(ASIDE) or belongs(entry.name):
            continue
        other = target / entry.name
        if entry.is_dir() and not entry.is_symlink():
            if not other.exists():
                other.mkdir()
                shutil.copystat(entry, other)
            _link_others(entry, other)
        elif not os.path.lexists(other):
            _link(entry, other)
        elif _is_newer(entry, other):
            aside = target / f".{uuid4().hex}"
            _link(entry, aside)
            aside.replace(other)


def _is_newer(first: Path, second: Path) -> bool:
    one, other = first.lstat(), second.lstat()
    return not os.path.samestat(one, other) and one.st_mtime_ns > other.st_mtime_ns


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target, follow_symlinks=False)
    except OSError:  # a file system without hard links
        shutil.copy2(source, target, follow_symlinks=False)


def put_in_place(fresh: Path, path: Path) -> None:
    """Exchange two folders, or rename one after the other; OSError if that fails, and `path` is then unchanged."""
    try:
        exchange(fresh, path)
    except NotImplementedError:
        replaced = _replaced(path)
        shutil.rmtree(replaced, ignore_errors=True)
        path.rename(replaced)
        try:
            fresh.rename(path)
        except BaseException:
            replaced.rename(path)
            raise
        shutil.rmtree(replaced, ignore_errors=True)


def exchange(first: Path, second: Path) -> None:
    """Exchange the names of two folders in one step.

    Raises:
        NotImplementedError: the system or the file system cannot.
        OSError: a folder is missing, a mount point, or not writable.
    """
    name, here = ("renamex_np", ()) if sys.platform == "darwin" else ("renameat2", (HERE,))
    rename = getattr(ctypes.CDLL(None, use_errno=True), name, None)
    if rename is None:
        raise NotImplementedError(name)
    if rename(*here, os.fsencode(first), *here, os.fsencode(second), EXCHANGE) == 0:
        return
    number = ctypes.get_errno()
    if number in UNSUPPORTED:
        raise NotImplementedError(f"{name}: {os.strerror(number)}")
    raise OSError(number, os.strerror(number), str(second))


def _replaced(path: Path) -> Path:
    return path.with_name(f".{path.name}.replaced")


def restore(path: Path) -> None:
    """Rename a folder back that a killed process had renamed; a living process gets a moment to end its two renames."""
    replaced = _replaced(path)
    deadline = time.monotonic() + MOMENT_SECONDS
    while not path.exists() and is_own_folder(replaced):
        if time.monotonic() > deadline:
            with suppress(OSError):
                replaced.rename(path)
            return
        time.sleep(0.01)


def remove_replaced(path: Path) -> None:
    """Remove what a process left that was killed while it removed what it had replaced; call it inside the lock."""
    if path.exists() and is_own_folder(_replaced(path)):
        shutil.rmtree(_replaced(path), ignore_errors=True)


def discard(folder: Path) -> None:
    """Remove a folder; it is gone for others in one step.

    Raises:
        OSError: it cannot be renamed.
    """
    with aside_folder(folder.parent) as aside:
        folder.rename(aside / folder.name)
