"""A file of rows: its format by its name, its bytes, the place of a row in it; and the writing of such files."""

from __future__ import annotations

import json
from codecs import BOM_UTF8
from collections.abc import Iterable
from dataclasses import dataclass
from io import BytesIO, TextIOWrapper
from itertools import islice
from pathlib import Path
from typing import IO, Any

import polars as pl

from hyperfocal.data.compression import PACKERS, create_packed, is_compressed, without_packed
from hyperfocal.data.csv_text import csv_rows, safe_cells
from hyperfocal.data.parquet_parts import locate_row
from hyperfocal.data.text_bytes import open_text_bytes
from hyperfocal.errors import DataError
from hyperfocal.parts import files_of, special

WRITABLE = (".csv", ".tsv", ".jsonl", ".ndjson", ".parquet")
RECBOLE = (".inter", ".item", ".user")
KINDS = {
    ".csv": "csv",
    ".tsv": "csv",
    ".parquet": "parquet",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".txt": "lines",
    **dict.fromkeys(RECBOLE, "csv"),
    ".dat": "dat",  # MovieLens
}
UNPACKED_LIMIT = 2**30  # bytes that a compressed file read at once may always unpack to
GROWTH_LIMIT = 200  # times its own size that a larger one may unpack to; text grows 3 to 50 times
CHUNK = 2**20  # bytes unpacked at a time


@dataclass(frozen=True)
class File:
    """A file of rows, or MEMORY; prints as its path."""

    path: Path  # of the file; of a folder of Parquet parts; or a pattern for such parts
    raw: bytes | None = None  # bytes of a block of the file; None: the whole file
    first: int = 0  # row number of the block's first row
    line: int = 0  # number of lines before the block, except in CSV
    columns: tuple[str, ...] = ()  # of earlier blocks, so that a reader keeps the format that it recognised

    def __str__(self) -> str:
        """Return the path."""
        return str(self.path)

    @property
    def suffix(self) -> str:
        """Return the name's suffix in lower case, without .gz, .bz2 or .zst: ".csv"."""
        return without_packed(self.path).suffix.lower()

    @property
    def kind(self) -> str:
        """Return "csv", "jsonl", "lines", "dat" or "parquet" by the suffix, or "frame"; DataError for another suffix.

        A folder, or a pattern of Parquet parts, with another suffix is of kind "parquet".
        """
        if self is MEMORY:
            return "frame"
        packed = self.path != without_packed(self.path)
        if self.suffix in KINDS and not (packed and self.suffix == ".parquet"):
            return KINDS[self.suffix]
        if self.path.is_dir() or (not self.path.is_file() and files_of(self.path)):
            return "parquet"
        self.refuse_special()
        raise DataError(
            f"{self}: cannot tell its format from its name. Allowed: {', '.join(KINDS)}; text also as "
            f"{', '.join(PACKERS)}; Parquet parts also as a folder, or a pattern such as 'log/*.parquet'"
        )

    @property
    def quoted(self) -> bool:
        """Return whether quotes enclose fields: in CSV, but not in the files of RecBole, which writes no quotes."""
        return self.kind == "csv" and self.suffix not in RECBOLE

    def refuse_special(self) -> None:
        """Raise DataError if the path is a pipe, a device or a socket."""
        if kind := special(self.path):
            raise DataError(f"{self}: is {kind}, not a file. Write its content to a file first")

    def check_writable(self) -> None:
        """Raise DataError if `write_frame` cannot write to this path; called before a long computation."""
        if self.path.is_dir():
            raise DataError(f"{self}: is a folder, not a file. Name a file to write")
        if self.kind and self.suffix not in WRITABLE:
            raise DataError(f"{self}: rows cannot be written as {self.suffix}. Allowed: .csv, .tsv, .jsonl, .parquet")

    def read(self) -> bytes:
        """Return the bytes of a text: unpacked, as UTF-8 with line feeds, without a byte order mark at the start.

        Raises:
            DataError: a compressed file that unpacks to far more than a file of rows does, which may exhaust memory.
        """
        whole = self.raw is None and is_compressed(self.path)
        size = self.path.stat().st_size if whole else 0
        limit = max(UNPACKED_LIMIT, GROWTH_LIMIT * size)
        content = BytesIO()
        with self.open_bytes() as unpacked:
            while chunk := unpacked.read(CHUNK):
                content.write(chunk)
                if whole and content.tell() > limit:
                    raise DataError(
                        f"{self}: {size:,} bytes unpack to more than {limit:,}, which may exhaust memory. "
                        "If you trust it, unpack it and use the unpacked file"
                    )
        return content.getvalue().removeprefix(BOM_UTF8 if self.at_start else b"")

    def open_bytes(self) -> IO[bytes]:
        """Open for reading bytes: unpacked, as UTF-8 with line feeds."""
        return open_text_bytes(self.path.open("rb")) if self.raw is None else BytesIO(self.raw)

    def open(self) -> IO[str]:
        """Open for reading text, unpacked and without a byte order mark."""
        encoding = "utf-8-sig" if self.at_start else "utf-8"
        errors = "replace" if self.kind == "dat" else "strict"  # it may be Latin-1
        return TextIOWrapper(self.open_bytes(), encoding=encoding, errors=errors, newline="\n")

    @property
    def at_start(self) -> bool:
        """Return whether the bytes begin as the file does: only there is a byte order mark not part of the text.

        Every block of a CSV file begins with the file's header.
        """
        return self.first == 0 or self.kind == "csv"

    def place(self, row: int) -> str:
        """Return "FILE line 7" for a row number from 0; reads the file again, so only errors call it."""
        if self.kind == "parquet":
            part, number = locate_row(self.path, self.first + row)
            return f"{part} row {number}"
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
                rows = csv_rows(text, quoted=self.quoted)
                _, header = next(rows)
                return next(((line, len(fields), len(header)) for line, fields in islice(rows, row, None)), None)
            except ValueError:
                return None


MEMORY = File(Path("frame"))  # in place of a file: a frame in memory


def check_rows(rows: int, file: File, row: str) -> None:
    """Raise DataError if a file has no rows; `row` names one."""
    if rows == 0:
        raise DataError(f"{file}: has no rows. Give a file with one row per {row}")


def write_frame(frame: pl.DataFrame, path: Path) -> None:
    """Write a frame in the format of the name: .csv, .tsv, .jsonl (also compressed) or .parquet.

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
            with create_packed(path) as out:
                frame.write_ndjson(out)
    except pl.exceptions.PolarsError as error:  # a full disk
        raise OSError(str(error)) from error


def write_rows(frame: pl.DataFrame, path: Path, *, header: bool, safe: bool = False) -> None:
    """Write a frame as .csv or .tsv (also compressed), with or without a header; `safe`: as `safe_cells` returns it."""
    frame = safe_cells(frame) if safe else frame
    with create_packed(path) as out:
        frame.write_csv(out, separator="\t" if File(path).suffix == ".tsv" else ",", include_header=header)


def write_lines(rows: Iterable[dict[str, Any]], path: Path) -> None:
    """Write one JSON object per line, compressed as the name says."""
    with create_packed(path) as out:
        for row in rows:
            out.write(json.dumps(row, ensure_ascii=False).encode() + b"\n")
