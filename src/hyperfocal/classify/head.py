"""The head of a classifier: its loss, its training through that loss, and its scores."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import csr_matrix
from torch import Tensor

from hyperfocal.classify.counted_loss import CountedLoss, row_losses, training_counts
from hyperfocal.config.classify import SOFTMAX, ClassifySettings, TextLossSettings
from hyperfocal.counted_labels import mean_over, unknown_of
from hyperfocal.labels import SparseLabels
from hyperfocal.losses import (
    AsymmetricLoss,
    BCELoss,
    DistributionBalancedLoss,
    FocalLoss,
    SeparableLoss,
    SoftmaxLoss,
    capped_weights,
    frequency_bias,
    log_frequencies,
)
from hyperfocal.losses.options import LossOptions
from hyperfocal.metrics.average_precision import average_precision, micro_average_precision
from hyperfocal.metrics.label_ranking import ndcg_at_k, precision_at_k
from hyperfocal.models.text_head import Features, TextHead
from hyperfocal.storage.run_folder import RunFolder
from hyperfocal.training.run import train_job
from hyperfocal.training.trainer import Job, Portion
from hyperfocal.training.watch import SILENT, Watch

BLOCK = 1_024  # documents scored at once

Loss = SeparableLoss | SoftmaxLoss


def _focal(settings: TextLossSettings, counts: Tensor, num_documents: float, options: LossOptions) -> FocalLoss:
    return FocalLoss(settings.gamma, None if settings.alpha == "none" else settings.alpha, **options)


def _softmax(settings: TextLossSettings, counts: Tensor, num_documents: float, options: LossOptions) -> SoftmaxLoss:
    gamma = settings.gamma if settings.name == "softmax_focal" else 0.0
    if settings.adjust == 0:
        return SoftmaxLoss(gamma=gamma, **options)
    return SoftmaxLoss(gamma=gamma, log_prior=log_frequencies(counts), tau=settings.adjust, **options)


LOSSES: dict[str, Callable[[TextLossSettings, Tensor, float, LossOptions], Loss]] = {
    "bce": lambda settings, counts, number, options: BCELoss(**options),
    "focal": _focal,
    "asymmetric": lambda settings, counts, number, options: AsymmetricLoss(gamma_negative=settings.gamma, **options),
    "ntr_focal": lambda settings, counts, number, options: DistributionBalancedLoss(
        counts, number, gamma=settings.gamma, rebalance=False, **options
    ),
    "balanced": lambda settings, counts, number, options: DistributionBalancedLoss(
        counts, number, gamma=settings.gamma, **options
    ),
    "softmax": _softmax,
    "softmax_focal": _softmax,
}
VALIDATION: dict[str, Callable[[Tensor, SparseLabels], float]] = {
    "macro_ap": lambda scores, truth: float(average_precision(scores, truth).nanmean()),
    "micro_ap": micro_average_precision,
    "ndcg@5": lambda scores, truth: float(mean_over(ndcg_at_k(scores, truth, 5), truth)),
    "precision@1": lambda scores, truth: float(mean_over(precision_at_k(scores, truth, 1), truth)),
}


class Trained(NamedTuple):
    """The result of a training."""

    head: TextHead
    history: list[dict[str, float]]  # one row per epoch
    scores: Tensor  # (N, L) logits of the validation documents


def make_loss(settings: TextLossSettings, counts: Tensor, num_documents: float) -> Loss:
    """Return the loss that the settings name, weighted by the training counts of the labels, (L,)."""
    options: LossOptions = {"reduction": settings.reduction}
    if settings.cap != "off":
        cap = None if settings.cap == "none" else settings.cap
        options["positive_weight"] = capped_weights(counts, settings.weights, cap=cap, num_examples=num_documents)
    return LOSSES[settings.name](settings, counts, num_documents, options)


def make_bias(settings: ClassifySettings, counts: Tensor, num_documents: float) -> Tensor:
    """Return the initial bias of the labels, (L,), so that training starts at their frequencies.

    The sigmoid of the bias is the frequency. With one label per document and a softmax loss, the softmax of the logits
    that the loss sees, with its adjustment, is the frequency.
    """
    if settings.data.single and settings.loss.name in SOFTMAX:
        return (1 - settings.loss.adjust) * log_frequencies(counts)
    return frequency_bias(counts, num_documents)


def validate_scores(scores: Tensor, truth: SparseLabels, settings: ClassifySettings) -> dict[str, float]:
    """Return the validation metric by its name; with one label per document the log-probabilities are ranked."""
    name = settings.train.metric
    return {name: VALIDATION[name](scores.log_softmax(1) if settings.data.single else scores, truth)}


def make_head(settings: ClassifySettings, num_sparse: int, num_dense: int, bias: Tensor) -> TextHead:
    """Return the untrained head with weights drawn by the seed and the given bias, (L,)."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        return TextHead(num_sparse, num_dense, settings.head, bias=bias)


def train_head(
    train: tuple[Features, SparseLabels],
    valid: tuple[Features, SparseLabels] | None,
    num_sparse: int,
    settings: ClassifySettings,
    run: RunFolder | None = None,
    *,
    resume: bool = False,
    watch: Watch = SILENT,
) -> tuple[TextHead, list[dict[str, float]]]:
    """Train a head; return it with its best weights, and one row per epoch.

    Args:
        train: features and labels of the training documents.
        valid: features and labels of the documents that choose the epoch. None: the weights after the last epoch.
        num_sparse: V, columns of the sparse features. 0: no sparse features.
        settings: all of them; `settings.seed` draws the weights, the order and the dropout.
        run: gets checkpoints.
        resume: whether to continue from the checkpoint in `run`.
        watch: its `stepped` is called.

    Raises:
        RunError: the checkpoint to resume from is damaged.
        TrainingError: the loss is not a number anymore; another one of several processes has ended.
        KeyboardInterrupt: Ctrl-C, after a checkpoint.
    """
    features, labels = train
    counts, number = training_counts(labels)
    loss = make_loss(row_losses(settings.loss, labels), counts, number)
    width = 0 if features.dense is None else features.dense.shape[1]
    head = make_head(settings, num_sparse, width, make_bias(settings, counts, number))
    return head, fit_head(head, loss, train, valid, settings, run, resume=resume, watch=watch)


def fit_head(
    head: TextHead,
    loss: Loss,
    train: tuple[Features, SparseLabels],
    valid: tuple[Features, SparseLabels] | None,
    settings: ClassifySettings,
    run: RunFolder | None = None,
    *,
    resume: bool = False,
    watch: Watch = SILENT,
) -> list[dict[str, float]]:
    """Train the weights that a head has, in place; return one row per epoch. Others and errors as in `train_head`."""
    features, labels = train
    counted = CountedLoss.of(labels, settings.loss.reduction)

    def validate(features: Features, truth: SparseLabels) -> dict[str, float]:
        return validate_scores(score_documents(head, features), truth, settings)

    def step_loss(rows: Tensor) -> Portion:
        batch = labels.select(rows)
        return counted.portion(head_loss(head, loss, features.select(rows), batch), batch)

    job = Job(
        head,
        step_loss,
        len(labels),
        None if valid is None else partial(validate, *valid),
        settings.train,
        settings.seed,
        sparse=head.sparse_parameters,
        sparse_learning_rate=settings.train.sparse_learning_rate,
    )
    return train_job(job, run, resume=resume, watch=watch)


def head_loss(head: TextHead, loss: Loss, features: Features, labels: SparseLabels) -> Tensor:
    """Return the loss of a batch: fused with the last layer or, with a wide part, from its B x L logits.

    Unknown pairs are left out. With the reduction "none" it is the loss of each document, (B,).

    With a wide part nothing is gained by fusing: its V x L weights are far larger than the logits of a batch.
    """
    if features.sparse is None and features.dense is not None:
        fused: Tensor = loss(head.hidden_of(features.dense), head.weight, head.bias, labels, unknown_of(labels))
        return fused
    return loss.from_logits(head(features), labels, unknown_of(labels))


def score_documents(head: TextHead, features: Features) -> Tensor:
    """Return (N, L) logits."""
    head.eval()
    with torch.inference_mode():
        blocks = [head(features.select(rows)) for rows in torch.arange(len(features)).split(BLOCK)]
    return torch.cat(blocks) if blocks else head.bias.new_zeros(0, len(head.bias))


def hidden_documents(head: TextHead, features: Features) -> NDArray[np.float32] | csr_matrix:
    """Return the input of the output layer: (N, W) of the deep part; without one, (N, V) CSR of the wide part."""
    head.eval()
    if features.dense is not None:
        with torch.inference_mode():
            return torch.cat([head.hidden_of(block) for block in features.dense.split(BLOCK)]).numpy()
    rows = features.sparse
    assert rows is not None, "features need a sparse or a dense part"
    width = 0 if head.wide is None else len(head.wide)
    return csr_matrix((rows.values.numpy(), rows.columns.numpy(), rows.indptr.numpy()), shape=(len(rows), width))


def restore_head(settings: ClassifySettings, tensors: dict[str, Tensor], num_labels: int) -> TextHead:
    """Return the trained head from its tensors.

    Raises:
        RuntimeError: the tensors do not fit the settings and the number of labels.
    """
    num_sparse = len(tensors["wide"]) if "wide" in tensors else 0
    first = next((tensors[name] for name in ("hidden.0.weight", "weight") if name in tensors), None)
    with torch.device("meta"):  # damaged settings may ask for more memory than there is
        head = make_head(settings, num_sparse, 0 if first is None else first.shape[1], torch.zeros(num_labels))
    copies = {name: tensor.to(torch.float32, copy=True) for name, tensor in tensors.items()}  # of mapped files
    head.load_state_dict(copies, assign=True)
    head.eval()
    return head
