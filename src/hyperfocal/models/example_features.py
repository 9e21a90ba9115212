"""Features of documents: those of their texts, and those of their fields and vectors, side by side.

sparse part   n-grams of the text, then a token per value of a category or list
dense part    vector of the encoder, then numbers, dates and vectors
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import torch
from torch import Tensor

from hyperfocal.config.classify import FeatureSettings
from hyperfocal.data.documents import Documents
from hyperfocal.data.input_columns import NO_COLUMNS, InputColumns
from hyperfocal.data.ngrams import Ngrams
from hyperfocal.data.stored_texts import Texts
from hyperfocal.errors import ConfigError, DataError
from hyperfocal.models.column_features import ColumnFeatures
from hyperfocal.models.sentence_encoder import EncoderSource
from hyperfocal.models.text_features import TextFeatures, Watch, known_texts
from hyperfocal.models.text_head import Features, SparseRows
from hyperfocal.storage.cache import hash_of

COLUMNS = "columns"  # in JSON; a run without fields and vectors has no such entry


@dataclass(frozen=True, eq=False)
class ExampleFeatures:
    """Turns documents into features; without fields and vectors it does exactly what its `TextFeatures` do.

    Attributes:
        settings: of the features; those of `text` if there is one.
        text: of the texts. None: the documents have no texts.
        columns: of fields and vectors. None: the documents have none.
    """

    settings: FeatureSettings
    text: TextFeatures | None
    columns: ColumnFeatures | None = None

    @classmethod
    def fit(
        cls, documents: Documents, settings: FeatureSettings, cache: Path | None = None, scaling: str = "auto"
    ) -> ExampleFeatures:
        """Fit on training documents; `scaling` is that of a feature matrix, see `matrix_features.py`.

        Raises:
            ConfigError: fine-tuning with fields or vectors; as in `TextFeatures.fit`.
            DataError: no field distinguishes documents, and there is nothing else; as in `TextFeatures.fit`.
        """
        columns = ColumnFeatures.fit(documents.columns, scaling) if documents.columns else None
        if columns is not None and settings.finetune:
            raise ConfigError(
                "features.finetune = true trains an encoder on texts alone, and the documents have fields or vectors. "
                "Leave `fields=` and `vectors=` out, or use a frozen encoder"
            )
        text = TextFeatures.fit(documents.texts, settings, cache) if documents.has_texts else None
        if text is None and (columns is None or not columns.num_sparse + columns.num_dense):
            names = ", ".join(documents.columns.kinds)
            raise DataError(
                f"fields {names}: each has one value in all training documents, so there is nothing to learn. "
                "Name other columns with `fields=`, or a text with `text=`"
            )
        return cls(settings if text is None else text.settings, text, columns)

    @property
    def ngrams(self) -> Ngrams | None:
        """Return the n-grams of the texts, or None."""
        return None if self.text is None else self.text.ngrams

    @property
    def encoder(self) -> EncoderSource | None:
        """Return the frozen encoder of the texts, or None."""
        return None if self.text is None else self.text.encoder

    @property
    def kind(self) -> str:
        """Return the features in a word: "ngrams", "encoder" or "both", with "columns" if there are any."""
        text = "" if self.text is None else self.text.settings.kind
        return " and ".join(filter(None, (text, "" if self.columns is None else COLUMNS)))

    @property
    def checksum(self) -> str:
        """Return a checksum of everything that was fitted."""
        text = "" if self.text is None else self.text.checksum
        return text if self.columns is None else hash_of(text, self.columns.to_json())

    @property
    def num_sparse(self) -> int:
        """Return V, the number of sparse features."""
        text = 0 if self.text is None else self.text.num_sparse
        return text + (0 if self.columns is None else self.columns.num_sparse)

    def make(
        self,
        texts: Texts,
        columns: InputColumns = NO_COLUMNS,
        cache: Path | None = None,
        watch: Watch = lambda *_: None,
    ) -> Features:
        """Return the features of documents; arguments as in `TextFeatures.make`.

        Raises:
            DataError: the documents lack a field or vector of training; a vector of another length.
        """
        first = None if self.text is None else self.text.make(texts, cache, watch)
        if self.columns is None:
            assert first is not None, "`fit` refuses documents without any feature"
            return first
        second = self.columns.make(columns, len(texts))
        return second if first is None else self._beside(first, second)

    def _beside(self, first: Features, second: Features) -> Features:
        text = self.text
        assert text is not None, "there are features of texts"
        dense = [part for part in (first.dense, second.dense) if part is not None]
        sparse = first.sparse or second.sparse
        if first.sparse is not None and second.sparse is not None:
            sparse = _beside(first.sparse, second.sparse, text.num_sparse)
        return Features(sparse, torch.cat(dense, 1) if dense else None)

    def text_vectors(self, features: Features) -> Tensor | None:
        """Return (N, D) the vectors of the encoder within features of N documents; None without a frozen encoder."""
        if self.encoder is None or features.dense is None or self.columns is None:
            return features.dense if self.columns is None else None
        return features.dense[:, : features.dense.shape[1] - self.columns.num_dense]

    def known(self, texts: Any, columns: InputColumns, features: Features) -> Tensor:
        """Return (N,) bool: whether any part of each document is known: of its text (`known_texts`), or of its columns.

        Args:
            texts: (N,) String.
            columns: of the same documents.
            features: theirs, from `make`.
        """
        if self.columns is None:
            return known_texts(texts, features)
        known = torch.from_numpy(self.columns.known(columns, len(texts)))
        if self.text is None:
            return known
        sparse = features.sparse if self.text.ngrams is not None else None
        if sparse is not None and self.columns.num_sparse:
            owners = torch.repeat_interleave(torch.arange(len(texts)), sparse.indptr.diff())
            has_ngram = torch.zeros(len(texts), dtype=torch.bool)
            has_ngram[owners[sparse.columns < self.text.num_sparse]] = True
            known |= has_ngram
            sparse = None
        dense = features.dense if self.text.encoder is not None else None
        return known | known_texts(texts, Features(sparse, dense))

    def unseen(self, columns: InputColumns) -> dict[str, int]:
        """Return field -> number of documents with a value that training never saw."""
        return {} if self.columns is None else self.columns.unseen(columns)

    def to_json(self) -> dict[str, Any]:
        """Return the value that `from_json` reads; it does not include a fine-tuned encoder."""
        text = self.text or TextFeatures(self.settings, None, None)
        if self.columns is None:
            return text.to_json()
        return text.to_json() | {COLUMNS: self.columns.to_json() | {"texts": self.text is not None}}

    @classmethod
    def from_json(cls, value: Any) -> ExampleFeatures:
        """Build from `to_json`'s value; errors as in `TextFeatures.from_json`."""
        if COLUMNS not in value:
            text = TextFeatures.from_json(value)
            return cls(text.settings, text)
        columns = ColumnFeatures.from_json(value[COLUMNS])
        if not value[COLUMNS]["texts"]:
            return cls(msgspec.convert(value["settings"], FeatureSettings), None, columns)
        text = TextFeatures.from_json(value)
        return cls(text.settings, text, columns)


def _beside(first: SparseRows, second: SparseRows, width: int) -> SparseRows:
    """Return rows with the features of `first`, of `width` columns, and then those of `second`."""
    lengths = [first.indptr.diff(), second.indptr.diff()]
    owners = torch.cat([torch.repeat_interleave(torch.arange(len(first)), each) for each in lengths])
    order = owners.argsort(stable=True)
    columns = torch.cat([first.columns.int(), second.columns.int() + width])[order]
    values = torch.cat([first.values, second.values])[order]
    indptr = torch.nn.functional.pad((lengths[0] + lengths[1]).cumsum(0), (1, 0))
    return SparseRows(indptr, columns, values)
