"""Check that the memory is enough before a parser gets a file: polars ends the process if an allocation fails.

The numbers are measured with polars 1.x: the growth of the address space while a file is read. Ordinary files need 4 to
6 times their size; a few long lines or many columns need far more.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from itertools import islice
from mmap import ACCESS_READ, mmap
from pathlib import Path
from typing import Any

import polars as pl

from hyperfocal.data.files import File
from hyperfocal.errors import DataError, in_units
from hyperfocal.machine import free_memory

TEXT = 4  # bytes for each byte of a text
LONGEST_LINE = 10  # more bytes for each byte of the longest line: buffers double
COLUMN = 11 * 2**10  # bytes for each column of a CSV
JSON_COLUMN = 3 * 2**10  # bytes for each key of JSON lines
LINE = 75  # bytes of a short line as a text of Python
CELL = 16  # bytes of a text in a column
EVENT = 96  # bytes to rank items for a user, for each row of the user, in addition to the row
NUMBER = 8  # bytes of a number, or of a missing one
ADVICE = "Split the file, or leave out columns and long fields"
CHUNK = 2**20  # bytes that are searched for line ends at once; a shorter line counts as 0
SAMPLE = 1_000  # lines of JSON whose keys are counted first
MANY_KEYS = 500  # distinct keys in the sample: then the keys of all lines are counted
STRING = (
    re.compile(  # of JSON; a colon follows a key. Nothing is tried twice, whatever the text is: all of it is read once
        rb'"([^"\\\n]*+(?:\\.[^"\\\n]*+)*+)(?:"(\s*+:)?)?'
    )
)
WIDTHS: dict[Any, float] = {
    pl.Boolean: 1 / 8,
    pl.Int8: 1,
    pl.UInt8: 1,
    pl.Int16: 2,
    pl.UInt16: 2,
    pl.Int32: 4,
    pl.UInt32: 4,
}
WIDTHS |= {pl.Float32: 4, pl.Date: 4, pl.Categorical: 4, pl.Enum: 1, pl.String: CELL, pl.Binary: CELL, pl.Null: 0}
Text = bytes | mmap


def check_csv(source: Path | bytes, delimiter: str, file: File) -> None:
    """Raise DataError if a CSV text surely needs more memory to be parsed than there can be."""
    if isinstance(source, bytes):
        _check(_csv_bytes(source, delimiter), file)
    elif source.stat().st_size:
        with source.open("rb") as raw, mmap(raw.fileno(), 0, access=ACCESS_READ) as text:
            _check(_csv_bytes(text, delimiter), file)


def check_lines(text: bytes, file: File) -> None:
    """Raise DataError if the lines of a text surely need more memory than there can be."""
    _check(TEXT * len(text) + LONGEST_LINE * _longest_line(text) + LINE * _count_lines(text), file)


def check_json(text: bytes, file: File) -> None:
    """Raise DataError if JSON lines surely need more memory to be parsed than there can be."""
    lines = text.count(b"\n") + 1
    keys = _distinct_keys(islice(_lines(text, step=max(lines // SAMPLE, 1)), SAMPLE))
    if keys > MANY_KEYS:
        keys = _distinct_keys([text])
    cells = keys * lines * NUMBER if keys > MANY_KEYS else 0
    _check(TEXT * len(text) + LONGEST_LINE * _longest_line(text) + JSON_COLUMN * keys + cells, file)


def check_table(lazy: pl.LazyFrame, file: File) -> None:
    """Raise DataError if the rows that a Parquet file claims surely need more memory than there can be."""
    row = sum(WIDTHS.get(dtype.base_type(), NUMBER) for dtype in lazy.collect_schema().dtypes())
    rows = int(lazy.select(pl.len()).collect().item())
    _check(int(rows * row), file, f"of {rows:,} rows ")


def check_bytes(needed: int, file: File) -> None:
    """Raise DataError if the numbers of a file need more memory than there can be."""
    _check(needed, file)


def check_block(rows: int, columns: int, file: File) -> None:
    """Raise DataError if rows with the columns of all earlier blocks surely need more memory than there can be."""
    _check(_cells(rows, columns), file, f"with {columns:,} columns ")


def check_user(rows: int, columns: int, user: str | None, file: File) -> None:
    """Raise DataError if a user with this many rows or more surely needs more memory than there can be."""
    needed, (limit, name) = EVENT * rows + _cells(rows, columns), free_memory()
    if needed > limit:
        raise DataError(
            f"{file}: user {user!r} has {rows:,} rows or more, which need about {in_units(needed)} of memory, but "
            f"{name} leaves {in_units(max(limit, 0))}. Leave out the oldest rows of this user"
        )


def _cells(rows: int, columns: int) -> int:
    """Return the bytes of a frame of many columns; those of a few are counted with its rows."""
    return columns * (JSON_COLUMN + NUMBER * rows) if columns > MANY_KEYS else 0


def _csv_bytes(text: Text, delimiter: str) -> int:
    """Return 4 S + 10 L + 11 KiB C + 16 R C, of a text of S bytes, R lines, the longest of L bytes, and C columns."""
    start = text.find(b"\n")
    header = text[: start if start >= 0 else len(text)]
    columns, rows = header.count(delimiter.encode()) + 1, _count_lines(text)
    return TEXT * len(text) + LONGEST_LINE * _longest_line(text) + columns * (COLUMN + CELL * rows)


def _check(needed: int, file: File, what: str = "") -> None:
    limit, name = free_memory()
    if needed > limit:
        raise DataError(
            f"{file}: reading it {what}needs about {in_units(needed)} of memory, but {name} leaves "
            f"{in_units(max(limit, 0))}. {ADVICE}"
        )


def not_enough(file: File) -> DataError:
    """Return the error for a file that was read until the memory ended."""
    return DataError(f"{file}: the memory is not enough to read it. {ADVICE}")


def _count_lines(text: Text) -> int:
    return sum(text[start : start + CHUNK].count(b"\n") for start in range(0, len(text), CHUNK))


def _longest_line(text: Text) -> int:
    """Return the bytes of the longest line, or 0 if it is shorter than CHUNK."""
    longest = length = 0
    for start in range(0, len(text), CHUNK):
        chunk = text[start : start + CHUNK]
        first = chunk.find(b"\n")
        longest = max(longest, length + (first if first >= 0 else len(chunk)))
        length = length + len(chunk) if first < 0 else len(chunk) - chunk.rfind(b"\n") - 1
    return longest if longest >= CHUNK else 0


def _lines(text: bytes, step: int) -> Iterator[bytes]:
    """Yield lines that are spread over a text: the one after each of about equally many bytes."""
    place, stride = 0, max(len(text) // SAMPLE, 1) if step > 1 else 1
    while place < len(text):
        end = text.find(b"\n", place)
        end = len(text) if end < 0 else end
        yield text[place:end]
        place = end + 1 if step == 1 else text.find(b"\n", max(end, place + stride - 1)) + 1 or len(text)


def _distinct_keys(texts: Iterable[bytes]) -> int:
    return len({match[1] for text in texts for match in STRING.finditer(text) if match[2]})
