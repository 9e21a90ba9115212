"""Files of rows: their kinds, how each is read and written, and where a row stands in one."""

from __future__ import annotations

import csv
import gzip
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import IO, cast

import polars as pl

from hyperfocal.errors import DataError

KINDS = {".csv": "csv", ".tsv": "csv", ".parquet": "parquet", ".jsonl": "jsonl", ".ndjson": "jsonl", ".txt": "lines"}
SEPARATORS = ",\t;|"


@dataclass(frozen=True)
class File:
    """A file of rows, or, with path None, a frame in memory; prints as its name."""

    path: Path | None

    def __str__(self) -> str:
        """Return the path."""
        return "frame" if self.path is None else str(self.path)

    @property
    def kind(self) -> str:
        """Return "csv", "parquet", "jsonl" or "lines", by the name's end."""
        assert self.path is not None
        suffix = (self.path.with_suffix("") if self.path.suffix == ".gz" else self.path).suffix.lower()
        if suffix not in KINDS or (suffix == ".parquet" and self.path.suffix == ".gz"):
            raise DataError(
                f"{self}: cannot tell its format from its name. Allowed: {', '.join(KINDS)}; text also as .gz"
            )
        return KINDS[suffix]

    def open(self) -> IO[str]:
        """Open for reading text, unpacked."""
        assert self.path is not None
        if self.path.suffix == ".gz":
            return gzip.open(self.path, "rt", encoding="utf-8", newline="")
        return self.path.open(encoding="utf-8", newline="")

    def place(self, row: int) -> str:
        """Return "FILE line 7" for a row number from 0; only errors ask, so it may read the file again."""
        if self.path is None or self.kind == "parquet":
            return f"{self} row {row}"
        return f"{self} line {self._line(row)[0]}"

    def fields(self, row: int) -> str:
        """Return " (the row has 2 of 3 fields)" where a CSV row is too short, else ""."""
        if self.path is None or self.kind != "csv":
            return ""
        _, width, fields = self._line(row)
        return f" (the row has {fields} of {width} fields)" if fields < width else ""

    def _line(self, row: int) -> tuple[int, int, int]:
        """Return line number, header width and number of fields of a row."""
        with self.open() as text:
            if self.kind != "csv":
                numbered = ((n, line) for n, line in enumerate(text, 1) if line.strip())
                return next(islice(numbered, row, None))[0], 0, 0
            rows = _csv_rows(text)
            _, header = next(rows)
            line, fields = next(islice(rows, row, None))
            return line, len(header), len(fields)


def read_frame(file: File) -> pl.DataFrame:
    """Return the rows of a file; text values stay text.

    Raises:
        DataError: no such file, an empty file, an unknown format, a file that is not what its name says.
    """
    assert file.path is not None
    kind = file.kind
    if not file.path.is_file():
        what = "is a folder, not a file" if file.path.is_dir() else "no such file"
        raise DataError(f"{file}: {what}. Check the path (looked in {Path.cwd()})")
    if file.path.stat().st_size == 0:
        raise DataError(f"{file}: the file is empty. Give a file with one row an event")
    try:
        if kind == "parquet":
            return pl.read_parquet(file.path)
        if kind == "jsonl":
            return pl.read_ndjson(_unpacked(file), infer_schema_length=None)
        return _read_lines(file) if kind == "lines" else _read_csv(file)
    except (pl.exceptions.PolarsError, OSError, EOFError, UnicodeDecodeError) as error:
        raise DataError(f"{file}: not readable as {kind}: {_where_ragged(file) or error}") from None


def write_frame(frame: pl.DataFrame, path: Path) -> None:
    """Write a frame in the format that the name says: .csv, .tsv, .jsonl (also .gz) or .parquet.

    The caller hands a path that it may leave half-written, and renames it.
    """
    kind = File(path).kind
    if kind == "parquet":
        frame.write_parquet(path)
        return
    with cast(IO[bytes], gzip.open(path, "wb") if path.suffix == ".gz" else path.open("wb")) as out:
        if kind == "jsonl":
            frame.write_ndjson(out)
        else:
            frame.write_csv(out, separator="\t" if ".tsv" in path.suffixes else ",")


def _read_csv(file: File) -> pl.DataFrame:
    assert file.path is not None
    with file.open() as text:
        header = text.readline()
    separator = max(SEPARATORS, key=header.count)
    return pl.read_csv(file.path, separator=separator, infer_schema=False)


def _read_lines(file: File) -> pl.DataFrame:
    """Read `user item item ...` into one row an event."""
    assert file.path is not None
    lines = pl.read_csv(
        file.path, separator="\x01", has_header=False, new_columns=["line"], quote_char=None, infer_schema=False
    )
    words = lines["line"].fill_null("").str.extract_all(r"\S+")
    short = (words.list.len() < 2) & (words.list.len() > 0)
    if short.any():
        row = int(short.arg_max() or 0)
        raise DataError(f"{file} line {row + 1}: a user without an item. Expected 'user item item ...'")
    kept = words.filter(words.list.len() > 0)
    frame = pl.DataFrame({"user": kept.list.first(), "item": kept.list.slice(1)})
    return frame.explode("item")


def _unpacked(file: File) -> bytes | Path:
    assert file.path is not None
    return gzip.decompress(file.path.read_bytes()) if file.path.suffix == ".gz" else file.path


def _csv_rows(text: IO[str]) -> Iterator[tuple[int, list[str]]]:
    """Yield the line on which each row begins, and its fields; blank lines are no rows."""
    header = text.readline()
    separator = max(SEPARATORS, key=header.count)
    yield 1, next(csv.reader([header], delimiter=separator))
    reader = csv.reader(text, delimiter=separator)
    begins = 2
    for row in reader:
        if row:
            yield begins, row
        begins = reader.line_num + 2


def _where_ragged(file: File) -> str:
    """Return which row has more fields than the header, if one has."""
    if file.kind != "csv":
        return ""
    try:
        with file.open() as text:
            rows = _csv_rows(text)
            _, header = next(rows)
            wide = next(((line, row) for line, row in rows if len(row) > len(header)), None)
    except (OSError, EOFError, UnicodeDecodeError, csv.Error, StopIteration):
        return ""
    return f"line {wide[0]} has {len(wide[1])} fields, the header {len(header)}" if wide else ""
