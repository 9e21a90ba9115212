"""Write files and folders that appear whole or not at all.

Everything is written inside a private temporary folder next to its target, flushed and then renamed. So no name can be
guessed or planted, and whatever a writer leaves when it is killed is in that folder. The process holds a lock on its
temporary folder; the next writer removes every one without a lock.
"""

from __future__ import annotations

import os
import stat
from collections import Counter
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from pathlib import Path
from uuid import uuid4

from safetensors import SafetensorError

from hyperfocal.errors import RunError
from hyperfocal.private.work import is_name, remove_leftovers_in, temporary_folder

ASIDE = ".hyperfocal-"  # begins the name of each temporary folder
_made: Counter[Path] = Counter()  # the temporary folders that this process made in a folder


def aside_folder(parent: Path) -> AbstractContextManager[Path]:
    """Return the context of an empty private folder in `parent`.

    Those of killed processes are removed before the 1st, 2nd, 4th, 8th, ... one that this process makes there: to list
    a folder before each of N files would read N**2 names.

    Raises:
        OSError: it cannot be made.
    """
    _made[parent] += 1
    return temporary_folder(parent, ASIDE, clean=_made[parent].bit_count() == 1)


def remove_aside(parent: Path) -> None:
    """Remove the temporary folders of killed processes in `parent`."""
    remove_leftovers_in(parent, ASIDE)


def is_aside(name: str) -> bool:
    """Return whether a name is one of a temporary folder."""
    return is_name(name, ASIDE)


def is_own_folder(path: Path) -> bool:
    """Return whether a path is a folder of this user, and no link; another user may have made one of any other kind."""
    with suppress(OSError):
        state = path.lstat()
        return stat.S_ISDIR(state.st_mode) and state.st_uid == os.geteuid()
    return False


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path to write to; at the end flush it and rename it to `path`, or remove it after an error.

    A link is followed, and a file that is replaced keeps its mode. A new file gets the mode that the umask allows.

    Raises:
        RunError: it cannot be written. A file that was at `path` before is still there.
    """
    try:
        target = Path(os.path.realpath(path))
        target.parent.mkdir(parents=True, exist_ok=True)
        with aside_folder(target.parent) as folder:
            aside = folder / target.name  # the end of the name gives the format
            yield aside
            flush(aside)
            aside.chmod(_mode_for(target, folder))
            aside.replace(target)
        flush(target.parent)
    except (OSError, SafetensorError) as error:
        raise RunError(f"cannot write {path}: {_reason(error)}. Free some space or choose another folder") from error


def _reason(error: Exception) -> str:
    """Return the error without the name of a temporary file, which says nothing to a user."""
    return f"[Errno {error.errno}] {error.strerror}" if isinstance(error, OSError) and error.errno else str(error)


def _mode_for(target: Path, folder: Path) -> int:
    """Return the mode of a file that is replaced, or of a new one."""
    with suppress(FileNotFoundError):
        return stat.S_IMODE(target.stat().st_mode)
    return new_mode(folder)


def new_mode(folder: Path) -> int:
    """Return the mode that a new file in `folder` gets; some libraries make theirs private."""
    probe = folder / f".{uuid4().hex}"
    number = os.open(probe, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)
    try:
        return stat.S_IMODE(os.fstat(number).st_mode)
    finally:
        os.close(number)
        probe.unlink()


def finish(folder: Path, like: Path | None = None) -> None:
    """Flush a folder with all that is in it, and set the modes of its files, which some libraries make private.

    Args:
        folder: the folder.
        like: a folder that it replaces, whose files of the same names have the modes. None: those of new files.
    """
    mode = new_mode(folder)
    for path in folder.rglob("*"):
        if path.is_file() and not path.is_symlink():
            before = None if like is None else like / path.relative_to(folder)
            path.chmod(stat.S_IMODE(before.stat().st_mode) if before is not None and before.is_file() else mode)
            flush(path)
        elif path.is_dir():
            flush(path)
    flush(folder)


def flush(path: Path) -> None:
    """Make the content of a file durable, or the names in a folder, on file systems that can flush a folder.

    Raises:
        OSError: a file cannot be flushed.
    """
    number = os.open(path, os.O_RDONLY)
    try:
        with suppress(OSError) if stat.S_ISDIR(os.fstat(number).st_mode) else nullcontext():
            os.fsync(number)
    finally:
        os.close(number)
