"""Score a classifier's documents: ranking, decisions at 0.5 and tuned ones, by frequency and by tier."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from hyperfocal.config.classify import DecisionSettings
from hyperfocal.data.taxonomy import Taxonomy
from hyperfocal.labels import SparseLabels
from hyperfocal.metrics.decisions import decision_scores, label_table
from hyperfocal.metrics.intervals import intervals
from hyperfocal.metrics.label_ranking import ranking_scores
from hyperfocal.metrics.ranking import only
from hyperfocal.metrics.resampling import resample_weights, resampled_ap, resampled_f1
from hyperfocal.thresholds import tune_decisions

PARTS = 2  # of the validation documents: each is decided with what was tuned on the others


def cross_decided(
    scores: Tensor,
    truth: SparseLabels,
    counts: Tensor,
    settings: DecisionSettings,
    groups: Tensor | None,
    *,
    seed: int = 0,
) -> SparseLabels:
    """Return decisions for validation documents, each half's tuned on the other half, so that none saw its own truth.

    Only the decisions are cross-fitted: where these documents chose the epoch too, the scores have seen that much.

    Args:
        scores: (N, L) logits.
        truth: N rows over L labels.
        counts: (L,) training documents of each label.
        settings: how to decide.
        groups: (N,) int64, documents of one group are in one half; None is each for itself.
        seed: of the halves, so that the spread over seeds holds their chance too.
    """
    owners = torch.arange(len(scores)) if groups is None else groups.unique(return_inverse=True)[1]
    generator = torch.Generator().manual_seed(seed)
    halves = torch.randperm(len(owners.unique()), generator=generator)[owners] % PARTS
    decided = torch.zeros(scores.shape, dtype=torch.bool)
    for part in range(PARTS):
        own, others = (halves == part).nonzero()[:, 0], (halves != part).nonzero()[:, 0]
        decisions = tune_decisions(scores[others], truth.select(others), counts, settings, seed=seed)
        chosen = decisions.decide(scores[own])
        decided[own[chosen.rows], chosen.indices] = True
    return SparseLabels.from_dense(decided)


def score_labels(
    scores: Tensor,
    truth: SparseLabels,
    decided: Mapping[str, SparseLabels],
    counts: Tensor,
    num_documents: int,
    *,
    weights: Tensor | None = None,
) -> tuple[dict[str, float], dict[str, Tensor]]:
    """Return every metric, and the most important ones in bootstrap resamples of the documents.

    Names: macro_ap, ndcg@5, ... need no threshold; half.macro_f1, tuned.macro_f1, ... are of the decisions so named.

    Args:
        scores: (N, L) logits.
        truth: N rows over L labels.
        decided: name -> N rows over L labels.
        counts: (L,) training documents of each label.
        num_documents: training documents.
        weights: (R, N) of the resamples, from `resample_weights`; None makes none.
    """
    values = ranking_scores(scores, truth, counts, num_documents)
    for prefix, labels in decided.items():
        values |= {f"{prefix}.{name}": value for name, value in decision_scores(labels, truth, counts).items()}
    if weights is None:
        return values, {}
    resamples = dict(resampled_ap(scores, truth, counts, weights))
    for prefix, labels in decided.items():
        found = resampled_f1(labels, truth, counts, weights)
        resamples |= {f"{prefix}.{name}": values for name, values in found.items()}
    return values, resamples


def evaluation(
    scores: Tensor,
    truth: SparseLabels,
    decided: Mapping[str, SparseLabels],
    counts: Tensor,
    num_documents: int,
    *,
    groups: Tensor | None = None,
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return the JSON-able report of one model on documents, every metric and intervals of the main ones; and these
    in the resamples.
    """
    weights = resample_weights(len(scores), groups=groups)
    values, resamples = score_labels(scores, truth, decided, counts, num_documents, weights=weights)
    found = {name: interval._asdict() for name, interval in intervals(values, resamples).items()}
    return {"documents": len(scores), "values": values, "intervals": found}, resamples


def tier_scores(tuned: SparseLabels, truth: SparseLabels, labels: list[str], taxonomy: Taxonomy) -> dict[str, Any]:
    """Return micro and macro F1 of the labels of each tier of the tree."""
    places = {name: number for number, name in enumerate(taxonomy.ids)}
    tiers = torch.tensor([taxonomy.tiers[places[label]] for label in labels])
    rows: dict[str, Any] = {}
    for tier in sorted(set(tiers.tolist())):
        mask = tiers == tier
        parts = [only(part, mask) for part in (tuned, truth)]
        scores = decision_scores(parts[0], parts[1], torch.ones(len(labels), dtype=torch.int64))
        rows[str(tier)] = {"labels": int(mask.sum()), **{n: scores[n] for n in ("micro_f1", "macro_f1")}}
    return rows


def table_of_labels(
    scores: Tensor, tuned: SparseLabels, truth: SparseLabels, counts: Tensor, names: list[str]
) -> list[dict[str, Any]]:
    """Return a row a label, the most frequent first."""
    columns = label_table(scores, tuned, truth, counts)
    order = counts.argsort(descending=True, stable=True).tolist()
    plain = {name: column.tolist() for name, column in columns.items()}
    return [{"label": names[i], **{name: column[i] for name, column in plain.items()}} for i in order]


def micro_f1(decided: Sequence[Sequence[str]], truth: Sequence[Sequence[str]]) -> float:
    """Return micro-F1 of lists of labels, 2 right / (decided + true); 0 where nothing is either.

    >>> micro_f1([["a", "b"], []], [["a"], ["b"]])
    0.5
    """
    right = sum(len(set(found) & set(true)) for found, true in zip(decided, truth, strict=True))
    return 2 * right / max(sum(map(len, decided)) + sum(len(set(true)) for true in truth), 1)
