"""The results of a grid in one file: each written the moment its point ends, each point run once.

    meta     format, the data's fingerprint and description, the base settings
    claims   a point, or a name for something else, that a process is at
    results  a point that ended, done or failed

Several processes may use the file at once, and any may be killed at any time.

What a grid shall do, kept beside its results, so that a report can say what remains.

What a point reached, as it is kept in a row of the store, with a checksum that tells damage.
"""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from sqlite3 import Connection
from typing import Any

import msgspec
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from hyperfocal.config.recipes import differences
from hyperfocal.config.rules import RULES, flatten
from hyperfocal.config.sections import Section
from hyperfocal.errors import RunError
from hyperfocal.grid.claims import beating, holds, own_claim
from hyperfocal.grid.database import Database
from hyperfocal.grid.points import Point
from hyperfocal.metrics.differences import Outcome
from hyperfocal.storage.run_folder import RunFolder

logger = logging.getLogger("hyperfocal")
FORMAT = "hyperfocal grid 2"
WAIT_SECONDS = 1.0  # between two looks at what another process does
SCHEMA = """
CREATE TABLE meta (name TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE claims (
    key TEXT PRIMARY KEY, host TEXT NOT NULL, pid INTEGER NOT NULL, birth TEXT NOT NULL, beat REAL NOT NULL
);
CREATE TABLE results (
    key TEXT PRIMARY KEY, name TEXT NOT NULL, seed INTEGER NOT NULL, settings TEXT NOT NULL,
    status TEXT NOT NULL CHECK (status IN ('done', 'failed')), error TEXT NOT NULL,
    numbers TEXT NOT NULL, resamples BLOB NOT NULL,
    seconds REAL NOT NULL, started TEXT NOT NULL, finished TEXT NOT NULL, checksum TEXT NOT NULL
);
"""
COLUMNS = "key, name, seed, settings, status, error, numbers, resamples, seconds, started, finished"


class Store:
    """The file of one grid: one set of documents or users, one set of base settings."""

    def __init__(self, path: Path, fingerprint: str, kind: type[Section], *, read_only: bool = False) -> None:
        self.path = path
        self.fingerprint = fingerprint
        self.kind = kind
        self._file = Database(path, read_only=read_only)

    @classmethod
    def open(
        cls, path: str | Path, *, fingerprint: str, settings: Section, about: dict[str, Any] | None = None
    ) -> Store:
        """Return the store of a grid; where no file is, make one.

        Args:
            path: of the file.
            fingerprint: checksum of the data, as in `Point.key`.
            settings: the base settings of the grid.
            about: what else is known of the data, as {"documents": 900}: shown when it is other data.

        Raises:
            RunError: a store of another job, other data or other settings, left as it is; a damaged store, renamed to
                NAME.damaged-1 and so on; not readable or not writable.
        """
        store = cls(Path(path), fingerprint, type(settings))
        known = {
            "format": FORMAT,
            "fingerprint": fingerprint,
            "about": as_text(about or {}),
            "settings": as_text(settings),
        }
        if not store.path.exists():
            store._file.create(SCHEMA, known | {"checksum": checksum_of(tuple(sorted(known.items())))})
        store._check(known)
        return store

    def done(self) -> set[str]:
        """Return the keys of the points that ended without an error."""
        with self._file.transaction() as db:
            return {key for (key,) in db.execute("SELECT key FROM results WHERE status = 'done'")}

    def failed(self) -> dict[str, str]:
        """Return key -> error of the points that failed."""
        with self._file.transaction() as db:
            return dict(db.execute("SELECT key, error FROM results WHERE status = 'failed'").fetchall())

    def results(self) -> list[Result]:
        """Return all points that ended, in the order in which they did.

        Raises:
            RunError: a row that is not what was written; the file is then renamed as in `open`, unless it is only read.
        """
        with self._file.transaction() as db:
            rows = db.execute(f"SELECT {COLUMNS}, checksum FROM results ORDER BY finished, rowid").fetchall()
        try:
            return [as_result(row, self.kind) for row in rows]
        except (ValueError, SafetensorError) as error:
            raise self._file.aside(str(error)) from None

    def claim(self, point: Point, *, retry: bool = False) -> bool:
        """Return whether this process shall run the point; if so, no other is told so.

        It shall not where the point is done, where it failed (unless `retry`), and where a process is at it. A
        claim is void once its process is gone; see `claims`.
        """
        key, now = point.key(self.fingerprint), datetime.now(UTC).timestamp()
        with self._file.transaction() as db:
            ended = db.execute("SELECT status FROM results WHERE key = ?", (key,)).fetchone()
            if (ended and not (retry and ended[0] == "failed")) or key in _held(db, now):
                return False
            db.execute("DELETE FROM results WHERE key = ? AND status = 'failed'", (key,))  # it is tried again
            db.execute("INSERT OR REPLACE INTO claims VALUES (?, ?, ?, ?, ?)", (key, *own_claim(now)))
            return True

    def beat(self, point: Point) -> None:
        """Say that this process is still at a point that it claimed."""
        self._beat(point.key(self.fingerprint))

    def _beat(self, key: str) -> None:
        *who, now = own_claim(datetime.now(UTC).timestamp())
        with self._file.transaction() as db:
            mine = (key, *who)
            db.execute("UPDATE claims SET beat = ? WHERE key = ? AND host = ? AND pid = ? AND birth = ?", (now, *mine))

    def held(self) -> set[str]:
        """Return the keys of the points that living processes are at."""
        with self._file.transaction() as db:
            return _held(db, datetime.now(UTC).timestamp())

    def release(self, point: Point) -> None:
        """Give a point that this process claimed back unfinished, as after Ctrl-C."""
        self._release(point.key(self.fingerprint))

    def _release(self, key: str) -> None:
        mine = (key, *own_claim(0.0)[:3])
        with self._file.transaction() as db:
            db.execute("DELETE FROM claims WHERE key = ? AND host = ? AND pid = ? AND birth = ?", mine)

    @contextmanager
    def alone(self, what: str) -> Iterator[None]:
        """Let this process alone do something with the grid; wait, and say so in the log, while another is at it.

        Args:
            what: a name for it, as "keeping the winner". A process that died while it did it holds nobody up.
        """
        if not self._take(what):
            logger.warning("grid %s: another process is %s; this one waits for it", self.path.parent, what)
            while not self._take(what):
                time.sleep(WAIT_SECONDS)
        try:
            with beating(partial(self._try_beat, what)):
                yield
        finally:
            self._release(what)

    def _try_beat(self, what: str) -> None:
        with suppress(RunError):  # a disk that is away for a while: there is time until the claim is void
            self._beat(what)

    def _take(self, what: str) -> bool:
        now = datetime.now(UTC).timestamp()
        with self._file.transaction() as db:
            if what in _held(db, now):
                return False
            db.execute("INSERT OR REPLACE INTO claims VALUES (?, ?, ?, ?, ?)", (what, *own_claim(now)))
            return True

    def drop_own(self) -> None:
        """Void the claims that this process could not give back, as on a full disk."""
        with self._file.transaction() as db:
            db.execute("DELETE FROM claims WHERE host = ? AND pid = ? AND birth = ?", own_claim(0.0)[:3])

    def put(self, point: Point, values: dict[str, float], resamples: dict[str, Tensor], *, seconds: float) -> None:
        """Keep what a point reached; on return it is on the disk. A point that is done already stays as it is.

        Raises:
            RunError: it cannot be written.
        """
        plain = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in resamples.items()}
        self._end(
            point, "done", "", as_text({name: float(value) for name, value in values.items()}), save(plain), seconds
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
        row = (key, point.name, point.seed, as_text(point.settings), status, error, numbers, resamples, seconds, *times)
        with self._file.transaction() as db:
            db.execute("DELETE FROM claims WHERE key = ?", (key,))
            db.execute("DELETE FROM results WHERE key = ? AND status = 'failed'", (key,))
            marks = ", ".join("?" * (len(row) + 1))
            db.execute(f"INSERT OR IGNORE INTO results VALUES ({marks})", (*row, checksum_of(row)))

    def _check(self, known: dict[str, str]) -> None:
        self._file.refuse_damaged()
        with self._file.transaction() as db:
            tables = {name for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
            meta = dict(db.execute("SELECT name, value FROM meta").fetchall()) if "meta" in tables else {}
        if meta.get("format") != FORMAT or not known.keys() <= meta.keys() or not {"claims", "results"} <= tables:
            what = meta.get("format", "another program")
            raise RunError(
                f"grid {self.path}: it is of {what}, not of {FORMAT}. It is left as it is: choose another --out"
            )
        if meta.pop("checksum", "") != checksum_of(tuple(sorted(meta.items()))):
            raise self._file.aside("its description is not what was written")
        self._refuse_other(meta, known)
        self.results()  # every row is read, so that damage is found before hours of work

    def _refuse_other(self, meta: dict[str, str], known: dict[str, str]) -> None:
        self._refuse_other_job(meta["settings"])
        lines = self._settings_lines(meta["settings"], known["settings"])
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

    def _refuse_other_job(self, settings: str) -> None:
        sections = msgspec.json.decode(settings).keys()
        for kind, rules in RULES.items():
            if kind is not self.kind and sections == set(kind.__struct_fields__):
                asked = RULES[self.kind].job
                raise RunError(
                    f"grid {self.path}: holds a grid of `{rules.job}`, not of `{asked}`. Choose another --out"
                )

    def _settings_lines(self, old: str, new: str) -> list[str]:
        """Return a line for each setting that differs and can change a result."""
        before, after = (msgspec.json.decode(each) for each in (old, new))
        if flatten(before).keys() != flatten(after).keys():
            return [f"{key}: only on one side" for key in sorted(flatten(before).keys() ^ flatten(after).keys())]
        left_out = RULES[self.kind].not_in_key
        lines = differences(*(msgspec.convert(each, self.kind) for each in (before, after)))
        return [line for line in lines if line.split(":")[0] not in left_out or line.startswith("seed:")]


def _held(db: Connection, now: float) -> set[str]:
    claims = db.execute("SELECT key, host, pid, birth, beat FROM claims")
    return {key for key, *claim in claims if holds((claim[0], claim[1], claim[2], claim[3]), now)}


PLAN = "plan.json"


def keep_plan(
    out: Path, points: Sequence[Point], baseline: str, by: str, fingerprint: str, *, unproposed: int = 0
) -> None:
    """Write the points of the command that runs now, in place of those of an earlier one.

    Args:
        out: folder of the grid.
        points: all that are known, also those that are done.
        baseline: name of the point that the others are compared with.
        by: the metric that chooses the winner.
        fingerprint: checksum of the data, as in `Point.key`.
        unproposed: trials of a search whose points are not known yet.

    Raises:
        RunError: it cannot be written.
    """
    planned = [{"key": point.key(fingerprint), "name": point.name, "seed": point.seed} for point in points]
    about = {"baseline": baseline, "by": by, "unproposed": unproposed}
    RunFolder(out).write_json(PLAN, about | {"points": planned})


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
    settings: Section
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


def outcomes(results: list[Result]) -> dict[str, list[Outcome]]:
    """Return name -> outcomes of the points that are done, as `verdicts` takes them."""
    found: dict[str, list[Outcome]] = {}
    for result in results:
        if result.done:
            found.setdefault(result.name, []).append(Outcome(result.seed, result.values, result.resamples))
    return found


def as_text(value: Any) -> str:
    """Return a value as JSON, the same text for the same value."""
    return msgspec.json.encode(value, order="sorted").decode()


def checksum_of(row: tuple[Any, ...]) -> str:
    """Return a checksum of texts, numbers and bytes in their order."""
    found = hashlib.sha256()
    for part in row:
        content = part if isinstance(part, bytes) else str(part).encode()
        found.update(b"%d:" % len(content) + content)
    return found.hexdigest()


def as_result(row: tuple[Any, ...], kind: type[Section]) -> Result:
    """Return the result of a row, whose settings are of a kind.

    Raises:
        ValueError, SafetensorError: it is not what was written.
    """
    *content, checksum = row
    if checksum_of(tuple(content)) != checksum:
        raise ValueError(f"the result of {row[1]!r} is not what was written")
    key, name, seed, settings, _, error, numbers, resamples, seconds, started, finished = content
    values = {
        metric: float("nan") if value is None else value for metric, value in msgspec.json.decode(numbers).items()
    }
    read = msgspec.json.decode(settings, type=kind)
    return Result(key, name, seed, read, error, values, load(resamples), seconds, started, finished)
