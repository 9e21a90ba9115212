"""Rows of CSV text with their line numbers, and the delimiter of a header."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator
from typing import IO

import polars as pl

FORMULA = r"^['=+\-@\t\r\n\uff1d\uff0b\uff0d\uff20]"  # a cell that a spreadsheet may run; a quote, to undo it exactly
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


def safe_cells(frame: pl.DataFrame) -> pl.DataFrame:
    """Return a frame with a single quote before each name and text that a spreadsheet may run as a formula.

    That is a cell that begins with =, +, -, @, their full-width forms, a tab or a line end. One that begins with a
    single quote gets another one, so that `unsafe_cell` returns the text of any cell. Numbers do not change.
    Source: OWASP, CSV Injection.

    >>> safe_cells(pl.DataFrame({"label": ["=1+1", "plain", "'quoted"], "score": [-1, 2, 3]}))["label"].to_list()
    ["'=1+1", 'plain', "''quoted"]
    """
    texts = pl.col(pl.String)
    guarded = pl.when(texts.str.contains(FORMULA)).then(pl.lit("'") + texts).otherwise(texts)
    return frame.with_columns(guarded.name.keep()).rename(
        {name: f"'{name}" for name in frame.columns if re.match(FORMULA, name)}
    )


def unsafe_cell(text: str) -> str:
    """Return the text of a cell that `safe_cells` wrote."""
    return text.removeprefix("'")
