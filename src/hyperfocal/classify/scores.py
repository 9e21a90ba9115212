"""Score a classifier's documents: ranking, decisions at 0.5 and tuned decisions, by frequency and by tier."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from hyperfocal.classify.counted_documents import weighted_micro_f1
from hyperfocal.classify.label_model import LabelModel, LabelSpace
from hyperfocal.classify.one_label import only_labelled
from hyperfocal.classify.one_scores import calibration_values, one_label_values
from hyperfocal.classify.prepare import Labelled, number, owners_of
from hyperfocal.counted_labels import known_scores, row_weights
from hyperfocal.data.documents import Documents
from hyperfocal.data.stored_texts import count_hashed
from hyperfocal.data.taxonomy import Taxonomy
from hyperfocal.labels import SparseLabels, bucket_masks
from hyperfocal.metrics.average_precision import average_precision
from hyperfocal.metrics.decisions import decision_scores, label_table
from hyperfocal.metrics.intervals import intervals, too_few
from hyperfocal.metrics.label_ranking import ranking_scores
from hyperfocal.metrics.one_label import class_scores, confusion_table
from hyperfocal.metrics.ranking import only
from hyperfocal.metrics.resampling import resample_weights, resampled_ap, resampled_f1
from hyperfocal.offsets import best_class
from hyperfocal.thresholds import Decisions

RECALLED = 10
NO_TIER = -1  # of a new label that is not in the tree
UNSEEN_VALUES = "unseen_values"  # field -> documents with a value that training never saw


class Evaluation(NamedTuple):
    """The scores of a model on documents."""

    metrics: dict[str, Any]  # JSON-able: number of documents, every metric, intervals of the main ones, tiers
    resamples: dict[str, Tensor]  # the main metrics in bootstrap resamples of the documents
    label_table: list[dict[str, Any]]  # one row per label, the most frequent first


def evaluate_decisions(
    scores: Tensor,
    decided: Sequence[SparseLabels],
    documents: Labelled,
    labels: LabelSpace,
    logits: Tensor,
    decisions: Decisions | None = None,
    temperatures: Tensor | None = None,
) -> Evaluation:
    """Return the scores of decisions, of a probability of 0.5 as the threshold of all labels, and of the ranking.

    Args:
        scores: (N, L) that rank.
        decided: N rows over L labels, by tuned decisions; of each cross-fit. Tables show the first.
        documents: the N documents with their labels.
        labels: the L labels.
        logits: (N, L) of the head alone, whose probabilities the threshold 0.5 is for.
        decisions: of the model. None: any number of labels per document.
        temperatures: (N,) of one label per document, cross-fitted. None: that of the decisions.
    """
    truth, counts, names = documents.labels, labels.counts, labels.vocabulary.names
    if decisions is not None and decisions.one:
        return _evaluate_one(scores, decided, documents, labels, decisions, temperatures)
    weights = resample_weights(len(scores), groups=owners_of(documents.documents))
    half = labels.complete(Decisions(torch.zeros(logits.shape[1])).decide(logits))
    both = {"half": [half], "tuned": decided}
    values, resamples = score_labels(scores, truth, both, counts, labels.num_documents, weights=weights)
    bounds = {name: interval._asdict() for name, interval in intervals(values, resamples).items()}
    metrics: dict[str, Any] = {"documents": len(scores), "values": values, "intervals": bounds}
    if labels.taxonomy is not None:
        metrics["tiers"] = tier_scores(decided[0], truth, names, labels.taxonomy)
    return Evaluation(metrics, resamples, table_of_labels(scores, decided[0], truth, counts, names))


def _evaluate_one(
    scores: Tensor,
    tuned: Sequence[SparseLabels],
    documents: Labelled,
    labels: LabelSpace,
    decisions: Decisions,
    temperatures: Tensor | None,
) -> Evaluation:
    """Return the scores of one label per document: by arg max, with tuned offsets, and of the ranking."""
    truth, counts, names = documents.labels, labels.counts, labels.vocabulary.names
    weights = resample_weights(len(scores), groups=owners_of(documents.documents))
    both = {"argmax": [best_class(scores)], "tuned": tuned}
    logs = decisions.log_probabilities(scores)
    values, resamples = score_labels(logs, truth, both, counts, labels.num_documents, weights=weights)
    own_values, own_resamples = one_label_values(both, truth, weights)
    after = decisions.temperature if temperatures is None else temperatures[:, None]
    values = values | own_values | calibration_values(scores, truth, after)
    resamples = resamples | own_resamples
    bounds = {name: interval._asdict() for name, interval in intervals(values, resamples).items()}
    applied = both["argmax" if decisions.one == "argmax" else "tuned"][0]
    confusion = confusion_table(applied, truth, names)
    metrics = {"documents": len(scores), "values": values, "intervals": bounds, "decide": decisions.one}
    metrics |= {"temperature": decisions.temperature, "confusion": confusion}
    return Evaluation(metrics, resamples, table_of_labels(logs, applied, truth, counts, names))


def score(model: LabelModel, documents: Documents, scores: Tensor) -> float:
    """Return micro-F1 of the labels decided from the (N, L) logits of documents; their accuracy if each has one.

    Raises:
        DataError: the documents have labels, and training has none of them.
    """
    truth = number(model.resolve_labels(documents), model.labels.vocabulary)
    if truth.unseen:
        truth.refuse_unlabelled("texts to score")
    if model.decisions.one:
        return class_scores(model.decide(scores), truth.labels)["accuracy"]
    decided, true = model.name(model.decide(scores)), truth.documents.labels.to_list()
    counting = truth.documents.counting
    return weighted_micro_f1(decided, true, counting) if counting else micro_f1(decided, true)


def evaluate(
    model: LabelModel, documents: Documents, trained: Tensor | None = None, source: Any = None
) -> dict[str, Any]:
    """Return the metrics of a model on documents, with the counts of their data and, under "labels", a row per label.

    Args:
        model: fitted.
        documents: to score.
        trained: checksums of the training texts, from `hash_each`. None: unknown.
        source: of the documents; a path names its lines in errors.

    Raises:
        DataError: none of the documents has a label that training has, or a label is not in the tree.
    """
    left_out = {}
    if model.decisions.one:
        documents, number_left_out = only_labelled(documents, source, "documents to score")
        left_out = {"left_out": number_left_out}
    labelled = number(model.resolve_labels(documents), model.labels.vocabulary)
    labelled.refuse_unlabelled("documents to score")
    texts = documents.all_texts()
    scores, _, logits = model.answer(texts, documents.columns)
    decided = [model.decide(scores, model.decisions.tuned)]
    metrics, _, label_table = evaluate_decisions(scores, decided, labelled, model.labels, logits, model.decisions)
    if model.new is not None:
        ranked = model.decisions.log_probabilities(scores) if model.decisions.one else scores
        metrics["seen"], metrics["new"] = seen_and_new(ranked, labelled.labels, len(model.new.names))
    known = None if trained is None else count_hashed(texts, trained.numpy())
    counts = labelled.counts() | {"training_documents": known} | left_out
    if unseen := model.features.unseen(documents.columns):
        counts |= {UNSEEN_VALUES: unseen}
    return metrics | {"data": counts, "labels": label_table}


def seen_and_new(scores: Tensor, truth: SparseLabels, new: int) -> list[dict[str, float | None]]:
    """Return the scores of the labels of training, and of those that training never saw, the last ones.

    labels        number of labels
    positives     true (document, label) pairs
    macro_ap      mean average precision of the labels with a true document
    recall@10     share of the true pairs whose label is among the 10 best of all labels of the document

    Both are None without a true pair.
    """
    first = truth.num_labels - new
    best = torch.zeros(scores.shape, dtype=torch.bool)
    known = known_scores(scores, truth)
    best.scatter_(1, known.topk(min(RECALLED, scores.shape[1]), dim=1).indices, value=True)
    precision = average_precision(scores, truth)
    rows: list[dict[str, float | None]] = []
    for start, end in ((0, first), (first, truth.num_labels)):
        pairs = (truth.indices >= start) & (truth.indices < end)
        hits = best[truth.rows[pairs], truth.indices[pairs]]
        weights = row_weights(truth)[truth.rows[pairs]]
        means = {"macro_ap": precision[start:end].nanmean(), "recall@10": (hits * weights).sum() / weights.sum()}
        values = {name: float(mean) if len(hits) else None for name, mean in means.items()}
        rows.append({"labels": end - start, "positives": len(hits), **values})
    return rows


def with_unseen(evaluation: Evaluation, unseen: dict[str, int]) -> Evaluation:
    """Return the scores with the counts of field values that training never saw, from `ExampleFeatures.unseen`."""
    if not unseen:
        return evaluation
    data = evaluation.metrics["data"]
    valid = data["valid"] | {UNSEEN_VALUES: unseen}
    return evaluation._replace(metrics=evaluation.metrics | {"data": data | {"valid": valid}})


def score_labels(
    scores: Tensor,
    truth: SparseLabels,
    decided: Mapping[str, Sequence[SparseLabels]],
    counts: Tensor,
    num_documents: int,
    *,
    weights: Tensor | None = None,
) -> tuple[dict[str, float], dict[str, Tensor]]:
    """Return every metric, and the main ones in bootstrap resamples of the documents.

    Names: macro_ap, ndcg@5, ... need no threshold; half.macro_f1, tuned.macro_f1, ... belong to the decisions with
    that name. Tuned thresholds depend on the halves that they were tuned on, more so the fewer documents there are.
    So decisions may come several times, from M cross-fits: each metric is the mean over them, and resample r has those
    of cross-fit r mod M. With M = 2 the variance over the resamples then has its right share of that between halves.

    Args:
        scores: (N, L) logits.
        truth: N rows over L labels.
        decided: name -> N rows over L labels, of each cross-fit.
        counts: (L,) training documents of each label.
        num_documents: training documents.
        weights: (R, N) of the resamples, from `resample_weights`. None: no resamples.
    """
    values = ranking_scores(scores, truth, counts, num_documents)
    for prefix, fits in decided.items():
        each = [decision_scores(labels, truth, counts) for labels in fits]
        values |= {f"{prefix}.{name}": sum(one[name] for one in each) / len(fits) for name in each[0]}
    if weights is None:
        return values, {}
    resamples = dict(resampled_ap(scores, truth, counts, weights))
    for prefix, fits in decided.items():
        parts = [resampled_f1(each, truth, counts, weights[m :: len(fits)]) for m, each in enumerate(fits)]
        resamples |= {f"{prefix}.{name}": _in_turns([part[name] for part in parts]) for name in parts[0]}
    return values, resamples


def comparable(resamples: Mapping[str, Tensor], documents: Labelled, counts: Tensor) -> dict[str, Tensor]:
    """Return resamples for the comparison of points: nan for a bucket with too few documents.

    A resample without the documents of a label leaves the label out of the mean, so the metrics of a bucket vary less
    over the resamples than over other documents if the bucket has few of them.

    Args:
        resamples: metric -> (R,).
        documents: the resampled documents.
        counts: (L,) training documents of each label.
    """
    owners = owners_of(documents.documents)
    hidden: set[str] = set()
    for name, mask in bucket_masks(counts).items():
        rows = documents.labels.rows[mask[documents.labels.indices]]
        if too_few(len((rows if owners is None else owners[rows]).unique())):
            hidden.add(name)
    return {
        name: torch.full_like(values, torch.nan) if name.split(".")[-1].split("_")[0] in hidden else values
        for name, values in resamples.items()
    }


def _in_turns(parts: Sequence[Tensor]) -> Tensor:
    """Return the values of several tensors, one of each in turn."""
    mixed = parts[0].new_empty(sum(map(len, parts)))
    for first, part in enumerate(parts):
        mixed[first :: len(parts)] = part
    return mixed


def tier_scores(tuned: SparseLabels, truth: SparseLabels, labels: list[str], taxonomy: Taxonomy) -> dict[str, Any]:
    """Return micro and macro F1 of the labels of each tier of the tree."""
    by_label = dict(zip(taxonomy.ids, taxonomy.tiers, strict=True))
    tiers = torch.tensor([by_label.get(label, NO_TIER) for label in labels])
    rows: dict[str, Any] = {}
    for tier in sorted(set(tiers.tolist()) - {NO_TIER}):
        mask = tiers == tier
        scores = decision_scores(only(tuned, mask), only(truth, mask), torch.ones(len(labels), dtype=torch.int64))
        rows[str(tier)] = {"labels": int(mask.sum()), **{name: scores[name] for name in ("micro_f1", "macro_f1")}}
    return rows


def table_of_labels(
    scores: Tensor, tuned: SparseLabels, truth: SparseLabels, counts: Tensor, names: list[str]
) -> list[dict[str, Any]]:
    """Return one row per label, the most frequent first."""
    columns = {name: column.tolist() for name, column in label_table(scores, tuned, truth, counts).items()}
    order = counts.argsort(descending=True, stable=True).tolist()
    return [{"label": names[label], **{name: column[label] for name, column in columns.items()}} for label in order]


def micro_f1(decided: Sequence[Sequence[str]], truth: Sequence[Sequence[str]]) -> float:
    """Return micro-F1 of lists of labels: 2 right / (decided + true), 0 if no label is decided or true.

    >>> micro_f1([["a", "b"], []], [["a"], ["b"]])
    0.5
    """
    right = sum(len(set(row) & set(true)) for row, true in zip(decided, truth, strict=True))
    return 2 * right / max(sum(map(len, decided)) + sum(len(set(true)) for true in truth), 1)
