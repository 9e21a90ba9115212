"""In how many texts each n-gram stands, of more n-grams than memory holds: the counts of blocks are merged on disk."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl
from numpy.typing import NDArray

PENDING = 2_000_000  # n-grams whose counts wait in memory
PARTS = 64  # files of each block of counts that goes to disk, by the hash of the n-gram
SCHEMA = {"term": pl.String, "documents": pl.Int64, "times": pl.Int64}
MERGED = 2_000_000  # about so many counts are merged at once: all of some n-grams


class TermCounts:
    """The counts of n-grams, block after block.

    Args:
        work: an empty folder, with room for the counts: about 20 bytes for each distinct n-gram of a block. `add` and
            `frequent` raise OSError where it cannot be written.
    """

    def __init__(self, work: Path) -> None:
        self._work, self._files, self._rows = work, 0, 0
        self._pending: list[pl.DataFrame] = []

    def add(self, terms: list[str], documents: NDArray[Any], times: NDArray[Any]) -> None:
        """Add a block: its distinct n-grams, in how many of its texts each stands, and how often."""
        self._pending.append(pl.DataFrame({"term": terms, "documents": documents, "times": times}, SCHEMA))
        if sum(map(len, self._pending)) > PENDING:
            self._write()

    def frequent(self, min_documents: int, limit: int) -> pl.DataFrame:
        """Return the n-grams in at least `min_documents` texts, the `limit` most frequent of them.

        Of those that are equally frequent, the first by name are kept.

        Returns:
            columns term, documents and times, in the order of the names.
        """
        kept = pl.DataFrame(schema=SCHEMA)
        for part in self._parts():
            enough = part.filter(pl.col("documents") >= min_documents)
            kept = pl.concat([kept, enough]).sort(["times", "term"], descending=[True, False]).head(limit)
        return kept.sort("term")

    def _parts(self) -> Iterator[pl.DataFrame]:
        """Yield the counts of all blocks, in parts of which none has an n-gram of another."""
        if not self._files:
            yield _summed(self._pending)
            return
        self._write()
        shares = -(-self._rows // (PARTS * MERGED))  # of a part, of which each is read anew
        for folder in sorted(self._work.glob("part-*")):
            for share in range(shares):
                own = pl.col("term").hash(0) // PARTS % shares == share
                yield _summed([pl.read_ipc(path).filter(own) for path in folder.iterdir()])

    def _write(self) -> None:
        """Write what waits, each n-gram to its part."""
        counts = _summed(self._pending)
        self._pending.clear()
        parted = counts.with_columns(part=counts["term"].hash(0) % PARTS)
        for (part,), rows in parted.partition_by("part", as_dict=True, include_key=False).items():
            folder = self._work / f"part-{part:03}"
            folder.mkdir(exist_ok=True)
            try:
                rows.write_ipc(folder / f"{self._files:06}.arrow", compression="lz4")
            except pl.exceptions.PolarsError as error:  # a full disk
                raise OSError(str(error)) from error
        self._files += 1
        self._rows += len(counts)


def _summed(counts: list[pl.DataFrame]) -> pl.DataFrame:
    both = pl.concat([pl.DataFrame(schema=SCHEMA), *counts])
    return both.group_by("term").agg(pl.col("documents").sum(), pl.col("times").sum())
