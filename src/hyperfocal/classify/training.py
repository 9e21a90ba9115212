"""Fit a classifier on prepared documents: features, training, decisions, scores, and the run folder."""

from __future__ import annotations

import logging
from functools import partial
from pathlib import Path
from time import perf_counter
from types import MappingProxyType
from typing import Any, NamedTuple

import msgspec
import numpy as np
import polars as pl
import torch
from torch import Tensor

from hyperfocal.classify.baselines import baseline_scores
from hyperfocal.classify.counted_documents import check_unknown
from hyperfocal.classify.evidence import label_evidence
from hyperfocal.classify.files import write_fit
from hyperfocal.classify.finetune import finetune, load_trainable
from hyperfocal.classify.head import Trained, score_documents, train_head
from hyperfocal.classify.indicator import Indicator
from hyperfocal.classify.label_model import Fit, LabelModel, LabelSpace
from hyperfocal.classify.label_texts import label_texts
from hyperfocal.classify.memory import check_head_memory
from hyperfocal.classify.new_labels import Headless, fit_headless, fit_headless_of_one
from hyperfocal.classify.one_label import Classes, classes_of
from hyperfocal.classify.opinions import LabelReader, Opinions
from hyperfocal.classify.prepare import Labelled, PreparedTexts
from hyperfocal.classify.repeated import checksums_of
from hyperfocal.classify.scaling import Scaling, choose_scaling
from hyperfocal.classify.scores import Evaluation, with_unseen
from hyperfocal.classify.validation import Validated, baselines_table, opinions_table, validate
from hyperfocal.config.classify import ClassifySettings
from hyperfocal.counted_labels import followed
from hyperfocal.data.stored_texts import hash_each
from hyperfocal.data.stratify import stratified_folds
from hyperfocal.distributed import on_first, refuse_different
from hyperfocal.errors import ConfigError, DataError
from hyperfocal.labels import SparseLabels
from hyperfocal.machine import set_threads
from hyperfocal.models.example_features import ExampleFeatures
from hyperfocal.models.text_head import Features, TextHead, join
from hyperfocal.report.run import EVIDENCE, evidence_of
from hyperfocal.storage.run_folder import RunFolder
from hyperfocal.training.memory import begun
from hyperfocal.training.run import begin_run, data_facts
from hyperfocal.training.watch import SILENT, Watch

logger = logging.getLogger("hyperfocal")
FOLD = "checkpoints/fold{}.safetensors"  # scores of a fold's documents
Rows = tuple[Features, SparseLabels]  # of the same N documents


class Inputs(NamedTuple):
    """Features and labels of the training and validation documents, and what made the features."""

    features: ExampleFeatures
    train: Rows
    valid: Rows
    reader: LabelReader | None = None  # of label texts; None: the labels have none
    opinions: Opinions = MappingProxyType({})  # about the validation documents; {}: none


def fit_prepared(
    data: PreparedTexts,
    settings: ClassifySettings,
    run: RunFolder | None = None,
    *,
    target: Indicator | Classes | None = None,
    resume: bool = False,
    cache: Path | None = None,
    watch: Watch = SILENT,
    compare_scalings: bool = True,
) -> Fit:
    """Fit on documents that are read and split; other arguments and errors as in `MultiLabelClassifier.fit`.

    Args:
        data: the documents.
        settings: all of them.
        run: gets checkpoints and the result. None: nothing is written.
        target: the form of the labels that `fit` got, from `target_of`.
        resume: whether to continue the training in `run`.
        compare_scalings: whether validation chooses the scaling of a feature matrix. False: a fixed rule does.
    """
    began, fingerprint, logs = perf_counter(), data.fingerprint(), checksums_of(data)
    facts = data_facts(data.plan, data.counts(), logs)
    _begin(data, settings)
    folds = folds_of(data.train, settings) if settings.train.folds else None
    scaling = Scaling(settings.data.scaling)
    if compare_scalings:
        scaling = choose_scaling(data.train, data.valid, folds, settings, cache)
    features = ExampleFeatures.fit(data.train.documents, settings.features, cache, scaling.taken)
    refuse_different("documents or encoders", f"{fingerprint} {features.checksum}")
    check_head_memory(data, settings, num_sparse=features.num_sparse)
    if run is not None and resume:
        begin_run(run, settings, fingerprint, features.checksum, facts=facts, resume=True)
    encoder = load_trainable(features, settings)
    inputs = None if encoder is not None else make_inputs(data, features, cache, watch)
    if inputs is not None and (dense := inputs.train[0].dense) is not None:
        check_head_memory(data, settings, num_sparse=features.num_sparse, num_dense=dense.shape[1])
    if run is not None and not resume:  # only now: an error up to here does not cost the run that is replaced
        begin_run(run, settings, fingerprint, features.checksum, facts=facts, resume=False)
    with begun(run):
        if inputs is None:
            trained = finetune(encoder, data, settings, run, resume=resume, watch=watch)
        else:
            trained = train_and_score(data, inputs, settings, run, resume=resume, watch=watch)
    labels = LabelSpace.of(data, settings)
    reader, opinions = (inputs.reader, inputs.opinions) if inputs else read_labels(data, features)
    validated = validate(trained.scores, opinions, data, labels, settings)
    evaluation = with_unseen(validated.evaluation, features.unseen(data.valid.documents.columns))
    head = trained.head
    if settings.train.refit:
        assert inputs is not None, "check_training refuses to refit with an encoder that is fine-tuned"
        head = refit_head(inputs, settings, len(trained.history), watch)
    headless = _fit_headless(validated, settings) if opinions else None
    accepted = (reader if opinions else None, validated.combination, headless)
    indicator = target if isinstance(target, Indicator) else None
    classes = classes_of(data.vocabulary.names, target) if settings.data.single else None
    model = LabelModel(
        settings, labels, features, encoder, head, validated.decisions, indicator, data.plan, *accepted, classes=classes
    )
    texts = _trained_texts(data, settings)
    metrics = evaluation.metrics | {"opinions": opinions_table(validated)}
    if scaling.values:
        metrics["scaling"] = scaling.to_json()
    if inputs is not None:
        metrics["baselines"] = _baselines(data, inputs, validated, settings)
    scored = (metrics, evaluation.label_table, trained.history, evaluation.resamples)
    fit = Fit(model, fingerprint, *scored, texts, logs=logs)
    if run is not None:
        names, decided = labels.vocabulary.names, validated.decided
        evidence = label_evidence(validated.scores, decided, data.valid, names, validated.decisions)
        run.write_json(EVIDENCE, evidence_of("classify", evidence, began=began))
        write_fit(run, fit)
    return fit


def _fit_headless(validated: Validated, settings: ClassifySettings) -> Headless:
    if settings.data.single:
        return fit_headless_of_one(validated.judged, validated.combination, validated.decisions)
    return fit_headless(validated.judged, validated.combination, settings.decide)


def _baselines(data: PreparedTexts, inputs: Inputs, validated: Validated, settings: ClassifySettings) -> dict[str, Any]:
    """Return the metrics of the baselines; {} if the memory does not suffice, which costs no run."""
    folds = folds_of(data.train, settings) if settings.train.folds else None
    try:
        scores = baseline_scores(inputs.train, inputs.valid[0], settings.train.baselines, folds)
        return baselines_table(validated, scores, settings.decide)
    except MemoryError:
        logger.warning("baselines: they need more memory than there is, and are left out")
        return {}


def _trained_texts(data: PreparedTexts, settings: ClassifySettings) -> Tensor | None:
    """Return checksums of the texts that the head that predicts is trained on.

    None: the documents are streamed, or have no texts.
    """
    if not data.train.documents.has_texts:
        return None
    trained = [data.train, data.valid] if settings.train.refit else [data.train]
    texts = [each.documents.texts for each in trained]
    in_memory = [each for each in texts if isinstance(each, pl.Series)]
    return torch.from_numpy(np.unique(hash_each(pl.concat(in_memory)))) if len(in_memory) == len(texts) else None


def score_prepared(
    data: PreparedTexts, settings: ClassifySettings, *, cache: Path | None = None, inputs: Inputs | None = None
) -> Evaluation:
    """Return the scores that `fit_prepared` reaches on the validation documents, without the rest of a fit.

    Under cross-validation this trains no head on all documents.

    Args:
        data: documents that are read and split.
        settings: all of them.
        cache: folder of the features. None: they are not cached.
        inputs: the features of these documents by these settings. None: they come from `cache`, or are made.
    """
    _begin(data, settings)
    documents = data.train.documents
    features = inputs.features if inputs else None
    features = features or ExampleFeatures.fit(documents, settings.features, cache, settings.data.scaling)
    encoder = load_trainable(features, settings)
    if encoder is not None:
        scores, opinions = finetune(encoder, data, settings).scores, read_labels(data, features)[1]
    else:
        inputs = inputs or make_inputs(data, features, cache)
        opinions = inputs.opinions
        if settings.train.folds:
            scores = cross_scores(inputs.train, folds_of(data.train, settings), features.num_sparse, settings)
        else:
            scores = train_and_score(data, inputs, settings).scores
    return validate(scores, opinions, data, LabelSpace.of(data, settings), settings).evaluation


def _begin(data: PreparedTexts, settings: ClassifySettings) -> None:
    """Set the CPU threads, and check what the settings ask of the documents before anything is written.

    Raises:
        ConfigError: the documents were not split as `train.folds` says; a loss that needs every label, and unknown
            ones; the head surely does not fit in memory.
        DataError: fewer documents, or groups of documents, than folds.
    """
    if bool(settings.train.folds) != (data.valid is data.train):
        raise ConfigError(
            f"train.folds = {settings.train.folds} does not match the split of these documents: with folds the "
            "training documents validate, without folds other documents do. Prepare the documents with these settings"
        )
    if settings.train.folds:
        _check_folds(data.train, settings)
    for labelled in (data.train, data.valid):
        check_unknown(labelled.labels, settings)
    check_head_memory(data, settings)
    set_threads(settings.train.threads)


def make_inputs(
    data: PreparedTexts, features: ExampleFeatures, cache: Path | None = None, watch: Watch = SILENT
) -> Inputs:
    """Return features of the training and validation documents, made once if both are the same, and opinions."""
    first, second = data.train.documents, data.valid.documents
    train = features.make(first.texts, first.columns, cache, watch.encoded)
    valid = train if second is first else features.make(second.texts, second.columns, cache, watch.encoded)
    vectors = features.text_vectors(train), features.text_vectors(valid)
    reader, opinions = read_labels(data, features, vectors, cache)
    return Inputs(features, (train, data.train.labels), (valid, data.valid.labels), reader, opinions)


def read_labels(
    data: PreparedTexts,
    features: ExampleFeatures,
    dense: tuple[Tensor | None, Tensor | None] = (None, None),
    cache: Path | None = None,
) -> tuple[LabelReader | None, Opinions]:
    """Return the reader of the label texts, and its opinions about the validation documents; (None, {}) without texts.

    Args:
        data: the documents.
        features: of the documents; `features.label_texts` of their settings says where the texts are.
        dense: vectors of the training and of the validation documents, if a frozen encoder made them.
        cache: folder of the encoder's vectors. None: they are not cached.
    """
    texts = label_texts(features.settings.label_texts, data.vocabulary.names, data.taxonomy)
    if texts is None or features.text is None:
        return None, {}
    trained, validated = dense
    reader = LabelReader.fit(texts, features.text, trained, cache)
    return reader, reader.of(data.valid.documents.texts, validated)


def train_and_score(
    data: PreparedTexts,
    inputs: Inputs,
    settings: ClassifySettings,
    run: RunFolder | None = None,
    *,
    resume: bool = False,
    watch: Watch = SILENT,
) -> Trained:
    """Return the trained head and the scores of the validation documents.

    Under cross-validation the scores of each document come from a head that did not see it; the head that is returned
    saw all documents. Arguments and errors as in `train_head`.
    """
    num_sparse, train = inputs.features.num_sparse, inputs.train
    if settings.train.folds:
        scores = cross_scores(train, folds_of(data.train, settings), num_sparse, settings, run, watch)
        return Trained(*train_head(train, None, num_sparse, settings, run, resume=resume, watch=watch), scores)
    head, history = train_head(train, inputs.valid, num_sparse, settings, run, resume=resume, watch=watch)
    return Trained(head, history, score_documents(head, inputs.valid[0]))


def cross_scores(
    train: Rows,
    folds: Tensor,
    num_sparse: int,
    settings: ClassifySettings,
    run: RunFolder | None = None,
    watch: Watch = SILENT,
) -> Tensor:
    """Return (N, L) logits, those of each document from a head that was trained on the other folds.

    Errors as in `train_head`.

    Args:
        train: features and labels of N documents.
        folds: (N,) int64 from 0, the fold of each document.
        num_sparse: V, columns of the sparse features.
        settings: all of them.
        run: keeps the scores of each finished fold, which are then not computed again.
        watch: its `stepped` is called in each training.
    """
    features, labels = train
    scores = torch.empty(len(labels), labels.num_labels)
    for fold in range(int(folds.max()) + 1):
        own, others = (folds == fold).nonzero()[:, 0], (folds != fold).nonzero()[:, 0]
        name = FOLD.format(fold)
        if (finished := on_first(partial(_finished_scores, run, name))) is not None:
            scores[own] = finished
            continue
        rest = features.select(others), labels.select(others)
        head, _ = train_head(rest, None, num_sparse, settings, watch=watch)
        scores[own] = score_documents(head, features.select(own))
        if run is not None:
            run.write_tensors(name, {"scores": scores[own]})
    return scores


def _finished_scores(run: RunFolder | None, name: str) -> Tensor | None:
    """Return the scores of a fold that the run already has."""
    if run is None or not run.has(name):
        return None
    with run.guard(name):
        return run.read_tensors(name)[0]["scores"]


def folds_of(train: Labelled, settings: ClassifySettings) -> Tensor:
    """Return (N,) the fold of each document: stratified by its labels, groups kept together.

    Raises:
        DataError: fewer documents, or groups of documents, than folds.
    """
    _check_folds(train, settings)
    number, groups = settings.train.folds, train.documents.group_numbers()
    folds = stratified_folds(train.labels, groups, [1.0] * number, seed=settings.seed, first_trains=False)
    return torch.from_numpy(np.unique(folds, return_inverse=True)[1])  # without folds that got no document


def _check_folds(train: Labelled, settings: ClassifySettings) -> None:
    number, groups = settings.train.folds, train.documents.group_numbers()
    units = len(train) if groups is None else len(np.unique(groups))
    if units < number:
        kind = "documents" if groups is None else "groups of documents"
        raise DataError(f"{units:,} {kind} cannot make train.folds = {number}. Use fewer folds or more documents")


def refit_head(inputs: Inputs, settings: ClassifySettings, epochs: int, watch: Watch = SILENT) -> TextHead:
    """Return a head trained on training and validation documents together for a number of epochs.

    No documents are left to choose an epoch on, so the weights after the last epoch count. Errors as in `train_head`.
    """
    fixed = msgspec.structs.replace(settings.train, epochs=epochs, patience=0)
    settings = msgspec.structs.replace(settings, train=fixed)
    (train, labels), (valid, others) = inputs.train, inputs.valid
    both = join(train, valid), followed(labels, others)
    return train_head(both, None, inputs.features.num_sparse, settings, watch=watch)[0]
