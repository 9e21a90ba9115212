"""Documents larger than memory: texts in a memory-mapped file; ids, labels and groups in memory.

`stream_documents` reads a file twice, block by block: first for its columns and the separator of labels, then for the
documents, whose texts it writes to a file. Documents and errors are those of `as_documents`. Memory holds a block, and
for each document its id, the numbers of its labels and three numbers about its text.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import IO, Any

import msgspec
import numpy as np
import polars as pl

from hyperfocal.config.classify import TextDataSettings
from hyperfocal.data.blocks import Block, read_blocks
from hyperfocal.data.counting import Counting
from hyperfocal.data.documents import (
    Documents,
    check_distinct,
    check_labels,
    check_line_labels,
    documents_of,
)
from hyperfocal.data.files import File, check_rows
from hyperfocal.data.ids import IdReader, NotWhole
from hyperfocal.data.label_columns import SEPARATORS, find_column_separator
from hyperfocal.data.reading import ReadingPlan, joined, with_type
from hyperfocal.data.stored_texts import StoredTexts
from hyperfocal.data.text_columns import KNOWN_LABELS, TextColumns, find_text_columns
from hyperfocal.data.text_lines import TEXT_READERS
from hyperfocal.errors import DataError
from hyperfocal.storage.cache import Arrays, map_file, pack, unpack

BLOCK_ROWS = 50_000  # documents of the file in memory at once


def stream_documents(path: str | Path, settings: TextDataSettings, work: Path) -> Arrays:
    """Return the arrays that `stored_documents` reads, with the texts of a file in the folder `work`.

    Args:
        path, settings: as in `as_documents`.
        work: empty folder, with room for the texts.

    Raises:
        DataError: as in `as_documents`.
        OSError: `work` cannot be written.
    """
    file = File(Path(path))
    columns = _survey(file, settings)
    with (work / "texts.bin").open("wb") as texts:
        stored = [_store(block, columns, texts) for block in _blocks(file)]
    blocks, plan = [rows for rows, _ in stored], joined([plan for _, plan in stored])
    plan = with_type(plan, "id", columns.id_kind or "text")
    names = pl.concat([rows["labels"].explode().unique().cast(pl.String) for rows in blocks]).drop_nulls().unique()
    dtype = pl.List(pl.Enum(names.sort()))
    rows = pl.concat([rows.with_columns(rows["labels"].cast(dtype)) for rows in blocks])
    check_labels(rows["labels"], columns, file)
    if columns.id:
        check_distinct(rows["id"], file)
    facts = pl.DataFrame({"plan": [msgspec.json.encode(plan).decode()]})
    return {
        "texts": map_file(work / "texts.bin", np.dtype(np.uint8)),
        "lengths": rows["length"].to_numpy(),
        "hashes": rows["hash"].to_numpy(),
        "rows": pack(rows.drop("length", "hash")),
        "facts": pack(facts),
    }


def stored_documents(arrays: Arrays) -> Documents:
    """Return the documents of `stream_documents`; their texts stay in the mapped file."""
    rows, facts = unpack(arrays["rows"]), unpack(arrays["facts"])
    lengths = arrays["lengths"].astype(np.int64)
    raw: Any = arrays["texts"]
    texts = StoredTexts(raw, np.cumsum(lengths) - lengths, lengths, arrays["hashes"])
    groups = rows["group"] if "group" in rows.columns else None
    plan = msgspec.json.decode(facts["plan"][0], type=ReadingPlan)
    weights = rows["weight"].to_numpy() if "weight" in rows.columns else None
    counting = Counting(weights, rows["unknown"] if "unknown" in rows.columns else None)
    return Documents(rows["id"], texts, rows["labels"], groups, plan, counting=counting)


def _blocks(file: File) -> Iterator[Block]:
    return read_blocks(file.path, BLOCK_ROWS, readers=TEXT_READERS, row="document")


def _survey(file: File, settings: TextDataSettings) -> TextColumns:
    """Return the columns of a file, with the separator of labels and the kind of ids, which depend on all rows."""
    header: dict[str, None] = {}  # ordered
    separators: dict[str, set[str]] = {}
    ids: dict[str, IdReader] = {}
    rows = 0
    for block in _blocks(file):
        rows += block.frame.height
        header |= dict.fromkeys(block.frame.columns)
        for name in block.frame.columns:
            if not settings.separator and (name == settings.labels or name.lower() in KNOWN_LABELS):
                with suppress(DataError):  # not the column of labels, or raised again by `_store`
                    separators.setdefault(name, set()).add(find_column_separator(block.frame[name], block.file))
            if name == settings.id or name.lower() == "id":
                _survey_ids(ids.setdefault(name, IdReader()), block.frame[name], block.file)
    check_line_labels([*header], file)
    columns = find_text_columns([*header], settings, file, "all")
    check_rows(rows, file, "document")
    used = separators.get(columns.labels, ())
    separator = settings.separator or next((mark for mark in SEPARATORS if mark in used), " ")
    return replace(columns, separator=separator, id_kind=ids[columns.id].kind if columns.id else None)


def _survey_ids(reader: IdReader, column: pl.Series, file: File) -> None:
    with suppress(DataError, NotWhole):  # an error is raised again by `_store`
        reader.read(column, file)


def _store(block: Block, columns: TextColumns, texts: IO[bytes]) -> tuple[pl.DataFrame, ReadingPlan]:
    """Write the texts of a block; return its documents' ids, labels, groups, and the length and hash of each text."""
    wanted = (*columns.text, columns.labels, columns.id, columns.group, columns.weight, columns.unknown)
    absent = [pl.lit(None, pl.String).alias(name) for name in wanted if name and name not in block.frame.columns]
    documents = documents_of(block.frame.with_columns(absent), columns, block.file)
    stored = documents.texts
    assert isinstance(stored, pl.Series), "a block is in memory"
    texts.write("".join(stored.to_list()).encode())
    names = pl.Enum(documents.labels.explode().drop_nulls().unique())
    row = {"id": documents.ids, "labels": documents.labels.cast(pl.List(names)), "length": stored.str.len_bytes()}
    row |= {"hash": stored.hash(0)} | ({} if documents.groups is None else {"group": documents.groups})
    counting = documents.counting
    row |= {} if counting.weights is None else {"weight": pl.Series(counting.weights)}
    row |= {} if counting.unknown is None else {"unknown": counting.unknown}
    return pl.DataFrame(row), documents.plan
