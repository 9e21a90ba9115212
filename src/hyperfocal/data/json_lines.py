r"""Read JSON lines exactly: large integers next to floats; refuse lone surrogates.

A character outside the basic plane, such as an emoji, is two escapes in ASCII JSON: `\ud83d\ude00`. A text cut between
them leaves half a character, which polars reads as NUL, so that different ids become one.
"""

from __future__ import annotations

import json
import re
from codecs import BOM_UTF8
from collections.abc import Iterable, Sequence
from contextlib import suppress
from decimal import Decimal
from typing import Any

import polars as pl

from hyperfocal.data.columns import json_text
from hyperfocal.data.files import File
from hyperfocal.data.memory import check_json
from hyperfocal.errors import DataError

CANDIDATE = re.compile(  # a half that no other half seems to follow or to precede; a first half after a backslash
    rb"\\u[dD](?:[89abAB](?:\w\w(?!\\u[dD][c-fC-F])|(?<=\\\\u[dD].))"
    rb"|[c-fC-F]\w\w(?<!\\u[dD][89abAB]\w\w\\u[dD].\w\w))"
)
ESCAPE = re.compile(rb"\\(u[dD][89abAB]\w\w\\u[dD][c-fC-F]\w\w|(?P<half>u[dD][89a-fA-F]\w\w)|.)", re.DOTALL)
STRING = re.compile(rb'"(?:[^"\\]|\\.)*"', re.DOTALL)
EXACT = 2**53  # floats hold every integer up to here
KINDS = {type(None): "", bool: "bool", int: "number", float: "number", str: "text", list: "list", dict: "object"}
NESTED = {"list", "object"}  # of these kinds
LONGEST = 40  # digits of a whole number that is written out; a longer one, such as 1e999999, stays as it is
MARKED_LINE = b"\n" + BOM_UTF8  # where files with byte order marks were joined


def read_json_lines(file: File) -> pl.DataFrame:
    """Return the rows of JSON lines; numbers of a column that floats cannot hold exactly become integers or texts.

    The values of a column without a common type become text, lists and objects as JSON.

    Raises:
        DataError: half of a surrogate pair.
        NoDataError: no rows.
        PolarsError: not JSON lines.
    """
    raw = file.read().removeprefix(BOM_UTF8).replace(MARKED_LINE, b"\n")
    if not raw or raw.isspace():
        raise pl.exceptions.NoDataError
    check_pairs(raw, file)
    check_json(raw, file)
    frame = _parsed(raw)
    rounded = [column for column in frame.get_columns() if _is_rounded(column)]
    return frame.with_columns(_exact(raw, rounded)) if rounded else frame


def check_pairs(raw: bytes, file: File) -> None:
    """Raise DataError if JSON lines hold half of a surrogate pair."""
    place = 0
    while found := CANDIDATE.search(raw, place):
        start = raw.rfind(b"\n", 0, found.start()) + 1
        place = raw.find(b"\n", found.start())
        place = len(raw) if place < 0 else place
        line = raw[start:place]
        half = next((escape for escape in ESCAPE.finditer(line) if escape["half"]), None)
        if half:
            row = sum(1 for earlier in raw[:start].split(b"\n") if earlier.strip())
            value = next((text[0] for text in STRING.finditer(line) if text.start() < half.start() < text.end()), line)
            text = value[:80].decode(errors="replace")
            raise DataError(
                f"{file.place(row)}: {text} has half a character, {half[0].decode()}. "
                "Write both escapes of the character, such as \\ud83d\\ude00, or remove it"
            )


def _parsed(raw: bytes) -> pl.DataFrame:
    try:
        return pl.read_ndjson(raw, infer_schema_length=None)
    except pl.exceptions.PolarsError:
        for nested in (False, True):  # rarely needed
            with suppress(ValueError, RecursionError, pl.exceptions.PolarsError):
                return pl.read_ndjson(_without_mixtures(raw, nested=nested), infer_schema_length=None)
        raise


def _without_mixtures(raw: bytes, *, nested: bool) -> bytes:
    """Return JSON lines in which the columns with values of several kinds, or also all `nested` ones, are texts.

    Raises:
        ValueError: a line is no JSON object.
    """
    rows = [json.loads(line, parse_constant=_refuse) for line in raw.split(b"\n") if line.strip()]
    if not all(isinstance(row, dict) for row in rows):
        raise ValueError("a line is no object")
    kinds: dict[str, set[str]] = {}
    for row in rows:
        for name, value in row.items():
            kinds.setdefault(name, set()).add(KINDS[type(value)])
    mixed = {name for name, each in kinds.items() if len(each - {""}) > 1 or (nested and each & NESTED)}
    changed = ({name: json_text(value) if name in mixed else value for name, value in row.items()} for row in rows)
    return "\n".join(map(json.dumps, changed)).encode()


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no JSON")


def _is_rounded(column: pl.Series) -> bool:
    """Return whether a column of floats, or of lists of floats, has numbers that may have been rounded integers."""
    numbers = column.explode() if isinstance(column.dtype, pl.List) else column
    return numbers.dtype.is_float() and bool((numbers.abs() >= EXACT).any())


def _exact(raw: bytes, rounded: Sequence[pl.Series]) -> list[pl.Series]:
    """Return columns again, from the lines, as integers if all values are, else as texts or lists of texts."""
    rows = (json.loads(line, parse_float=_Literal) for line in raw.split(b"\n") if line.strip())
    values = zip(*([row.get(column.name) for column in rounded] for row in rows), strict=True)
    return [_exact_column(column, each) for column, each in zip(rounded, values, strict=True)]


def _exact_column(column: pl.Series, values: Iterable[Any]) -> pl.Series:
    if isinstance(column.dtype, pl.List):
        lists = [value if value is None else [_text(each) for each in value] for value in values]
        return pl.Series(column.name, lists, dtype=pl.List(pl.String))
    texts = pl.Series(column.name, [_text(value) for value in values], dtype=pl.String)
    integers = texts.cast(pl.Int64, strict=False)
    return integers if integers.null_count() == texts.null_count() else texts


class _Literal(str):
    """A number with a point or an exponent, as it is written."""

    __slots__ = ()


def _text(value: Any) -> str | None:
    if isinstance(value, _Literal):
        return _whole_text(value)
    return None if value is None else str(value)


def _whole_text(text: str) -> str:
    """Return a number with a point or an exponent as text: "3" for "3.0", else as floats are written.

    >>> _whole_text("9007199254740993.0"), _whole_text("1e3"), _whole_text("0.50")
    ('9007199254740993', '1000', '0.5')
    """
    number = Decimal(text)
    if number.adjusted() < LONGEST and number == number.to_integral_value():
        return str(int(number))
    return str(float(text))
