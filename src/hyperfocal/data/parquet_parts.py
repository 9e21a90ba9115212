"""Read a Parquet file, a folder of Parquet parts, or the parts that a pattern names, as one table.

Parts are in the order of their names. Files whose names begin with a dot or an underscore, such as Spark's
`_SUCCESS`, are skipped. A column that is missing in a part is null there. `common_types` finds the type of a column.
Folders such as `day=2024-05-01` in the path of a part become text columns.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from glob import iglob
from os import SEEK_END
from pathlib import Path
from urllib.parse import unquote

import polars as pl

from hyperfocal.data.common_types import unified
from hyperfocal.errors import DataError

SUFFIX, MAGIC = ".parquet", b"PAR1"
NO_VALUE = "__HIVE_DEFAULT_PARTITION__"  # the name of a folder for rows without a value


def parquet_parts(path: Path) -> list[Path]:
    """Return the parts of a folder or of a pattern such as `logs/*.parquet`, or the file itself; [] if there is none.

    The name of an existing file is not a pattern.
    """
    if path.is_file():
        return [path]
    matches = map(Path, iglob(str(path), recursive=True))  # noqa: PTH207 - takes any pattern, absolute ones too
    roots = [path] if path.is_dir() else sorted(matches, key=_natural)
    return [part for root in roots for part in ([root] if root.is_file() else _files_of(root)) if _is_part(part)]


def _files_of(folder: Path) -> list[Path]:
    """Return the files of a folder and its subfolders, without hidden folders."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return sorted((path for path in files if not any(map(_is_hidden, path.relative_to(folder).parts))), key=_natural)


def _natural(path: Path) -> list[tuple[int, str]]:
    """Return a key that sorts part.2 before part.10."""
    pieces = re.findall(r"\d+|\D+", str(path))
    return [(int(piece), "") if piece.isdecimal() else (-1, piece) for piece in pieces]


def _is_hidden(name: str) -> bool:
    return name.startswith((".", "_"))


def _is_part(path: Path) -> bool:
    if _is_hidden(path.name):
        return False
    if path.suffix.lower() == SUFFIX:
        return True
    try:
        with path.open("rb") as file:
            return file.read(len(MAGIC)) == MAGIC
    except OSError:  # not allowed to read it
        return False


def total_size(path: Path) -> int:
    """Return the size in bytes of a file, or of all parts of a folder or pattern; 0: there is none."""
    return sum(part.stat().st_size for part in parquet_parts(path))


def locate_row(path: Path, row: int) -> tuple[Path, int]:
    """Return the part that holds a row of the table, and the number of the row in the part."""
    for part in [] if path.is_file() else parquet_parts(path):
        height = _height(part)
        if row < height:
            return part, row
        row -= height
    return path, row


def scan_parts(path: Path) -> list[pl.LazyFrame]:
    """Return the table of each part, all with the same columns.

    Raises:
        DataError: the types of a column in two parts have no common type.
        PolarsError: a part is not a Parquet file.
    """
    parts = parquet_parts(path)
    if len(parts) > 1:
        for part in parts:
            _check_part(part)
    frames = [_with_folders(part, path) for part in parts]
    return frames if len(frames) == 1 else unified(frames, [part.name for part in parts], str(path))


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
    """Yield the table in blocks of `rows`, and the fraction that has been read; the last block may be shorter."""
    frames, heights = scan_parts(path), [_height(part) for part in parquet_parts(path)]
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
