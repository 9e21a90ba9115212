"""What `recommend predict` does: a small log at once, a large one block by block."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import polars as pl

from hyperfocal.cli.predict import Parts, in_blocks, stamp, write_parts
from hyperfocal.data.blocks import Block, read_blocks, whole_users
from hyperfocal.data.files import File, write_frame, write_rows
from hyperfocal.data.logs import log_from_frame, row_users
from hyperfocal.recommend.recommender import Predictions, Recommender
from hyperfocal.storage.run_folder import MODEL, whole_file

BLOCK = 200_000  # rows


def predict_log(recommender: Recommender, history: Path, out: Path, options: dict[str, Any]) -> Counter[str]:
    """Write the predictions for a log, and return the numbers of rows, users and unknown events.

    Args:
        recommender: of the run.
        history: the log.
        out: file to write.
        options: those of the command.
    """
    if not in_blocks(history, out, options):
        predictions = recommender.predict(history, options["k"], repeats=options["repeats"])
        with whole_file(out) as aside:
            write_frame(predictions.frame, aside)
        return _counts(predictions)
    settings, rows = recommender.settings_.data, options["block"] or BLOCK

    def predict(block: Block) -> tuple[pl.DataFrame, Counter[str]]:
        log = log_from_frame(block.frame, settings, block.file)
        predictions = recommender.predict(log, options["k"], repeats=options["repeats"])
        return predictions.frame, _counts(predictions)

    blocks = whole_users(read_blocks(history, rows), lambda frame, file: row_users(frame, settings, file))
    return write_parts(blocks, predict, _write, Parts(out, _plan(history, rows, options)), resume=options["resume"])


def _counts(predictions: Predictions) -> Counter[str]:
    unknown = predictions.unknown_events
    return Counter(rows=len(predictions.frame), users=predictions.users, unknown_events=unknown)


def _write(frame: pl.DataFrame, path: Path, first: bool) -> None:
    if File(path).kind == "csv":
        write_rows(frame, path, header=first)
    else:
        write_frame(frame, path)


def _plan(history: Path, rows: int, options: dict[str, Any]) -> dict[str, Any]:
    """Return what the parts depend on, which --resume compares."""
    if not history.is_file():
        return {}  # reading says what is wrong
    new_items = options["new_items"]
    return {
        "HISTORY": stamp(history),
        "RUN": stamp(options["run"] / MODEL),
        "--block": rows,
        "--k": options["k"],
        "--repeats": options["repeats"],
        "--new-items": None if new_items is None else stamp(new_items),
        "--new-boost": options["new_boost"],
    }
