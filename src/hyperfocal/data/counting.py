"""Weights of documents, and labels of documents that nobody annotated: read, checked, and brought to numbers."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray
from sklearn.utils import check_array

from hyperfocal.counted_labels import counted
from hyperfocal.data.files import File
from hyperfocal.data.label_columns import read_labels
from hyperfocal.data.vocabulary import Vocabulary
from hyperfocal.errors import DataError
from hyperfocal.labels import SparseLabels, row_pointers

Floats = NDArray[np.float64]

logger = logging.getLogger("hyperfocal")


@dataclass(frozen=True, eq=False)
class Counting:
    """How much each of N documents counts, and for which labels it does not.

    Attributes:
        weights: (N,) finite, 0 or more. None: every document counts 1.
        unknown: (N,) List(String), labels that nobody annotated; [] for none. None: every label is annotated.
    """

    weights: Floats | None = None
    unknown: pl.Series | None = None

    def __bool__(self) -> bool:
        """Return whether there is any weight or unknown label."""
        return self.weights is not None or self.unknown is not None

    def select(self, rows: NDArray[np.int64]) -> Counting:
        """Return the values of the given row numbers, in that order."""
        weights = None if self.weights is None else self.weights[rows]
        return Counting(
            weights, None if self.unknown is None else self.unknown.gather(pl.Series(rows, dtype=pl.UInt32))
        )

    def names(self) -> list[str]:
        """Return the distinct unknown labels."""
        return [] if self.unknown is None else self.unknown.explode().drop_nulls().unique().to_list()

    def renamed(self, name_of: Callable[[str], str | None]) -> Counting:
        """Return the same values with other names of labels; None leaves a label out."""
        if self.unknown is None:
            return self
        rows = [[new for old in row if (new := name_of(old)) is not None] for row in self.unknown.to_list()]
        return Counting(self.weights, pl.Series(self.unknown.name, rows, dtype=pl.List(pl.String)))

    def checksums(self) -> list[Any]:
        """Return a value that depends on all weights and unknown labels; [] without them."""
        if not self:
            return []
        weights = None if self.weights is None else [*map(float.hex, self.weights.tolist())]
        return [["weights", weights, "unknown", None if self.unknown is None else self.unknown.to_list()]]

    def rows(self, labels: SparseLabels, vocabulary: Vocabulary) -> SparseLabels:
        """Return the numbered labels of the documents with their weights and their unknown pairs."""
        weights = None if self.weights is None else torch.from_numpy(self.weights.copy())
        return counted(labels, weights, None if self.unknown is None else _numbered(self.unknown, vocabulary))


ALL_COUNT = Counting()


def read_counting(
    frame: pl.DataFrame, weight: str, unknown: str, labels: pl.Series, separator: str, file: File
) -> Counting:
    """Return the weights and the unknown labels of documents.

    Args:
        frame: the rows of a file.
        weight: column of the weights. "": none.
        unknown: column of the labels that nobody annotated, written as labels are. "": none.
        labels: (N,) List(String) of the documents.
        separator: of labels in a text. "": as the column shows.
        file: for messages.

    Raises:
        DataError: a weight that is missing, negative, or not a finite number; a label that a document both has and
            does not know; errors as in `read_labels`. The message names file and row.
    """
    weights = read_weights(frame[weight], file) if weight else None
    lists = read_labels(frame[unknown], separator, file)[0].alias("unknown") if unknown else None
    if lists is not None:
        check_apart(labels, lists, file.place)
    return Counting(weights, lists)


def read_weights(column: pl.Series, file: File) -> Floats:
    """Return (N,) float64 of a column of numbers; errors as in `read_counting`."""
    numbers = column.cast(pl.Float64, strict=False) if column.dtype != pl.Boolean else column.cast(pl.Float64)
    weights: Floats = numbers.fill_null(float("nan")).to_numpy()
    wrong = ~(np.isfinite(weights) & (weights >= 0))
    if wrong.any():
        row = int(wrong.argmax())
        raise DataError(
            f"{file.place(row)}: weight {column[row]!r} in column '{column.name}' is not allowed. Expected a finite "
            "number, 0 or more; 0 leaves a document out"
        )
    return weights.copy()


def check_weights(weights: Any, number: int) -> Floats:
    """Return `sample_weight` of N documents as (N,) float64.

    Raises:
        DataError: not one number per document; a negative one, NaN or infinity; all are 0.
    """
    if hasattr(weights, "detach"):
        weights = weights.detach().cpu().numpy()
    try:
        values: Any = check_array(weights, ensure_2d=False, dtype=np.float64, input_name="sample_weight")
    except (TypeError, ValueError) as error:
        raise DataError(f"`sample_weight=`: {error}") from None
    if values.shape != (number,):
        raise DataError(
            f"`sample_weight=` has the shape {values.shape}, and there are {number:,} documents. Expected ({number},)"
        )
    if (values < 0).any():
        raise DataError(
            f"`sample_weight=`: number {int((values < 0).argmax())} is {values[values < 0][0]:g}. Negative values are "
            "not allowed; expected 0 or more"
        )
    if not values.any():
        raise DataError(f"`sample_weight=`: {ALL_ZERO}")
    return np.array(values, dtype=np.float64)


ALL_ZERO = "sample weights must contain at least one non-zero number, and all are zero. Give weights above 0"


def scaled_weights(weights: Floats, mean: float | None = None) -> Floats:
    """Return weights with a mean of 1 or more: smaller ones are divided by their mean.

    A weight of 2 stands for two documents. Fractions, such as weights with a sum of 1, say only how documents compare.

    Args:
        weights: (N,) above 0.
        mean: of other documents, with which these are to compare. None: of these.
    """
    if mean is None:
        mean = float(weights.mean()) if len(weights) else 1.0
    return weights if mean >= 1 or mean == 0 else weights / mean


def check_apart(labels: pl.Series, unknown: pl.Series, place: Callable[[int], str]) -> None:
    """Raise DataError if a document has a label that is unknown too; `place` names the document of a row."""
    both = labels.cast(pl.List(pl.String)).list.set_intersection(unknown)
    twice = (both.list.len() > 0).arg_max()
    if twice is not None and len(both[twice]):
        raise DataError(
            f"{place(twice)}: label {both[twice][0]!r} is one of the document's labels and, by `unknown=`, one that "
            "nobody annotated. Remove it from one of them"
        )


def _numbered(unknown: pl.Series, vocabulary: Vocabulary) -> SparseLabels:
    """Return N rows of label numbers; labels that training never saw are left out."""
    lengths = unknown.list.len().fill_null(0).to_numpy()
    names = unknown.explode().drop_nulls()
    numbers = vocabulary.encode(names)
    unseen = names.filter(pl.Series((numbers < 0).numpy())).unique(maintain_order=True)
    if len(unseen):
        logger.warning(
            "labels of `unknown=` that training does not have are left out: %s, first %r", f"{len(unseen):,}", unseen[0]
        )
    owners = torch.from_numpy(np.repeat(np.arange(len(unknown)), lengths))
    known = numbers >= 0
    ends = row_pointers(torch.bincount(owners[known], minlength=len(unknown)))
    return SparseLabels.from_csr(ends, numbers[known], num_labels=len(vocabulary))


def unknown_rows(rows: Sequence[Sequence[str]]) -> pl.Series:
    """Return lists of labels as the column `unknown`."""
    return pl.Series("unknown", rows, dtype=pl.List(pl.String))
