"""What both `predict` commands do with a file larger than memory: blocks in, part files out, one whole file at the end.

The options are here, and what runs; heavy imports are inside, so that --help answers at once.

Part files: an output that is written block by block, goes on after a crash, and ends as one whole file.

    predictions.csv.parts/  plan.json  part-00000.csv  part-00000.json  part-00001.csv ...

A part is done when its .json, which counts what is in it, is there: it is written last.
"""

from __future__ import annotations

import gzip
import json
import shutil
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, cast

import click
import polars as pl

from hyperfocal.data.files import File
from hyperfocal.errors import RunError
from hyperfocal.storage.run_folder import whole_file

if TYPE_CHECKING:
    import polars as pl

    from hyperfocal.data.blocks import Block

LARGE_BYTES = 64 * 2**20  # files from here on are read block by block
LARGE_PACKED_BYTES = 16 * 2**20  # .gz and .parquet, which grow when they are unpacked


def in_blocks(path: Path, out: Path, options: dict[str, Any]) -> bool:
    """Return whether a file is read block by block: it is large, or somebody asked for it."""
    if options["block"] is not None or (options["resume"] and out.with_name(f"{out.name}.parts").exists()):
        return True
    limit = LARGE_PACKED_BYTES if path.suffix in (".gz", ".parquet") else LARGE_BYTES
    return path.is_file() and path.stat().st_size >= limit


def write_parts(
    blocks: Iterator[Block],
    predict: Callable[[Block], tuple[pl.DataFrame, Counter[str]]],
    write: Write,
    parts: Parts,
    *,
    resume: bool,
) -> Counter[str]:
    """Predict every block that is not done yet, under a progress bar, and join the parts; return what was counted.

    Ctrl-C ends the program with 130 and says how to go on.
    """
    from hyperfocal.report.progress import PredictProgress

    total: Counter[str] = Counter()
    number = 0
    try:
        with PredictProgress() as progress:
            for number, block in enumerate(blocks, 1):
                if number == 1:  # only now: a file that cannot be read leaves no folder
                    parts.begin(resume=resume)
                counts = parts.done(number - 1)
                if counts is None:
                    frame, counts = predict(block)
                    parts.put(number - 1, frame, counts, write)
                total += counts
                progress.watch(number, block.share)
            parts.join(number)
    except KeyboardInterrupt:
        click.echo(f"stopped. The same command with --resume goes on with what is in {parts.folder}.", err=True)
        sys.exit(130)
    return total


PLAN = "plan.json"
ROW_GROUP = 100_000  # rows of a Parquet file that are held in memory while parts are joined
Write = Callable[[pl.DataFrame, Path, bool], None]  # rows, where to, whether they are the first


class Parts:
    """The part files of one output.

    Args:
        out: the whole file, in the end.
        plan: JSON-able, all that decides what the parts hold.
    """

    def __init__(self, out: Path, plan: dict[str, Any]) -> None:
        self.out, self.plan = out, plan
        self.folder = out.with_name(f"{out.name}.parts")

    def begin(self, *, resume: bool) -> None:
        """Make sure that parts that are here already belong to this plan; none are made yet.

        Raises:
            RunError: there are parts, but not of this plan, or nobody asked to go on.
        """
        if self.folder.exists():
            self._refuse_other(resume)

    def _refuse_other(self, resume: bool) -> None:
        if not resume:
            raise RunError(
                f"{self.folder}: holds parts of predictions that were cut short. Go on with --resume, or remove the "
                "folder to start anew"
            )
        before = self._read_json(self.folder / PLAN)
        changed = [key for key in self.plan if not isinstance(before, dict) or before.get(key) != self.plan[key]]
        if changed:
            raise RunError(
                f"{self.folder}: cannot go on, for its parts were made with another {', '.join(changed)}. Give the "
                "first command again, or remove the folder to start anew"
            )

    def done(self, number: int) -> Counter[str] | None:
        """Return the counts of a part that is done, or None."""
        path = self._part(number).with_suffix(".json")
        return Counter(self._read_json(path)) if path.is_file() and self._part(number).is_file() else None

    def put(self, number: int, frame: pl.DataFrame, counts: Counter[str], write: Write) -> None:
        """Write a part, whole or not at all; before the first one, the plan.

        Raises:
            RunError: it cannot be written.
        """
        if not (self.folder / PLAN).is_file():
            self._write_json(self.folder / PLAN, self.plan)
        with whole_file(self._part(number)) as aside:
            write(frame, aside, number == 0)
        self._write_json(self._part(number).with_suffix(".json"), dict(counts))

    def join(self, count: int) -> None:
        """Write the whole file from `count` parts, and remove them.

        Raises:
            RunError: it cannot be written.
        """
        paths = [self._part(number) for number in range(count)]
        with whole_file(self.out) as aside:
            (_append_tables if File(self.out).kind == "parquet" else _append)(paths, aside)
        shutil.rmtree(self.folder, ignore_errors=True)

    def _part(self, number: int) -> Path:
        return self.folder / f"part-{number:05}{File(self.out).suffix}"

    def _write_json(self, path: Path, value: Any) -> None:
        with whole_file(path) as aside:
            aside.write_text(json.dumps(value) + "\n", encoding="utf-8")

    def _read_json(self, path: Path) -> Any:
        try:
            return json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError) as error:
            raise RunError(f"{path}: is damaged ({error}). Remove the folder to start anew") from None


def _append(paths: list[Path], whole: Path) -> None:
    """Write files one after the other; packed, the same content gives the same bytes."""
    with whole.open("wb") as raw:
        packed = whole.suffix == ".gz"
        out = cast(IO[bytes], gzip.GzipFile("", "wb", fileobj=raw, mtime=0) if packed else raw)
        for path in paths:
            with path.open("rb") as part:
                shutil.copyfileobj(part, out, 2**20)
        if packed:
            out.close()


def _append_tables(paths: list[Path], whole: Path) -> None:
    try:
        pl.scan_parquet(paths, glob=False).sink_parquet(whole, row_group_size=ROW_GROUP, maintain_order=True)
    except pl.exceptions.PolarsError as error:  # a full disk
        raise OSError(str(error)) from error


def stamp(path: Path) -> list[int]:
    """Return size and time of a file, by which it is known again."""
    stat = path.stat()
    return [stat.st_size, stat.st_mtime_ns]
