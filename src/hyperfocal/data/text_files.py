"""Files of documents: JSON lines with rows that differ in type, and fastText lines."""

from __future__ import annotations

import json
from typing import Any

import polars as pl

from hyperfocal.data.faults import find_fault
from hyperfocal.data.files import READERS, File, Reader

LABELLED = r"^\s*(?:__label__\S*(?:\s+|$))*"  # the labels at the start of a line


def _read_jsonl(file: File) -> pl.DataFrame:
    """Read JSON lines; where polars finds no type for a column, its lists and objects become JSON text."""
    try:
        return READERS["jsonl"](file)
    except pl.exceptions.NoDataError:
        raise
    except pl.exceptions.PolarsError:
        with file.open_bytes() as lines, file.open() as text:
            if find_fault(lines, text, "jsonl"):
                raise
    with file.open() as text:
        rows = [json.loads(line) for line in text if line.strip()]
    names = dict.fromkeys(name for row in rows for name in row)
    return pl.DataFrame({name: pl.Series([_plain(row.get(name)) for row in rows], dtype=pl.String) for name in names})


def _plain(value: Any) -> str | None:
    if value is None or isinstance(value, str):
        return value
    text = json.dumps(value, ensure_ascii=False)
    return text.removesuffix(".0") if isinstance(value, float) else text  # as `as_text` writes numbers


def _read_lines(file: File) -> pl.DataFrame:
    """Read a document a line; its labels, where any line has some, are the `__label__` words before the text."""
    with file.open() as text:
        lines = pl.Series("text", [line.strip() for line in text.read().split("\n") if line.strip()], dtype=pl.String)
    if lines.is_empty():
        raise pl.exceptions.NoDataError
    labels = lines.str.extract(f"({LABELLED})").str.extract_all(r"__label__\S*")
    if not (labels.list.len() > 0).any():
        return lines.to_frame()
    labels = labels.list.eval(pl.element().str.strip_prefix("__label__"))
    return pl.DataFrame([lines.str.replace(LABELLED, ""), labels.alias("labels")])


TEXT_READERS: dict[str, Reader] = {"jsonl": _read_jsonl, "lines": _read_lines}
