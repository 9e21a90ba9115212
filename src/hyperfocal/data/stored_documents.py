"""From a file of documents of any size to documents whose texts stay on disk.

    1  The file is read in blocks for its columns, and for what parts the labels of a text field.
    2  It is read again: the texts' bytes go to a file; ids, labels and groups are kept.

What comes out is what `read_documents` gives, errors included. In memory are a block, and of each document its id, the
numbers of its labels and three numbers of its text.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from hyperfocal.config.classify import TextDataSettings
from hyperfocal.data.blocks import Block, read_blocks
from hyperfocal.data.documents import (
    KNOWN_LABELS,
    TEXT_READERS,
    Documents,
    TextColumns,
    documents_of,
    find_text_columns,
    refuse_empty,
    refuse_twice,
    refuse_without_label_words,
    refuse_without_labels,
)
from hyperfocal.data.files import File
from hyperfocal.data.label_columns import SEPARATORS, find_separator_in
from hyperfocal.data.stored_texts import StoredTexts
from hyperfocal.errors import DataError
from hyperfocal.storage.cache import map_file, pack, unpack

Arrays = dict[str, NDArray[Any]]
BLOCK_ROWS = 50_000  # documents of the file in memory at once


def stream_documents(path: str | Path, settings: TextDataSettings, work: Path) -> Arrays:
    """Return what `stored_documents` reads of the documents in a file, their texts in a file in the folder `work`.

    Args:
        path: as in `read_documents`.
        settings: names of the columns, and what parts labels; "" finds them.
        work: an empty folder, with room for the texts.

    Raises:
        DataError: as in `read_documents`, labels needed.
        OSError: `work` cannot be written.
    """
    file = File(Path(path))
    columns, separator = _survey(file, settings)
    with (work / "texts.bin").open("wb") as texts:
        blocks = [_store(block, columns, separator, texts) for block in _blocks(file)]
    names = pl.concat([each["labels"].explode().unique().cast(pl.String) for each in blocks]).drop_nulls().unique()
    kind = pl.List(pl.Enum(names.sort()))
    rows = pl.concat([each.with_columns(each["labels"].cast(kind)) for each in blocks])
    refuse_without_labels(rows["labels"], columns, file)
    if columns.id:
        refuse_twice(rows["id"], file)
    facts = pl.DataFrame({"id_column": [columns.id or "id"], "numbered": [not columns.id]})
    return {
        "texts": map_file(work / "texts.bin", np.dtype(np.uint8)),
        "lengths": rows["length"].to_numpy(),
        "hashes": rows["hash"].to_numpy(),
        "rows": pack(rows.drop("length", "hash")),
        "facts": pack(facts),
    }


def stored_documents(arrays: Arrays) -> Documents:
    """Return the documents of `stream_documents`; their texts stay in the file that `texts` maps."""
    rows, facts = unpack(arrays["rows"]), unpack(arrays["facts"])
    lengths = arrays["lengths"].astype(np.int64)
    raw: Any = arrays["texts"]
    texts = StoredTexts(raw, np.cumsum(lengths) - lengths, lengths, arrays["hashes"])
    groups = rows["group"] if "group" in rows.columns else None
    return Documents(rows["id"], texts, rows["labels"], groups, *facts.row(0))


def _blocks(file: File) -> Iterator[Block]:
    assert file.path is not None
    return read_blocks(file.path, BLOCK_ROWS, readers=TEXT_READERS, row="a document")


def _survey(file: File, settings: TextDataSettings) -> tuple[TextColumns, str]:
    """Return the columns of a file, and what parts labels, both as all of its rows together tell them."""
    names: dict[str, None] = {}
    separators: dict[str, set[str]] = {}
    rows = 0
    for block in _blocks(file):
        rows += block.frame.height
        names |= dict.fromkeys(block.frame.columns)
        for name in block.frame.columns:
            if not settings.separator and (name == settings.labels or name.lower() in KNOWN_LABELS):
                with suppress(DataError):  # of another column, or told again when it is read
                    separators.setdefault(name, set()).add(find_separator_in(block.frame[name], block.file))
    refuse_without_label_words([*names], file)
    columns = find_text_columns([*names], settings, file, need_labels=True)
    refuse_empty(rows, file)
    found = separators.get(columns.labels, ())
    return columns, settings.separator or next((mark for mark in SEPARATORS if mark in found), " ")


def _store(block: Block, columns: TextColumns, separator: str, texts: IO[bytes]) -> pl.DataFrame:
    """Write the texts of a block; return a row a document: id, labels, length and hash of its text, and its group."""
    wanted = (*columns.text, columns.labels, columns.id, columns.group)
    absent = [pl.lit(None, pl.String).alias(name) for name in wanted if name and name not in block.frame.columns]
    found = documents_of(block.frame.with_columns(absent), columns, separator, block.file)
    stored = found.texts
    assert isinstance(stored, pl.Series), "a block is in memory"
    texts.write("".join(stored.to_list()).encode())
    names = pl.Enum(found.labels.explode().drop_nulls().unique())
    row = {"id": found.ids, "labels": found.labels.cast(pl.List(names)), "length": stored.str.len_bytes()}
    row |= {"hash": stored.hash(0)} | ({} if found.groups is None else {"group": found.groups})
    return pl.DataFrame(row)
