"""Documents: texts with their labels, read from a file, a frame or lists.

Formats: JSON lines, CSV, TSV, fastText lines (.txt: `__label__a __label__b text`), all also .gz, and Parquet.
A document without text, or without labels, is kept and counted.

Which column is the text, which the labels, the id and the group.

Files of documents: JSON lines with rows that differ in type, and fastText lines.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from hyperfocal.config.classify import TextDataSettings
from hyperfocal.data.files import READERS, File, Reader, find_fault, is_plain, read_frame
from hyperfocal.data.label_columns import as_text, read_labels
from hyperfocal.data.stored_texts import Texts, count_texts
from hyperfocal.errors import DataError, did_you_mean

MEMORY = File(None)


@dataclass(frozen=True, eq=False)
class Documents:
    """N documents.

    Attributes:
        ids: (N,) String, distinct.
        texts: (N,) String, "" where there is none; stored ones where they need not fit into memory.
        labels: (N,) List(String) or List(Enum), of each stripped, distinct and not empty; [] is none of the labels.
        groups: (N,) String, documents of one group belong together, null is each for itself; None: no groups.
        id_column: name of the id column, which predictions repeat.
        numbered: whether the ids are row numbers, because the file has none: then they mean nothing elsewhere.
    """

    ids: pl.Series
    texts: Texts
    labels: pl.Series
    groups: pl.Series | None
    id_column: str = "id"
    numbered: bool = False

    def __len__(self) -> int:
        """Return N."""
        return len(self.ids)

    @classmethod
    def from_lists(
        cls,
        texts: Sequence[str | None],
        labels: Sequence[Sequence[str]] | None = None,
        ids: Sequence[str] | None = None,
        groups: Sequence[str | None] | None = None,
    ) -> Documents:
        """Build from one text, and, where given, a list of labels, an id and a group, a document.

        Raises:
            DataError: lists of different lengths, a text where a list of labels was expected, an id twice.

        >>> Documents.from_lists(["Red wine", ""], [["drinks", "wine"], []]).counts()["without_labels"]
        1
        """
        parts = {"texts": texts, "labels": labels, "ids": ids, "groups": groups}
        lengths = {name: len(part) for name, part in parts.items() if part is not None}
        if len(set(lengths.values())) > 1:
            raise DataError(f"documents: different lengths: {lengths}. Give one of each a document")
        lists = [None] * len(texts) if labels is None else [_list(row) for row in labels]
        frame = pl.DataFrame({"text": texts, "labels": lists}, {"text": pl.String, "labels": pl.List(pl.String)})
        if ids is not None:
            frame = frame.with_columns(pl.Series("id", [str(name) for name in ids], dtype=pl.String))
        if groups is not None:
            frame = frame.with_columns(pl.Series("group", groups, dtype=pl.String))
        columns = TextColumns(("text",), "labels", "" if ids is None else "id", "" if groups is None else "group")
        return documents_of(frame, columns, "", File(None))

    def all_texts(self) -> pl.Series:
        """Return the texts in memory."""
        return self.texts if isinstance(self.texts, pl.Series) else pl.concat([*self.texts.blocks()])

    def select(self, rows: NDArray[np.int64]) -> Documents:
        """Return the documents of the given row numbers, in that order."""
        at = pl.Series(rows, dtype=pl.UInt32)
        groups = None if self.groups is None else self.groups.gather(at)
        parts = (self.ids.gather(at), self.texts.gather(at), self.labels.gather(at))
        return Documents(*parts, groups, self.id_column, self.numbered)

    def group_numbers(self) -> NDArray[np.int64] | None:
        """Return (N,) a number for the group of each document, another for each document without; None: no groups."""
        if self.groups is None:
            return None
        numbers = self.groups.cast(pl.Enum(self.groups.drop_nulls().unique().sort())).to_physical().cast(pl.Int64)
        alone = pl.Series(range(len(self), 2 * len(self)), dtype=pl.Int64)
        return numbers.zip_with(numbers.is_not_null(), alone).to_numpy()

    def counts(self) -> dict[str, int]:
        """Return the numbers of documents, empty texts, documents without labels, and texts seen before."""
        filled, distinct = count_texts(self.texts)
        return {
            "documents": len(self),
            "empty_texts": len(self) - filled,
            "without_labels": int((self.labels.list.len() == 0).sum()),
            "duplicate_texts": filled - distinct,
        }


def read_documents(path: str | Path, columns: TextDataSettings | None = None, *, need_labels: bool = True) -> Documents:
    """Return the documents in a file.

    Args:
        path: .jsonl, .ndjson, .csv, .tsv, .txt, all also .gz, or .parquet.
        columns: names of the columns, and what parts labels; "" finds them.
        need_labels: whether a file without labels is an error.

    Raises:
        DataError: no such file, an empty or unreadable file, a missing column, an id that is missing or stands
            twice, a label that is no text or number; if labels are needed, not one document that has any.
    """
    file = File(Path(path))
    frame = read_frame(file, readers=TEXT_READERS, row="a document")
    if need_labels:
        refuse_without_label_words(frame.columns, file)
    return _from_frame(frame, columns or TextDataSettings(), file, need_labels=need_labels)


def documents_from_frame(
    frame: pl.DataFrame, columns: TextDataSettings | None = None, file: File = MEMORY, *, need_labels: bool = True
) -> Documents:
    """Return the documents in a frame, the rows of a file or a block of them; errors as in `read_documents`."""
    return _from_frame(frame, columns or TextDataSettings(), file, need_labels=need_labels)


def _from_frame(frame: pl.DataFrame, settings: TextDataSettings, file: File, *, need_labels: bool) -> Documents:
    columns = find_text_columns(frame.columns, settings, file, need_labels=need_labels)
    refuse_empty(frame.height, file)
    documents = documents_of(frame, columns, settings.separator, file)
    if need_labels:
        refuse_without_labels(documents.labels, columns, file)
    return documents


def refuse_empty(rows: int, file: File) -> None:
    """Raise DataError if a file has no rows."""
    if rows == 0:
        raise DataError(f"{file}: holds no rows. Give a file with one row a document")


def refuse_without_labels(labels: pl.Series, columns: TextColumns, file: File) -> None:
    """Raise DataError if no document of a file has a label."""
    if (labels.list.len() == 0).all():
        raise DataError(
            f"{file}: column '{columns.labels}' has no label in any of {len(labels):,} rows. "
            "Name another column with --labels COLUMN"
        )


def refuse_without_label_words(names: list[str], file: File) -> None:
    """Raise DataError if a file of lines (.txt), of which `names` are the columns, has none of labels."""
    if file.kind == "lines" and "labels" not in names:
        raise DataError(f"{file}: no line begins with __label__. Write labels so: __label__a __label__b text")


def documents_of(frame: pl.DataFrame, columns: TextColumns, separator: str, file: File) -> Documents:
    """Return the documents in a frame whose columns are known; errors as in `read_documents`."""
    if columns.labels:
        labels = read_labels(frame[columns.labels], separator, file)
    else:
        labels = pl.Series("labels", [[]] * frame.height, dtype=pl.List(pl.String))
    numbers = pl.Series("id", range(file.first, file.first + frame.height), dtype=pl.Int64).cast(pl.String)
    ids = _ids(frame[columns.id], file) if columns.id else numbers
    groups = _flat(frame[columns.group], file).alias("group") if columns.group else None
    groups = None if groups is None else groups.set(groups == "", None)
    return Documents(ids, _texts(frame, columns, file), labels, groups, columns.id or "id", not columns.id)


def _texts(frame: pl.DataFrame, columns: TextColumns, file: File) -> pl.Series:
    """Return the text columns joined by line breaks; empty parts are left out."""
    parts = [_flat(frame[name], file) for name in columns.text]
    filled = [part.set(part.str.strip_chars() == "", None).alias(str(place)) for place, part in enumerate(parts)]
    return pl.DataFrame(filled).select(text=pl.concat_str(pl.all(), separator="\n", ignore_nulls=True)).to_series()


def _ids(column: pl.Series, file: File) -> pl.Series:
    ids = _flat(column, file).alias("id")
    missing = (ids == "").fill_null(value=True)
    if missing.any():
        row = int(missing.arg_max() or 0)
        raise DataError(
            f"{file.place(row)}: no value in column '{column.name}'{file.fields(row)}. Every document needs an id: "
            "complete the row, or name another column with --id"
        )
    refuse_twice(ids, file)
    return ids


def refuse_twice(ids: pl.Series, file: File) -> None:
    """Raise DataError if an id stands twice among those of a file's rows."""
    if not ids.is_duplicated().any():
        return
    again = int((~ids.is_first_distinct()).arg_max() or 0)
    first = int((ids == ids[again]).arg_max() or 0)
    raise DataError(
        f"{file.place(again)}: id {ids[again]!r} stands at {file.place(first)} already. An id belongs to one "
        "document: remove one of the rows, or name another column with --id"
    )


def _flat(column: pl.Series, file: File) -> pl.Series:
    """Return a column as text."""
    if not is_plain(column.dtype):
        raise DataError(f"{file}: column '{column.name}' holds {column.dtype}. Allowed: text and numbers")
    return as_text(column)


def _list(labels: Sequence[str]) -> list[str]:
    if isinstance(labels, str):
        raise DataError(f"labels: {labels!r} is a text, not a list of labels. Write [{labels!r}]")
    return [str(label) for label in labels]


KNOWN_TEXTS = (("text",), ("title", "body"), ("content",), ("description",))  # the first of which one is there
KNOWN_LABELS = ("labels", "label", "tags", "categories")


@dataclass(frozen=True)
class TextColumns:
    """The names of the columns; "" where there is none."""

    text: tuple[str, ...]
    labels: str
    id: str
    group: str


def find_text_columns(found: list[str], settings: TextDataSettings, file: File, *, need_labels: bool) -> TextColumns:
    """Return the columns that the settings name, else those of known names.

    Raises:
        DataError: a named column that is not there; no telling which is the text, or, if needed, the labels;
            one column for both; a name that the header has twice.
    """
    for flag in ("text", "labels", "id", "group"):
        value = getattr(settings, flag)
        for name in filter(None, value if isinstance(value, tuple) else (value,)):
            _refuse_absent(name, flag, found, file)
    lower = {name.lower(): name for name in reversed(found)}
    columns = TextColumns(
        settings.text or _known_text(lower),
        settings.labels or next((lower[name] for name in KNOWN_LABELS if name in lower), ""),
        settings.id or lower.get("id", ""),
        settings.group,
    )
    if not columns.text:
        raise _untold("text", found, file)
    if need_labels and not columns.labels:
        raise _untold("labels", found, file)
    _refuse_twice(columns, found, file)
    return columns


def _known_text(lower: dict[str, str]) -> tuple[str, ...]:
    groups = (tuple(lower[name] for name in names if name in lower) for names in KNOWN_TEXTS)
    return next(filter(None, groups), ())


def _refuse_absent(name: str, flag: str, found: list[str], file: File) -> None:
    if name not in found:
        raise DataError(
            f"{file}: no column '{name}' (--{flag}).{did_you_mean(name, found)} Columns found: {', '.join(found)}"
        )


def _untold(flag: str, found: list[str], file: File) -> DataError:
    known = ", ".join(KNOWN_LABELS if flag == "labels" else (name for names in KNOWN_TEXTS for name in names))
    hint = did_you_mean(flag, found)
    return DataError(
        f"{file}: cannot tell which column is the {flag}; none is called {known}.{hint} "
        f"Name it with --{flag} COLUMN. Columns found: {', '.join(found)}"
    )


def _refuse_twice(columns: TextColumns, found: list[str], file: File) -> None:
    if columns.labels in columns.text:
        raise DataError(f"{file}: column '{columns.labels}' cannot be both --text and --labels. Name one for each")
    for name in filter(None, (*columns.text, columns.labels, columns.id, columns.group)):
        if f"{name}_duplicated_0" in found:  # so polars renames the second
            raise DataError(f"{file}: the header has column '{name}' twice. Rename one of them")


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
