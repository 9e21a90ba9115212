"""Read documents from text lines and JSON lines.

A text (.txt) holds one document per line, in one of these forms:

    __label__a __label__b text    fastText; labels may be anywhere in the line
    id<TAB>a b<TAB>text           LibMultiLabel, if every line has exactly two tabs and no word begins with __label__
    text                          without labels

Ten lines or more are LibMultiLabel's too if nine of ten have two tabs, and the others are errors: if all were read as
texts, the labels would be part of them.
"""

from __future__ import annotations

import json
import re

import polars as pl

from hyperfocal.data.columns import json_text
from hyperfocal.data.faults import find_fault
from hyperfocal.data.files import File
from hyperfocal.data.movielens import refuse_texts
from hyperfocal.data.readers import READERS, Reader, read_text_lines
from hyperfocal.errors import DataError

LINE_LABEL = r"(?:^|\s)__label__\S*"  # a label of a fastText line, wherever it is
COLUMNS = ("id", "labels", "text")  # of LibMultiLabel, in this order
FEW_LINES, MOST_MISFITS = 10, 0.1  # below the first, every line must fit; above, this share may be errors
EXTREME = re.compile(r"\d+ \d+ \d+\s*\n[\d,]* ?\d+:\S+(\s|$)")  # the first lines of the Extreme Classification format


def _read_jsonl(file: File) -> pl.DataFrame:
    """Read JSON lines; if the values of a column have no common type, its lists and objects become JSON text."""
    try:
        return READERS["jsonl"](file)
    except pl.exceptions.NoDataError:
        raise
    except pl.exceptions.PolarsError:
        if find_fault(file):
            raise
    with file.open() as text:
        rows = [json.loads(line) for line in text if line.strip()]
    names = dict.fromkeys(name for row in rows for name in row)
    return pl.DataFrame(
        {name: pl.Series([json_text(row.get(name)) for row in rows], dtype=pl.String) for name in names}
    )


def _read_lines(file: File) -> pl.DataFrame:
    """Read one document per line, in the form of earlier blocks, or for the first block in the form that fits it."""
    stripped = (line.strip(" \r\n\f\v") for line in read_text_lines(file))
    lines = pl.Series("text", [line for line in stripped if line.strip()], dtype=pl.String)
    if lines.is_empty():
        raise pl.exceptions.NoDataError
    if not file.columns:
        _refuse_extreme(lines, file)
    labelled = lines.str.contains(LINE_LABEL)
    misfits = (lines.str.count_matches("\t") != 2) | labelled
    if file.columns == COLUMNS or (not file.columns and _has_fields(misfits, labelled)):
        _check_fits(misfits, lines, file)
        return _split_fields(lines)
    return _split_labels(lines.str.strip_chars())


def _refuse_extreme(lines: pl.Series, file: File) -> None:
    if EXTREME.match("\n".join(lines.head(2))):
        raise DataError(
            f"{file}: holds numbered features in the Extreme Classification format, not texts. Read it with "
            "hyperfocal.data.extreme.read_extreme"
        )


def _has_fields(misfits: pl.Series, labelled: pl.Series) -> bool:
    """Return whether lines have LibMultiLabel's three fields, given the lines without them and those of fastText."""
    if labelled.any() or len(misfits) < FEW_LINES:
        return not misfits.any()
    return int(misfits.sum()) <= MOST_MISFITS * len(misfits)


def _check_fits(misfits: pl.Series, lines: pl.Series, file: File) -> None:
    if misfits.any():
        row = int(misfits.arg_max() or 0)
        raise DataError(
            f"{file.place(row)}: {lines[row][:80]!r} is not id<TAB>labels<TAB>text, as the other lines. "
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


TEXT_READERS: dict[str, Reader] = {"jsonl": _read_jsonl, "lines": _read_lines, "dat": refuse_texts}
