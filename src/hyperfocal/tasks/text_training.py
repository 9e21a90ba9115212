"""How the head of a classifier comes to be: the features of its documents, its training, and their scores."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hyperfocal.config.classify import ClassifySettings
from hyperfocal.data.stratify import stratified_folds
from hyperfocal.errors import DataError
from hyperfocal.machine import training_device
from hyperfocal.models.encoder import load_encoder
from hyperfocal.models.text import Features, TextHead
from hyperfocal.runs import RunFolder
from hyperfocal.tasks.documents import Labelled, PreparedTexts
from hyperfocal.tasks.features import TextFeatures
from hyperfocal.tasks.features import Watch as EncodingWatch
from hyperfocal.tasks.heads import Watch, cross_scores, score_documents, train_head


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
