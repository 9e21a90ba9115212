"""Documents: texts, fields and vectors with their labels, from a file, a frame or lists.

Formats: JSON lines, CSV, TSV, and text lines (.txt, see `text_lines`), all also compressed, and Parquet.
A document without text, or without labels, is kept and counted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import polars as pl
from msgspec import structs
from numpy.typing import NDArray

from hyperfocal.config.classify import TextDataSettings
from hyperfocal.data.columns import read_text
from hyperfocal.data.counting import ALL_COUNT, ALL_ZERO, Counting, read_counting, scaled_weights
from hyperfocal.data.files import MEMORY, File, check_rows
from hyperfocal.data.frames import is_missing, plain_text
from hyperfocal.data.half_characters import refuse_halves
from hyperfocal.data.ids import IdKind, read_ids
from hyperfocal.data.input_columns import NO_COLUMNS, InputColumns, read_columns
from hyperfocal.data.label_columns import read_labels
from hyperfocal.data.readers import read_source
from hyperfocal.data.reading import LISTS, PlannedColumn, ReadingPlan, Use, example_of
from hyperfocal.data.stored_texts import Texts, count_texts
from hyperfocal.data.text_columns import Need, TextColumns, TextReading, text_columns, with_planned_names
from hyperfocal.data.text_lines import TEXT_READERS
from hyperfocal.errors import DataError

ID_ADVICE = "Every document needs an id: complete the row, or name another column with `id=`"
UNNAMED = ReadingPlan(LISTS, 0, (PlannedColumn("text", "text"), PlannedColumn("labels", "labels", "list")))


@dataclass(frozen=True, eq=False)
class Documents:
    """N documents."""

    ids: pl.Series  # (N,) String, distinct
    texts: Texts  # (N,) String, "" for none; or StoredTexts, which need not fit into memory
    labels: pl.Series  # (N,) List(String) or List(Enum): stripped, distinct, not empty; [] for none
    groups: pl.Series | None  # (N,) String: a split keeps equal ones together; null is no group. None: no groups
    plan: ReadingPlan = UNNAMED  # how the documents were read
    columns: InputColumns = NO_COLUMNS  # fields and vectors
    counting: Counting = ALL_COUNT  # weights, and labels that nobody annotated

    def __len__(self) -> int:
        """Return N."""
        return len(self.ids)

    @property
    def id_column(self) -> str:
        """Name of the id column, for predictions."""
        return self.plan.name("id") or "id"

    @property
    def has_texts(self) -> bool:
        """Whether there is a column of texts; without one, all texts are empty."""
        return bool(self.plan.names("text"))

    @property
    def numbered(self) -> bool:
        """Whether ids are row numbers because the source has none; they mean nothing in other sources."""
        return not self.plan.name("id")

    @classmethod
    @refuse_halves
    def from_lists(
        cls,
        texts: Sequence[str | None],
        labels: Sequence[Sequence[str]] | None = None,
        ids: Sequence[str] | None = None,
        groups: Sequence[str | None] | None = None,
    ) -> Documents:
        """Build from one text per document, and optionally its list of labels, id and group.

        Raises:
            DataError: lists of different lengths, a text in place of a list of labels, a repeated id.

        >>> Documents.from_lists(["Red wine", ""], [["drinks", "wine"], []]).counts()["without_labels"]
        1
        """
        lists = {"texts": texts, "labels": labels, "ids": ids, "groups": groups}
        lengths = {name: len(values) for name, values in lists.items() if values is not None}
        if len(set(lengths.values())) > 1:
            raise DataError(f"documents: different lengths: {lengths}. Give one value of each per document")
        label_lists = [None] * len(texts) if labels is None else [_label_list(row) for row in labels]
        frame = pl.DataFrame({"text": texts, "labels": label_lists}, {"text": pl.String, "labels": pl.List(pl.String)})
        if ids is not None:
            frame = frame.with_columns(pl.Series("id", [plain_text(name) for name in ids], dtype=pl.String))
        if groups is not None:
            frame = frame.with_columns(pl.Series("group", groups, dtype=pl.String))
        columns = TextColumns(("text",), "labels", "" if ids is None else "id", "" if groups is None else "group")
        documents = documents_of(frame, columns, MEMORY)
        return replace(documents, plan=structs.replace(documents.plan, form=LISTS))

    def all_texts(self) -> pl.Series:
        """Return the texts in memory."""
        return self.texts if isinstance(self.texts, pl.Series) else pl.concat([*self.texts.blocks()])

    def select(self, rows: NDArray[np.int64]) -> Documents:
        """Return the documents of the given row numbers, in that order."""
        at = pl.Series(rows, dtype=pl.UInt32)
        groups = None if self.groups is None else self.groups.gather(at)
        values = (self.ids.gather(at), self.texts.gather(at), self.labels.gather(at))
        return Documents(*values, groups, self.plan, self.columns.select(rows), self.counting.select(rows))

    def group_numbers(self) -> NDArray[np.int64] | None:
        """Return (N,) group numbers, a separate one for each document without a group; None: no groups."""
        if self.groups is None:
            return None
        numbers = self.groups.cast(pl.Enum(self.groups.drop_nulls().unique().sort())).to_physical().cast(pl.Int64)
        separate = pl.Series(range(len(self), 2 * len(self)), dtype=pl.Int64)
        return numbers.zip_with(numbers.is_not_null(), separate).to_numpy()

    def counts(self) -> dict[str, int]:
        """Return the numbers of documents, empty texts, documents without labels, and repeated texts."""
        filled, distinct = count_texts(self.texts) if self.has_texts else (len(self), len(self))
        return {
            "documents": len(self),
            "empty_texts": len(self) - filled,
            "without_labels": int((self.labels.list.len() == 0).sum()),
            "duplicate_texts": filled - distinct,
        }


def mean_weight(documents: Documents) -> float | None:
    """Return the mean of the weights above 0; None without weights."""
    weights = documents.counting.weights
    return None if weights is None or not weights.any() else float(weights[weights > 0].mean())


def only_counted(documents: Documents, name: str, mean: float | None = None) -> tuple[Documents, int]:
    """Return the documents with a weight above 0, scaled to a mean of 1 or more, and how many have the weight 0.

    Args:
        documents: N, with weights or without.
        name: of the documents in the error.
        mean: weight of other documents, by which these are scaled. None: of these.

    Raises:
        DataError: all weights are 0.
    """
    weights = documents.counting.weights
    if weights is None:
        return documents, 0
    rows = np.flatnonzero(weights > 0)
    if not len(rows):
        raise DataError(f"{name}: {ALL_ZERO}")
    counted = documents if len(rows) == len(documents) else documents.select(rows)
    scaled = scaled_weights(weights[rows], mean)
    return replace(counted, counting=replace(counted.counting, weights=scaled)), len(documents) - len(rows)


def _label_list(labels: Sequence[str]) -> list[str]:
    if isinstance(labels, str):
        raise DataError(f"labels: {labels!r} is a text, not a list of labels. Write [{labels!r}]")
    return [plain_text(label) for label in labels if not is_missing(label)]


def as_documents(source: Any, reading: TextReading | None = None, *, need: Need = "all") -> Documents:
    """Return the documents in a file or a frame; Documents are returned as they are.

    Args:
        source: Documents; frame, see `frames.is_frame`; or path: .jsonl, .ndjson, .csv, .tsv, .txt, all also
            compressed, or .parquet, also a folder or pattern of parts.
        reading: names of the columns and the separator of labels, "" finds them; or the plan of the run that reads.
        need: "all" columns, to fit; "labels" and texts, to score; or only "texts", to predict.

    Raises:
        DataError: another type of source, no such file, an empty or unreadable file, a missing column, a missing or
            repeated id, a label that is not text or a number; if labels are needed, no document has any.
    """
    if isinstance(source, Documents):
        return source
    frame, file = read_source(source, Documents, readers=TEXT_READERS, row="document")
    if need != "texts":
        check_line_labels(frame.columns, file)
    return documents_from_frame(frame, reading, file, need=need)


def documents_from_frame(
    frame: pl.DataFrame, reading: TextReading | None = None, file: File = MEMORY, *, need: Need = "all"
) -> Documents:
    """Return the documents in the rows of a file, or of a block of it; errors as in `as_documents`."""
    reading = reading or TextDataSettings()
    frame = with_planned_names(frame, reading)
    columns = text_columns(frame.columns, reading, file, need)
    check_rows(frame.height, file, "document")
    documents = documents_of(frame, columns, file)
    if need != "texts":
        check_labels(documents.labels, columns, file)
    return documents


def check_labels(labels: pl.Series, columns: TextColumns, file: File) -> None:
    """Raise DataError if no document of a file has a label."""
    if (labels.list.len() == 0).all():
        raise DataError(
            f"{file}: column '{columns.labels}' has no label in any of {len(labels):,} rows. "
            "Name another column with `labels=`"
        )


def check_line_labels(header: list[str], file: File) -> None:
    """Raise DataError if no line of a .txt file, whose columns are `header`, has a label."""
    if file.kind == "lines" and "labels" not in header:
        raise DataError(f"{file}: no word begins with __label__. Write labels like this: __label__a __label__b text")


def documents_of(frame: pl.DataFrame, columns: TextColumns, file: File) -> Documents:
    """Return the documents in a frame whose columns are known; errors as in `as_documents`."""
    if columns.labels:
        labels, separator = read_labels(frame[columns.labels], columns.separator, file)
        _check_separator(separator, columns, frame, file)
    else:
        labels, separator = pl.Series("labels", [[]], pl.List(pl.String)).new_from_index(0, frame.height), ""
    ids = pl.Series("id", range(file.first, file.first + frame.height), dtype=pl.Int64).cast(pl.String)
    kind: IdKind = "text"
    if columns.id:
        ids, kind = read_ids(frame[columns.id], file, ID_ADVICE, columns.id_kind)
        check_distinct(ids, file)
    groups = read_text(frame[columns.group], file).alias("group") if columns.group else None
    groups = None if groups is None else groups.set(groups == "", None)
    inputs = read_columns(frame, columns.fields, columns.vectors, file, planned=columns.planned)
    resolved = replace(columns, separator=separator or columns.separator, id_kind=kind)
    plan = _plan(frame, resolved, inputs, labels, file)
    counting = read_counting(frame, columns.weight, columns.unknown, labels, resolved.separator, file)
    return Documents(ids.alias("id"), _join_texts(frame, columns, file), labels, groups, plan, inputs, counting)


def _check_separator(separator: str, columns: TextColumns, frame: pl.DataFrame, file: File) -> None:
    """Raise DataError if labels are texts, but the run was fitted on lists: where to split them would be a guess."""
    if columns.only_lists and separator:
        first = example_of(frame[columns.labels])
        raise DataError(
            f"{file}: column '{columns.labels}' holds texts such as {first!r}, but this run was fitted on lists of "
            "labels. Write JSON lists, or fit again with `separator=`"
        )


def _plan(
    frame: pl.DataFrame, columns: TextColumns, inputs: InputColumns, labels: pl.Series, file: File
) -> ReadingPlan:
    uses: list[tuple[Use, str]] = [("text", name) for name in columns.text]
    others: dict[Use, str] = {"labels": columns.labels, "unknown": columns.unknown, "weight": columns.weight}
    others |= {"id": columns.id, "group": columns.group}
    uses += [(use, name) for use, name in others.items() if name]
    labels_type = "text" if columns.separator else "list"
    types: dict[Use, str] = {"labels": labels_type, "unknown": labels_type, "weight": "number"}
    types["id"] = columns.id_kind or "text"
    planned = [
        PlannedColumn(
            name, use, types.get(use, "text"), _count_missing(frame[name], labels, use), example_of(frame[name])
        )
        for use, name in uses
    ]
    planned[len(columns.text) : len(columns.text)] = _planned_inputs(frame, inputs)
    ignored = [name for name in frame.columns if name not in {column.name for column in planned}]
    form = "lines" if file.kind == "lines" else "documents"
    return ReadingPlan(form, frame.height, tuple(planned), tuple(ignored), columns.separator)


def _planned_inputs(frame: pl.DataFrame, inputs: InputColumns) -> list[PlannedColumn]:
    types: list[tuple[Use, str, str]] = [("field", name, kind) for name, kind in inputs.kinds.items()]
    types += [("vector", name, str(values.shape[1])) for name, values in inputs.vectors.items()]
    return [
        PlannedColumn(name, use, kind, _count_missing(frame[name], frame[name], use), example_of(frame[name]))
        for use, name, kind in types
    ]


def _count_missing(column: pl.Series, labels: pl.Series, use: Use) -> int:
    if use == "labels":
        return int((labels.list.len() == 0).sum())
    empty = (column == "").sum() if column.dtype == pl.String else 0
    return column.null_count() + int(empty)


def _join_texts(frame: pl.DataFrame, columns: TextColumns, file: File) -> pl.Series:
    """Return the text columns joined by line breaks, without empty ones."""
    if not columns.text:
        return pl.Series("text", [""], dtype=pl.String).new_from_index(0, frame.height)
    texts = [read_text(frame[name], file) for name in columns.text]
    filled = [text.set(text.str.strip_chars() == "", None).alias(str(place)) for place, text in enumerate(texts)]
    return pl.DataFrame(filled).select(text=pl.concat_str(pl.all(), separator="\n", ignore_nulls=True)).to_series()


def check_distinct(ids: pl.Series, file: File) -> None:
    """Raise DataError if two rows of a file have the same id."""
    if not ids.is_duplicated().any():
        return
    again = int((~ids.is_first_distinct()).arg_max() or 0)
    first = int((ids == ids[again]).arg_max() or 0)
    raise DataError(
        f"{file.place(again)}: id {ids[again]!r} is already at {file.place(first)}, but an id belongs to one "
        "document. Remove one of the rows, or name another column with `id=`"
    )
