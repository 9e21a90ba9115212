"""Part files: an output that is written block by block, resumed after a crash, and joined into one file.

    predictions.csv.parts/  plan.json  part-00000.csv  part-00000.json  part-00001.csv ...

A part is complete when its .json file, which holds its counts, exists: that file is written last.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import polars as pl

from hyperfocal.cli.join_parts import join_parts
from hyperfocal.data.files import File
from hyperfocal.errors import RunError
from hyperfocal.parts import files_of
from hyperfocal.storage.cache import hash_of
from hyperfocal.storage.exchange import discard
from hyperfocal.storage.lock import LOCK, FolderLock
from hyperfocal.storage.whole import is_aside, is_own_folder, remove_aside, whole_file

PLAN = "plan.json"
Write = Callable[[pl.DataFrame, Path, bool], None]  # rows, file, whether these are its first rows


class PartFiles:
    """The part files of one output.

    Args:
        out: the file that the parts are joined into.
        plan: JSON-able, everything that decides what the parts hold.
    """

    def __init__(self, out: Path, plan: dict[str, Any]) -> None:
        self.out, self.plan = out, plan
        self.folder = out.with_name(f"{out.name}.parts")

    def check(self, *, resume: bool) -> None:
        """Check that existing parts may be continued; call it inside `writing`: another process may be writing them.

        Raises:
            RunError: there are parts and `resume` is False, or they were made by another plan; as in `refuse_others`.
        """
        self.refuse_others()
        if not (self.folder / PLAN).exists():
            return
        if not resume:
            raise RunError(
                f"{self.folder}: holds parts of unfinished predictions. Continue them with --resume, or remove the "
                "folder to start over"
            )
        before = self._read_json(self.folder / PLAN)
        changed = [key for key in self.plan if not isinstance(before, dict) or before.get(key) != self.plan[key]]
        if changed:
            raise RunError(
                f"{self.folder}: holds parts made with another {', '.join(changed)}. Repeat the first command with "
                "--resume, or remove the folder to start over"
            )

    def refuse_others(self) -> None:
        """Check that the folder is one of parts, or is not there; write nothing.

        Raises:
            RunError: it is a link, or belongs to another user; it has no plan and is not empty. A process killed before
                the first part leaves an empty one.
        """
        if os.path.lexists(self.folder) and not is_own_folder(self.folder):
            raise RunError(f"{self.folder}: is no folder of this user. Remove it, or choose another --out")
        if (self.folder / PLAN).exists():
            return
        names = os.listdir(self.folder) if self.folder.exists() else []  # noqa: PTH208 - names only
        others = sorted(name for name in names if name != LOCK and not is_aside(name))
        if others:
            raise RunError(f"{self.folder}: holds other files ({others[0]}) and no parts. Choose another --out")

    def counts(self, number: int) -> Counter[str] | None:
        """Return the counts of a complete part; None: it is not complete."""
        path = self._path(number).with_suffix(".json")
        return Counter(self._read_json(path)) if path.is_file() and self._path(number).is_file() else None

    def put(self, number: int, frame: pl.DataFrame, counts: Counter[str], write: Write) -> None:
        """Write a part, whole or not at all; before the first one, the plan.

        Raises:
            RunError: it cannot be written.
        """
        if not (self.folder / PLAN).is_file():
            self._write_json(self.folder / PLAN, self.plan)
        with whole_file(self._path(number)) as aside:
            write(frame, aside, number == 0)
        self._write_json(self._path(number).with_suffix(".json"), dict(counts))

    def join(self, count: int) -> None:
        """Write the output from `count` parts, and remove the parts.

        Raises:
            RunError: it cannot be written, a part is damaged, or the parts cannot be removed.
        """
        paths = [self._path(number) for number in range(count)]
        with whole_file(self.out) as aside:
            join_parts(paths, aside)
        try:
            discard(self.folder)
        except OSError as error:
            raise RunError(
                f"{self.folder}: cannot be removed ({error}). {self.out} is complete: remove the folder by hand"
            ) from error

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Be the only writer of the parts.

        Raises:
            RunError: another process writes them, or the folder cannot be written.
        """
        with FolderLock(self.folder):
            remove_aside(self.folder)
            yield

    def _path(self, number: int) -> Path:
        return self.folder / f"part-{number:05}{File(self.out).suffix}"

    def _write_json(self, path: Path, value: Any) -> None:
        with whole_file(path) as aside:
            aside.write_text(json.dumps(value) + "\n", encoding="utf-8")

    def _read_json(self, path: Path) -> Any:
        try:
            return json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError) as error:
            raise RunError(f"{path}: is damaged ({error}). Remove the folder to start over") from None


def stamp(path: Path) -> str:
    """Return a checksum of the names, sizes and times of a file or of parts, which changes if the content does."""
    names = {part: str(part.relative_to(path)) if path.is_dir() else part.name for part in files_of(path)}
    states = [(name, part.stat()) for part, name in names.items()]
    return hash_of([(name, state.st_size, state.st_mtime_ns) for name, state in states])
