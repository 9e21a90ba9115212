"""What `predict_documents` says of each document: the labels that are decided, and the best ones with their scores."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import polars as pl
from torch import Tensor

BEST = 10  # labels whose scores are written


def label_rows(scores: Tensor, decided: Sequence[Sequence[str]], names: Sequence[str]) -> dict[str, Any]:
    """Return the columns "labels" and "scores" of N documents.

    Args:
        scores: (N, L) logits.
        decided: names of the labels of each document.
        names: of the L labels.
    """
    best = scores.sigmoid().topk(min(BEST, scores.shape[1]), dim=1)
    ranked = [
        {names[label]: round(value, 6) for label, value in zip(labels, values, strict=True)}
        for labels, values in zip(best.indices.tolist(), best.values.tolist(), strict=True)
    ]
    return {"labels": decided, "scores": pl.Series(ranked, dtype=pl.Object)}
