"""The loss of documents with weights and unknown labels, and the label counts that class weights and priors read.

    loss of a batch = sum over its documents i of (w_i / m) loss_i / divisor of the batch

w are the weights, loss_i the loss of a document without its unknown labels, and m the mean weight over all training
documents, each counted as often as in the divisor: its number of true labels ("positives"), 1 ("batch"), or its number
of known labels ("mean"); without a divisor ("sum") m is 1. So integer weights give the loss of repeated documents, and
the weight of a document counts even if it is alone in its batch. The fused losses return the loss of each row, and
leave out pairs by a mask: no batch x label matrix.
"""

from __future__ import annotations

from dataclasses import dataclass

import msgspec
import torch
from torch import Tensor

from hyperfocal.config.classify import TextLossSettings
from hyperfocal.counted_labels import annotated_counts, total_weight, unknown_of, weighted_counts, weights_of
from hyperfocal.labels import SparseLabels
from hyperfocal.training.trainer import Portion


@dataclass(frozen=True, eq=False)
class CountedLoss:
    """Turns the losses of a batch into its share of a training step.

    Attributes:
        reduction: name of the divisor, see LossOptions.
        mean: m, the mean weight of the training documents.
    """

    reduction: str
    mean: float

    @classmethod
    def of(cls, labels: SparseLabels, reduction: str) -> CountedLoss:
        """Return the loss of training documents."""
        weights, sizes = weights_of(labels), _sizes(labels, reduction)
        if weights is None or sizes is None or not bool(sizes.any()):
            return cls(reduction, 1.0)
        return cls(reduction, float((weights * sizes).sum() / sizes.sum()))

    def portion(self, losses: Tensor, labels: SparseLabels) -> Portion:
        """Return the loss of a batch and its divisor.

        Args:
            losses: () the divided loss of a batch without weights, or (B,) the loss of each document.
            labels: of the batch.
        """
        weights, sizes = weights_of(labels), _sizes(labels, self.reduction)
        divisor = None if sizes is None else float(sizes.sum())
        if weights is None:
            return Portion(losses, divisor)
        total = (losses * (weights / self.mean).to(losses)).sum()
        return Portion(total if divisor is None else total / max(divisor, 1), divisor)


def row_losses(settings: TextLossSettings, labels: SparseLabels) -> TextLossSettings:
    """Return the settings of a loss of each row if the labels have weights; else the settings unchanged."""
    return settings if weights_of(labels) is None else msgspec.structs.replace(settings, reduction="none")


def training_counts(labels: SparseLabels) -> tuple[Tensor, float]:
    """Return (L,) training documents of each label, and their number; with weights, sums of weights.

    With unknown pairs, a label counts as if documents in which it is unknown had it as often as the others.
    """
    counts, total = weighted_counts(labels), total_weight(labels)
    if unknown_of(labels) is not None:
        counts = counts * (total / annotated_counts(labels).double()).where(counts > 0, 1.0)
    if counts.is_floating_point() and len(counts):
        total = max(total, float(counts.max()))  # rounding
    return counts, total


def _sizes(labels: SparseLabels, reduction: str) -> Tensor | None:
    """Return (B,) how much each document adds to the divisor; None for no division."""
    unknown = unknown_of(labels)
    missing = 0 if unknown is None else unknown.lengths
    sizes = {
        "positives": labels.lengths,
        "batch": torch.ones_like(labels.lengths),
        "mean": torch.full_like(labels.lengths, labels.num_labels) - missing,
    }
    return sizes.get(reduction)
