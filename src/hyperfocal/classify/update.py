"""Continue a fit with new documents and new labels.

The weights of the fit are the start, with rows for new labels (`wider.py`). The features stay as they were fitted:
n-grams, encoder, fields and their scales. A run does not store its documents, so nothing reminds the head of them.
Therefore the learning rates are a third of those of the fit, for three epochs.

If there are 20 new documents or more, a stratified fraction of them (`data.valid_fraction`) is held out. It chooses the
epoch, and tunes the decisions if it has ENOUGH (50) true labels or more. The thresholds are then means of those of the
run and those tuned, weighted by the training documents of each label before and in the update:

    threshold_l = (1 - w_l) * before_l + w_l * tuned_l,   w_l = c_l / (c_l + c'_l)

c_l are documents of the update, c'_l those before; with one common threshold they are sums over labels. An earlier
label without a held-out document keeps its threshold: w_l = 0. A temperature is weighted by documents. Without ENOUGH
true labels all thresholds stay. The weights of the opinions of label texts stay as they are.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from time import perf_counter
from typing import Any

import msgspec
import numpy as np
import torch
from torch import Tensor

from hyperfocal.classify.counted_documents import check_unknown
from hyperfocal.classify.counted_loss import row_losses, training_counts
from hyperfocal.classify.evidence import label_evidence
from hyperfocal.classify.head import fit_head, make_loss
from hyperfocal.classify.label_model import Fit, LabelModel, LabelSpace, warn_of_unseen
from hyperfocal.classify.memory import check_head_memory
from hyperfocal.classify.new_documents import NewDocuments, class_names, read_new
from hyperfocal.classify.prepare import Labelled
from hyperfocal.classify.update_scores import Scored, data_counts, label_rows, score_update
from hyperfocal.classify.wider import new_bias, wider_head, wider_model
from hyperfocal.config.classify import ClassifySettings
from hyperfocal.counted_labels import followed
from hyperfocal.data.stored_texts import hash_each
from hyperfocal.errors import RunError
from hyperfocal.labels import SparseLabels
from hyperfocal.machine import set_threads
from hyperfocal.models.text_head import Features, TextHead, join
from hyperfocal.report.run import evidence_of
from hyperfocal.storage.cache import hash_of
from hyperfocal.training.continued import SLOWER, continued
from hyperfocal.training.watch import SILENT, Watch

Rows = tuple[Features, SparseLabels]  # of the same documents


def update(
    fit: Fit,
    inputs: Any,
    labels: Any = None,
    *,
    sample_weight: Any = None,
    classes: Any = None,
    epochs: int = 3,
    again: bool = False,
    label_texts: str | Path | None = None,
    watch: Watch = SILENT,
) -> Fit:
    """Return the fit continued; arguments and errors as in `MultiLabelClassifier.update` and `partial_fit`."""
    began, before = perf_counter(), fit.model
    check_update(before)
    settings = settings_of_update(before.settings, epochs)
    watch.begun(settings)
    set_threads(settings.train.threads)
    new = read_new(fit, inputs, labels, classes, weights=sample_weight, again=again, seed=_seed(before))
    train, held = new.data.train, new.held_out
    for labelled in (train, new.data.valid):
        check_unknown(labelled.labels, settings)
    model = _with_rows(before, new, label_texts)
    features = [None if each is None else _features(model, each, watch) for each in (train, held)]
    assert features[0] is not None, "there are training documents"
    _check_memory(new, settings, model.head, features[0])
    rows = (features[0], train.labels)
    valid = None if held is None or features[1] is None else (features[1], held.labels)
    head, history = _continue(model, rows, valid, settings, watch)
    trained = replace(model, head=head)
    scored = None
    if held is not None and valid is not None:
        scored = score_update(before, trained, held, valid[0], train.labels.counts())
        trained = replace(trained, decisions=scored.decisions)
        if before.settings.train.refit:
            trained = replace(trained, head=_refit(model, rows, valid, settings, len(history), watch))
    return _result(fit, trained, new, scored, history, began=began)


def check_update(model: LabelModel) -> None:
    """Raise RunError if a model cannot be updated: its encoder was fine-tuned."""
    if model.encoder is not None:
        raise RunError(
            "the encoder of this run was fine-tuned, and an update trains only a head: it cannot be updated. Fit it "
            "again with all documents"
        )


def settings_of_update(settings: ClassifySettings, epochs: int) -> ClassifySettings:
    """Return the settings that an update trains with: its epochs, and a third of the learning rates, falling to 0.

    Raises:
        ConfigError: as in `continued`.
    """
    rate = settings.train.sparse_learning_rate / SLOWER
    train = msgspec.structs.replace(continued(settings.train, epochs), sparse_learning_rate=rate, folds=0)
    return msgspec.structs.replace(settings, train=train)


def with_classes(fit: Fit, classes: Any) -> Fit:
    """Return a fit with rows for labels that no document has yet; arguments as `classes` of `partial_fit`."""
    model = fit.model
    names = sorted({*class_names(model, classes)} - model.labels.vocabulary.numbers.keys())
    if not names:
        return fit
    counts, number = torch.zeros(len(names), dtype=torch.int64), model.labels.num_documents
    model = wider_model(model, names, counts, new_bias(model.settings, counts, number, number))
    data = fit.metrics["data"] | {"labels": len(model.labels.vocabulary)}
    metrics = fit.metrics | {"data": data}
    return replace(fit, model=model, metrics=metrics, label_table=label_rows(model, fit.label_table))


def _seed(model: LabelModel) -> int:
    """Return a seed that differs from update to update, so that a document used again may be held out once."""
    return model.settings.seed + model.labels.num_documents


def _with_rows(model: LabelModel, new: NewDocuments, label_texts: str | Path | None) -> LabelModel:
    """Return a model with a copy of the head, rows for new labels, and counts that include the update."""
    train = new.data.train.labels
    added, number = train.counts(), len(train)
    total, first = model.labels.num_documents + number, len(model.labels.vocabulary)
    weighed, weight = training_counts(train)
    bias = new_bias(model.settings, weighed[first:], weight, model.labels.num_documents + weight)
    wider = wider_model(model, new.names, added[first:], bias, label_texts)
    counts = wider.labels.counts + added
    labels = LabelSpace(new.data.vocabulary, model.labels.taxonomy, counts, total, model.labels.consistent)
    return replace(wider, labels=labels)


def _features(model: LabelModel, labelled: Labelled, watch: Watch) -> Features:
    documents = labelled.documents
    warn_of_unseen(model.features.unseen(documents.columns))
    return model.features.make(documents.texts, documents.columns, watch=watch.encoded)


def _check_memory(new: NewDocuments, settings: ClassifySettings, head: TextHead, features: Features) -> None:
    num_sparse = 0 if head.wide is None else len(head.wide)
    num_dense = 0 if features.dense is None else features.dense.shape[1]
    check_head_memory(new.data, settings, num_sparse=num_sparse, num_dense=num_dense)


def _continue(
    model: LabelModel, train: Rows, valid: Rows | None, settings: ClassifySettings, watch: Watch
) -> tuple[TextHead, list[dict[str, float]]]:
    """Return a trained copy of the head, and one row per epoch.

    The loss has the counts of all training documents: those of the update by weight, and those before once each.
    """
    weighed, weight = training_counts(train[1])
    counts = model.labels.counts - train[1].counts() + weighed
    number = max(model.labels.num_documents - len(train[1]) + weight, float(counts.max()))
    loss = make_loss(row_losses(settings.loss, train[1]), counts, number)
    bias = model.head.bias.new_zeros(0)
    head = wider_head(model.head, bias)
    return head, fit_head(head, loss, train, valid, settings, watch=watch)


def _refit(
    model: LabelModel, train: Rows, valid: Rows, settings: ClassifySettings, epochs: int, watch: Watch
) -> TextHead:
    """Return the head trained on all new documents, for a number of epochs."""
    both = join(train[0], valid[0]), followed(train[1], valid[1])
    fixed = msgspec.structs.replace(settings.train, epochs=epochs)
    return _continue(model, both, None, msgspec.structs.replace(settings, train=fixed), watch)[0]


def _result(
    fit: Fit,
    model: LabelModel,
    new: NewDocuments,
    scored: Scored | None,
    history: list[dict[str, float]],
    *,
    began: float,
) -> Fit:
    data = data_counts(fit.metrics["data"], new, model)
    metrics, table, evidence = fit.metrics, label_rows(model, fit.label_table), None
    resamples: dict[str, Tensor] = {}
    if scored is not None:
        metrics, resamples, table = scored.evaluation
        data["valid"] |= metrics["data"]["valid"]
        content = label_evidence(
            scored.scores, scored.decided, new.data.valid, model.labels.vocabulary.names, scored.decisions
        )
        evidence = evidence_of("classify", content, began=began)
    data["update"] = facts_of(new, scored, refit=model.settings.train.refit and scored is not None)
    opinions = {"accepted": bool(model.combination.weights), **model.combination.to_json(), "rows": []}
    metrics = metrics | {"data": data, "opinions": opinions, "baselines": {}}
    fingerprint = hash_of(fit.fingerprint, new.data.fingerprint())
    texts, logs = _trained_texts(fit, new), (*fit.logs, *({new.checksum} - {*fit.logs}))
    return Fit(model, fingerprint, metrics, table, history, resamples, texts, evidence, logs)


def facts_of(new: NewDocuments, scored: Scored | None, *, refit: bool) -> dict[str, Any]:
    """Return the JSON-able facts of an update, metrics_["data"]["update"].

    documents            of the update, held-out ones included
    new_labels           labels that the run did not have
    repeated             documents with the text of a training document
    held_out             documents; 0: all scores are those before the update
    decisions            "tuned" again, or "kept"
    refit                whether the head that predicts was trained on the held-out documents too
    before, after        of the labels of the run on the held-out documents: see `seen_and_new`. None: no such documents
    new                  of the new labels
    """
    held = 0 if new.held_out is None else len(new.held_out)
    rows = {name: None if scored is None else getattr(scored, name) for name in ("before", "after", "new")}
    return {
        "documents": len(new.data.train) + held,
        "new_labels": len(new.names),
        "repeated": new.repeated,
        "held_out": held,
        "decisions": "tuned" if scored is not None and scored.tuned else "kept",
        "refit": refit,
        **rows,
    }


def _trained_texts(fit: Fit, new: NewDocuments) -> Tensor | None:
    """Return the checksums of all training texts; None if the run does not know those of before."""
    if fit.texts is None:
        return None
    refit = fit.model.settings.train.refit and new.held_out is not None
    documents = [new.data.train, new.data.valid] if refit else [new.data.train]
    hashes = [hash_each(each.documents.all_texts()) for each in documents]
    return torch.from_numpy(np.unique(np.concatenate([fit.texts.numpy(), *hashes])))
