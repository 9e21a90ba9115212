"""Read MovieLens files (.dat): fields separated by `::`, without a header; UTF-8, else Latin-1."""

from __future__ import annotations

from collections.abc import Mapping
from io import BytesIO

import polars as pl

from hyperfocal.data.files import File
from hyperfocal.data.memory import check_csv
from hyperfocal.errors import DataError

SEPARATOR, BYTE = "::", "\x1f"  # the byte stands for the separator, because polars splits at one byte
EVENTS = {2: ("user", "item"), 3: ("user", "item", "timestamp"), 4: ("user", "item", "rating", "timestamp")}
ITEMS = {2: ("item", "title"), 3: ("item", "title", "genres")}


def read_ratings(file: File) -> pl.DataFrame:
    """Return one row per event: user, item, rating and timestamp; a file may lack the rating, or both."""
    return _read(file, EVENTS)


def read_movies(file: File) -> pl.DataFrame:
    """Return one row per item: item, title and genres, a list."""
    frame = _read(file, ITEMS)
    return frame.with_columns(pl.col("genres").str.split("|")) if "genres" in frame.columns else frame


def refuse_texts(file: File) -> pl.DataFrame:
    """Raise DataError: documents are not read from .dat."""
    raise DataError(f"{file}: documents cannot be read from .dat, the format of MovieLens. Save them as .csv or .jsonl")


def _read(file: File, names: Mapping[int, tuple[str, ...]]) -> pl.DataFrame:
    raw = _as_utf8(file.read())
    first = next((line for line in BytesIO(raw) if line.strip()), b"")
    if not first:
        raise pl.exceptions.NoDataError
    width = len(file.columns) or first.count(SEPARATOR.encode()) + 1
    if width not in names:
        raise DataError(
            f"{file.place(0)}: has {width} fields separated by '::', but a .dat file has MovieLens's format: "
            f"{' or '.join(SEPARATOR.join(each) for each in names.values())}. Add a header and save it as .csv"
        )
    check_csv(raw, SEPARATOR, file)
    _check_width(raw, width, file)
    rows = pl.read_csv(
        raw.lstrip().replace(SEPARATOR.encode(), BYTE.encode()),
        separator=BYTE,
        has_header=False,
        quote_char=None,
        schema=dict.fromkeys(names[width], pl.String),
    )
    return rows.filter(~pl.all_horizontal(pl.all().fill_null("").str.strip_chars() == ""))  # blank lines


def _as_utf8(raw: bytes) -> bytes:
    try:
        raw.decode()
    except UnicodeDecodeError:
        return raw.decode("latin-1").encode()
    return raw


def _check_width(raw: bytes, width: int, file: File) -> None:
    """Raise DataError if a line has another number of fields than the first."""
    lines = pl.Series([raw.decode()]).str.split("\n").explode()
    fields = lines.filter(lines.str.contains(r"\S")).str.count_matches(SEPARATOR, literal=True) + 1
    others = fields != width
    if others.any():
        row = int(others.arg_max() or 0)
        raise DataError(f"{file.place(row)}: has {fields[row]} fields separated by '::', the first {width}. Correct it")
