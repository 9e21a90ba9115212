"""The SQLite file of a store: created whole or not at all, used in short transactions, renamed if it is damaged."""

# SQLite's rollback journal, not its write-ahead log: the log needs memory that all processes share, which a network
# folder cannot give, and keeps results in a second file that is lost if only the first one is copied. A grid writes
# once in some seconds, so the log would save nothing. Every call opens the file for one transaction and closes it: no
# connection survives a fork, and a process that is stopped holds no lock.

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

from hyperfocal.errors import RunError
from hyperfocal.storage.whole import aside_folder

BUSY_SECONDS = 60  # to wait for other processes that write
SMALLEST = 512  # bytes of a SQLite file


class Database:
    """A file that several processes may use at once, and any of them may be killed at any time."""

    def __init__(self, path: Path, *, read_only: bool = False) -> None:
        self.path = path
        self.read_only = read_only  # nothing in the folder changes, not even if the file is damaged

    def create(self, schema: str, meta: dict[str, str]) -> None:
        """Create the file under another name and link it into place: it is never seen incomplete, nor created twice.

        Raises:
            RunError: it cannot be written.
        """
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            if self._journal.exists() and not self.path.exists():  # of a removed file: it would spoil the new one
                with suppress(FileNotFoundError):  # another process was faster
                    self._journal.rename(self._free_name())
            with aside_folder(self.path.parent) as folder:
                aside = folder / self.path.name
                with closing(sqlite3.connect(aside)) as db:
                    db.executescript(f"PRAGMA synchronous = EXTRA; BEGIN; {schema}")
                    db.executemany("INSERT INTO meta VALUES (?, ?)", meta.items())
                    db.commit()
                _place(aside, self.path)
        except (OSError, sqlite3.Error) as error:
            raise RunError(f"cannot write {self.path}: {error}. Free some space or choose another folder") from error

    def refuse_damaged(self) -> None:
        """Raise RunError if the file is no complete database; it is then renamed, unless it is open read-only."""
        if self.path.is_file() and self.path.stat().st_size < SMALLEST:  # SQLite would treat it as new
            raise self.aside(f"it has {self.path.stat().st_size} bytes")
        with self.transaction() as db:
            [(problem,)] = db.execute("PRAGMA integrity_check(1)")
        if problem != "ok":
            raise self.aside(problem)

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """Give a connection whose changes are committed in the end, or rolled back on an error.

        Raises:
            RunError: the file cannot be used; or it is damaged, and renamed unless it is open read-only.
        """
        address = f"{self.path.absolute().as_uri()}?mode={'ro' if self.read_only else 'rw'}"  # never creates a file
        try:
            with closing(sqlite3.connect(address, uri=True, timeout=BUSY_SECONDS, isolation_level=None)) as db:
                db.execute("PRAGMA synchronous = EXTRA")  # like FULL, and flushes the folder after each commit too
                db.execute("BEGIN" if self.read_only else "BEGIN IMMEDIATE")
                with db:
                    yield db
        except sqlite3.DatabaseError as error:
            raise self._refusal(error) from error

    def _refusal(self, error: sqlite3.DatabaseError) -> RunError:
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF
        if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB) or "decode" in str(error):
            return self.aside(str(error))
        if self.read_only and code == sqlite3.SQLITE_READONLY:
            return RunError(
                f"grid {self.path}: a process died while it wrote. Repair the file by running the command of the grid"
            )
        return RunError(
            f"grid {self.path}: cannot be used: {error}. Make sure that the file is writable, that there is space and "
            "that no program locks it, then run again: finished points are stored"
        )

    def aside(self, why: str) -> RunError:
        """Rename the damaged file, and its journal, which would spoil the next file; return the error to raise.

        A file that is open read-only is not renamed.
        """
        if self.read_only:
            return RunError(
                f"grid {self.path}: the store is damaged ({why}). Restore it from a copy, or run the grid again, which "
                "puts it aside"
            )
        renamed = self._free_name()
        try:
            self.path.rename(renamed)
            if self._journal.exists():
                self._journal.rename(renamed.with_name(f"{renamed.name}-journal"))
        except OSError as error:
            return RunError(f"grid {self.path}: the store is damaged ({why}), and cannot be renamed: {error}")
        return RunError(
            f"grid {self.path}: the store is damaged ({why}). It is kept as {renamed}: restore a copy of it as "
            f"{self.path.name}, or run again to start over"
        )

    @property
    def _journal(self) -> Path:
        return self.path.with_name(f"{self.path.name}-journal")

    def _free_name(self) -> Path:
        number = 1
        while (path := self.path.with_name(f"{self.path.name}.damaged-{number}")).exists():
            number += 1
        return path


def _place(aside: Path, path: Path) -> None:
    """Give a file its final name, unless another process was faster."""
    try:
        os.link(aside, path)
    except FileExistsError:
        return
    except OSError:  # a file system without hard links
        if not path.exists():
            aside.rename(path)
