"""Validate a classifier: combine its logits with opinions if that is better, tune the decisions, and score both.

Each half of the documents gets what was fitted on the other half, so that no score has seen its own truth.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from hyperfocal.classify.acceptance import HALVES, Form, Judged, choose_form, divided, fit_form, table_of_opinions
from hyperfocal.classify.combination import Combination
from hyperfocal.classify.head import VALIDATION
from hyperfocal.classify.label_model import LabelSpace
from hyperfocal.classify.one_scores import cross_temperatures, tuned_rule
from hyperfocal.classify.opinions import Opinions
from hyperfocal.classify.prepare import PreparedTexts, owners_of
from hyperfocal.classify.scores import Evaluation, evaluate_decisions
from hyperfocal.config.classify import ONE_RULES, ClassifySettings, DecisionSettings
from hyperfocal.labels import SparseLabels
from hyperfocal.metrics.decisions import decision_scores
from hyperfocal.metrics.one_label import class_scores
from hyperfocal.thresholds import Decisions, check_finite, tune_decisions

CROSS_FITS = 2  # divisions into halves, over which the scores of tuned decisions are averaged


class Validated(NamedTuple):
    """The end of a validation."""

    judged: Judged
    divisions: list[Tensor]  # into halves, from `draw_halves`
    form: Form | None  # of the combination; None: no opinion counts
    combination: Combination  # fitted on all validation documents
    decisions: Decisions  # tuned on all of them
    scores: Tensor  # (N, L), cross-fitted
    decided: SparseLabels  # N rows over L labels, cross-fitted
    evaluation: Evaluation


def validate(
    logits: Tensor, opinions: Opinions, data: PreparedTexts, labels: LabelSpace, settings: ClassifySettings
) -> Validated:
    """Combine logits with opinions, if that is better, and tune the decisions; return them and their scores.

    Cross-fitted weights, scores and decisions have not seen their own truth; but all documents have chosen among the
    forms of combination, and accepted it. The metrics include the counts of the data.

    Args:
        logits: (N, L) of the validation documents.
        opinions: about the same pairs; {} for none.
        data: the documents.
        labels: the L labels.
        settings: all of them.
    """
    check_finite(logits)
    truth, counts, seed = data.valid.labels, labels.counts, settings.seed
    judged = Judged(logits, opinions, truth, counts, settings.train.metric, seed, settings.data.single)
    divisions = draw_halves(len(logits), owners_of(data.valid.documents), seed=seed)
    form = choose_form(judged, divisions)
    combination = fit_form(judged, form, torch.arange(len(logits)))
    decisions = tune_decisions(judged.combined(combination), truth, counts, settings.decide, seed=seed)
    crossed = [cross_fitted(judged, form, tuned_rule(settings.decide), halves) for halves in divisions]
    decided, scores = [labels.complete(each) for each, _ in crossed], crossed[0][1]
    del crossed
    temperatures = cross_temperatures(scores, truth, divisions[0]) if decisions.one else None
    evaluation = evaluate_decisions(scores, decided, data.valid, labels, logits, decisions, temperatures)
    evaluation = evaluation._replace(metrics=evaluation.metrics | {"data": data.counts()})
    applied = decisions.decide(scores) if decisions.one == "argmax" else decided[0]
    return Validated(judged, divisions, form, combination, decisions, scores, applied, evaluation)


def opinions_table(validated: Validated) -> dict[str, Any]:
    """Return what each opinion adds, in rows of metrics, and the weights that validation accepted."""
    rows = table_of_opinions(validated.judged, validated.form, validated.divisions[0])
    return {"accepted": validated.form is not None, **validated.combination.to_json(), "rows": rows}


def baselines_table(validated: Validated, baselines: Mapping[str, Tensor], decide: DecisionSettings) -> dict[str, Any]:
    """Return name -> metrics of baselines, given by their (N, L) scores, with the decisions of `decide`.

    With one label per document they are accuracies, else F1 of cross-fitted tuned decisions.
    """
    judged, halves = validated.judged, validated.divisions[0]
    rows = {}
    for name, scores in baselines.items():
        alone = replace(judged, logits=scores, opinions={})
        ranked = {metric: value(scores, judged.truth) for metric, value in VALIDATION.items()}
        decided, _ = cross_fitted(alone, None, decide, halves)
        if decide.rule in ONE_RULES:
            rows[name] = ranked | class_scores(decided, judged.truth)
            continue
        tuned = decision_scores(decided, judged.truth, judged.counts)
        rows[name] = ranked | {f"tuned.{metric}": tuned[metric] for metric in ("micro_f1", "macro_f1")}
    return rows


def draw_halves(num_documents: int, groups: Tensor | None, *, seed: int) -> list[Tensor]:
    """Return two random divisions of documents into halves, each (N,) int64 of 0 and 1.

    Args:
        num_documents: N.
        groups: (N,) int64, documents of one group stay in one half. None: no groups.
        seed: draws them, so that the spread over seeds includes their randomness.
    """
    owners = torch.arange(num_documents) if groups is None else groups.unique(return_inverse=True)[1]
    generator, number = torch.Generator().manual_seed(seed), len(owners.unique())
    return [torch.randperm(number, generator=generator)[owners] % HALVES for _ in range(CROSS_FITS)]


def cross_fitted(
    judged: Judged, form: Form | None, settings: DecisionSettings, halves: Tensor
) -> tuple[SparseLabels, Tensor]:
    """Return decisions, N rows over L labels, and (N, L) scores: those of each half are fitted on the other half.

    No decision has seen its document's truth. Only combination and decisions are cross-fitted: if these documents also
    chose the epoch, the logits have seen that much of the truth.

    Args:
        judged: logits of N documents, and opinions about them.
        form: how to combine them. None: not at all.
        settings: how to decide.
        halves: (N,) the half of each document, from `draw_halves`.
    """
    scores, decided = torch.empty_like(judged.logits), torch.zeros(judged.logits.shape, dtype=torch.bool)
    for own, others in divided(halves):
        combined = judged.combined(fit_form(judged, form, others))
        truth = judged.truth.select(others)
        decisions = tune_decisions(combined[others], truth, judged.counts, settings, seed=judged.seed)
        chosen = decisions.decide(combined[own])
        decided[own[chosen.rows], chosen.indices] = True
        scores[own] = combined[own]
    return SparseLabels.from_dense(decided), scores
