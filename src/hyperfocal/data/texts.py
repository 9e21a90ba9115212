"""Documents: texts with their labels, read from a file, a frame or lists.

Formats: JSON lines, CSV, TSV, fastText lines (.txt: `__label__a __label__b text`), all also .gz, and Parquet.
A document without text, or without labels, is kept and counted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from hyperfocal.config.classify import TextDataSettings
from hyperfocal.data.files import File, is_plain, read_frame
from hyperfocal.data.label_columns import as_text, read_labels
from hyperfocal.data.stored_texts import Texts, count_texts
from hyperfocal.data.text_columns import TextColumns, find_text_columns
from hyperfocal.data.text_files import TEXT_READERS
from hyperfocal.errors import DataError

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
