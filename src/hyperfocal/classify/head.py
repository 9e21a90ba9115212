"""The head of the job `classify`: made, trained through a fused loss, and asked for scores.

How the head of a classifier comes to be: the features of its documents, its training, and their scores.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch
from torch import Tensor

from hyperfocal.classify.prepare import Labelled, PreparedTexts
from hyperfocal.config.classify import ClassifySettings, TextLossSettings
from hyperfocal.data.stratify import stratified_folds
from hyperfocal.distributed import on_first
from hyperfocal.errors import DataError
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
)
from hyperfocal.losses.options import LossOptions, divisor
from hyperfocal.machine import training_device
from hyperfocal.metrics.average_precision import average_precision, micro_average_precision
from hyperfocal.metrics.label_ranking import ndcg_at_k, precision_at_k
from hyperfocal.models.sentence_encoder import load_encoder
from hyperfocal.models.text_features import TextFeatures
from hyperfocal.models.text_features import Watch as EncodingWatch
from hyperfocal.models.text_head import Features, TextHead, join
from hyperfocal.storage.run_folder import RunFolder
from hyperfocal.training.run import checkpoint_keeper, restore
from hyperfocal.training.trainer import Job, Portion, Progress, Trainer, seed_process

BLOCK = 1_024  # documents scored at once
FOLD = "checkpoints/fold{}.safetensors"  # scores of a fold's documents

Watch = Callable[[Progress, int], None]
LossMaker = Callable[[TextLossSettings, Tensor, int, LossOptions], SeparableLoss | SoftmaxLoss]


def _focal(settings: TextLossSettings, counts: Tensor, num_documents: int, options: LossOptions) -> FocalLoss:
    return FocalLoss(settings.gamma, None if settings.alpha == "none" else settings.alpha, **options)


LOSSES: dict[str, LossMaker] = {
    "bce": lambda settings, counts, number, options: BCELoss(**options),
    "focal": _focal,
    "asymmetric": lambda settings, counts, number, options: AsymmetricLoss(gamma_negative=settings.gamma, **options),
    "ntr_focal": lambda settings, counts, number, options: DistributionBalancedLoss(
        counts, number, gamma=settings.gamma, rebalance=False, **options
    ),
    "balanced": lambda settings, counts, number, options: DistributionBalancedLoss(
        counts, number, gamma=settings.gamma, **options
    ),
    "softmax": lambda settings, counts, number, options: SoftmaxLoss(**options),
}


def make_loss(settings: TextLossSettings, counts: Tensor, num_documents: int) -> SeparableLoss | SoftmaxLoss:
    """Return the loss that the settings name, weighted by the labels' training counts, (L,)."""
    options: LossOptions = {"reduction": settings.reduction}
    if settings.cap != "off":
        cap = None if settings.cap == "none" else settings.cap
        options["positive_weight"] = capped_weights(counts, settings.weights, cap=cap, num_examples=num_documents)
    return LOSSES[settings.name](settings, counts, num_documents, options)


def make_head(settings: ClassifySettings, num_sparse: int, num_dense: int, bias: Tensor) -> TextHead:
    """Return the untrained head, its weights drawn by the seed, its bias (L,) as given."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        return TextHead(num_sparse, num_dense, settings.head, bias=bias)


def restore_head(settings: ClassifySettings, tensors: dict[str, Tensor], num_labels: int) -> TextHead:
    """Return the trained head from its tensors.

    Raises:
        RuntimeError: they do not fit the settings and the number of labels.
    """
    num_sparse = len(tensors["wide"]) if "wide" in tensors else 0
    first = next((tensors[name] for name in ("hidden.0.weight", "weight") if name in tensors), None)
    with torch.device("meta"):  # the settings may be damaged, and ask for more memory than there is
        head = make_head(settings, num_sparse, 0 if first is None else first.shape[1], torch.zeros(num_labels))
    copies = {
        name: tensor.to(torch.float32, copy=True) for name, tensor in tensors.items()
    }  # they are mapped from disk
    head.load_state_dict(copies, assign=True)
    head.eval()
    return head


def score_documents(head: TextHead, features: Features) -> Tensor:
    """Return (N, L) logits."""
    head.eval()
    with torch.inference_mode():
        blocks = [head(features.select(rows)) for rows in torch.arange(len(features)).split(BLOCK)]
    return torch.cat(blocks) if blocks else head.bias.new_zeros(0, len(head.bias))


VALIDATION: dict[str, Callable[[Tensor, SparseLabels], float]] = {
    "macro_ap": lambda scores, truth: float(average_precision(scores, truth).nanmean()),
    "micro_ap": micro_average_precision,
    "ndcg@5": lambda scores, truth: float(ndcg_at_k(scores, truth, 5).nanmean()),
    "precision@1": lambda scores, truth: float(precision_at_k(scores, truth, 1).nanmean()),
}


def train_head(
    train: tuple[Features, SparseLabels],
    valid: tuple[Features, SparseLabels] | None,
    num_sparse: int,
    settings: ClassifySettings,
    run: RunFolder | None = None,
    *,
    resume: bool = False,
    watch: Watch = lambda *_: None,
) -> tuple[TextHead, list[dict[str, float]]]:
    """Train a head; return it with its best weights, and a row an epoch.

    Args:
        train: features and labels of the training documents.
        valid: the same of those that choose the epoch; None takes the weights after the last one.
        num_sparse: V, columns of the sparse features, 0 without.
        settings: all of them; `settings.seed` draws weights, order and dropout.
        run: gets checkpoints.
        resume: from the checkpoint in `run`.
        watch: called with (progress, steps an epoch).

    Raises:
        RunError: the checkpoint to resume from is damaged.
        TrainingError: the loss is no longer a number; another one of several processes is gone.
        KeyboardInterrupt: Ctrl-C, after a checkpoint.
    """
    features, labels = train
    counts = labels.counts()
    loss = make_loss(settings.loss, counts, len(labels))
    width = 0 if features.dense is None else features.dense.shape[1]
    head = make_head(settings, num_sparse, width, frequency_bias(counts, len(labels)))

    def validate(features: Features, truth: SparseLabels) -> dict[str, float]:
        name = settings.train.metric
        return {name: VALIDATION[name](score_documents(head, features), truth)}

    def step_loss(rows: Tensor) -> Portion:
        right = labels.select(rows)
        return Portion(head_loss(head, loss, features.select(rows), right), divisor(right, loss.options))

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
    return head, train_job(job, run, resume=resume, watch=watch)


def refit_head(
    train: tuple[Features, SparseLabels],
    valid: tuple[Features, SparseLabels],
    num_sparse: int,
    settings: ClassifySettings,
    epochs: int,
    watch: Watch = lambda *_: None,
) -> TextHead:
    """Return a head trained on training and validation documents together, for a number of epochs; else as above.

    Nothing is left to choose an epoch on: the weights after the last one count.
    """
    both = join(train[0], valid[0]), train[1].followed_by(valid[1])
    fixed = msgspec.structs.replace(settings.train, epochs=epochs, patience=0)
    return train_head(both, None, num_sparse, msgspec.structs.replace(settings, train=fixed), watch=watch)[0]


def cross_scores(
    train: tuple[Features, SparseLabels],
    folds: Tensor,
    num_sparse: int,
    settings: ClassifySettings,
    run: RunFolder | None = None,
    watch: Watch = lambda *_: None,
) -> Tensor:
    """Return (N, L) logits, those of each document from a head that was trained on the other folds; else as above.

    Args:
        train: features and labels of N documents.
        folds: (N,) int64 from 0, the fold of each.
        num_sparse: V, columns of the sparse features.
        settings: all of them.
        run: keeps the scores of each fold as soon as it is done, and those that it has are not made again.
        watch: called with (progress, steps an epoch) of each training.
    """
    features, labels = train
    scores = torch.empty(len(labels), labels.num_labels)
    for fold in range(int(folds.max()) + 1):
        own, others = (folds == fold).nonzero()[:, 0], (folds != fold).nonzero()[:, 0]
        name = FOLD.format(fold)
        if (kept := on_first(partial(_kept_scores, run, name))) is not None:
            scores[own] = kept
            continue
        part = features.select(others), labels.select(others)
        scores[own] = score_documents(
            train_head(part, None, num_sparse, settings, watch=watch)[0], features.select(own)
        )
        if run is not None:
            run.write_tensors(name, {"scores": scores[own]})
    return scores


def _kept_scores(run: RunFolder | None, name: str) -> Tensor | None:
    """Return the scores of a fold that the run has already."""
    if run is None or not run.has(name):
        return None
    with run.guard(name):
        return run.read_tensors(name)[0]["scores"]


def train_job(
    job: Job,
    run: RunFolder | None,
    *,
    resume: bool,
    watch: Watch,
) -> list[dict[str, float]]:
    """Train a job's model, or what the checkpoint in the run left of it; return a row an epoch.

    Errors as in `train_head`.
    """
    trainer = Trainer(job, save=checkpoint_keeper(run), watch=watch)
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        seed_process(job.seed + 1)
        if resume:
            restore(trainer, run)
        if not trainer.run():
            raise KeyboardInterrupt
    job.model.eval()
    return trainer.progress.history


def head_loss(head: TextHead, loss: SeparableLoss | SoftmaxLoss, features: Features, labels: SparseLabels) -> Tensor:
    """Return the loss of a batch: fused with the last layer, or, with a wide part, from its B x L logits.

    The wide part holds V x L weights, beside which the logits of a batch are nothing: there is nothing to save.
    """
    if features.sparse is None and features.dense is not None:
        fused: Tensor = loss(head.hidden_of(features.dense), head.weight, head.bias, labels)
        return fused
    return loss.from_logits(head(features), labels)


def encoder_to_tune(features: TextFeatures, settings: ClassifySettings) -> Any:
    """Return the encoder that learns with the head; None where the settings ask for none."""
    if not settings.features.finetune:
        return None
    assert features.encoder is not None, "there is no other feature to fine-tune"
    return load_encoder(features.encoder.location, device=training_device(), seed=settings.seed)


def features_of(
    features: TextFeatures, data: PreparedTexts, cache: Path | None, watch: EncodingWatch
) -> tuple[Features, Features]:
    """Return the features of training and validation documents, which are made once where these are the same."""
    train = features.make(data.train.documents.texts, cache, watch)
    if data.valid is data.train:
        return train, train
    return train, features.make(data.valid.documents.texts, cache, watch)


def train_and_score(
    features: tuple[Features, Features],
    data: PreparedTexts,
    num_sparse: int,
    settings: ClassifySettings,
    run: RunFolder | None,
    *,
    resume: bool,
    watch: Watch,
) -> tuple[TextHead, list[dict[str, float]], Tensor]:
    """Return the trained head, a row an epoch, and the (N, L) scores of the validation documents.

    Under cross-validation each document's come from a head that did not see it; the head itself saw them all.
    Arguments and errors as in `train_head`.
    """
    rows, valid = (features[0], data.train.labels), (features[1], data.valid.labels)
    if settings.train.folds:
        scores = cross_scores(rows, folds_of(data.train, settings), num_sparse, settings, run, watch)
        return *train_head(rows, None, num_sparse, settings, run, resume=resume, watch=watch), scores
    head, history = train_head(rows, valid, num_sparse, settings, run, resume=resume, watch=watch)
    return head, history, score_documents(head, features[1])


def folds_of(train: Labelled, settings: ClassifySettings) -> Tensor:
    """Return (N,) the fold of each document: stratified by its labels, groups kept together.

    Raises:
        DataError: fewer documents, or groups of them, than folds.
    """
    number, groups = settings.train.folds, train.documents.group_numbers()
    units = len(train) if groups is None else len(np.unique(groups))
    if units < number:
        what = "documents" if groups is None else "groups of documents"
        raise DataError(f"{units:,} {what} cannot make train.folds = {number}. Give fewer folds, or more documents")
    folds = stratified_folds(train.labels, groups, [1.0] * number, seed=settings.seed, first_trains=False)
    return torch.from_numpy(np.unique(folds, return_inverse=True)[1])  # without those that got no document
