"""The `predict` commands: a small file in one go, a large one block by block into part files."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import polars as pl

from hyperfocal.classify.classifier import MultiLabelClassifier
from hyperfocal.classify.files import with_pairs
from hyperfocal.cli.part_files import PartFiles, stamp
from hyperfocal.cli.steps import exit_on_ctrl_c
from hyperfocal.data.blocks import Block, Seen, read_blocks, whole_users
from hyperfocal.data.compression import is_compressed
from hyperfocal.data.documents import Documents, documents_from_frame
from hyperfocal.data.files import File, write_frame, write_lines, write_rows
from hyperfocal.data.logs import Log, log_from_frame, row_users
from hyperfocal.data.matrices import is_matrix_file
from hyperfocal.data.text_lines import TEXT_READERS
from hyperfocal.errors import DataError
from hyperfocal.parts import files_of, total_size
from hyperfocal.recommend.recommender import Recommender
from hyperfocal.report.progress import PredictProgress
from hyperfocal.rules import Rules
from hyperfocal.storage.run_folder import MODEL
from hyperfocal.storage.whole import whole_file

LARGE_BYTES = 64 * 2**20  # files of at least this size are read block by block
LARGE_PACKED_BYTES = 16 * 2**20  # the same for compressed files and .parquet, which grow in memory
LOG_ROWS = 200_000  # rows of a log in a block
DOCUMENTS = 10_000  # documents in a block, with few labels
PARTS_FORMAT = 2  # version of the columns in the parts
COUNTED = ("users", "unknown_events", "unknown_users", "short_users")  # of `Predictions`
SCORES = 2**24  # documents x labels in a block at most: 64 MiB
Predicted = tuple[pl.DataFrame, Counter[str]]  # predictions, and counts to print


def predict_file(
    predictor: DocumentPredictor | LogPredictor, run: Path, file: Path, out: Path, *, block: int | None, resume: bool
) -> Counter[str]:
    """Write the predictions for a file, and return the predictor's counts.

    Args:
        predictor: does what differs between the jobs.
        run: folder of the run that predicts.
        file: to predict.
        out: to write.
        block: rows to read at a time; None: all, or `predictor.rows` of a large file.
        resume: whether parts of an earlier call are continued.

    Raises:
        DataError: the file cannot be read.
        RunError: parts of other predictions are in the way; the output cannot be written.
    """
    rows = block or predictor.rows
    parts = PartFiles(out, _plan(predictor, run, file, rows))
    if block is None and not (resume and parts.folder.exists()) and (is_matrix_file(file) or not _is_large(file)):
        frame, counts = predictor.predict(file)
        with whole_file(out) as aside:
            predictor.write(frame, aside, True)
        return counts
    with exit_on_ctrl_c(f"The same command with --resume continues with the parts in {parts.folder}."):
        return _write_parts(predictor, predictor.blocks(file, rows), parts, resume=resume)


def predict_log(predictor: LogPredictor, log: Log, out: Path) -> Counter[str]:
    """Write the predictions for a log in memory, and return the predictor's counts; errors as in `predict_file`."""
    frame, counts = predictor.predict(log)
    with whole_file(out) as aside:
        predictor.write(frame, aside, True)
    return counts


def _plan(predictor: DocumentPredictor | LogPredictor, run: Path, file: Path, rows: int) -> dict[str, Any]:
    """Return what the parts depend on; {} if there is no file, which reading it reports."""
    if not files_of(file):
        return {}
    files = {predictor.argument: stamp(file), "RUN": stamp(run / MODEL)}
    return {**files, "--block": rows, **predictor.choices(), "format of parts": PARTS_FORMAT}


def _is_large(file: Path) -> bool:
    packed = not file.is_file() or file.suffix == ".parquet" or is_compressed(file)
    return total_size(file) >= (LARGE_PACKED_BYTES if packed else LARGE_BYTES)


def _write_parts(
    predictor: DocumentPredictor | LogPredictor, blocks: Iterator[Block], parts: PartFiles, *, resume: bool
) -> Counter[str]:
    """Predict every block that has no complete part yet, under a progress bar, and join the parts."""
    total: Counter[str] = Counter()
    number = 0
    with PredictProgress() as progress, ExitStack() as stack:
        for number, block in enumerate(blocks, 1):
            if number == 1:  # only now: a file that cannot be read leaves no folder
                parts.refuse_others()
                stack.enter_context(parts.writing())
                parts.check(resume=resume)
            counts = parts.counts(number - 1)
            if counts is None:
                frame, counts = predictor.predict(block)
                parts.put(number - 1, frame, counts, predictor.write)
            total += counts
            progress.predicted(number, block.share)
        parts.join(number)
    return total


class DocumentPredictor:
    """Predicts documents: id, labels, scores and known of each.

    Counts documents, the labels decided for them, and texts of which no part is known.

    Args:
        classifier: of the run.
        new_labels: the table of new labels that the classifier knows.
        new_boost: what is added to their scores.
        safe_csv: whether cells are written that no spreadsheet runs as a formula.
    """

    argument = "DOCS"

    def __init__(
        self,
        classifier: MultiLabelClassifier,
        *,
        new_labels: Path | None = None,
        new_boost: float | None = None,
        safe_csv: bool = False,
    ) -> None:
        self.classifier, self.safe_csv = classifier, safe_csv
        self.new_labels, self.new_boost = new_labels, new_boost
        self.single = classifier.fit_.model.classes is not None
        self.rows = max(min(DOCUMENTS, SCORES // max(len(classifier.vocabulary_), 1)), 1)

    def choices(self) -> dict[str, Any]:
        """Return the options that decide the predictions."""
        if self.new_labels is None:  # which parts of earlier versions do not know
            return _safe(self.safe_csv)
        new = {"--new-labels": stamp(self.new_labels), "--new-boost": self.new_boost}
        return new | _safe(self.safe_csv)

    def predict(self, data: Path | Block) -> Predicted:
        """Return the predictions for a file or a block."""
        frame = self.classifier.predict_documents(self._documents(data) if isinstance(data, Block) else data)
        labels = len(frame) if self.single else int(frame["labels"].list.len().sum())
        unknown = int((~frame["known"]).sum())
        return frame, Counter(documents=len(frame), labels=labels, unknown_texts=unknown)

    def blocks(self, file: Path, rows: int) -> Iterator[Block]:
        """Yield blocks of documents; DataError if an id is in two of them."""
        if is_matrix_file(file):
            raise DataError(f"{file}: holds a feature matrix, which is read whole. Leave --block and --resume out")
        seen = Seen()
        for block in read_blocks(file, rows, readers=TEXT_READERS, row="document"):
            documents = self._documents(block)
            again = None if documents.numbered else seen.again(documents.ids)
            if again is not None:
                raise DataError(
                    f"{block.file.place(again)}: id {documents.ids[again]!r} is also on an earlier line. Give each "
                    "document its own id, or name another column with `id=`"
                )
            yield block

    def _documents(self, block: Block) -> Documents:
        return documents_from_frame(block.frame, self.classifier.fit_.model.reading, block.file, need="texts")

    def write(self, frame: pl.DataFrame, path: Path, first: bool) -> None:
        """Write lists and pairs where the format has them, else JSON in a field."""
        kind = File(path).kind
        if kind == "jsonl":
            write_lines(frame.to_dicts(), path)
        elif kind == "parquet":
            write_frame(with_pairs(frame), path)
        else:
            rows = frame.with_columns(_as_json(frame[name]) for name in ("labels", "scores") if name in frame.columns)
            write_rows(rows, path, header=first, safe=self.safe_csv)


def _safe(safe_csv: bool) -> dict[str, Any]:
    """Return --safe-csv if it is given: the parts of earlier versions do not know it."""
    return {"--safe-csv": True} if safe_csv else {}


def _as_json(column: pl.Series) -> pl.Series:
    texts = [json.dumps(value, ensure_ascii=False) for value in column.to_list()]
    return pl.Series(column.name, texts, dtype=pl.String)


class LogPredictor:
    """Predicts a log: the best items of each user.

    Counts rows, users, events of unknown items, and users without a known item.

    Args:
        recommender: of the run.
        k: items per user; None: as many as the run was trained for.
        repeats: whether items of the history are allowed.
        rules: that lists keep.
        candidates: the table of the only items that each user may get.
        chosen: the options that these two come from.
        new_items: the table of new items that the recommender knows.
        new_boost: what is added to their scores.
        safe_csv: whether cells are written that no spreadsheet runs as a formula.
    """

    argument, rows = "HISTORY", LOG_ROWS

    def __init__(
        self,
        recommender: Recommender,
        *,
        k: int | None,
        rules: Rules,
        candidates: Path | None,
        chosen: dict[str, Any],
        new_items: Path | None,
        new_boost: float | None,
        safe_csv: bool = False,
    ) -> None:
        self.recommender, self.k, self.rules, self.chosen = recommender, k, rules, chosen
        self.candidates = None if candidates is None else recommender.ranker_.read(candidates)
        self.new_items, self.new_boost, self.safe_csv = new_items, new_boost, safe_csv

    def choices(self) -> dict[str, Any]:
        """Return the options that decide the predictions, JSON-able."""
        new_items = None if self.new_items is None else stamp(self.new_items)
        chosen = {"--k": self.k, "--repeats": self.rules.repeats} | self.chosen
        return chosen | {"--new-items": new_items, "--new-boost": self.new_boost} | _safe(self.safe_csv)

    def predict(self, data: Path | Log | Block) -> Predicted:
        """Return the predictions for a file, a log or a block."""
        ranker = self.recommender.ranker_
        log: Any = data
        if isinstance(data, Block):
            log = log_from_frame(data.frame, ranker.reading, data.file, ranker.vocabulary.kind)
        predictions = self.recommender.predict(log, self.k, candidates=self.candidates, rules=self.rules)
        counts = {name: getattr(predictions, name) for name in COUNTED}
        return predictions.frame, Counter(rows=len(predictions.frame), **counts)

    def blocks(self, file: Path, rows: int) -> Iterator[Block]:
        """Yield blocks of whole users; DataError if the rows of a user are not consecutive."""
        reading = self.recommender.ranker_.reading
        return whole_users(read_blocks(file, rows), lambda frame, part: row_users(frame, reading, part))

    def write(self, frame: pl.DataFrame, path: Path, first: bool) -> None:
        """Write rows, with their header if they are the first."""
        if File(path).kind == "csv":
            write_rows(frame, path, header=first, safe=self.safe_csv)
        else:
            write_frame(frame, path)
