"""N-grams of words and characters as sparse features: TF-IDF, or hashed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray
from scipy.sparse import csr_matrix, hstack
from sklearn.feature_extraction.text import CountVectorizer, HashingVectorizer, TfidfTransformer, TfidfVectorizer

from hyperfocal.config.classify import FeatureSettings
from hyperfocal.data.partitions import PARTITIONS, partition_folders, write_partitions
from hyperfocal.data.stored_texts import StoredTexts, Texts, text_blocks
from hyperfocal.errors import DataError

SHORTEST_CHARS = 3
PENDING = 2_000_000  # n-grams whose counts are in memory before they are written
MERGED = 2_000_000  # about as many counts are merged at once
SCHEMA = {"term": pl.String, "documents": pl.Int64, "times": pl.Int64}


@dataclass(frozen=True, eq=False)
class Ngrams:
    """Fitted n-gram features: the n-grams of each analyzer ("words", "chars") and their weights.

    The value of an n-gram t in a document is (1 + ln tf) * idf(t), with idf(t) = ln((1 + n) / (1 + df)) + 1. The
    values of an analyzer are scaled to length 1 per document; with two analyzers, so is the whole.
    """

    settings: FeatureSettings  # n-gram lengths and limits
    terms: dict[str, list[str]]  # analyzer -> n-grams, in the order of their columns; empty lists if they are hashed
    weights: dict[str, NDArray[np.float32]]  # analyzer -> (V,) idf

    @classmethod
    def fit(cls, texts: Texts, settings: FeatureSettings, work: Path | None = None) -> Ngrams:
        """Count the n-grams of the training texts.

        Args:
            texts: in memory, or stored ones, which are read block by block. N-grams and weights are the same with one
                exception: if n-grams of equal frequency do not all fit into `max_features`, others may be chosen.
            settings: n-gram lengths and limits.
            work: empty folder for the counts of stored texts, see `TermCounts`.

        Raises:
            DataError: no n-gram is in `min_documents` texts.
        """
        terms: dict[str, list[str]] = {}
        weights: dict[str, NDArray[np.float32]] = {}
        for name in analyzers(settings):
            try:
                terms[name], weights[name] = _count(name, texts, settings, work)
            except (ValueError, StopIteration) as error:  # an empty vocabulary; no text to hash
                raise DataError(
                    f"texts: no n-gram of {name} is in {settings.min_documents} of {len(texts):,} documents "
                    f"({error}). Give more text, or a smaller features.min_documents"
                ) from None
        return cls(settings, terms, weights)

    def check(self) -> None:
        """Raise DataError if terms and weights do not match the settings."""
        if not self.terms.keys() == self.weights.keys() == {*analyzers(self.settings)}:
            raise DataError(f"its n-grams are of {', '.join(self.terms) or 'nothing'}, which contradicts its settings")
        for name, terms in self.terms.items():
            size = self.settings.max_features if self.settings.hashed else len(terms)
            if len(set(terms)) < len(terms) or self.weights[name].shape != (size,):
                raise DataError(f"its n-grams of {name} do not match their weights")

    @property
    def num_columns(self) -> int:
        """Return V, the columns of `transform`."""
        return sum(map(len, self.weights.values()))

    def transform(self, texts: pl.Series) -> csr_matrix[np.float32]:
        """Return the (N, V) float32 values of texts."""
        if texts.is_empty():  # scikit-learn refuses them
            return csr_matrix(np.zeros((0, self.num_columns), dtype=np.float32))
        matrices = [self._transform(name, texts.to_list()) for name in self.terms]
        if len(matrices) > 1:
            matrices = [matrix * np.float32(len(matrices) ** -0.5) for matrix in matrices]
        return csr_matrix(hstack(matrices, format="csr", dtype=np.float32))

    def _transform(self, name: str, texts: list[str]) -> Any:
        values = self._vectorizers[name].transform(texts)
        if not self.settings.hashed:
            return values
        transformer = TfidfTransformer(sublinear_tf=True)
        transformer.idf_ = self.weights[name]
        return transformer.transform(values)

    @cached_property
    def _vectorizers(self) -> dict[str, Any]:
        """Return the vectorizers; for a single text, making them takes most of the time."""
        vectorizers = {name: _vectorizer(name, self.settings, terms) for name, terms in self.terms.items()}
        for name, vectorizer in vectorizers.items():
            if not self.settings.hashed:
                vectorizer.idf_ = self.weights[name]
        return vectorizers


def analyzers(settings: FeatureSettings) -> list[str]:
    """Return the kinds of n-grams that the settings ask for."""
    chosen = {"words": settings.word_ngrams >= 1, "chars": settings.char_ngrams >= SHORTEST_CHARS}
    return [name for name, used in chosen.items() if used]


def _vectorizer(name: str, settings: FeatureSettings, terms: list[str] | None = None) -> Any:
    options = _options(name, settings)
    if settings.hashed:
        return HashingVectorizer(n_features=settings.max_features, alternate_sign=False, norm=None, **options)
    if terms is not None:
        return TfidfVectorizer(vocabulary=terms, sublinear_tf=True, dtype=np.float32, **options)
    limits = {"min_df": settings.min_documents, "max_features": settings.max_features}
    return TfidfVectorizer(sublinear_tf=True, dtype=np.float32, **limits, **options)


def _options(name: str, settings: FeatureSettings) -> dict[str, Any]:
    if name == "chars":
        return {"analyzer": "char_wb", "ngram_range": (SHORTEST_CHARS, settings.char_ngrams)}
    return {"analyzer": "word", "ngram_range": (1, settings.word_ngrams)}


def _count(
    name: str, texts: Texts, settings: FeatureSettings, work: Path | None
) -> tuple[list[str], NDArray[np.float32]]:
    """Return the n-grams of an analyzer, and their weights."""
    if settings.hashed:
        return [], _count_hashed(name, texts, settings)
    if isinstance(texts, StoredTexts):
        assert work is not None, "stored texts need a folder for their counts"
        return _count_stored(name, texts, settings, work)
    vectorizer = _vectorizer(name, settings)
    columns = vectorizer.fit(texts.to_list()).vocabulary_
    return sorted(columns, key=columns.__getitem__), vectorizer.idf_.astype(np.float32)


def _count_hashed(name: str, texts: Texts, settings: FeatureSettings) -> NDArray[np.float32]:
    vectorizer = _vectorizer(name, settings)
    documents = np.zeros(settings.max_features, dtype=np.int64)
    for block in text_blocks(texts):
        documents += np.bincount(vectorizer.transform(block.to_list()).indices, minlength=len(documents))
    if not documents.any():
        raise ValueError("there is no n-gram at all")
    return _idf(documents, len(texts), np.float64)


def _count_stored(
    name: str, texts: StoredTexts, settings: FeatureSettings, work: Path
) -> tuple[list[str], NDArray[np.float32]]:
    folder = work / name
    folder.mkdir()
    counts = TermCounts(folder)
    for block in texts.blocks():
        vectorizer = CountVectorizer(**_options(name, settings))
        try:
            matrix = vectorizer.fit_transform(block.to_list())
        except ValueError as error:
            if "empty vocabulary" not in str(error):
                raise
            continue  # this block has no n-gram
        documents = np.bincount(matrix.indices, minlength=matrix.shape[1])
        counts.add(vectorizer.get_feature_names_out().tolist(), documents, np.asarray(matrix.sum(axis=0)).ravel())
    frequent = counts.frequent(settings.min_documents, settings.max_features)
    if frequent.is_empty():
        raise ValueError("no terms remain")
    return frequent["term"].to_list(), _idf(frequent["documents"].to_numpy(), len(texts), np.float32)


def _idf(documents: NDArray[Any], total: int, dtype: Any) -> NDArray[np.float32]:
    """Return idf(t) for the number of documents with each n-gram, in scikit-learn's order of operations."""
    ratios = np.full(len(documents), total + 1, dtype=dtype) / (documents.astype(dtype) + 1)
    weights: NDArray[np.float32] = (np.log(ratios) + 1).astype(np.float32)
    return weights


class TermCounts:
    """Counts of more n-grams than memory holds, added block by block and merged on disk.

    Args:
        work: empty folder, with room for about 20 bytes per distinct n-gram of each block. `add` and `frequent` raise
            OSError if it cannot be written.
    """

    def __init__(self, work: Path) -> None:
        self._work, self._files, self._rows = work, 0, 0
        self._pending: list[pl.DataFrame] = []

    def add(self, terms: list[str], documents: NDArray[Any], times: NDArray[Any]) -> None:
        """Add a block: its distinct n-grams, the number of its texts with each, and their frequencies."""
        self._pending.append(pl.DataFrame({"term": terms, "documents": documents, "times": times}, SCHEMA))
        if sum(map(len, self._pending)) > PENDING:
            self._write()

    def frequent(self, min_documents: int, limit: int) -> pl.DataFrame:
        """Return the `limit` most frequent n-grams that are in at least `min_documents` texts.

        Among equally frequent ones, the first by name are chosen.

        Returns:
            columns term, documents and times, sorted by term.
        """
        best = pl.DataFrame(schema=SCHEMA)
        for counts in self._merged():
            enough = counts.filter(pl.col("documents") >= min_documents)
            best = pl.concat([best, enough]).sort(["times", "term"], descending=[True, False]).head(limit)
        return best.sort("term")

    def _merged(self) -> Iterator[pl.DataFrame]:
        """Yield the counts of all blocks, some n-grams at a time."""
        if not self._files:
            yield _sum(self._pending)
            return
        self._write()
        slices = -(-self._rows // (PARTITIONS * MERGED))  # per partition, which is read once for each
        for folder in partition_folders(self._work):
            for number in range(slices):
                selected = pl.col("term").hash(0) // PARTITIONS % slices == number
                yield _sum([pl.read_ipc(path).filter(selected) for path in folder.iterdir()])

    def _write(self) -> None:
        """Write the pending counts to partitions by n-gram."""
        counts = _sum(self._pending)
        self._pending.clear()
        write_partitions(counts, "term", self._work, self._files)
        self._files += 1
        self._rows += len(counts)


def _sum(counts: list[pl.DataFrame]) -> pl.DataFrame:
    both = pl.concat([pl.DataFrame(schema=SCHEMA), *counts])
    return both.group_by("term").agg(pl.col("documents").sum(), pl.col("times").sum())
