"""Read the rows of a file of any format, or of a frame."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from glob import has_magic
from mmap import ACCESS_READ, mmap
from pathlib import Path
from typing import Any

import polars as pl

from hyperfocal.data.compression import READ_ERRORS
from hyperfocal.data.csv_text import find_delimiter, row_like_lines
from hyperfocal.data.faults import check_signature, unreadable
from hyperfocal.data.files import MEMORY, File
from hyperfocal.data.frames import as_frame, is_frame
from hyperfocal.data.json_lines import read_json_lines
from hyperfocal.data.memory import check_csv, check_lines, check_table, not_enough
from hyperfocal.data.movielens import read_ratings
from hyperfocal.data.parquet_parts import scan_parts
from hyperfocal.data.recbole import without_types
from hyperfocal.data.text_bytes import is_plain
from hyperfocal.errors import DataError
from hyperfocal.parts import files_of

logger = logging.getLogger("hyperfocal")
Reader = Callable[[File], pl.DataFrame]
EXTREME = re.compile(r"\d+ \d+ \d+\s*\n[\d,]* ?\d+:\S+(\s|$)")  # the first lines of that format
MOST_FIELDS = 1_000  # of a column, with line breaks, that are searched for swallowed rows


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
    check_exists(file)
    if file.path.is_file() and file.path.stat().st_size == 0:
        raise _empty(file, row)
    try:
        check_signature(file)
        return {**READERS, **(readers or {})}[kind](file)
    except pl.exceptions.NoDataError:
        raise _empty(file, row) from None
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException, UnicodeDecodeError, *READ_ERRORS) as error:
        raise unreadable(file, error) from None
    except MemoryError:
        raise not_enough(file) from None


def check_exists(file: File) -> None:
    """Raise DataError if there is no file, and no Parquet parts."""
    if file.path.is_file() or (file.kind == "parquet" and files_of(file.path)):
        return
    if file.path.is_dir():
        problem = "is a folder without Parquet parts" if file.kind == "parquet" else "is a folder, not a file"
        raise DataError(f"{file}: {problem}. Name a file, or a folder of Parquet parts (*.parquet)")
    file.refuse_special()
    several = "; a pattern names Parquet parts only" if has_magic(str(file)) else ""
    raise DataError(f"{file}: no such file{several}. Check the path (looked in {Path.cwd()})")


def read_csv(file: File) -> pl.DataFrame:
    """Return the rows of CSV as text, without blank lines.

    A quoted field that seems to have swallowed rows is logged as a warning, once per place.

    Raises:
        DataError: the header occurs again inside the file.
    """
    with file.open() as text:
        delimiter = find_delimiter(text)
    plain = file.raw is None and is_plain(file.path) and _is_utf8(file.path)
    source = file.path if plain else file.read()
    check_csv(source, delimiter, file)
    quote = '"' if file.quoted else None
    frame = pl.read_csv(source, separator=delimiter, quote_char=quote, infer_schema=False, glob=False)
    filled = frame.select(filled=pl.any_horizontal(pl.all().str.len_bytes() > 0).fill_null(value=False))["filled"]
    frame = frame if filled.all() else frame.filter(filled)  # blank lines are not rows
    _check_header_once(frame, file)
    if _has_quotes(source):
        _warn_of_swallowed_rows(frame, delimiter, file)
    return without_types(frame, file)


def _is_utf8(path: Path) -> bool:
    """Return whether polars can open a path: it takes no name with other bytes."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        return False
    return True


def _has_quotes(source: Path | bytes) -> bool:
    """Return whether a CSV text has a quote: without one no field can hold a line break."""
    if isinstance(source, bytes):
        return b'"' in source
    with source.open("rb") as file, mmap(file.fileno(), 0, access=ACCESS_READ) as content:
        return content.find(b'"') >= 0


def _check_header_once(frame: pl.DataFrame, file: File) -> None:
    """Raise DataError if a row of several columns repeats the header, as happens when files are concatenated."""
    if frame.width < 2:
        return
    first, *others = [re.sub(r"_duplicated_\d+$", "", name) for name in frame.columns]  # polars' ending
    rows = frame.to_series(0).is_in([first, f"\ufeff{first}"])  # a joined file may begin with a byte order mark
    if rows.any():
        equal = (pl.nth(place) == name for place, name in enumerate(others, 1))
        rows &= frame.select(pl.all_horizontal(equal)).to_series()
    if rows.any():
        row = int(rows.arg_max() or 0)
        raise DataError(
            f"{file.place(row)}: the header again, {', '.join(frame.columns)[:80]}, as happens when files are "
            "concatenated. Remove this line"
        )


def _warn_of_swallowed_rows(frame: pl.DataFrame, delimiter: str, file: File) -> None:
    if frame.width < 2:
        return
    like_row = rf"\n(?:[^{delimiter}\n]*[{delimiter}]){{{min(frame.width - 1, 50)}}}"
    for column in frame.get_columns():
        lines_inside = column.str.contains("\n", literal=True).fill_null(value=False)  # quick, and rarely true
        rows = lines_inside.arg_true().head(MOST_FIELDS)
        for row in rows.filter(column.gather(rows).str.contains(like_row)).to_list():
            lines = row_like_lines(column[row], delimiter, frame.width)
            if lines:
                _warn_once(
                    f"{file.place(row)}: a field of column '{column.name}' holds lines that look like rows, such as "
                    f"{lines[0][:80]!r}, so a quote may have swallowed them. Double the quote, or quote its field"
                )
                return


@lru_cache(maxsize=1_000)
def _warn_once(message: str) -> None:
    logger.warning(message)


def read_parquet(file: File) -> pl.DataFrame:
    """Return the rows of a Parquet file, or of all parts of a folder or pattern."""
    if not all(map(_is_utf8, files_of(file.path))):
        raise DataError(f"{file}: a Parquet file must have a name in UTF-8. Rename it")
    frames = scan_parts(file.path)
    check_table(pl.concat(frames), file)
    return pl.concat(pl.collect_all(frames))


def read_text_lines(file: File) -> list[str]:
    """Return the lines of a text, without byte order marks where files with marks were joined."""
    raw = file.read()
    check_lines(raw, file)
    return raw.decode().removeprefix("\ufeff").replace("\n\ufeff", "\n").split("\n")


def refuse_extreme(lines: Sequence[str], file: File) -> None:
    """Raise DataError if the first lines of a text are those of the Extreme Classification format."""
    if EXTREME.match("\n".join(lines)):
        raise DataError(
            f"{file}: holds numbered features in the Extreme Classification format. Read it with "
            "hyperfocal.data.extreme.read_extreme"
        )


def _read_lines(file: File) -> pl.DataFrame:
    """Read lines `user item item ...`, with words separated by spaces and tabs, into one row per event."""
    lines = read_text_lines(file)
    if file.first == 0:
        refuse_extreme(lines[:2], file)
    words = pl.Series(lines, dtype=pl.String).str.extract_all(r"[^ \t\r]+")
    counts = words.list.len()
    if (counts == 1).any():
        line = file.line + 1 + int((counts == 1).arg_max() or 0)
        raise DataError(f"{file} line {line}: a user without an item. Expected 'user item item ...'")
    words = words.filter(counts > 0)
    return pl.DataFrame({"user": words.list.first(), "item": words.list.slice(1)}).explode("item")


READERS: dict[str, Reader] = {
    "csv": read_csv,
    "parquet": read_parquet,
    "jsonl": read_json_lines,
    "lines": _read_lines,
    "dat": read_ratings,
}


def _empty(file: File, row: str) -> DataError:
    return DataError(f"{file}: the file is empty. Give a file with one row per {row}")
