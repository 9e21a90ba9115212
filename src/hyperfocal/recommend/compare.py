"""Compare a ranker with its baselines on the same users: scores with intervals, and a verdict in words."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from hyperfocal.data.examples import Holdout, count_trained
from hyperfocal.labels import SparseLabels, bucket_masks
from hyperfocal.metrics.beyond_accuracy import diversity, gini, novelty, serendipity, share_of_new
from hyperfocal.metrics.intervals import (
    ROUNDING,
    Interval,
    mean_intervals,
    paired_difference,
    resampled_means,
    shown_sign,
    too_few,
)
from hyperfocal.metrics.ranking import Scorer, check_depth, coverage, only, score_ranking
from hyperfocal.models.baselines import EASE_DEFAULT, EASE_ITEMS, KINDS, default_baselines
from hyperfocal.recommend.blend import cross_fitted
from hyperfocal.recommend.evidence import item_evidence
from hyperfocal.recommend.prepare import TRAIN_USERS_SCORED, Prepared
from hyperfocal.recommend.ranker import BLEND, PARTNER, Fit, Ranker, Ranking, rank
from hyperfocal.report.run import evidence_of
from hyperfocal.sequences import Sequences

VERBS = {1: "beats", -1: "loses to", 0: "is not shown to differ from"}


def compare(fit: Fit, holdout: Holdout, *, k: int | None = None, repeats: bool = False) -> dict[str, Any]:
    """Return scores and verdict of a ranker and of every baseline on the same users, and the counts of these users.

    Args:
        fit: the ranker, and the training users, who are counted among the scored ones.
        holdout: users to score, whom training should not have seen.
        k: length of the ranking. None: `data.next`.
        repeats: whether items of the history may be recommended.

    Raises:
        ConfigError: k is outside 1 to the number of items.
    """
    ranker = fit.ranker
    k = ranker.settings.data.next if k is None else k
    k = check_depth(k, len(ranker.vocabulary))
    scores, _ = _score_all(ranker, holdout, k, repeats=repeats)
    mixes = ranker.blend_weight > 0 if ranker.blend is None else len(ranker.blend.weights) > 1
    network = ranker.settings.model.name if mixes else None
    data = holdout.describe() | {"training_users": _count_trained(fit, holdout)}
    return _compare(ranker, scores, k, len(holdout), network) | {"data": data}


def _count_trained(fit: Fit, holdout: Holdout) -> int | None:
    """Return the number of scored users whose truth was trained on; None: the run kept no users."""
    return count_trained(holdout, fit.users, fit.events) if len(fit.users) else None


def score_validation(ranker: Ranker, data: Prepared, *, began: float) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the metrics and the evidence of a run; the validation users are ranked once for both.

    Args:
        ranker: trained on these data, its blend weight chosen on their validation users.
        data: training and validation users. The scores of the first training users show overfitting.
        began: `time.perf_counter()` at the start of the fit.
    """
    k, users = ranker.settings.data.next, min(TRAIN_USERS_SCORED, len(data.train_holdout))
    scores, ranking = _score_all(ranker, data.valid, k, chose=True)
    if ranker.chooses:
        ranker = replace(ranker, best=best_row(scores, ranker.settings.train.metric, f"map@{k}"))
        ranking = _rank_row(ranker, ranker.name, data.valid.histories, _depth(k, len(ranker.vocabulary)), chose=True)
    metrics = _compare(ranker, scores, k, len(data.valid))  # not the blend, which was tuned on these users
    on_train = score_ranker(ranker.scorer(), data.train_holdout.first(users), ranker.counts, k=k)
    metrics |= {"train": {"users": users, **on_train.to_dict()}, "data": data.counts}
    evidence = item_evidence(ranking, data.valid, ranker.counts, ranker.vocabulary, k=k)
    return metrics, evidence_of("recommend", evidence, began=began)


def _score_all(
    ranker: Ranker, holdout: Holdout, k: int, *, repeats: bool = False, chose: bool = False
) -> tuple[dict[str, Scores], Ranking]:
    """Return the scores of every scorer, and the ranking of the one that ranks; the other rankings are not kept.

    `chose`: the users chose the weights of the blend, which is cross-fitted therefore.
    """
    depth, scores = _depth(k, len(ranker.vocabulary)), dict[str, Scores]()
    for name in ranker.scorers():
        ranking = _rank_row(ranker, name, holdout.histories, depth, repeats=repeats, chose=chose)
        scored = score_users(ranking, holdout, ranker.counts, k=k, new=ranker.new_items)
        scores[name] = replace(scored, beyond=beyond_accuracy(ranking.first(len(holdout), k).items, holdout, ranker))
        if name == ranker.name:
            main = ranking
    return scores, main


def beyond_accuracy(items: Tensor, holdout: Holdout, ranker: Ranker) -> dict[str, float]:
    """Return novelty, diversity, serendipity and exposure of (U, k) lists; diversity needs item vectors."""
    size, counts = len(ranker.vocabulary), ranker.counts
    values = {
        "novelty": novelty(items, counts),
        "serendipity": serendipity(items, holdout.truth, counts),
        "gini": gini(items, size),
    }
    vectors = None if ranker.similarity is None else ranker.similarity.vectors
    if vectors is not None:
        values["diversity"] = diversity(items, vectors)
    return values | ({"new": share_of_new(items, size, ranker.new_items)} if ranker.new_items else {})


def best_row(scores: Mapping[str, Scores], *metrics: str) -> str:
    """Return the name of the best row by the first of the metrics that it has; of equal ones a simpler row.

    Baselines in the order of KINDS are simpler than a network, and a network is simpler than the blend.
    """
    metric = next(each for each in metrics if each in next(iter(scores.values())).overall)
    simplest_first = sorted(scores, key=lambda name: (name == BLEND, name not in KINDS))  # stable
    return max(simplest_first, key=lambda name: scores[name].overall[metric].mean)


def _rank_row(
    ranker: Ranker, name: str, histories: Sequences, depth: int, *, repeats: bool = False, chose: bool
) -> Ranking:
    """Return the ranking of a row of the table; `chose` as in `_score_all`."""
    if name == BLEND and chose and ranker.blend is not None:
        return _rank_cross_fitted(ranker, histories, depth)
    return rank(ranker.scorers()[name], histories, depth, repeats=repeats)


def _rank_cross_fitted(ranker: Ranker, histories: Sequences, depth: int) -> Ranking:
    """Return the blend's ranking of users by the weights that the other half of them chose."""
    assert ranker.blend is not None, "the caller asks for a blend in logarithms"
    halves = [torch.arange(half, len(histories), 2) for half in (0, 1)]
    scorers = cross_fitted(ranker.blend, ranker.blend_parts())
    parts = [rank(scorer, histories.select(half), depth) for scorer, half in zip(scorers, halves, strict=True)]
    order = torch.cat(halves).argsort()
    return Ranking(torch.cat([part.items for part in parts])[order], torch.cat([part.scores for part in parts])[order])


def _compare(
    ranker: Ranker, scores: Mapping[str, Scores], k: int, users: int, network: str | None = None
) -> dict[str, Any]:
    """Return the comparison with its blend and the missing baselines; `network` as in `summarize`."""
    weights = {} if ranker.blend is None else {"weights": dict(ranker.blend.weights)}
    blend = {"blend": {"with": PARTNER, "weight": ranker.blend_weight} | weights} if BLEND in scores else {}
    missing = [_why_missing(name, len(ranker.vocabulary), ranker.streamed) for name in KINDS if name not in scores]
    summary = summarize(ranker.name, scores, metric=f"map@{k}", users=users, network=network)
    chosen = {"chosen": "validation"} if ranker.chooses else {}
    return {**summary, **blend, **chosen, "not_compared": missing}


def _why_missing(baseline: str, num_items: int, streamed: bool) -> str:
    """Return why a baseline is not in the table."""
    if streamed:
        return f"{baseline} is not in the table: the log was streamed, and memory is kept for one matrix of items."
    reason = f"{num_items:,} items are more than the {EASE_DEFAULT:,} up to which it is fitted with every model"
    if baseline in default_baselines(num_items):
        reason = "the run was fitted before hyperfocal had it"
    hint = f" Give `model='{baseline}'` to fit it." if num_items <= EASE_ITEMS else ""
    return f"{baseline} is not in the table: {reason}.{hint}"


def summarize(
    model: str, scores: Mapping[str, Scores], *, metric: str, users: int, network: str | None = None
) -> dict[str, Any]:
    """Return the JSON-able comparison of a ranker with the baselines.

    Args:
        model: name of the ranker.
        scores: name -> scores.
        metric: of the verdict.
        users: number of scored users.
        network: name of the network with which the verdict compares the blend. None: they are not compared.
    """
    baselines = [name for name in scores if name in KINDS and name != model]
    best = max(baselines, key=lambda name: scores[name].overall[metric].mean, default=None)
    verdict = _verdict(model, best, scores, metric, called=", the best baseline") if best else {}
    if network and verdict:
        verdict["words"] += f" {_verdict(BLEND, network, scores, metric)['words']}"
    return {
        "users": users,
        "metric": metric,
        "model": model,
        "scores": {name: each.to_dict() for name, each in scores.items()},
        "verdict": verdict,
    }


def _verdict(model: str, other: str, scores: Mapping[str, Scores], metric: str, called: str = "") -> dict[str, Any]:
    """Say whether the model beats another, loses to it, or that the difference is not significant."""
    ours, theirs = (scores[name].per_user[metric] for name in (model, other))
    difference = paired_difference(ours, theirs)
    values = (
        f"{metric} {scores[model].overall[metric].mean:.4f} against {scores[other].overall[metric].mean:.4f}, "
        f"a difference of {difference.mean:+.4f}"
    )
    if reason := too_few(len(ours)):
        words = f"{model} against {other}{called}: {reason}. {values[:1].upper()}{values[1:]}."
    else:
        verb = VERBS[shown_sign(difference, len(ours))]
        words = f"{model} {verb} {other}{called}: {values} ({_interval_words(difference)})."
    return {"baseline": other, "difference": difference._asdict(), "words": words}


def _interval_words(difference: Interval) -> str:
    if abs(difference.mean) > ROUNDING >= difference.high - difference.low:
        return "the same for every user, which says nothing about chance"
    return f"95% interval {difference.low:+.4f} to {difference.high:+.4f}"


@dataclass(frozen=True)
class Scores:
    """The scores of one ranker on V users with a true item.

    Attributes:
        overall: metric -> mean over users with its interval.
        buckets: "head", "medium", "tail", with new items "seen" and "new" -> metric -> mean over users with a true item
            of that bucket, counting only the bucket's true items.
        coverage: share of the catalogue that is recommended to anyone.
        beyond: name of `beyond_accuracy.py` -> value over all users.
        per_user: metric -> (V,) values, to compare rankers user by user.
    """

    overall: dict[str, Interval]
    buckets: dict[str, dict[str, Interval]]
    coverage: float
    per_user: dict[str, Tensor]
    beyond: dict[str, float] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Return JSON-able means and intervals; None if there is no user to average over."""
        buckets = {bucket: _without_nan(metrics) for bucket, metrics in self.buckets.items()}
        beyond = {name: None if math.isnan(value) else value for name, value in self.beyond.items()}
        shown = {"beyond": beyond} if beyond else {}
        return {**_without_nan(self.overall), "coverage": self.coverage, **buckets, **shown}


def _without_nan(metrics: dict[str, Interval]) -> dict[str, dict[str, float | None]]:
    return {
        name: {field: None if math.isnan(value) else value for field, value in interval._asdict().items()}
        for name, interval in metrics.items()
    }


def score_ranker(
    score: Scorer, holdout: Holdout, counts: Tensor, *, k: int, repeats: bool = False, new: int = 0
) -> Scores:
    """Rank the users of a holdout and return the scores.

    Args:
        score: scores of a block of users.
        holdout: histories and truth.
        counts: (L,) training events of each item, for the buckets.
        k: length of the ranking.
        repeats: whether items of the history may be recommended.
        new: number of items, the last ones, that training never saw; if there are any, "seen" and "new" are buckets.
    """
    ranking = rank(score, holdout.histories, _depth(k, len(counts)), repeats=repeats)
    return score_users(ranking, holdout, counts, k=k, new=new)


def score_users(ranking: Ranking, holdout: Holdout, counts: Tensor, *, k: int, new: int = 0) -> Scores:
    """Return the scores of a ranking that is as deep as `metric_names` needs; arguments as in `score_ranker`."""
    names, items = metric_names(k, len(counts)), ranking.items
    overall = score_ranking(items, holdout.truth, names)
    buckets = {
        bucket: _intervals(score_ranking(items, truth, names))
        for bucket, truth in _truth_by_bucket(holdout, counts, new).items()
    }
    return Scores(_intervals(overall), buckets, coverage(items[:, :k], len(counts)), overall)


def score_point(
    score: Scorer, holdout: Holdout, counts: Tensor, *, k: int
) -> tuple[dict[str, float], dict[str, Tensor]]:
    """Return the metrics of one grid point: every mean, and the main ones in bootstrap resamples of the users.

    Args:
        score: scores of a block of users.
        holdout: U users. Points that are scored on the same users share their resamples.
        counts: (L,) training events of each item.
        k: length of the ranking.

    Returns:
        metric -> mean, nan if there is no user to average over; "map@3" counts all true items, "tail.map@3" those of
        the tail. And metric -> (1,000,) float64 for recall@10 and every map@k; nan for a bucket with fewer users than
        `too_few` asks for, so that no difference is significant there.
    """
    names = metric_names(k, len(counts))
    items = rank(score, holdout.histories, _depth(k, len(counts))).items
    truths = {"": holdout.truth} | {f"{name}.": each for name, each in _truth_by_bucket(holdout, counts).items()}
    columns: dict[str, Tensor] = {}
    for prefix, truth in truths.items():
        has_truth = truth.indptr.diff() > 0
        for name, values in score_ranking(items, truth, names).items():
            columns[prefix + name] = torch.full((len(has_truth),), math.nan, dtype=torch.float64)
            columns[prefix + name][has_truth] = values
    main = [name for name in columns if name.endswith(f"map@{k}") or name == "recall@10"]
    resampled = resampled_means(torch.stack([columns[name] for name in main], 1))
    few = ["." in name and bool(too_few(int(columns[name].isfinite().sum()))) for name in main]
    resampled[:, few] = math.nan
    means = {name: float(column.nanmean()) for name, column in columns.items()}
    return means, dict(zip(main, resampled.T, strict=True))


def metric_names(k: int, num_items: int) -> list[str]:
    """Return the metrics of every table: all at k, and recall@10 if the catalogue has 10 items."""
    names = [f"{kind}@{k}" for kind in ("map", "recall", "ndcg", "hit", "mrr")]
    return names + (["recall@10"] if k != 10 and num_items >= 10 else [])


def _depth(k: int, num_items: int) -> int:
    """Return the length of the rankings that `metric_names` needs."""
    return max(k, 10) if num_items >= 10 else k


def _truth_by_bucket(holdout: Holdout, counts: Tensor, new: int = 0) -> dict[str, SparseLabels]:
    """Return the true items of each bucket; items outside the vocabulary belong to the tail."""
    unseen = counts.new_zeros(holdout.truth.num_labels - len(counts))
    masks = dict(bucket_masks(torch.cat([counts, unseen])))
    if new:
        number = torch.arange(holdout.truth.num_labels)
        first = len(counts) - new
        masks |= {"seen": number < first, "new": (number >= first) & (number < len(counts))}
    return {bucket: only(holdout.truth, mask) for bucket, mask in masks.items()}


def _intervals(per_user: dict[str, Tensor]) -> dict[str, Interval]:
    return dict(zip(per_user, mean_intervals(torch.stack(list(per_user.values()), 1)), strict=True))
