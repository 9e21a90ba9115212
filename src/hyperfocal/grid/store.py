"""The results of a grid in one file: each is written as soon as its point ends, and each point runs once.

    meta     format, the data's fingerprint and description, the base settings
    claims   a point, or a name for another task, that a process works on
    results  a point that ended, done or failed, with a checksum that detects damage

Several processes may use the file at once, and any may be killed at any time. The file plan.json next to it lists the
points that a grid shall train, so that a report can name what remains.
"""

from __future__ import annotations

import hashlib
import logging
import math
import time
from collections.abc import Collection, Iterable, Iterator, Sequence
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

from hyperfocal.config.recipes import differences, flatten
from hyperfocal.config.rules import RULES
from hyperfocal.config.sections import Section
from hyperfocal.errors import RunError
from hyperfocal.grid.claims import beating, holds, own_claim
from hyperfocal.grid.database import Database
from hyperfocal.grid.points import Point
from hyperfocal.metrics.differences import Outcome
from hyperfocal.storage.run_folder import RunFolder

logger = logging.getLogger("hyperfocal")
FORMAT = "hyperfocal grid 2"
PLAN = "plan.json"
WAIT_SECONDS = 1.0  # between two attempts to claim what another process works on
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


@dataclass(frozen=True, eq=False)
class Result:
    """A point that ended."""

    key: str  # `point.key(fingerprint)`
    name: str
    seed: int
    settings: Section
    error: str  # why it failed; "": it is done
    values: dict[str, float]  # metric -> number; {} if it failed
    resamples: dict[str, Tensor]  # metric -> (R,); {} if it failed
    seconds: float  # that the training took
    started: str  # UTC, ISO 8601
    finished: str  # UTC, ISO 8601

    @property
    def done(self) -> bool:
        """Return whether it ended without an error."""
        return not self.error


class Store:
    """The results of one grid: of one set of documents or users, and one set of base settings."""

    def __init__(self, path: Path, fingerprint: str, kind: type[Section], *, read_only: bool = False) -> None:
        self.path = path
        self.fingerprint = fingerprint
        self.kind = kind
        self._file = Database(path, read_only=read_only)

    @classmethod
    def open(
        cls, path: str | Path, *, fingerprint: str, settings: Section, about: dict[str, Any] | None = None
    ) -> Store:
        """Return the store of a grid; create it if there is no file.

        Args:
            path: of the file.
            fingerprint: checksum of the data, as in `Point.key`.
            settings: the base settings of the grid.
            about: a description of the data, such as {"documents": 900}, shown if the store is of other data.

        Raises:
            RunError: a store of another job, other data or other settings, which is left as it is; a damaged store,
                which is renamed to NAME.damaged-1; a file that cannot be read or written.
        """
        store = cls(Path(path), fingerprint, type(settings))
        known = {
            "format": FORMAT,
            "fingerprint": fingerprint,
            "about": _as_json(about or {}),
            "settings": _as_json(settings),
        }
        if not store.path.exists():
            store._file.create(SCHEMA, known | {"checksum": _checksum(tuple(sorted(known.items())))})
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
        """Return all points that ended, in the order of their ends.

        Raises:
            RunError: a damaged row; the file is then renamed as in `open`, unless it is open read-only.
        """
        with self._file.transaction() as db:
            rows = db.execute(f"SELECT {COLUMNS}, checksum FROM results ORDER BY finished, rowid").fetchall()
        try:
            return [_as_result(row, self.kind) for row in rows]
        except (ValueError, SafetensorError) as error:
            raise self._file.aside(str(error)) from None

    def claim(self, point: Point, *, retry: bool = False) -> bool:
        """Claim a point for this process, and return whether that succeeded; only one process succeeds.

        It does not succeed if the point is done, if it failed (unless `retry`), or if a process holds a claim on it. A
        claim is void once its process is gone: see `claims`.
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
        """Renew the claim of this process on a point; a disk that is away is no error: a claim lasts several beats."""
        self._beat(point.key(self.fingerprint))

    def _beat(self, key: str) -> None:
        *who, now = own_claim(datetime.now(UTC).timestamp())
        with suppress(RunError), self._file.transaction() as db:
            mine = (key, *who)
            db.execute("UPDATE claims SET beat = ? WHERE key = ? AND host = ? AND pid = ? AND birth = ?", (now, *mine))

    def held(self) -> set[str]:
        """Return the keys of the points that living processes hold claims on."""
        with self._file.transaction() as db:
            return _held(db, datetime.now(UTC).timestamp())

    def release(self, point: Point) -> None:
        """Release the claim of this process on an unfinished point, as after Ctrl-C."""
        self._release(point.key(self.fingerprint))

    def _release(self, key: str) -> None:
        mine = (key, *own_claim(0.0)[:3])
        with self._file.transaction() as db:
            db.execute("DELETE FROM claims WHERE key = ? AND host = ? AND pid = ? AND birth = ?", mine)

    @contextmanager
    def alone(self, what: str) -> Iterator[None]:
        """Hold the claim on a task other than a point inside; wait, with a line in the log, while another process does.

        Args:
            what: the task, such as "keeping the winner". The claim of a process that died is void.
        """
        if not self._take(what):
            logger.warning("grid %s: another process is %s; this one waits for it", self.path.parent, what)
            while not self._take(what):
                time.sleep(WAIT_SECONDS)
        try:
            with beating(partial(self._beat, what)):
                yield
        finally:
            self._release(what)

    def _take(self, what: str) -> bool:
        now = datetime.now(UTC).timestamp()
        with self._file.transaction() as db:
            if what in _held(db, now):
                return False
            db.execute("INSERT OR REPLACE INTO claims VALUES (?, ?, ?, ?, ?)", (what, *own_claim(now)))
            return True

    def drop_own(self) -> None:
        """Delete the claims that this process could not release, as on a full disk."""
        with self._file.transaction() as db:
            db.execute("DELETE FROM claims WHERE host = ? AND pid = ? AND birth = ?", own_claim(0.0)[:3])

    def put(self, point: Point, values: dict[str, float], resamples: dict[str, Tensor], *, seconds: float) -> None:
        """Store the result of a point; on return it is on the disk. The result of a point that is done is not replaced.

        Raises:
            RunError: it cannot be written.
        """
        plain = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in resamples.items()}
        numbers = _as_json({name: float(value) for name, value in values.items()})
        self._end(point, "done", "", numbers, save(plain), seconds)

    def fail(self, point: Point, error: str, *, seconds: float = 0.0) -> None:
        """Store why a point failed; errors as in `put`."""
        written = error.encode("utf-8", "backslashreplace").decode()  # file names need not be UTF-8
        self._end(point, "failed", written or "unknown error", "{}", save({}), seconds)

    def _end(self, point: Point, status: str, error: str, numbers: str, resamples: bytes, seconds: float) -> None:
        seconds = float(seconds)  # as SQLite gives it back, for the checksum
        finished = datetime.now(UTC)
        started = datetime.fromtimestamp(finished.timestamp() - seconds, UTC)
        key, times = point.key(self.fingerprint), (started.isoformat(), finished.isoformat())
        row = (
            key,
            point.name,
            point.seed,
            _as_json(point.settings),
            status,
            error,
            numbers,
            resamples,
            seconds,
            *times,
        )
        with self._file.transaction() as db:
            db.execute("DELETE FROM claims WHERE key = ?", (key,))
            db.execute("DELETE FROM results WHERE key = ? AND status = 'failed'", (key,))
            marks = ", ".join("?" * (len(row) + 1))
            db.execute(f"INSERT OR IGNORE INTO results VALUES ({marks})", (*row, _checksum(row)))

    def _check(self, known: dict[str, str]) -> None:
        self._file.refuse_damaged()
        with self._file.transaction() as db:
            tables = {name for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
            meta = dict(db.execute("SELECT name, value FROM meta").fetchall()) if "meta" in tables else {}
        if meta.get("format") != FORMAT or not known.keys() <= meta.keys() or not {"claims", "results"} <= tables:
            what = meta.get("format", "another program")
            raise RunError(
                f"grid {self.path}: it is of {what}, not of {FORMAT}. It is left unchanged: choose another --out"
            )
        if meta.pop("checksum", "") != _checksum(tuple(sorted(meta.items()))):
            raise self._file.aside("its description does not match its checksum")
        self._refuse_other(meta, known)
        self.results()  # reads every row, so that damage is found before hours of training

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
                "Run the same command as before to continue it, or choose another --out"
            )

    def _refuse_other_job(self, settings: str) -> None:
        sections, asked = msgspec.json.decode(settings).keys(), RULES[self.kind].job
        for kind, rules in RULES.items():
            if rules.job != asked and sections == set(kind.__struct_fields__):
                raise RunError(
                    f"grid {self.path}: holds a grid of `{rules.job}`, not of `{asked}`. Choose another --out"
                )

    def _settings_lines(self, old: str, new: str) -> list[str]:
        """Return a line for each different setting that can change a result."""
        before, after = msgspec.json.decode(old), msgspec.json.decode(new)
        one_sided = flatten(before).keys() ^ flatten(after).keys()
        if one_sided:
            return [f"{key}: only on one side" for key in sorted(one_sided)]
        left_out = RULES[self.kind].not_in_key
        lines = differences(*(msgspec.convert(each, self.kind) for each in (before, after)))
        return [line for line in lines if line.split(":")[0] not in left_out or line.startswith("seed:")]


def outcomes(results: Iterable[Result]) -> dict[str, list[Outcome]]:
    """Return name -> outcomes of the points that are done, in the form that `verdicts` takes."""
    by_name: dict[str, list[Outcome]] = {}
    for result in results:
        if result.done:
            by_name.setdefault(result.name, []).append(Outcome(result.seed, result.values, result.resamples))
    return by_name


def earlier_outcomes(results: Iterable[Result], planned: Collection[str]) -> list[list[Outcome]]:
    """Return the outcomes of points that earlier commands trained, one list for each point, whatever its name.

    Args:
        results: of all commands.
        planned: keys of the running command. Its points with one training are listed too if earlier commands trained
            them with other seeds.
    """
    points: dict[str, list[Result]] = {}
    for result in results:
        if result.done:
            points.setdefault(_as_json(msgspec.structs.replace(result.settings, seed=0)), []).append(result)
    groups = []
    for trainings in points.values():
        others = [result for result in trainings if result.key not in planned]
        if others:
            groups.append(trainings if len(trainings) - len(others) < 2 else others)
    return [[Outcome(each.seed, each.values, each.resamples) for each in group] for group in groups]


def write_plan(
    out: Path, points: Sequence[Point], baseline: str, by: str, fingerprint: str, *, unproposed: int = 0
) -> None:
    """Write the points of the running command to plan.json, in place of those of an earlier one.

    Args:
        out: folder of the grid.
        points: all that are known, including those that are done.
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


def _as_json(value: Any) -> str:
    """Return a value as JSON; equal values give equal texts."""
    return msgspec.json.encode(value, order="sorted").decode()


def _checksum(row: tuple[Any, ...]) -> str:
    """Return a checksum of a sequence of texts, numbers and bytes."""
    checksum = hashlib.sha256()
    for value in row:
        content = value if isinstance(value, bytes) else str(value).encode()
        checksum.update(b"%d:" % len(content) + content)
    return checksum.hexdigest()


def _as_result(row: tuple[Any, ...], kind: type[Section]) -> Result:
    """Return the result in a row of COLUMNS and checksum; ValueError or SafetensorError if the row is damaged."""
    *content, checksum = row
    if _checksum(tuple(content)) != checksum:
        raise ValueError(f"the result of {row[1]!r} does not match its checksum")
    key, name, seed, settings, _, error, numbers, resamples, seconds, started, finished = content
    values = {metric: math.nan if value is None else value for metric, value in msgspec.json.decode(numbers).items()}
    typed = msgspec.json.decode(settings, type=kind)
    return Result(key, name, seed, typed, error, values, load(resamples), seconds, started, finished)


def _held(db: Connection, now: float) -> set[str]:
    claims = db.execute("SELECT key, host, pid, birth, beat FROM claims").fetchall()
    return {key for key, *claim in claims if holds(tuple(claim), now)}
