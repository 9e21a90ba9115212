"""N-grams of words and characters as sparse features: TF-IDF, or hashed.

In how many texts each n-gram stands, of more n-grams than memory holds: the counts of blocks are merged on disk.
"""

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
from hyperfocal.data.stored_texts import StoredTexts, Texts, text_blocks
from hyperfocal.errors import DataError

SHORTEST_CHARS = 3
Vectorizer = TfidfVectorizer | HashingVectorizer


@dataclass(frozen=True, eq=False)
class Ngrams:
    """Fitted n-gram features: for each analyser ("words", "chars") its n-grams and their weights.

    The value of an n-gram t in a document is (1 + ln tf) * idf(t), idf(t) = ln((1 + n) / (1 + df)) + 1; the values
    of an analyser have length 1 in each document, and with two analysers the whole has.

    Attributes:
        settings: how texts are cut.
        terms: analyser -> its n-grams, in the order of their columns; empty lists where they are hashed.
        weights: analyser -> (V,) idf.
    """

    settings: FeatureSettings
    terms: dict[str, list[str]]
    weights: dict[str, NDArray[np.float32]]

    @classmethod
    def fit(cls, texts: Texts, settings: FeatureSettings, work: Path | None = None) -> Ngrams:
        """Count the n-grams of the training texts.

        Args:
            texts: in memory, or stored ones, which are read block by block. The n-grams and weights are the same but
                for one thing: of n-grams that are equally frequent, where not all of these fit into max_features,
                those kept may be others.
            settings: how they are cut.
            work: an empty folder for the counts of stored texts, see `TermCounts`.

        Raises:
            DataError: no n-gram stands in `min_documents` texts.
        """
        terms: dict[str, list[str]] = {}
        weights: dict[str, NDArray[np.float32]] = {}
        for name in _analysers(settings):
            try:
                terms[name], weights[name] = _count(name, texts, settings, work)
            except (ValueError, StopIteration) as error:  # an empty vocabulary; no text to hash
                raise DataError(
                    f"texts: no n-gram of {name} stands in {settings.min_documents} of {len(texts):,} documents "
                    f"({error}). Give more text, or a smaller features.min_documents"
                ) from None
        return cls(settings, terms, weights)

    def refuse_damaged(self) -> None:
        """Raise DataError if terms and weights are not those of the settings."""
        if not self.terms.keys() == self.weights.keys() == {*_analysers(self.settings)}:
            raise DataError(f"its n-grams are of {', '.join(self.terms) or 'nothing'}, which is not what settings say")
        for name, terms in self.terms.items():
            size = self.settings.max_features if self.settings.hashed else len(terms)
            if len(set(terms)) < len(terms) or self.weights[name].shape != (size,):
                raise DataError(f"its n-grams of {name} and their weights do not belong together")

    @property
    def num_columns(self) -> int:
        """Return V, the columns of `transform`."""
        return sum(map(len, self.weights.values()))

    def transform(self, texts: pl.Series) -> csr_matrix[np.float32]:
        """Return the (N, V) float32 values of texts."""
        if texts.is_empty():  # which scikit-learn refuses
            return csr_matrix(np.zeros((0, self.num_columns), dtype=np.float32))
        parts = [self._part(name, texts.to_list()) for name in self.terms]
        scaled = [part * np.float32(len(parts) ** -0.5) for part in parts] if len(parts) > 1 else parts
        return csr_matrix(hstack(scaled, format="csr", dtype=np.float32))

    def _part(self, name: str, texts: list[str]) -> Any:
        vectorizer = self._vectorizers[name]
        if self.settings.hashed:
            counts = vectorizer.transform(texts)
            transformer = TfidfTransformer(sublinear_tf=True)
            transformer.idf_ = self.weights[name]
            return transformer.transform(counts)
        return vectorizer.transform(texts)

    @cached_property
    def _vectorizers(self) -> dict[str, Any]:
        """Return what cuts texts, made once: for a text alone that is most of the time."""
        found = {name: _vectorizer(name, self.settings, terms) for name, terms in self.terms.items()}
        for name, vectorizer in found.items():
            if not self.settings.hashed:
                vectorizer.idf_ = self.weights[name]
        return found


def _analysers(settings: FeatureSettings) -> list[str]:
    chosen = {"words": settings.word_ngrams >= 1, "chars": settings.char_ngrams >= SHORTEST_CHARS}
    return [name for name, used in chosen.items() if used]


def _count(
    name: str, texts: Texts, settings: FeatureSettings, work: Path | None
) -> tuple[list[str], NDArray[np.float32]]:
    """Return the n-grams of an analyser, and their weights."""
    if settings.hashed:
        return [], _weigh_hashed(name, texts, settings)
    if isinstance(texts, StoredTexts):
        assert work is not None, "stored texts need a folder for their counts"
        return _count_stored(name, texts, settings, work)
    vectorizer = _vectorizer(name, settings)
    found = vectorizer.fit(texts.to_list()).vocabulary_
    return sorted(found, key=found.__getitem__), vectorizer.idf_.astype(np.float32)


def _weigh_hashed(name: str, texts: Texts, settings: FeatureSettings) -> NDArray[np.float32]:
    vectorizer = _vectorizer(name, settings)
    documents = np.zeros(settings.max_features, dtype=np.int64)
    for block in text_blocks(texts):
        documents += np.bincount(vectorizer.transform(block.to_list()).indices, minlength=len(documents))
    if not documents.any():
        raise ValueError("there is no n-gram at all")
    return _weights(documents, len(texts), np.float64)


def _count_stored(
    name: str, texts: StoredTexts, settings: FeatureSettings, work: Path
) -> tuple[list[str], NDArray[np.float32]]:
    folder = work / name
    folder.mkdir()
    counts = TermCounts(folder)
    for block in texts.blocks():
        vectorizer = CountVectorizer(**_cut(name, settings))
        try:
            matrix = vectorizer.fit_transform(block.to_list())
        except ValueError as error:
            if "empty vocabulary" not in str(error):
                raise
            continue  # there is none in this block
        documents = np.bincount(matrix.indices, minlength=matrix.shape[1])
        counts.add(vectorizer.get_feature_names_out().tolist(), documents, np.asarray(matrix.sum(axis=0)).ravel())
    found = counts.frequent(settings.min_documents, settings.max_features)
    if found.is_empty():
        raise ValueError("no terms remain")
    return found["term"].to_list(), _weights(found["documents"].to_numpy(), len(texts), np.float32)


def _weights(documents: NDArray[Any], total: int, dtype: Any) -> NDArray[np.float32]:
    """Return idf(t) of the number of documents that each n-gram stands in, in scikit-learn's order of operations."""
    weights = np.full(len(documents), total + 1, dtype=dtype) / (documents.astype(dtype) + 1)
    found: NDArray[np.float32] = (np.log(weights) + 1).astype(np.float32)
    return found


def _cut(name: str, settings: FeatureSettings) -> dict[str, Any]:
    if name == "chars":
        return {"analyzer": "char_wb", "ngram_range": (SHORTEST_CHARS, settings.char_ngrams)}
    return {"analyzer": "word", "ngram_range": (1, settings.word_ngrams)}


def _vectorizer(name: str, settings: FeatureSettings, terms: list[str] | None = None) -> Any:
    cut = _cut(name, settings)
    if settings.hashed:
        return HashingVectorizer(n_features=settings.max_features, alternate_sign=False, norm=None, **cut)
    if terms is not None:
        return TfidfVectorizer(vocabulary=terms, sublinear_tf=True, dtype=np.float32, **cut)
    limits = {"min_df": settings.min_documents, "max_features": settings.max_features}
    return TfidfVectorizer(sublinear_tf=True, dtype=np.float32, **limits, **cut)


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
