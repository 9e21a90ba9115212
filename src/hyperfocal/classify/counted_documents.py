"""Documents that do not all count the same: from `sample_weight` and NaN in a matrix, checked, and in numbers.

A weight multiplies the loss of a document, and whatever is summed over documents in metrics and in the tuning of
decisions; 2 stands for two equal documents, and 0 leaves a document out before the split. Features and the split are
fitted on documents that all count 1.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from hyperfocal.classify.indicator import unknown_columns
from hyperfocal.config.classify import SOFTMAX, ClassifySettings, TextDataSettings
from hyperfocal.counted_labels import unknown_of, weights_of
from hyperfocal.data.counting import Counting, check_weights, unknown_rows
from hyperfocal.data.documents import Documents, as_documents
from hyperfocal.data.reading import LISTS
from hyperfocal.data.text_columns import TextReading
from hyperfocal.errors import ConfigError, DataError
from hyperfocal.labels import SparseLabels

logger = logging.getLogger("hyperfocal")


def with_counting(documents: Documents, labels: Any, weights: Any) -> Documents:
    """Return documents of which NaN in an indicator matrix is unknown, and which count as `sample_weight` says.

    Args:
        documents: N.
        labels: of these documents, as `fit` got them.
        weights: (N,) numbers. None: every document counts 1.

    Raises:
        DataError: as in `check_weights`.
    """
    unknown = unknown_columns(labels)
    if weights is None and unknown is None:
        return documents
    lists = None if unknown is None else unknown_rows(unknown)
    return replace(documents, counting=Counting(_checked(weights, documents), lists))


def weighted_source(source: Any, weights: Any, settings: TextReading) -> Any:
    """Return documents that include their labels, with `sample_weight`; without one, the source unchanged.

    Raises:
        DataError: a file, or documents whose weights are a column; as in `check_weights` and `as_documents`.
    """
    if weights is None:
        return source
    if isinstance(source, str | Path):
        raise DataError("`sample_weight=` is for lists, matrices and frames. Name a column of the file with `weight=`")
    documents = as_documents(source, settings)
    if documents.counting.weights is not None:
        raise DataError("`sample_weight=` and `weight=` both give weights. Leave one out")
    return replace(documents, counting=replace(documents.counting, weights=_checked(weights, documents)))


def _checked(weights: Any, documents: Documents) -> Any:
    return None if weights is None else check_weights(weights, len(documents))


def check_counting(documents: Documents, settings: TextDataSettings) -> None:
    """Raise DataError if the settings name columns of weights or unknown labels that lists and matrices do not have."""
    if documents.plan.form != LISTS:
        return
    for option, name, instead in (
        ("`weight=`", settings.weight, "`sample_weight=`"),
        ("`unknown=`", settings.unknown, "NaN in an indicator matrix"),
    ):
        if name:
            raise DataError(
                f"{option} names column '{name}', but these documents are lists or a matrix, which have no such "
                f"column. Give {instead}, a file or a frame"
            )


def check_unknown(labels: SparseLabels, settings: ClassifySettings) -> None:
    """Raise ConfigError if labels have unknown pairs, and the loss needs every label of a document."""
    if unknown_of(labels) is not None and (settings.data.single or settings.loss.name in SOFTMAX):
        raise ConfigError(
            f"loss.name = {settings.loss.name!r} needs every label of a document, but some are marked as not "
            "annotated. Choose another loss, such as `loss='bce'`, or leave such documents out"
        )


def counting_facts(labels: SparseLabels) -> dict[str, Any]:
    """Return what a report shows of weights and unknown pairs; {} without them.

    least_weight, most_weight      of a document, relative to the mean weight
    unknown_pairs                  of (document, label) that nobody annotated
    """
    weights, unknown = weights_of(labels), unknown_of(labels)
    facts: dict[str, Any] = {}
    if weights is not None and len(weights):
        mean = float(weights.mean())
        facts |= {"least_weight": float(weights.min()) / mean, "most_weight": float(weights.max()) / mean}
    return facts if unknown is None else facts | {"unknown_pairs": unknown.num_positives}


def counting_lines(counts: dict[str, Any] | Any, name: str) -> list[str]:
    """Return a line for weights, and a line for unknown pairs, of the `name` documents, from `counting_facts`."""
    lines = []
    if "least_weight" in counts:
        lines.append(
            f"Weights of {name} documents are {counts['least_weight']:.3g} to {counts['most_weight']:.3g} times their "
            "mean."
        )
    if number := counts.get("unknown_pairs"):
        lines.append(f"{number:,} pairs of a {name} document and a label were not annotated; they count nowhere.")
    return lines


def weighted_micro_f1(decided: list[list[str]], truth: list[list[str]], counting: Counting) -> float:
    """Return micro-F1 of lists of labels: 2 right / (decided + true), each pair times the weight of its document.

    >>> weighted_micro_f1([["a", "b"], []], [["a"], ["b"]], Counting(np.array([3.0, 1.0]), unknown_rows([["b"], []])))
    0.8571428571428571
    """
    weights = np.ones(len(truth)) if counting.weights is None else counting.weights
    unknown = [[]] * len(truth) if counting.unknown is None else counting.unknown.to_list()
    right = total = 0.0
    for row, true, left_out, weight in zip(decided, truth, unknown, weights.tolist(), strict=True):
        known = set(row) - (set(left_out) - set(true))
        right += weight * len(known & set(true))
        total += weight * (len(known) + len(set(true)))
    return 2 * right / total if total else 0.0
