"""Read a Parquet file, a folder of Parquet parts, or the parts that a pattern names, as one table.

A column that a part lacks is null there. Types of a column are joined as `common_types` says. Folders such as
`day=2024-05-01` between a named folder, but not a pattern, and a part are columns of text.
"""

from __future__ import annotations

from collections.abc import Iterator
from os import SEEK_END
from pathlib import Path
from urllib.parse import unquote

import polars as pl

from hyperfocal.data.common_types import unified
from hyperfocal.errors import DataError
from hyperfocal.parts import MAGIC, files_of

NO_VALUE = "__HIVE_DEFAULT_PARTITION__"  # the name of a folder for rows without a value


def locate_row(path: Path, row: int) -> tuple[Path, int]:
    """Return the part that has a row of the table, and the row's number in the part."""
    for part in [] if path.is_file() else files_of(path):
        height = _height(part)
        if row < height:
            return part, row
        row -= height
    return path, row


def scan_parts(path: Path) -> list[pl.LazyFrame]:
    """Return the table of each part, all with the same columns.

    Raises:
        DataError: one of several parts is truncated or has another format.
        PolarsError: the only part is not a Parquet file.
    """
    parts = files_of(path)
    if len(parts) > 1:
        for part in parts:
            _check_part(part)
    frames = [_with_folders(part, path) for part in parts]
    return frames if len(frames) == 1 else unified(frames, [part.name for part in parts])


def _check_part(part: Path) -> None:
    """Raise DataError if a part does not begin and end as a Parquet file."""
    if part.stat().st_size < 2 * len(MAGIC) or _ends(part) != 2 * MAGIC:
        raise DataError(f"{part}: not readable as parquet: it is truncated or has another format. Export it again")


def _ends(part: Path) -> bytes:
    with part.open("rb") as file:
        start = file.read(len(MAGIC))
        file.seek(-len(MAGIC), SEEK_END)
        return start + file.read()


def scan_blocks(path: Path, rows: int) -> Iterator[tuple[pl.LazyFrame, float]]:
    """Yield the table in blocks of `rows`, the last with fewer, and the fraction of the table read so far."""
    frames, heights = scan_parts(path), [_height(part) for part in files_of(path)]
    total, done = sum(heights), 0
    waiting: list[pl.LazyFrame] = []
    space = rows
    for frame, height in zip(frames, heights, strict=True):
        start = 0
        while start < height:
            size = min(space, height - start)
            waiting.append(frame.slice(start, size))
            start, space, done = start + size, space - size, done + size
            if not space:
                yield pl.concat(waiting), done / total
                waiting, space = [], rows
    if waiting or not total:
        yield pl.concat(waiting or frames[:1]), 1.0


def _height(part: Path) -> int:
    return int(pl.scan_parquet(part, glob=False).select(pl.len()).collect().item())


def _with_folders(part: Path, path: Path) -> pl.LazyFrame:
    frame = pl.scan_parquet(part, glob=False, hive_partitioning=False)
    folders = part.parent.relative_to(path).parts if path.is_dir() else ()
    pairs = [folder.partition("=") for folder in folders if "=" in folder]
    values = [(name, None if value == NO_VALUE else unquote(value)) for name, _, value in pairs]
    return frame.with_columns(pl.lit(value, pl.String).alias(name) for name, value in values)
