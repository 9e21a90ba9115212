"""Recognize documents that a fit already has, before an update counts them twice."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import numpy as np
import polars as pl
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from hyperfocal.classify.label_model import Fit
from hyperfocal.classify.prepare import PreparedTexts
from hyperfocal.data.documents import Documents
from hyperfocal.data.input_columns import InputColumns
from hyperfocal.data.stored_texts import StoredTexts, hash_each
from hyperfocal.errors import DataError

FEWEST = 5  # texts that decide
NEARLY_ALL = 0.95  # fraction of them that are on both sides


def check_new(fit: Fit, documents: Documents) -> tuple[str, int]:
    """Return the checksum of new documents, and how many have the text of a training document.

    Raises:
        DataError: the fit or an update was given the same documents; nearly all texts are of training documents; or the
            documents are cumulative: they have nearly all training texts.
    """
    checksum, repeated = documents_checksum(documents), count_repeated(fit, documents)
    if checksum in fit.logs:
        raise DataError(
            "the run has these documents already, so that they would count twice. Give new documents, or count them "
            "again with `again=True`"
        )
    if fit.texts is None:
        return checksum, repeated
    texts = hash_each(documents.all_texts())
    if len(texts) >= FEWEST and repeated >= NEARLY_ALL * len(texts):
        raise DataError(
            f"{repeated:,} of {len(texts):,} documents have the text of a training document of the run, so that they "
            "would count twice. Give new documents, or count them again with `again=True`"
        )
    trained, total = int(np.isin(fit.texts.numpy(), texts).sum()), len(fit.texts)
    if total >= FEWEST and trained >= NEARLY_ALL * total:
        raise DataError(
            f"the documents are cumulative: they have {trained:,} of the {total:,} texts that the run was trained on, "
            "which would count twice. Give only the new documents, or count all of them with `again=True`"
        )
    return checksum, repeated


def count_repeated(fit: Fit, documents: Documents) -> int:
    """Return how many documents have the text of a training document; 0 if the run does not know them."""
    if fit.texts is None:
        return 0
    return int(np.isin(hash_each(documents.all_texts()), fit.texts.numpy()).sum())


def documents_checksum(documents: Documents) -> str:
    """Return a checksum of texts, labels, fields and vectors: the same for the same documents in another order."""
    return _checksum(_digests(documents))


def checksums_of(data: PreparedTexts) -> tuple[str, ...]:
    """Return checksums by which the documents of a fit are known again: of the training documents, and of all.

    (): the documents are streamed.
    """
    if any(isinstance(each.documents.texts, StoredTexts) for each in (data.train, data.valid)):
        return ()
    first = _digests(data.train.documents)
    if data.valid is data.train:
        return (_checksum(first),)
    return _checksum(first), _checksum([*first, *_digests(data.valid.documents)])


def _checksum(digests: list[bytes]) -> str:
    return hashlib.sha256(b"".join(sorted(digests))).hexdigest()


def _digests(documents: Documents) -> list[bytes]:
    labels = documents.labels.cast(pl.List(pl.String)).to_list()
    rows = zip(documents.all_texts().to_list(), labels, _rows(documents.columns, len(documents)), strict=True)
    return [
        hashlib.blake2b(repr((text or "", sorted(names or []))).encode() + row, digest_size=16).digest()
        for text, names, row in rows
    ]


def _rows(columns: InputColumns, number: int) -> Iterator[bytes]:
    """Yield the bytes of the fields and vectors of each document."""
    if columns.matrix is not None:
        yield from _matrix_rows(columns.matrix)
        return
    fields = columns.fields.rows() if columns.kinds else [()] * number
    for place, row in enumerate(fields):
        yield repr(row).encode() + b"".join(values[place].tobytes() for values in columns.vectors.values())


def _matrix_rows(matrix: NDArray[np.float32] | csr_matrix) -> Iterator[bytes]:
    rows = csr_matrix(matrix, copy=True)  # it is changed
    rows.sum_duplicates()
    rows.eliminate_zeros()
    indices = rows.indices.astype(np.int64)
    for start, end in zip(rows.indptr[:-1], rows.indptr[1:], strict=True):
        yield indices[start:end].tobytes() + rows.data[start:end].astype(np.float32).tobytes()
