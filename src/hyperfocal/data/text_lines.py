"""Read documents from text lines.

A text (.txt) holds one document per line, in one of these forms:

    __label__a __label__b text    fastText; labels may be anywhere in the line
    id<TAB>a b<TAB>text           LibMultiLabel, if every line has exactly two tabs and no word begins with __label__
    text                          without labels

The first 1,000 lines decide. Of ten or more, nine of ten with two tabs are LibMultiLabel's too, and the other lines of
the file are errors: read as texts, all labels would be part of the text.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice

import polars as pl

from hyperfocal.data.files import File
from hyperfocal.data.movielens import refuse_texts
from hyperfocal.data.readers import Reader, read_text_lines, refuse_extreme
from hyperfocal.errors import DataError

LINE_LABEL = r"(?:^|\s)__label__\S*"  # a label of a fastText line, wherever it is
COLUMNS = ("id", "labels", "text")  # of LibMultiLabel, in this order
DECIDING = 1_000  # lines that decide the form, also of a file that is read block by block
FEW_LINES, MOST_MISFITS = 10, 0.1  # below the first, every line must fit; above, this share may be errors


def _read_lines(file: File) -> pl.DataFrame:
    """Read one document per line, in the form of the earlier blocks or, in the first, of the first lines."""
    lines = _texts(read_text_lines(file))
    if lines.is_empty():
        raise pl.exceptions.NoDataError
    first = pl.Series(dtype=pl.String) if file.columns else _first_lines(lines, file)
    refuse_extreme(first.head(2).to_list(), file)
    if file.columns == COLUMNS or (not file.columns and _has_fields(first)):
        _check_fits(lines, file)
        return _split_fields(lines)
    return _split_labels(lines.str.strip_chars())


def _texts(lines: Iterable[str]) -> pl.Series:
    """Return the lines that are not blank."""
    stripped = (line.strip(" \r\n\f\v") for line in lines)
    return pl.Series("text", [line for line in stripped if line.strip()], dtype=pl.String)


def _first_lines(lines: pl.Series, file: File) -> pl.Series:
    """Return the first lines of a file, whose first block may have fewer."""
    if file.raw is None or len(lines) >= DECIDING:
        return lines.head(DECIDING)
    with File(file.path).open() as text:
        filled = (line.removeprefix("\ufeff") for line in text if line.strip())
        return _texts(islice(filled, DECIDING))


def _has_fields(lines: pl.Series) -> bool:
    """Return whether lines have LibMultiLabel's three fields."""
    misfits = _misfits(lines)
    if lines.str.contains(LINE_LABEL).any() or len(misfits) < FEW_LINES:
        return not misfits.any()
    return int(misfits.sum()) <= MOST_MISFITS * len(misfits)


def _misfits(lines: pl.Series) -> pl.Series:
    return (lines.str.count_matches("\t") != 2) | lines.str.contains(LINE_LABEL)


def _check_fits(lines: pl.Series, file: File) -> None:
    misfits = _misfits(lines)
    if misfits.any():
        row = int(misfits.arg_max() or 0)
        raise DataError(
            f"{file.place(row)}: {lines[row][:80]!r} is not id<TAB>labels<TAB>text, unlike the other lines. "
            "Write exactly two tabs in each line"
        )


def _split_fields(lines: pl.Series) -> pl.DataFrame:
    fields = lines.str.split_exact("\t", 2).struct.rename_fields(COLUMNS).struct.unnest()
    return fields.with_columns(pl.col("id", "text").str.strip_chars(), pl.col("labels").str.extract_all(r"\S+"))


def _split_labels(lines: pl.Series) -> pl.DataFrame:
    """Return the labels of fastText lines and the rest of each line; no labels if no line has one."""
    labels = lines.str.extract_all(LINE_LABEL).list.eval(pl.element().str.strip_chars())
    if not (labels.list.len() > 0).any():
        return lines.to_frame()
    labels = labels.list.eval(pl.element().str.strip_prefix("__label__"))
    return pl.DataFrame([lines.str.replace_all(LINE_LABEL, "").str.strip_chars(), labels.alias("labels")])


TEXT_READERS: dict[str, Reader] = {"lines": _read_lines, "dat": refuse_texts}
