"""Files of rows: their kinds, how each is read and written, and where a row stands in one.

Where a row stands in a text file, and what makes a text file unreadable.

Only errors ask, so the file is read again, line by line in plain Python.
"""

from __future__ import annotations

import csv
import gzip
import json
import re
import zlib
from codecs import BOM_UTF8
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from io import BytesIO, TextIOWrapper
from itertools import islice
from pathlib import Path
from typing import IO, Any, cast

import numpy as np
import polars as pl
from polars.datatypes import DataTypeClass

from hyperfocal.errors import DataError

KINDS = {".csv": "csv", ".tsv": "csv", ".parquet": "parquet", ".jsonl": "jsonl", ".ndjson": "jsonl", ".txt": "lines"}
MOST_UNPACKED = 2**30  # bytes that a .gz read at once may always unpack to
MOST_GROWTH = 200  # times its size that it may unpack to beyond; text grows by 3 to 50, at most 1,032 is possible
READ_ERRORS = (OSError, EOFError, zlib.error)  # the last two: a .gz that is cut short or damaged


@dataclass(frozen=True)
class File:
    """A file of rows, or, with path None, a frame in memory; prints as its name.

    Attributes:
        path: of the file.
        raw: the bytes of a block of its rows, where it is read block by block.
        first: row number of the block's first row.
    """

    path: Path | None
    raw: bytes | None = None
    first: int = 0

    def __str__(self) -> str:
        """Return the path."""
        return "frame" if self.path is None else str(self.path)

    @property
    def suffix(self) -> str:
        """Return the end of the name in small letters, without .gz: ".csv"."""
        assert self.path is not None
        return (self.path.with_suffix("") if self.path.suffix == ".gz" else self.path).suffix.lower()

    @property
    def kind(self) -> str:
        """Return "csv", "parquet", "jsonl" or "lines", by the name's end."""
        assert self.path is not None
        if self.suffix not in KINDS or (self.suffix == ".parquet" and self.path.suffix == ".gz"):
            raise DataError(
                f"{self}: cannot tell its format from its name. Allowed: {', '.join(KINDS)}; text also as .gz"
            )
        return KINDS[self.suffix]

    def refuse_unwritable(self) -> None:
        """Raise DataError if `write_frame` cannot write here, before the work whose end is this file."""
        if self.kind == "lines":
            raise DataError(f"{self}: rows cannot be written as {self.suffix}. Allowed: .csv, .tsv, .jsonl, .parquet")
        assert self.path is not None
        if self.path.is_dir():
            raise DataError(f"{self}: is a folder, not a file. Give the name of a file to write")

    def open_bytes(self) -> IO[bytes]:
        """Open for reading, unpacked."""
        assert self.path is not None
        if self.raw is not None:
            return BytesIO(self.raw)
        return cast(IO[bytes], gzip.open(self.path) if self.path.suffix == ".gz" else self.path.open("rb"))

    def refuse_bomb(self) -> None:
        """Raise DataError for a .gz that unpacks to far more than files of rows do: it was made to fill the memory."""
        assert self.path is not None
        size = self.path.stat().st_size
        left = max(MOST_UNPACKED, MOST_GROWTH * size)
        if self.path.suffix != ".gz" or self.raw is not None or 1_100 * size < left:
            return
        with self.open_bytes() as packed:
            while part := packed.read(2**20):
                left -= len(part)
                if left < 0:
                    raise DataError(
                        f"{self}: {size:,} bytes unpack to more than {max(MOST_UNPACKED, MOST_GROWTH * size):,}, so it "
                        "may be made to fill the memory. If you trust it, unpack it and give that file"
                    )

    def open(self) -> IO[str]:
        """Open for reading text, unpacked; a byte order mark is left out."""
        return TextIOWrapper(self.open_bytes(), encoding="utf-8-sig" if self.has_start else "utf-8", newline="\n")

    @property
    def has_start(self) -> bool:
        """Return whether the bytes are the first of the file, where alone a byte order mark is none of the text.

        A block of a CSV file begins with the file's header.
        """
        return self.first == 0 or self.kind == "csv"

    def place(self, row: int) -> str:
        """Return "FILE line 7" for a row number from 0; only errors ask, so it may read the file again."""
        found = self._find(row)
        return f"{self} line {found[0]}" if found else f"{self} row {self.first + row}"

    def fields(self, row: int) -> str:
        """Return " (the row has 2 of 3 fields)" where a CSV row is too short, else ""."""
        _, fields, width = self._find(row) or (0, 0, 0)
        return f" (the row has {fields} of {width} fields)" if fields < width else ""

    def _find(self, row: int) -> tuple[int, int, int] | None:
        """Return line number, number of fields and width of the header; None where no line can be told."""
        if self.path is None or self.kind == "parquet":
            return None
        row += self.first
        with File(self.path).open() as text:
            if self.kind != "csv":
                numbered = (number for number, line in enumerate(text, 1) if line.strip())
                return next(((number, 0, 0) for number in islice(numbered, row, None)), None)
            try:
                rows = csv_rows(text)
                _, header = next(rows)
                return next(((line, len(fields), len(header)) for line, fields in islice(rows, row, None)), None)
            except ValueError:
                return None


Reader = Callable[[File], pl.DataFrame]


def is_plain(dtype: pl.DataType | DataTypeClass) -> bool:
    """Return whether each value of a column is a text, a number, a point in time or a truth value: it has a text."""
    texts = (pl.String, pl.Categorical, pl.Enum, pl.Boolean, pl.Null)
    return dtype in texts or dtype.is_numeric() or (dtype.is_temporal() and dtype != pl.Duration)


def as_frame(data: Any) -> pl.DataFrame | None:
    """Return the frame of polars that a frame of polars or pandas amounts to; None for anything else."""
    if isinstance(data, pl.DataFrame | pl.LazyFrame):
        return data.lazy().collect()
    if hasattr(data, "columns"):  # pandas
        return pl.DataFrame({str(column): np.asarray(data[column]) for column in data.columns}, strict=False)
    return None


def read_frame(file: File, *, readers: Mapping[str, Reader] | None = None, row: str = "an event") -> pl.DataFrame:
    """Return the rows of a file; text values stay text.

    Args:
        file: the file.
        readers: by kind, to use instead of those of `READERS`; their errors are worded here too.
        row: what a row is, for the message about an empty file.

    Raises:
        DataError: no such file, an empty file, an unknown format, a file that is not what its name says.
    """
    assert file.path is not None
    kind = file.kind
    if not file.path.is_file():
        what = "is a folder, not a file" if file.path.is_dir() else "no such file"
        raise DataError(f"{file}: {what}. Check the path (looked in {Path.cwd()})")
    if file.path.stat().st_size == 0:
        raise _empty(file, row)
    try:
        file.refuse_bomb()
        return {**READERS, **(readers or {})}[kind](file)
    except pl.exceptions.NoDataError:
        raise _empty(file, row) from None
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException, UnicodeDecodeError, *READ_ERRORS) as error:
        raise unreadable(file, error) from None


def write_frame(frame: pl.DataFrame, path: Path) -> None:
    """Write a frame in the format that the name says: .csv, .tsv, .jsonl (also .gz) or .parquet.

    The caller hands a path that it may leave half-written, and renames it.

    Raises:
        DataError: another format, or a folder.
        OSError: it cannot be written.
    """
    file = File(path)
    file.refuse_unwritable()
    try:
        _write(frame, path, file)
    except pl.exceptions.PolarsError as error:  # a full disk
        raise OSError(str(error)) from error


def write_lines(rows: Iterable[dict[str, Any]], path: Path) -> None:
    """Write one JSON object a line, packed where the name ends in .gz; the path may be left half-written."""
    with cast(IO[bytes], gzip.open(path, "wb") if path.suffix == ".gz" else path.open("wb")) as out:
        for row in rows:
            out.write(json.dumps(row, ensure_ascii=False).encode() + b"\n")


def write_rows(frame: pl.DataFrame, path: Path, *, header: bool) -> None:
    """Write a frame as .csv or .tsv (also .gz), with or without the line of its names."""
    with cast(IO[bytes], gzip.open(path, "wb") if path.suffix == ".gz" else path.open("wb")) as out:
        frame.write_csv(out, separator="\t" if File(path).suffix == ".tsv" else ",", include_header=header)


def _write(frame: pl.DataFrame, path: Path, file: File) -> None:
    if file.kind == "parquet":
        frame.write_parquet(path)
    elif file.kind == "csv":
        write_rows(frame, path, header=True)
    else:
        with cast(IO[bytes], gzip.open(path, "wb") if path.suffix == ".gz" else path.open("wb")) as out:
            frame.write_ndjson(out)


def _read_csv(file: File) -> pl.DataFrame:
    assert file.path is not None
    with file.open() as text:
        separator = find_separator(text)
    source = file.path if file.raw is None else file.raw
    frame = pl.read_csv(source, separator=separator, infer_schema=False, glob=False)
    filled = frame.select(filled=pl.any_horizontal(pl.all().str.len_bytes() > 0).fill_null(value=False))["filled"]
    return frame if filled.all() else frame.filter(filled)  # blank lines are no rows


def _read_parquet(file: File) -> pl.DataFrame:
    assert file.path is not None
    return pl.read_parquet(file.path, glob=False)


def _read_jsonl(file: File) -> pl.DataFrame:
    with file.open_bytes() as packed:
        raw = packed.read().removeprefix(BOM_UTF8 if file.has_start else b"")
    if not raw or raw.isspace():
        raise pl.exceptions.NoDataError
    return pl.read_ndjson(raw, infer_schema_length=None)


def _read_lines(file: File) -> pl.DataFrame:
    """Read `user item item ...` into one row an event; spaces and tabs part the words."""
    with file.open() as text:
        words = pl.Series(text.read().split("\n"), dtype=pl.String).str.extract_all(r"[^ \t\r]+")
    counts = words.list.len()
    if (counts == 1).any():
        line = 1 + int((counts == 1).arg_max() or 0)
        raise DataError(f"{file} line {line}: a user without an item. Expected 'user item item ...'")
    kept = words.filter(counts > 0)
    return pl.DataFrame({"user": kept.list.first(), "item": kept.list.slice(1)}).explode("item")


READERS: dict[str, Reader] = {
    "csv": _read_csv,
    "parquet": _read_parquet,
    "jsonl": _read_jsonl,
    "lines": _read_lines,
}


def unreadable(file: File, error: BaseException) -> DataError:
    """Return the error for a file that is not what its name says, with the line to blame where there is one."""
    return DataError(f"{file}: not readable as {file.kind}: {_reason(File(file.path), error)}")


def _empty(file: File, row: str) -> DataError:
    return DataError(f"{file}: the file is empty. Give a file with one row {row}")


def _reason(file: File, error: BaseException) -> str:
    """Return why a file is not readable, with the line to blame where there is one."""
    fault = ""
    if file.kind != "parquet":
        try:
            with file.open_bytes() as lines, file.open() as text:
                fault = find_fault(lines, text, file.kind)
        except READ_ERRORS as damage:
            return f"the file is cut short or damaged ({damage}). Copy or download it again"
    return fault or f"{str(error).splitlines()[0]}. Perhaps it is damaged or of another format: write it again"


SEPARATORS = ",;|"  # beside a tab, which goes first


def find_separator(text: IO[str]) -> str:
    """Return a tab if the header holds one, else the most frequent of `,;|` outside quotes; rewinds the text."""
    header = next(filter(str.strip, text), "")
    text.seek(0)
    bare = re.sub(r'"[^"]*"?', "", header)
    return "\t" if "\t" in bare else max(SEPARATORS, key=bare.count)


def csv_rows(text: IO[str]) -> Iterator[tuple[int, list[str]]]:
    """Yield the line on which each row begins, and its fields, the header first; empty rows are no rows."""
    reader = csv.reader(text, delimiter=find_separator(text), strict=True)
    begins = 1
    try:
        for row in reader:
            if any(row):
                yield begins, row
            begins = reader.line_num + 1
    except csv.Error as error:
        raise ValueError(
            f"line {begins} has a quote that is not closed, or one that is not doubled ({error})"
        ) from None


def find_fault(lines: Iterable[bytes], text: IO[str], kind: str) -> str:
    """Return what is wrong with the first bad line of a "csv", "jsonl" or "lines" file, or "".

    Args:
        lines: the file in bytes.
        text: the same file, decoded.
        kind: its format.
    """
    for number, line in enumerate(lines, 1):
        try:
            line.decode()
        except UnicodeDecodeError as error:
            return f"line {number} is not UTF-8 text (byte {line[error.start]:#x}). Save the file as UTF-8"
    if kind == "csv":
        return _csv_fault(text)
    return _json_fault(text) if kind == "jsonl" else ""


def _csv_fault(text: IO[str]) -> str:
    try:
        rows = csv_rows(text)
        _, header = next(rows, (0, []))
        for line, row in rows:
            if len(row) > len(header):
                return (
                    f"line {line} has {len(row)} fields, the header {len(header)}. Quote fields that hold a separator"
                )
    except ValueError as error:
        return str(error)
    text.seek(0)
    odd = next((number for number, line in enumerate(text, 1) if line.count('"') % 2), 0)
    return f"line {odd} has a quote inside a field. Put the field in quotes and double the quote" if odd else ""


def _json_fault(text: IO[str]) -> str:
    for number, line in enumerate(text, 1):
        if not line.strip():
            continue
        try:
            value = json.loads(line.rstrip(), parse_constant=_refuse_constant)
        except json.JSONDecodeError as error:
            return f"line {number} is no JSON: {error.msg} at character {error.colno}. Write one object a line"
        except ValueError as error:
            return f"line {number} is no JSON: {error}"
        except RecursionError:
            return f"line {number} has thousands of brackets in each other. Write one flat object a line"
        if not isinstance(value, dict):
            return f"line {number} is no JSON object: {line.strip()[:80]}. Write one object a line"
    return ""


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not allowed. Write null")
