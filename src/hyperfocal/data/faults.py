"""Where a row stands in a text file, and what makes a text file unreadable.

Only errors ask, so the file is read again, line by line in plain Python.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterable, Iterator
from typing import IO

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
