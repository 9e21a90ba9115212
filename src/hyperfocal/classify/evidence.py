"""Data of a classifier's report in addition to its scores: thresholds, reliability, and confusions."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import csr_matrix
from torch import Tensor

from hyperfocal.classify.prepare import Labelled
from hyperfocal.counted_labels import known_pairs
from hyperfocal.labels import SparseLabels
from hyperfocal.metrics.calibration import decision_curve, reliability
from hyperfocal.report.run import LISTED, LONGEST, cut
from hyperfocal.thresholds import Decisions

THRESHOLDS = (0.001, 0.002, 0.003, 0.005, 0.0075, *(step / 100 for step in range(1, 100)))
EDGES = (0, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 1.0)
PAIRS, EXAMPLES = 12, 2  # confusions, and documents of each
MOST_PRODUCTS = 20_000_000  # pairs of a missed and a wrong label; if there are more, only the first documents count


def label_evidence(
    scores: Tensor, decided: SparseLabels, valid: Labelled, names: list[str], decisions: Decisions
) -> dict[str, Any]:
    """Return the JSON-able content that a classifier adds to evidence.json.

    Args:
        scores: (N, L) logits of the validation documents.
        decided: N rows over L labels, by tuned decisions.
        valid: the N documents.
        names: of the L labels.
        decisions: of the model. One label per document has no threshold curve.
    """
    points, counts = torch.tensor(THRESHOLDS), {"documents": len(valid), "labels": len(names)}
    curve = {} if decisions.one else decision_curve(scores, valid.labels, points.logit())
    return (
        counts
        | {
            "thresholds": {"threshold": list(THRESHOLDS), **curve},
            "reliability": reliability(decisions.probabilities(scores), valid.labels, torch.tensor(EDGES)),
        }
        | confusions(decided, valid, names)
    )


def confusions(decided: SparseLabels, valid: Labelled, names: list[str]) -> dict[str, Any]:
    """Return "confusions", the most frequent first, and "confused_documents", the number of documents looked at.

    A confusion is a true label that was missed and a wrong label that was decided in the same document. If there are
    too many errors, only the first documents are looked at.
    """
    missed, wrong = _errors(decided, valid.labels)
    together = (missed.T @ wrong).tocoo()
    order = np.lexsort((together.col, together.row, -together.data))[:PAIRS]
    true = valid.labels.select(torch.arange(missed.shape[0])).counts()
    rows = [
        {
            "true": cut(names[row]),
            "decided": cut(names[column]),
            "documents": int(together.data[place]),
            "true_documents": int(true[row]),
            "examples": [_example(int(at), decided, valid, names) for at in both[:EXAMPLES]],
        }
        for place in order
        for row, column in [(int(together.row[place]), int(together.col[place]))]
        for both in [np.intersect1d(missed[:, [row]].nonzero()[0], wrong[:, [column]].nonzero()[0])]
    ]
    return {"confusions": rows, "confused_documents": missed.shape[0]}


def _errors(decided: SparseLabels, truth: SparseLabels) -> tuple[csr_matrix, csr_matrix]:
    """Return two (N, L) matrices of ones: true labels that were missed, and wrong labels that were decided."""
    missed, wrong = _without(truth, decided), _without(known_pairs(decided, truth), truth)
    products = np.cumsum(np.diff(missed.indptr).astype(np.int64) * np.diff(wrong.indptr))
    rows = int(np.searchsorted(products, MOST_PRODUCTS)) + 1
    return missed[:rows], wrong[:rows]


def _without(labels: SparseLabels, others: SparseLabels) -> csr_matrix:
    """Return the labels that are not among the others, as a matrix of ones."""
    only = ~labels.among(others)
    rows, columns = labels.rows[only].numpy(), labels.indices[only].numpy()
    ones: NDArray[np.int64] = np.ones(len(rows), dtype=np.int64)
    return csr_matrix((ones, (rows, columns)), shape=(len(labels), labels.num_labels))


def _example(at: int, decided: SparseLabels, valid: Labelled, names: list[str]) -> dict[str, Any]:
    documents = valid.documents
    return {
        "id": cut(documents.ids[at]),
        "text": cut(documents.texts[at], LONGEST),
        "true": _named(valid.labels, decided, at, names),
        "decided": _named(decided, valid.labels, at, names),
    }


def _named(labels: SparseLabels, others: SparseLabels, at: int, names: list[str]) -> list[dict[str, Any]]:
    """Return a document's labels, each with whether `others` have it too; labels that they do not have come first."""
    row, other = (each.indices[int(each.indptr[at]) : int(each.indptr[at + 1])].tolist() for each in (labels, others))
    listed = sorted(row, key=lambda label: label in other)[:LISTED]
    return [{"label": cut(names[label]), "both": label in other} for label in listed]
