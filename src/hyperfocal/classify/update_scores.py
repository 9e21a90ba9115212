"""Tune and score an update on its held-out documents, next to the run before."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from hyperfocal.classify.label_model import LabelModel
from hyperfocal.classify.new_documents import NewDocuments
from hyperfocal.classify.one_scores import cross_temperatures, tuned_rule
from hyperfocal.classify.prepare import Labelled, owners_of
from hyperfocal.classify.scores import (
    Evaluation,
    evaluate_decisions,
    seen_and_new,
    table_of_labels,
    with_unseen,
)
from hyperfocal.classify.validation import draw_halves
from hyperfocal.config.classify import DecisionSettings
from hyperfocal.labels import SparseLabels
from hyperfocal.models.text_head import Features
from hyperfocal.thresholds import Decisions, check_finite, tune_decisions

ENOUGH = 50  # true labels of held-out documents, to tune decisions

Row = dict[str, float | None]


class Scored(NamedTuple):
    """The scores of an update on its held-out documents."""

    decisions: Decisions
    evaluation: Evaluation
    scores: Tensor  # (N, L)
    decided: SparseLabels  # N rows over L labels
    tuned: bool  # whether the decisions were tuned again
    before: Row  # of the labels of the run, before the update; see `seen_and_new`
    after: Row  # of the same labels
    new: Row  # of the new labels


def score_update(before: LabelModel, after: LabelModel, held: Labelled, features: Features, added: Tensor) -> Scored:
    """Return decisions that are tuned again, if there are enough true labels, and all scores.

    Args:
        before: of the run, without the new labels.
        after: with the trained head, the new labels last, and counts that include the update.
        held: N documents, over the labels of `after`.
        features: of these documents.
        added: (L,) training documents of each label, of the update.
    """
    texts, truth, settings = held.documents.all_texts(), held.labels, after.settings
    scores, logits = after.scored(features, texts)
    check_finite(logits)
    tuning = _Tuning(after, added, settings.decide, enough=truth.num_positives >= ENOUGH)
    decisions = tuning.of(scores, truth)
    divisions = draw_halves(len(scores), owners_of(held.documents), seed=settings.seed)
    if tuning.enough:
        decided = [after.labels.complete(tuning.crossed(scores, truth, halves)) for halves in divisions]
    else:
        decided = [after.labels.complete(decisions.tuned.decide(scores))]
    crossed = decisions.one and tuning.enough
    temperatures = cross_temperatures(scores, truth, divisions[0]) if crossed else None
    evaluation = evaluate_decisions(scores, decided, held, after.labels, logits, decisions, temperatures)
    evaluation = with_unseen(_with_counts(evaluation), after.features.unseen(held.documents.columns))
    applied = decisions.decide(scores) if decisions.one == "argmax" else decided[0]
    more = truth.num_labels - len(before.labels.vocabulary)
    known = torch.nn.functional.pad(before.scored(features, texts)[0], (0, more), value=-torch.inf)
    ranked = [each.log_softmax(1) if decisions.one else each for each in (known, scores)]
    (first, _), (second, new) = (seen_and_new(each, truth, more) for each in ranked)
    return Scored(decisions, evaluation, scores, applied, tuning.enough, first, second, new)


def _with_counts(evaluation: Evaluation) -> Evaluation:
    return evaluation._replace(metrics=evaluation.metrics | {"data": {"valid": {}}})


class _Tuning:
    """Tunes decisions again, as means of those of the run and those tuned; see `update.py`.

    Args:
        model: whose decisions are those of the run.
        added: (L,) training documents of each label, of the update.
        settings: how to decide.
        enough: whether there are enough true labels to tune.
    """

    def __init__(self, model: LabelModel, added: Tensor, settings: DecisionSettings, *, enough: bool) -> None:
        self.model, self.settings, self.enough = model, tuned_rule(settings), enough
        self.added = added

    def of(self, scores: Tensor, truth: SparseLabels) -> Decisions:
        """Return decisions, tuned on N documents."""
        before = self.model.decisions
        if not self.enough:
            return before
        counts, seed = self.model.labels.counts, self.model.settings.seed
        tuned = tune_decisions(scores, truth, counts, self.settings, seed=seed)
        weight = _weight(self.added, counts, truth.counts(), common=self.settings.rule == "global")
        thresholds = torch.lerp(_centred(before), _centred(tuned), weight)
        share = float(self.added.sum() / counts.sum().clamp(min=1))  # of one label per document: of the documents
        temperature = before.temperature + share * (tuned.temperature - before.temperature)
        return replace(before, thresholds=thresholds, temperature=temperature)

    def crossed(self, scores: Tensor, truth: SparseLabels, halves: Tensor) -> SparseLabels:
        """Return decisions of N documents, those of each half tuned on the other one."""
        decided = torch.zeros(scores.shape, dtype=torch.bool)
        for half in halves.unique().tolist():
            own, others = (halves == half).nonzero()[:, 0], (halves != half).nonzero()[:, 0]
            decisions = self.of(scores[others], truth.select(others)).tuned
            decided[own] = decisions.decide(scores[own]).to_dense().bool()
        return SparseLabels.from_dense(decided)


def _centred(decisions: Decisions) -> Tensor:
    """Return (L,) thresholds; with one label per document offsets with a mean of 0, which decide the same."""
    return decisions.thresholds - decisions.thresholds.mean() if decisions.one else decisions.thresholds


def _weight(added: Tensor, counts: Tensor, true: Tensor, *, common: bool) -> Tensor:
    """Return (L,) the weight of tuned thresholds, from 0 to 1.

    Args:
        added: (L,) training documents of each label, of the update.
        counts: (L,) all training documents of each label.
        true: (L,) held-out documents of each label; without one an earlier label has the weight 0.
        common: whether one threshold is common to all labels; the weight is that of the sums.
    """
    if common:
        return (added.sum() / counts.sum().clamp(min=1)).float().expand(len(added))
    weight = added / counts.clamp(min=1)
    return torch.where((true > 0) | (added == counts), weight, 0.0).float()


def data_counts(before: Mapping[str, Any], new: NewDocuments, after: LabelModel) -> dict[str, Any]:
    """Return the counts of the data: training documents of before and of the update, and the held-out ones.

    Args:
        before: metrics_["data"] of the run.
        new: the documents of the update.
        after: counts all training documents.
    """
    counts, labels, train = new.data.counts(), after.labels, before["train"]
    everywhere = (labels.counts == labels.num_documents).nonzero()[:, 0]
    sums = {key: train.get(key, 0) + value for key, value in counts["train"].items() if isinstance(value, int)}
    sums |= {"documents": labels.num_documents, "positives": int(labels.counts.sum()), "unseen_labels": {}}
    held = new.held_out is not None
    data = {
        "labels": len(labels.vocabulary),
        "labels_in_every_document": labels.vocabulary.decode(everywhere).to_list(),
        "train": sums,
        "valid": counts["valid"] if held else before["valid"],
        "out_of_fold": False if held else before["out_of_fold"],
    }
    if "zero_weights" in before:
        data["zero_weights"] = before["zero_weights"]
    if "single" in before:
        single = {"single_documents": int((labels.counts == 1).sum())}
        data["single"] = single | {"left_out": before["single"]["left_out"] + new.left_out}
    return data


def label_rows(model: LabelModel, before: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return a row per label without held-out documents: the scores of before, and none of new labels."""
    labels = model.labels
    names, nothing = labels.vocabulary.names, SparseLabels.from_lists([], num_labels=len(labels.vocabulary))
    empty = table_of_labels(torch.zeros(0, len(names)), nothing, nothing, labels.counts, names)
    scored = {row["label"]: row for row in before}
    return [row | scored.get(row["label"], {}) | {"train_documents": row["train_documents"]} for row in empty]
