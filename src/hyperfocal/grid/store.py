"""The results of a grid in one file: each written the moment its point ends, each point run once.

    meta     format, the data's fingerprint and description, the base settings
    claims   a point that a process is at
    results  a point that ended, done or failed

Several processes may use the file at once, and any may be killed at any time.
"""

# SQLite's rollback journal, not its write-ahead log: the log needs memory that all processes share, which a network
# folder cannot give, and keeps results in a second file that is lost when only the first is copied. A grid writes once
# in seconds, so nothing is gained by the log. Every call opens the file for one transaction and closes it: no
# connection is carried over a fork, and a process that is stopped holds no lock.

from __future__ import annotations

import hashlib
import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from socket import gethostname
from typing import Any

import msgspec
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from hyperfocal.config.classify import ClassifySettings
from hyperfocal.config.recipes import differences
from hyperfocal.errors import RunError
from hyperfocal.grid.points import NOT_IN_KEY, Point, flatten
from hyperfocal.metrics.verdict import Outcome

FORMAT = "hyperfocal grid 1"
BUSY_SECONDS = 60  # how long to wait for other processes that write
SMALLEST = 512  # bytes of any SQLite file
CLAIM_SECONDS = 6 * 3600  # a claim of a process that cannot be looked at counts as left behind after this
SCHEMA = """
CREATE TABLE meta (name TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE claims (
    key TEXT PRIMARY KEY, host TEXT NOT NULL, pid INTEGER NOT NULL, birth TEXT NOT NULL, started REAL NOT NULL
);
CREATE TABLE results (
    key TEXT PRIMARY KEY, name TEXT NOT NULL, seed INTEGER NOT NULL, settings TEXT NOT NULL,
    status TEXT NOT NULL CHECK (status IN ('done', 'failed')), error TEXT NOT NULL,
    numbers TEXT NOT NULL, resamples BLOB NOT NULL,
    seconds REAL NOT NULL, started TEXT NOT NULL, finished TEXT NOT NULL, checksum TEXT NOT NULL
);
"""
COLUMNS = "key, name, seed, settings, status, error, numbers, resamples, seconds, started, finished"


@dataclass(frozen=True, eq=False)
class Result:
    """A point that ended.

    Attributes:
        key: `point.key(fingerprint)`.
        name: the point's.
        seed: the point's.
        settings: the point's.
        error: why it failed, or "" where it is done.
        values: metric -> number; empty where it failed.
        resamples: metric -> (R,) tensor; empty where it failed.
        seconds: that it took.
        started: UTC, ISO 8601.
        finished: likewise.
    """

    key: str
    name: str
    seed: int
    settings: ClassifySettings
    error: str
    values: dict[str, float]
    resamples: dict[str, Tensor]
    seconds: float
    started: str
    finished: str

    @property
    def done(self) -> bool:
        """Whether it ended without an error."""
        return not self.error


class Store:
    """The file of one grid: one set of documents, one set of base settings."""

    def __init__(self, path: Path, fingerprint: str) -> None:
        self.path = path
        self.fingerprint = fingerprint

    @classmethod
    def open(
        cls, path: str | Path, *, fingerprint: str, settings: ClassifySettings, about: dict[str, Any] | None = None
    ) -> Store:
        """Return the store of a grid; where no file is, make one.

        Args:
            path: of the file.
            fingerprint: checksum of the data, as in `Point.key`.
            settings: the base settings of the grid.
            about: what else is known of the data, as {"documents": 900}: shown when it is other data.

        Raises:
            RunError: a store of other data or other settings, left as it is; a damaged store, renamed to
                NAME.damaged-1 and so on; not readable or not writable.
        """
        store = cls(Path(path), fingerprint)
        known = {"format": FORMAT, "fingerprint": fingerprint, "about": _text(about or {}), "settings": _text(settings)}
        if not store.path.exists():
            store._create(known)
        if store.path.is_file() and store.path.stat().st_size < SMALLEST:  # SQLite would take it for a new one
            raise store._aside(f"it has {store.path.stat().st_size} bytes")
        store._check(known)
        return store

    def done(self) -> set[str]:
        """Return the keys of the points that ended without an error."""
        with self._transaction() as db:
            return {key for (key,) in db.execute("SELECT key FROM results WHERE status = 'done'")}

    def failed(self) -> dict[str, str]:
        """Return key -> error of the points that failed."""
        with self._transaction() as db:
            return dict(db.execute("SELECT key, error FROM results WHERE status = 'failed'").fetchall())

    def results(self) -> list[Result]:
        """Return all points that ended, in the order in which they did.

        Raises:
            RunError: a row that is not what was written; the file is then renamed as in `open`.
        """
        with self._transaction() as db:
            rows = db.execute(f"SELECT {COLUMNS}, checksum FROM results ORDER BY finished, rowid").fetchall()
        try:
            return [_result(row) for row in rows]
        except (ValueError, SafetensorError) as error:
            raise self._aside(str(error)) from None

    def claim(self, point: Point, *, retry: bool = False) -> bool:
        """Return whether this process shall run the point; if so, no other is told so.

        It shall not where the point is done, where it failed (unless `retry`), and where a process is at it. A
        claim is void once its process is gone; of a process on another machine, six hours after it began.
        """
        key, now = point.key(self.fingerprint), datetime.now(UTC).timestamp()
        with self._transaction() as db:
            ended = db.execute("SELECT status FROM results WHERE key = ?", (key,)).fetchone()
            held = db.execute("SELECT host, pid, birth, started FROM claims WHERE key = ?", (key,)).fetchone()
            if (ended and not (retry and ended[0] == "failed")) or (held and _holds(held, now)):
                return False
            mine = (key, gethostname(), os.getpid(), _birth(os.getpid()) or "", now)
            db.execute("INSERT OR REPLACE INTO claims VALUES (?, ?, ?, ?, ?)", mine)
            return True

    def release(self, point: Point) -> None:
        """Give a claimed point back unfinished, as after Ctrl-C."""
        with self._transaction() as db:
            db.execute("DELETE FROM claims WHERE key = ?", (point.key(self.fingerprint),))

    def put(self, point: Point, values: dict[str, float], resamples: dict[str, Tensor], *, seconds: float) -> None:
        """Keep what a point reached; on return it is on the disk. A point that is done already stays as it is.

        Raises:
            RunError: it cannot be written.
        """
        plain = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in resamples.items()}
        self._end(
            point, "done", "", _text({name: float(value) for name, value in values.items()}), save(plain), seconds
        )

    def fail(self, point: Point, error: str, *, seconds: float = 0.0) -> None:
        """Keep why a point failed; errors as in `put`."""
        written = error.encode("utf-8", "backslashreplace").decode()  # names of files may hold what is no UTF-8
        self._end(point, "failed", written or "unknown error", "{}", save({}), seconds)

    def _end(self, point: Point, status: str, error: str, numbers: str, resamples: bytes, seconds: float) -> None:
        seconds = float(seconds)  # as SQLite gives it back, for the checksum
        finished = datetime.now(UTC)
        started = datetime.fromtimestamp(finished.timestamp() - seconds, UTC)
        key, times = point.key(self.fingerprint), (started.isoformat(), finished.isoformat())
        row = (key, point.name, point.seed, _text(point.settings), status, error, numbers, resamples, seconds, *times)
        with self._transaction() as db:
            db.execute("DELETE FROM claims WHERE key = ?", (key,))
            db.execute("DELETE FROM results WHERE key = ? AND status = 'failed'", (key,))
            marks = ", ".join("?" * (len(row) + 1))
            db.execute(f"INSERT OR IGNORE INTO results VALUES ({marks})", (*row, _checksum(row)))

    def _create(self, known: dict[str, str]) -> None:
        """Make the file aside and link it into place, so that it is never seen half made, nor made twice."""
        aside = self.path.with_name(f".{os.getpid()}.{self.path.name}")
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            aside.unlink(missing_ok=True)
            if self._journal.exists() and not self.path.exists():  # its file was removed: it would spoil the new one
                with suppress(FileNotFoundError):  # another process was faster
                    self._journal.rename(self._free_name())
            with closing(sqlite3.connect(aside)) as db:
                db.executescript(f"PRAGMA synchronous = EXTRA; BEGIN; {SCHEMA}")
                content = known | {"checksum": _checksum(tuple(sorted(known.items())))}
                db.executemany("INSERT INTO meta VALUES (?, ?)", content.items())
                db.commit()
            _place(aside, self.path)
        except (OSError, sqlite3.Error) as error:
            raise RunError(f"cannot write {self.path}: {error}. Free some space or choose another folder") from error
        finally:
            with suppress(OSError):
                aside.unlink(missing_ok=True)

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        address = f"{self.path.absolute().as_uri()}?mode=rw"  # never makes a file
        try:
            with closing(sqlite3.connect(address, uri=True, timeout=BUSY_SECONDS, isolation_level=None)) as db:
                db.execute("PRAGMA synchronous = EXTRA")  # FULL, and the folder is flushed after each commit too
                db.execute("BEGIN IMMEDIATE")
                with db:
                    yield db
        except sqlite3.DatabaseError as error:
            raise self._refusal(error) from error

    def _refusal(self, error: sqlite3.DatabaseError) -> RunError:
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF
        if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB) or "decode" in str(error):
            return self._aside(str(error))
        return RunError(
            f"grid {self.path}: cannot be used: {error}. See that it is a file that may be written, that there is "
            "space and that no program holds it, then run again: what has ended is kept"
        )

    def _aside(self, why: str) -> RunError:
        """Rename the damaged file, with its journal if it has one: left behind, that would spoil the next file."""
        kept = self._free_name()
        try:
            self.path.rename(kept)
            if self._journal.exists():
                self._journal.rename(kept.with_name(f"{kept.name}-journal"))
        except OSError as error:
            return RunError(f"grid {self.path}: the store is damaged ({why}), and cannot be renamed: {error}")
        return RunError(
            f"grid {self.path}: the store is damaged ({why}). It is kept as {kept}. Put a copy of it back as "
            f"{self.path.name}, or run again to begin anew"
        )

    @property
    def _journal(self) -> Path:
        return self.path.with_name(f"{self.path.name}-journal")

    def _free_name(self) -> Path:
        number = 1
        while (kept := self.path.with_name(f"{self.path.name}.damaged-{number}")).exists():
            number += 1
        return kept

    def _check(self, known: dict[str, str]) -> None:
        with self._transaction() as db:
            found = [line for (line,) in db.execute("PRAGMA integrity_check(1)")]
            tables = {name for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
            meta = dict(db.execute("SELECT name, value FROM meta").fetchall()) if "meta" in tables else {}
        if found != ["ok"]:
            raise self._aside(found[0])
        if meta.get("format") != FORMAT or not known.keys() <= meta.keys() or not {"claims", "results"} <= tables:
            what = meta.get("format", "another program")
            raise RunError(
                f"grid {self.path}: it is of {what}, not of {FORMAT}. It is left as it is: choose another --out"
            )
        if meta.pop("checksum", "") != _checksum(tuple(sorted(meta.items()))):
            raise self._aside("its description is not what was written")
        self._refuse_other(meta, known)
        self.results()  # every row is read, so that damage is found before hours of work

    def _refuse_other(self, meta: dict[str, str], known: dict[str, str]) -> None:
        lines = _settings_lines(meta["settings"], known["settings"])
        if meta["fingerprint"] != known["fingerprint"]:
            old, new = (msgspec.json.decode(each["about"]) for each in (meta, known))
            lines += [f"{key}: {old.get(key)} -> {new.get(key)}" for key in old | new if old.get(key) != new.get(key)]
            lines += [f"fingerprint of the data: {meta['fingerprint'][:12]} -> {known['fingerprint'][:12]}"]
        if lines:
            what = "data" if meta["fingerprint"] != known["fingerprint"] else "settings"
            raise RunError(
                f"grid {self.path}: holds a grid of other {what} (there -> now):\n  " + "\n  ".join(lines) + "\n"
                "Run the same command as before to go on with it, or choose another --out"
            )


def outcomes(results: list[Result]) -> dict[str, list[Outcome]]:
    """Return name -> outcomes of the points that are done, as `verdicts` takes them."""
    found: dict[str, list[Outcome]] = {}
    for result in results:
        if result.done:
            found.setdefault(result.name, []).append(Outcome(result.seed, result.values, result.resamples))
    return found


def _settings_lines(old: str, new: str) -> list[str]:
    """Return a line for each setting that differs and can change a result."""
    before, after = (msgspec.json.decode(each) for each in (old, new))
    if flatten(before).keys() != flatten(after).keys():
        return [f"{key}: only on one side" for key in sorted(flatten(before).keys() ^ flatten(after).keys())]
    lines = differences(*(msgspec.convert(each, ClassifySettings) for each in (before, after)))
    return [line for line in lines if line.split(":")[0] not in NOT_IN_KEY or line.startswith("seed:")]


def _text(value: Any) -> str:
    return msgspec.json.encode(value, order="sorted").decode()


def _checksum(row: tuple[Any, ...]) -> str:
    found = hashlib.sha256()
    for part in row:
        content = part if isinstance(part, bytes) else str(part).encode()
        found.update(b"%d:" % len(content) + content)
    return found.hexdigest()


def _result(row: tuple[Any, ...]) -> Result:
    """Return the result of a row; ValueError where it is not what was written."""
    *content, checksum = row
    if _checksum(tuple(content)) != checksum:
        raise ValueError(f"the result of {row[1]!r} is not what was written")
    key, name, seed, settings, _, error, numbers, resamples, seconds, started, finished = content
    values = {
        metric: float("nan") if value is None else value for metric, value in msgspec.json.decode(numbers).items()
    }
    read = msgspec.json.decode(settings, type=ClassifySettings)
    return Result(key, name, seed, read, error, values, load(resamples), seconds, started, finished)


def _place(aside: Path, path: Path) -> None:
    """Give a file its name unless another process was faster."""
    try:
        os.link(aside, path)
    except FileExistsError:
        return
    except OSError:  # a file system without hard links
        if not path.exists():
            aside.rename(path)


def _holds(claim: tuple[str, int, str, float], now: float) -> bool:
    """Return whether the process that claimed is still at it."""
    host, pid, birth, started = claim
    if host == gethostname() and birth:
        return _birth(pid) == birth
    return 0 <= now - started < CLAIM_SECONDS


def _birth(pid: int) -> str | None:
    """Return what tells this process from others of its number; "" where the system cannot say, None if gone.

    The boot and the tick at which it started, of Linux; a process that ended and was not collected is gone.
    """
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return ""
    try:
        state, *fields = (
            Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        )
    except OSError:
        return None
    return None if state in "ZX" else f"{boot} {fields[18]}"
