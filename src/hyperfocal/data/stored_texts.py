"""Texts in memory, or larger than memory: in one file, of which a block at a time is read."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

BLOCK_TEXTS = 10_000  # in memory at once
BLOCK_BYTES = 2**24


@dataclass(frozen=True, eq=False)
class StoredTexts:
    """N texts in a file, with the methods of a polars series that `Documents` uses."""

    raw: np.memmap[Any, np.dtype[np.uint8]]  # mapped, but read by file reads, so that no page stays in memory
    starts: NDArray[np.int64]  # (N,) int64, the place in `raw` of each text's first byte
    lengths: NDArray[np.int64]  # (N,) int64, in bytes
    hashes: NDArray[np.uint64]  # (N,) uint64, equal for equal texts

    def __len__(self) -> int:
        """Return N."""
        return len(self.starts)

    def __getitem__(self, row: int) -> str:
        """Return one text."""
        return self._read(slice(row, row + 1))[0]

    def gather(self, rows: pl.Series) -> StoredTexts:
        """Return the texts of the given row numbers, in that order."""
        at = rows.to_numpy()
        return StoredTexts(self.raw, self.starts[at], self.lengths[at], self.hashes[at])

    def blocks(self) -> Iterator[pl.Series]:
        """Yield the texts in blocks of at most BLOCK_TEXTS, each of which ends after BLOCK_BYTES."""
        ends = np.cumsum(self.lengths)
        start = 0
        while start < len(self):
            enough = int(np.searchsorted(ends, ends[start] - self.lengths[start] + BLOCK_BYTES)) + 1
            stop = min(start + BLOCK_TEXTS, enough, len(self))
            yield pl.Series("text", self._read(slice(start, stop)), dtype=pl.String)
            start = stop

    @cached_property
    def checksum(self) -> str:
        """Return `hash_texts` of the texts, computed once."""
        return _hash_blocks(self.blocks())

    def _read(self, rows: slice) -> list[str]:
        if not self.lengths[rows].any():  # a file without any text is not mapped
            return [""] * len(self.lengths[rows])
        assert self.raw.filename is not None
        places = zip(self.lengths[rows].tolist(), (self.starts[rows] + self.raw.offset).tolist(), strict=True)
        with Path(self.raw.filename).open("rb") as file:
            return [os.pread(file.fileno(), length, start).decode() for length, start in places]


Texts = pl.Series | StoredTexts


def hash_texts(texts: Texts) -> str:
    """Return a checksum of texts and their order."""
    return texts.checksum if isinstance(texts, StoredTexts) else _hash_blocks([texts])


def _hash_blocks(blocks: Iterable[pl.Series]) -> str:
    digest = hashlib.sha256()
    for block in blocks:
        for text in block.to_list():
            raw = text.encode()
            digest.update(len(raw).to_bytes(8, "little") + raw)
    return digest.hexdigest()


def hash_each(texts: pl.Series) -> NDArray[np.int64]:
    """Return a checksum of 8 bytes of each text that is not empty."""
    digests = [hashlib.blake2b(text.encode(), digest_size=8).digest() for text in texts.to_list() if text]
    return np.frombuffer(b"".join(digests), dtype="<i8").astype(np.int64)


def count_hashed(texts: pl.Series, hashes: NDArray[np.int64]) -> int:
    """Return how many texts have one of the checksums of `hash_each`."""
    return int(np.isin(hash_each(texts), hashes).sum())


def text_blocks(texts: Texts) -> Iterator[pl.Series]:
    """Yield texts in blocks that fit into memory: texts in memory are one block."""
    yield from texts.blocks() if isinstance(texts, StoredTexts) else (texts,)


def count_texts(texts: Texts) -> tuple[int, int]:
    """Return how many texts are not empty, and how many of these are distinct."""
    if isinstance(texts, StoredTexts):
        hashes = texts.hashes[texts.lengths > 0]
        return len(hashes), len(np.unique(hashes))
    filled = texts.filter(texts != "")
    return len(filled), filled.n_unique()
