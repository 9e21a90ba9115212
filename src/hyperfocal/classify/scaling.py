"""Choose the scaling of a feature matrix by validation, if `data.scaling` is "auto".

A head of the run's settings is trained for a few epochs on the training rows by each scaling, and scored on the
validation rows. The rule is the scaling without validation: idf_l2 for a sparse matrix, standard for a dense one.
Another scaling is taken only if it is better than the rule by more than LEAST_GAIN on each half of the validation rows.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import torch
from scipy.sparse import issparse
from torch import Tensor

from hyperfocal.classify.head import score_documents, train_head, validate_scores
from hyperfocal.classify.prepare import Labelled
from hyperfocal.config.classify import ClassifySettings
from hyperfocal.data.input_columns import Matrix
from hyperfocal.labels import SparseLabels
from hyperfocal.models.example_features import ExampleFeatures
from hyperfocal.models.matrix_features import MOST_DENSE, rule_of

EPOCHS = 2  # of the head by each scaling; after 1 the order is not yet that of whole fits
MOST_ROWS = 10_000  # training rows of such a head, so that a choice costs little with many rows
LEAST_ROWS = 100  # validation rows, below which the rule holds
LEAST_GAIN = 0.002  # of train.metric

logger = logging.getLogger("hyperfocal")


class Scaling(NamedTuple):
    """The scaling of a feature matrix, and the comparison that it is based on.

    Attributes:
        taken: a value of data.scaling.
        rule: the scaling without validation.
        metric: a name of VALIDATION.
        values: scaling -> metric on the validation rows, the rule's first; {}: nothing was compared.
    """

    taken: str
    rule: str = ""
    metric: str = ""
    values: Mapping[str, float] = {}

    def to_json(self) -> dict[str, Any]:
        """Return the entry "scaling" of `metrics.json`."""
        return {**self._asdict(), "values": dict(self.values)}


def choose_scaling(
    train: Labelled, valid: Labelled, folds: Tensor | None, settings: ClassifySettings, cache: Path | None = None
) -> Scaling:
    """Return the scaling of the documents' feature matrix; that of the settings if it is given or nothing is compared.

    The same data and settings give the same choice, so that a run that is resumed repeats it. Errors as in
    `train_head`.

    Args:
        train: training documents.
        valid: validation documents; unused with folds.
        folds: (N,) int64, the fold of each training document: the first one validates. None: `valid` does.
        settings: all of them.
        cache: folder of features. None: they are not cached.
    """
    matrix = train.documents.columns.matrix
    if settings.data.scaling != "auto" or matrix is None:
        return Scaling(settings.data.scaling)
    rows, others = torch.arange(len(train)), torch.arange(len(valid))
    if folds is not None:
        rows, others = (folds != 0).nonzero()[:, 0], (folds == 0).nonzero()[:, 0]
    names = candidates(matrix)
    if len(names) == 1 or len(others) < LEAST_ROWS or len(rows) == 0:
        return Scaling("auto")
    draws = torch.Generator().manual_seed(settings.seed)
    rows = rows[torch.randperm(len(rows), generator=draws)[:MOST_ROWS].sort().values]
    halves = torch.randperm(len(others), generator=draws).tensor_split(2)
    truth = valid.labels.select(others)
    values, worth = {}, {}
    for name in names:
        scores = _quick_scores(name, (train, rows), (valid, others), settings, cache)
        values[name] = _value(scores, truth, settings)
        worth[name] = [_value(scores[half], truth.select(half), settings) for half in halves]
    taken = clearly_best(values, worth)
    chosen = Scaling(taken, names[0], settings.train.metric, values)
    logger.info("%s", scaling_words(chosen.to_json()))
    return chosen


def candidates(matrix: Matrix) -> list[str]:
    """Return the scalings to compare, the rule first.

    A sparse matrix stays sparse: l2 and idf_l2 only, and none of up to MOST_DENSE features. idf needs zeros, and no
    negative value.
    """
    values = matrix.data if issparse(matrix) else matrix
    negative = bool((values < 0).any())
    if issparse(matrix):
        names = ["l2", "idf_l2"] + ["none"] * (matrix.shape[1] <= MOST_DENSE)
    else:
        names = ["standard", "none", "l2"] + ["idf_l2"] * bool((values == 0).any())
    rule = rule_of(matrix)
    return [rule, *(name for name in names if name != rule and not (negative and name == "idf_l2"))]


def clearly_best(values: Mapping[str, float], worth: Mapping[str, Sequence[float]]) -> str:
    """Return the best scaling that is better than the first one by more than LEAST_GAIN on all rows and each half.

    Args:
        values: scaling -> metric on all validation rows, that of the rule first.
        worth: scaling -> metric on each half of them.
    """
    rule = next(iter(values))
    better = [
        name
        for name in values
        if values[name] > values[rule] + LEAST_GAIN
        and all(one > other + LEAST_GAIN for one, other in zip(worth[name], worth[rule], strict=True))
    ]
    return max(better, key=lambda name: values[name], default=rule)


def scaling_words(scaling: Mapping[str, Any]) -> str:
    """Return one line: what was compared, and what was taken; "" if nothing was compared.

    Args:
        scaling: from `Scaling.to_json`; {} for a run of an earlier version.
    """
    if not scaling.get("values"):
        return ""
    listed = ", ".join(f"{name} {value:.3f}" for name, value in scaling["values"].items())
    why = "the rule for such a matrix" if scaling["taken"] == scaling["rule"] else f"better than {scaling['rule']}"
    return f"Scaling of the matrix: {scaling['taken']}, {why}. Validation {scaling['metric']} of short fits: {listed}."


def _quick_scores(
    name: str,
    train: tuple[Labelled, Tensor],
    valid: tuple[Labelled, Tensor],
    settings: ClassifySettings,
    cache: Path | None,
) -> Tensor:
    """Return (M, L) logits of the validation rows, by a head that is trained for EPOCHS on the training rows."""
    (labelled, rows), (held, others) = train, valid
    documents, validating = labelled.documents.select(rows.numpy()), held.documents.select(others.numpy())
    features = ExampleFeatures.fit(documents, settings.features, cache, name)
    inputs = features.make(documents.texts, documents.columns, cache)
    short = msgspec.structs.replace(settings.train, epochs=min(EPOCHS, settings.train.epochs), patience=0)
    settings = msgspec.structs.replace(settings, train=short)
    head, _ = train_head((inputs, labelled.labels.select(rows)), None, features.num_sparse, settings)
    return score_documents(head, features.make(validating.texts, validating.columns, cache))


def _value(scores: Tensor, truth: SparseLabels, settings: ClassifySettings) -> float:
    return next(iter(validate_scores(scores, truth, settings).values()))
