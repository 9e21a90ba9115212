"""In how many texts each n-gram stands, of more n-grams than memory holds: the counts of blocks are merged on disk."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl
from numpy.typing import NDArray

PENDING = 4_000_000  # n-grams whose counts wait in memory
PARTS = 64  # that the n-grams on disk are dealt out to; one at a time is merged


class TermCounts:
    """The counts of n-grams, block after block.

    Args:
        work: an empty folder, with room for the counts: about 20 bytes for each distinct n-gram of a block.
    """

    def __init__(self, work: Path) -> None:
        self._work, self._written = work, 0
        self._pending: list[pl.DataFrame] = []

    def add(self, terms: list[str], documents: NDArray[Any], times: NDArray[Any]) -> None:
        """Add a block: its distinct n-grams, in how many of its texts each stands, and how often."""
        self._pending.append(pl.DataFrame({"term": terms, "documents": documents, "times": times}))
        if sum(map(len, self._pending)) > PENDING:
            self._write()

    def frequent(self, min_documents: int, limit: int) -> pl.DataFrame:
        """Return the n-grams in at least `min_documents` texts, the `limit` most frequent of them.

        Of those that are equally frequent, the first by name are kept.

        Returns:
            columns term, documents and times, in the order of the names.
        """
        kept = [_most_frequent(part, min_documents, limit) for part in self._parts()]
        return _most_frequent(pl.concat(kept), min_documents, limit).sort("term")

    def _parts(self) -> Iterator[pl.DataFrame]:
        """Yield the counts of all blocks, in parts of which none has an n-gram of another."""
        if not self._written:
            yield _summed(self._pending)
            return
        if self._pending:
            self._write()
        for folder in sorted(self._work.glob("part-*")):
            yield _summed([pl.read_ipc(path) for path in folder.iterdir()])

    def _write(self) -> None:
        """Write what waits, each n-gram to its part."""
        counts = _summed(self._pending)
        self._pending.clear()
        parted = counts.with_columns(part=counts["term"].hash(0) % PARTS)
        for (part,), rows in parted.partition_by("part", as_dict=True, include_key=False).items():
            folder = self._work / f"part-{part:03}"
            folder.mkdir(exist_ok=True)
            rows.write_ipc(folder / f"{self._written:06}.arrow", compression="lz4")
        self._written += 1


def _summed(counts: list[pl.DataFrame]) -> pl.DataFrame:
    return pl.concat(counts).group_by("term").agg(pl.col("documents").sum(), pl.col("times").sum())


def _most_frequent(counts: pl.DataFrame, min_documents: int, limit: int) -> pl.DataFrame:
    enough = counts.filter(pl.col("documents") >= min_documents)
    return enough.sort(["times", "term"], descending=[True, False]).head(limit)
