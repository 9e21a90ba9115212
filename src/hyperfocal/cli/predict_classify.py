"""What `classify predict` does: few documents at once, many block by block."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl

from hyperfocal.classify.classifier import MultiLabelClassifier
from hyperfocal.cli.predict import Parts, in_blocks, stamp, write_parts
from hyperfocal.data.blocks import Block, Seen, read_blocks
from hyperfocal.data.documents import TEXT_READERS, Documents, documents_from_frame
from hyperfocal.data.files import File, write_frame, write_lines, write_rows
from hyperfocal.errors import DataError
from hyperfocal.recommend.recommender import with_pairs
from hyperfocal.storage.run_folder import MODEL, whole_file

BLOCK = 10_000  # documents, with few labels
SCORES = 2**24  # documents times labels that exist at once: 64 MiB


def predict_texts(classifier: MultiLabelClassifier, docs: Path, out: Path, options: dict[str, Any]) -> Counter[str]:
    """Write the predictions for documents, and return the numbers of documents and decided labels.

    Args:
        classifier: of the run.
        docs: the documents.
        out: file to write.
        options: those of the command.
    """
    if not in_blocks(docs, out, options):
        frame = classifier.predict_documents(docs)
        with whole_file(out) as aside:
            _write(frame, aside, True)
        return _counts(frame)
    rows = options["block"] or max(min(BLOCK, SCORES // max(len(classifier.vocabulary_), 1)), 1)
    seen = Seen()

    def predict(block: Block) -> tuple[pl.DataFrame, Counter[str]]:
        found = classifier.predict_documents(documents_of(block))
        return found, _counts(found)

    def documents_of(block: Block) -> Documents:
        return documents_from_frame(block.frame, classifier.settings_.data, block.file, need_labels=False)

    def checked() -> Iterator[Block]:
        for block in read_blocks(docs, rows, readers=TEXT_READERS, row="document"):
            _refuse_again(seen, documents_of(block), block.file)
            yield block

    return write_parts(checked(), predict, _write, Parts(out, _plan(docs, rows, options)), resume=options["resume"])


def _refuse_again(seen: Seen, documents: Documents, file: File) -> None:
    again = None if documents.numbered else seen.again(documents.ids)
    if again is not None:
        raise DataError(
            f"{file.place(again)}: id {documents.ids[again]!r} stands earlier in the file already. An id belongs to "
            "one document: remove one of the rows, or name another column with --id"
        )


def _counts(frame: pl.DataFrame) -> Counter[str]:
    return Counter(documents=len(frame), labels=int(frame["labels"].list.len().sum()))


def _write(frame: pl.DataFrame, path: Path, first: bool) -> None:
    """Write predictions in the format that the name says."""
    kind = File(path).kind
    if kind == "jsonl":
        write_lines(frame.to_dicts(), path)
    elif kind == "parquet":
        write_frame(with_pairs(frame), path)
    else:
        texts = {
            name: pl.Series([json.dumps(value, ensure_ascii=False) for value in frame[name].to_list()], dtype=pl.String)
            for name in ("labels", "scores")
        }
        write_rows(frame.with_columns(**texts), path, header=first)


def _plan(docs: Path, rows: int, options: dict[str, Any]) -> dict[str, Any]:
    """Return what the parts depend on, which --resume compares."""
    if not docs.is_file():
        return {}  # reading says what is wrong
    return {"DOCS": stamp(docs), "RUN": stamp(options["run"] / MODEL), "--block": rows}
