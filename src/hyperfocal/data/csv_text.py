"""Rows of CSV text with their line numbers, and the delimiter of a header."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator
from typing import IO

DELIMITERS = ",;|"  # of a CSV header without a tab


def find_delimiter(text: IO[str]) -> str:
    """Return a tab if the header has one, else the most frequent of `,;|` outside quotes; rewinds the text."""
    header = next(filter(str.strip, text), "")
    text.seek(0)
    unquoted = re.sub(r'"[^"]*"?', "", header)
    return "\t" if "\t" in unquoted else max(DELIMITERS, key=unquoted.count)


def csv_rows(text: IO[str], *, quoted: bool = True) -> Iterator[tuple[int, list[str]]]:
    """Yield the first line number and the fields of each row that is not empty, the header first.

    Args:
        text: to read.
        quoted: whether quotes enclose fields; else they are part of the text.

    Raises:
        ValueError: an unclosed quote, or one that is not doubled.
    """
    delimiter = find_delimiter(text)
    unquoted = csv.reader(text, delimiter=delimiter, quoting=csv.QUOTE_NONE)
    reader = csv.reader(text, delimiter=delimiter, strict=True) if quoted else unquoted
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


def row_like_lines(value: str, delimiter: str, width: int) -> list[str]:
    """Return the lines of a field if they look like rows that an unclosed quote swallowed; else [].

    A line looks like a row if it has as many delimiters as the header, `width` - 1, none of them before a space, as
    in prose. All lines between the first and the last must look like rows; of two lines, the last.
    """
    lines = value.split("\n")[1:]
    lines = lines[:-1] or lines
    like = [line.count(delimiter) == width - 1 and f"{delimiter} " not in line for line in lines]
    return lines if width > 1 and all(like) else []
