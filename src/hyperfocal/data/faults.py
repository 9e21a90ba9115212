"""Explain why a file of rows cannot be read, and name its first bad line."""

from __future__ import annotations

import json
from typing import IO

from hyperfocal.data.compression import READ_ERRORS, is_compressed, without_packed
from hyperfocal.data.csv_text import csv_rows
from hyperfocal.data.files import File
from hyperfocal.data.signatures import HEAD_BYTES, foreign_format
from hyperfocal.data.text_bytes import MARKS, damage_of, recoding_of_file
from hyperfocal.errors import DataError


def check_signature(file: File) -> None:
    """Raise DataError if the first bytes do not match the file's name, such as a zip archive named .csv."""
    if file.first or not file.path.is_file():
        return
    with file.path.open("rb") if file.kind == "parquet" else file.open_bytes() as stream:
        name, advice = foreign_format(stream.read(HEAD_BYTES), file.kind)
    if name:
        claim = "not compressed, as its name says, but " if _is_named_packed(file) else ""
        raise DataError(f"{file}: is {claim}{name}. {advice}")


def _is_named_packed(file: File) -> bool:
    """Return whether the suffix of a file is that of a compressed file, but its content is not compressed."""
    return without_packed(file.path) != file.path and not is_compressed(file.path)


def unreadable(file: File, error: BaseException) -> DataError:
    """Return the error for a file that does not have the format of its suffix, with the bad line if there is one."""
    return DataError(f"{file}: not readable as {file.kind}: {_reason(File(file.path), error)}")


def _reason(file: File, error: BaseException) -> str:
    try:
        fault = find_fault(file)
    except READ_ERRORS as damage:
        return damage_of(damage)
    return fault or f"{str(error).splitlines()[0]}. It may be damaged or have another format: export it again"


def find_fault(file: File) -> str:
    """Return the problem with the first bad line of a text file, or ""."""
    if file.kind in ("parquet", "dat"):
        return ""
    with file.open_bytes() as lines:
        for number, line in enumerate(lines, 1):
            try:
                line.decode()
            except UnicodeDecodeError as error:
                return _encoding_fault(file, number, line[error.start])
    with file.open() as text:
        if file.kind == "csv":
            return _csv_fault(text, quoted=file.quoted)
        return _json_fault(text) if file.kind == "jsonl" else ""


def _encoding_fault(file: File, number: int, byte: int) -> str:
    if file.raw is None and _is_named_packed(file):
        return "the file is not compressed, as its name says, nor text: it is damaged. Copy or download it again"
    if file.raw is None and (recoding := recoding_of_file(file.path)) in MARKS.values():
        return f"line {number} is not {recoding} text. Save the file as UTF-8"
    return f"line {number} is not UTF-8 text (byte {byte:#x}). Save the file as UTF-8"


def _csv_fault(text: IO[str], *, quoted: bool) -> str:
    try:
        rows = csv_rows(text, quoted=quoted)
        _, header = next(rows, (0, []))
        for line, row in rows:
            if len(row) > len(header):
                counts = f"line {line} has {len(row)} fields, the header {len(header)}"
                return f"{counts}. Quote fields that contain the delimiter"
    except ValueError as error:
        return str(error)
    text.seek(0)
    odd = quoted and next((number for number, line in enumerate(text, 1) if line.count('"') % 2), 0)
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
