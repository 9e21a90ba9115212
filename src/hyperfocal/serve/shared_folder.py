"""A folder that the processes of one service share, removed by the last of them, however the others ended.

Each process holds a shared lock on a file inside, which the system releases when it dies. A process that gets the
exclusive lock is alone, and may remove the folder: the last one of the service, or the next service.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import IO

try:
    import fcntl
except ImportError:  # Windows: the first process removes the folder
    fcntl = None  # type: ignore[assignment]

PREFIX = "hyperfocal-serve-"
LOCK = "lock"


class Hold:
    """This process's share of a folder, for as long as the object lives."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._file = _locked(folder / LOCK) if fcntl else None

    def release(self) -> None:
        """Give up the share, and remove the folder if nobody else has one."""
        if self._file is None or _is_alone(self._file):
            shutil.rmtree(self.folder, ignore_errors=True)
        if self._file is not None:
            self._file.close()


def create() -> Hold:
    """Create a private folder with a random name, and remove those that killed services have left."""
    place = Path(tempfile.gettempdir())
    _remove_abandoned(place)
    while True:
        folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir=place))  # mode 0700
        with suppress(FileNotFoundError):  # another service took it for abandoned before this one had its share
            (folder / LOCK).touch(mode=0o600)
            hold = Hold(folder)
            if (folder / LOCK).exists():
                return hold


def _remove_abandoned(place: Path) -> None:
    """Remove the folders of this user in which no process has a share."""
    for folder in place.glob(f"{PREFIX}*") if fcntl else ():
        with suppress(OSError):
            if folder.is_symlink() or folder.stat().st_uid != os.getuid():
                continue
            with (folder / LOCK).open("rb+") as file:
                if _is_alone(file):
                    shutil.rmtree(folder, ignore_errors=True)


def _locked(path: Path) -> IO[bytes]:
    file = path.open("rb+")
    fcntl.flock(file, fcntl.LOCK_SH)
    return file


def _is_alone(file: IO[bytes]) -> bool:
    """Return whether no other process holds the lock, and take it alone if so."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True
