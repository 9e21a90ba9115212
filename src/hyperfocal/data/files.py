"""Read and write files of rows; find the line of a row, and the reason why a file cannot be read."""

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

import polars as pl

from hyperfocal.data.frames import as_frame, is_frame
from hyperfocal.errors import DataError

KINDS = {".csv": "csv", ".tsv": "csv", ".parquet": "parquet", ".jsonl": "jsonl", ".ndjson": "jsonl", ".txt": "lines"}
UNPACKED_LIMIT = 2**30  # bytes that a .gz read at once may always unpack to
GROWTH_LIMIT = 200  # times its own size that a larger .gz may unpack to; text grows 3 to 50 times, gzip at most 1,032
READ_ERRORS = (OSError, EOFError, zlib.error)  # the last two: a truncated or damaged .gz
DELIMITERS = ",;|"  # of a CSV header without a tab


@dataclass(frozen=True)
class File:
    """A file of rows, or MEMORY; prints as its path."""

    path: Path  # of the file
    raw: bytes | None = None  # bytes of a block of the file; None: the whole file
    first: int = 0  # row number of the block's first row

    def __str__(self) -> str:
        """Return the path."""
        return str(self.path)

    @property
    def suffix(self) -> str:
        """Return the name's suffix in lower case, without .gz: ".csv"."""
        return (self.path.with_suffix("") if self.path.suffix == ".gz" else self.path).suffix.lower()

    @property
    def kind(self) -> str:
        """Return "csv", "parquet", "jsonl" or "lines" by the suffix, or "frame"; raise DataError for another suffix."""
        if self is MEMORY:
            return "frame"
        if self.suffix not in KINDS or (self.suffix == ".parquet" and self.path.suffix == ".gz"):
            raise DataError(
                f"{self}: cannot tell its format from its name. Allowed: {', '.join(KINDS)}; text also as .gz"
            )
        return KINDS[self.suffix]

    def check_writable(self) -> None:
        """Raise DataError if `write_frame` cannot write to this path; called before a long computation."""
        if self.kind == "lines":
            raise DataError(f"{self}: rows cannot be written as {self.suffix}. Allowed: .csv, .tsv, .jsonl, .parquet")
        if self.path.is_dir():
            raise DataError(f"{self}: is a folder, not a file. Name a file to write")

    def check_unpacked_size(self) -> None:
        """Raise DataError for a .gz that unpacks to far more than a file of rows does: it may exhaust memory."""
        size = self.path.stat().st_size
        limit = left = max(UNPACKED_LIMIT, GROWTH_LIMIT * size)
        if self.path.suffix != ".gz" or self.raw is not None or 1_100 * size < limit:
            return
        with self.open_bytes() as unpacked:
            while chunk := unpacked.read(2**20):
                left -= len(chunk)
                if left < 0:
                    raise DataError(
                        f"{self}: {size:,} bytes unpack to more than {limit:,}, which may exhaust memory. "
                        "If you trust it, unpack it and use the unpacked file"
                    )

    def open_bytes(self) -> IO[bytes]:
        """Open for reading bytes, unpacked."""
        if self.raw is not None:
            return BytesIO(self.raw)
        return cast(IO[bytes], gzip.open(self.path) if self.path.suffix == ".gz" else self.path.open("rb"))

    def open(self) -> IO[str]:
        """Open for reading text, unpacked and without a byte order mark."""
        encoding = "utf-8-sig" if self.at_start else "utf-8"
        return TextIOWrapper(self.open_bytes(), encoding=encoding, newline="\n")

    @property
    def at_start(self) -> bool:
        """Return whether the bytes begin as the file does: only there is a byte order mark not part of the text.

        Every block of a CSV file begins with the file's header.
        """
        return self.first == 0 or self.kind == "csv"

    def place(self, row: int) -> str:
        """Return "FILE line 7" for a row number from 0; reads the file again, so only errors call it."""
        location = self._locate(row)
        return f"{self} line {location[0]}" if location else f"{self} row {self.first + row}"

    def fields(self, row: int) -> str:
        """Return " (the row has 2 of 3 fields)" if a CSV row is too short, else ""."""
        _, fields, width = self._locate(row) or (0, 0, 0)
        return f" (the row has {fields} of {width} fields)" if fields < width else ""

    def _locate(self, row: int) -> tuple[int, int, int] | None:
        """Return a row's line number and number of fields, and the header's; None if the line is unknown."""
        if self.kind in ("frame", "parquet"):
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


MEMORY = File(Path("frame"))  # in place of a file: a frame in memory
Reader = Callable[[File], pl.DataFrame]


def read_source(
    source: Any, kind: type, *, readers: Mapping[str, Reader] | None = None, row: str = "event"
) -> tuple[pl.DataFrame, File]:
    """Return the rows of a path or a frame, and the file they come from.

    Args:
        source: path; or frame, see `frames.is_frame`.
        kind: class whose values the caller accepts too, for the message.
        readers, row: as in `read_frame`.

    Raises:
        DataError: neither a path nor a frame; as in `read_frame`.
    """
    if isinstance(source, str | Path):
        file = File(Path(source))
        return read_frame(file, readers=readers, row=row), file
    if is_frame(source):
        return as_frame(source), MEMORY
    raise DataError(
        f"{type(source).__name__} is not a source of rows. Give a path, a frame (pandas, polars, Arrow, DuckDB), "
        f"a dictionary of columns, or {kind.__name__}"
    )


def read_frame(file: File, *, readers: Mapping[str, Reader] | None = None, row: str = "event") -> pl.DataFrame:
    """Return the rows of a file; text values stay text.

    Args:
        file: the file.
        readers: replacements for `READERS`, by kind; their errors become DataError too.
        row: name of a row, for the message about an empty file.

    Raises:
        DataError: no such file, an empty file, an unknown format, a file that is not in the format of its name.
    """
    kind = file.kind
    if not file.path.is_file():
        problem = "is a folder, not a file" if file.path.is_dir() else "no such file"
        raise DataError(f"{file}: {problem}. Check the path (looked in {Path.cwd()})")
    if file.path.stat().st_size == 0:
        raise _empty(file, row)
    try:
        file.check_unpacked_size()
        return {**READERS, **(readers or {})}[kind](file)
    except pl.exceptions.NoDataError:
        raise _empty(file, row) from None
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException, UnicodeDecodeError, *READ_ERRORS) as error:
        raise unreadable(file, error) from None


def check_rows(rows: int, file: File, row: str) -> None:
    """Raise DataError if a file has no rows; `row` names one."""
    if rows == 0:
        raise DataError(f"{file}: has no rows. Give a file with one row per {row}")


def write_frame(frame: pl.DataFrame, path: Path) -> None:
    """Write a frame in the format of the name: .csv, .tsv, .jsonl (also .gz) or .parquet.

    An error may leave the file half written, so the caller writes to a temporary path and renames it.

    Raises:
        DataError: another format, or a folder.
        OSError: the file cannot be written.
    """
    file = File(path)
    file.check_writable()
    try:
        if file.kind == "csv":
            write_rows(frame, path, header=True)
        elif file.kind == "parquet":
            frame.write_parquet(path)
        else:
            with _create(path) as out:
                frame.write_ndjson(out)
    except pl.exceptions.PolarsError as error:  # a full disk
        raise OSError(str(error)) from error


def write_rows(frame: pl.DataFrame, path: Path, *, header: bool) -> None:
    """Write a frame as .csv or .tsv (also .gz), with or without a header."""
    with _create(path) as out:
        frame.write_csv(out, separator="\t" if File(path).suffix == ".tsv" else ",", include_header=header)


def write_lines(rows: Iterable[dict[str, Any]], path: Path) -> None:
    """Write one JSON object per line, compressed if the name ends in .gz."""
    with _create(path) as out:
        for row in rows:
            out.write(json.dumps(row, ensure_ascii=False).encode() + b"\n")


def _create(path: Path) -> IO[bytes]:
    return cast(IO[bytes], gzip.open(path, "wb") if path.suffix == ".gz" else path.open("wb"))


def _read_csv(file: File) -> pl.DataFrame:
    with file.open() as text:
        delimiter = find_delimiter(text)
    source = file.path if file.raw is None else file.raw
    frame = pl.read_csv(source, separator=delimiter, infer_schema=False, glob=False)
    filled = frame.select(filled=pl.any_horizontal(pl.all().str.len_bytes() > 0).fill_null(value=False))["filled"]
    return frame if filled.all() else frame.filter(filled)  # blank lines are not rows


def _read_jsonl(file: File) -> pl.DataFrame:
    with file.open_bytes() as unpacked:
        raw = unpacked.read().removeprefix(BOM_UTF8 if file.at_start else b"")
    if not raw or raw.isspace():
        raise pl.exceptions.NoDataError
    return pl.read_ndjson(raw, infer_schema_length=None)


def _read_lines(file: File) -> pl.DataFrame:
    """Read lines `user item item ...`, with words separated by spaces and tabs, into one row per event."""
    with file.open() as text:
        words = pl.Series(text.read().split("\n"), dtype=pl.String).str.extract_all(r"[^ \t\r]+")
    counts = words.list.len()
    if (counts == 1).any():
        line = 1 + int((counts == 1).arg_max() or 0)
        raise DataError(f"{file} line {line}: a user without an item. Expected 'user item item ...'")
    words = words.filter(counts > 0)
    return pl.DataFrame({"user": words.list.first(), "item": words.list.slice(1)}).explode("item")


READERS: dict[str, Reader] = {
    "csv": _read_csv,
    "parquet": lambda file: pl.read_parquet(file.path, glob=False),
    "jsonl": _read_jsonl,
    "lines": _read_lines,
}


def _empty(file: File, row: str) -> DataError:
    return DataError(f"{file}: the file is empty. Give a file with one row per {row}")


def unreadable(file: File, error: BaseException) -> DataError:
    """Return the error for a file that is not in the format of its name, with the bad line if there is one."""
    return DataError(f"{file}: not readable as {file.kind}: {_reason(File(file.path), error)}")


def _reason(file: File, error: BaseException) -> str:
    try:
        fault = find_fault(file)
    except READ_ERRORS as damage:
        return f"the file is truncated or damaged ({damage}). Copy or download it again"
    return fault or f"{str(error).splitlines()[0]}. It may be damaged or have another format: export it again"


def find_delimiter(text: IO[str]) -> str:
    """Return a tab if the header has one, else the most frequent of `,;|` outside quotes; rewinds the text."""
    header = next(filter(str.strip, text), "")
    text.seek(0)
    unquoted = re.sub(r'"[^"]*"?', "", header)
    return "\t" if "\t" in unquoted else max(DELIMITERS, key=unquoted.count)


def csv_rows(text: IO[str]) -> Iterator[tuple[int, list[str]]]:
    """Yield the first line number and the fields of each row that is not empty, the header first."""
    reader = csv.reader(text, delimiter=find_delimiter(text), strict=True)
    start = 1
    try:
        for row in reader:
            if any(row):
                yield start, row
            start = reader.line_num + 1
    except csv.Error as error:
        raise ValueError(
            f"line {start} has a quote that is not closed, or one that is not doubled ({error}). Correct the quotes"
        ) from None


def find_fault(file: File) -> str:
    """Return the problem with the first bad line of a text file, or ""."""
    if file.kind == "parquet":
        return ""
    with file.open_bytes() as lines:
        for number, line in enumerate(lines, 1):
            try:
                line.decode()
            except UnicodeDecodeError as error:
                return f"line {number} is not UTF-8 text (byte {line[error.start]:#x}). Save the file as UTF-8"
    with file.open() as text:
        if file.kind == "csv":
            return _csv_fault(text)
        return _json_fault(text) if file.kind == "jsonl" else ""


def _csv_fault(text: IO[str]) -> str:
    try:
        rows = csv_rows(text)
        _, header = next(rows, (0, []))
        for line, row in rows:
            if len(row) > len(header):
                counts = f"line {line} has {len(row)} fields, the header {len(header)}"
                return f"{counts}. Quote fields that contain the delimiter"
    except ValueError as error:
        return str(error)
    text.seek(0)
    odd = next((number for number, line in enumerate(text, 1) if line.count('"') % 2), 0)
    return f"line {odd} has a quote inside a field. Quote the field and double the quote inside it" if odd else ""


def _json_fault(text: IO[str]) -> str:
    for number, line in enumerate(text, 1):
        if not line.strip():
            continue
        try:
            value = json.loads(line.rstrip(), parse_constant=_refuse_constant)
        except json.JSONDecodeError as error:
            return f"line {number} is not JSON: {error.msg} at character {error.colno}. Write one object per line"
        except ValueError as error:
            return f"line {number} is not JSON: {error}"
        except RecursionError:
            return f"line {number} has thousands of nested brackets. Write one flat object per line"
        if not isinstance(value, dict):
            return f"line {number} is not a JSON object: {line.strip()[:80]}. Write one object per line"
    return ""


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not allowed. Write null")
