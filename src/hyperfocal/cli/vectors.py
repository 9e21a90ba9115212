"""Output of `recommend similar` and `recommend vectors`: tables of similar items, and files of vectors."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import polars as pl

from hyperfocal.data.files import File, write_frame, write_rows
from hyperfocal.errors import DataError
from hyperfocal.recommend.recommender import Recommender
from hyperfocal.report.console import SafeConsole
from hyperfocal.report.format import numbers_table
from hyperfocal.storage.whole import whole_file

FORMATS = (".parquet", ".npy")


def similar_frame(recommender: Recommender, items: Sequence[str], k: int) -> pl.DataFrame:
    """Return the columns item, similar, rank and similarity; no items: all of the run."""
    asked = list(items) or recommender.vocabulary_.values
    lists = recommender.similar(asked, k)
    rows = [
        (item, other, rank, score)
        for item, row in zip(asked, lists, strict=True)
        for rank, (other, score) in enumerate(row, 1)
    ]
    schema = ["item", "similar", "rank", "similarity"]
    return pl.DataFrame([list(column) for column in zip(*rows, strict=True)], schema=schema)


def print_similar(frame: pl.DataFrame) -> None:
    """Print a table of similar items."""
    table = numbers_table("item", "rank", "similar", "similarity", texts=["item", "similar"])
    for item, other, rank, score in frame.iter_rows():
        table.add_row(str(item) if rank == 1 else "", str(rank), str(other), f"{score:.3f}")
    SafeConsole().print(table)


def write_similar(frame: pl.DataFrame, out: Path) -> None:
    """Write similar items in the format of the name, whole or not at all."""
    with whole_file(out) as aside:
        if File(out).kind == "csv":
            write_rows(frame, aside, header=True)
        else:
            write_frame(frame, aside)


def user_frame(recommender: Recommender, users: Sequence[str]) -> pl.DataFrame:
    """Return the columns user and vector."""
    vectors = recommender.user_vectors(users=users)
    column = pl.Series("vector", vectors, dtype=pl.Array(pl.Float32, vectors.shape[1]))
    return pl.DataFrame([pl.Series("user", users), column])


def check_vectors(out: Path, users: Path | None) -> None:
    """Raise DataError if vectors cannot be written to `out`."""
    if out.suffix not in FORMATS:
        raise DataError(f"--out {out}: vectors are written as {' or '.join(FORMATS)}. Choose such a name")
    if out.is_dir():
        raise DataError(f"--out {out} is a folder, not a file. Name a file to write")
    if users is not None and users.resolve() in (out.resolve(), ids_beside(out).resolve()):
        raise DataError(f"--out {out} would overwrite --users {users}. Choose another name")


def ids_beside(out: Path) -> Path:
    """Return the file of the ids of a .npy file."""
    return out.with_suffix(".ids.json")


def write_vectors(frame: pl.DataFrame, out: Path) -> int:
    """Write ids and vectors: a .parquet with both, or a .npy and a JSON list of the ids; return the length of one."""
    vectors = frame["vector"].to_numpy()
    if out.suffix == ".parquet":
        with whole_file(out) as aside:
            frame.write_parquet(aside)
    else:
        with whole_file(ids_beside(out)) as aside:
            aside.write_text(json.dumps(frame.to_series(0).to_list(), ensure_ascii=False), encoding="utf-8")
        with whole_file(out) as aside, aside.open("wb") as file:
            np.save(file, vectors)
    return int(vectors.shape[1])
