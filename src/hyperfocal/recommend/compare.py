"""Score rankers beside one another on the same users, and say in words which is better.

A recommender beside its baselines on the same users: the table, and what it lacks.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from hyperfocal.data.examples import Holdout
from hyperfocal.labels import SparseLabels
from hyperfocal.metrics.buckets import bucket_masks
from hyperfocal.metrics.intervals import (
    ROUNDING,
    Interval,
    mean_intervals,
    paired_difference,
    resampled_means,
    shown_sign,
    too_few,
)
from hyperfocal.metrics.ranking import Scorer, check_depth, coverage, only, rank_items, score_ranking
from hyperfocal.models.baselines import EASE_BESIDE, EASE_ITEMS, KINDS, Baseline, baselines_beside
from hyperfocal.recommend.blend import PARTNER, best_weight
from hyperfocal.recommend.evidence import item_evidence
from hyperfocal.recommend.prepare import TRAIN_USERS_SCORED, Prepared
from hyperfocal.report.run import evidence_of

if TYPE_CHECKING:
    from hyperfocal.recommend.recommender import Recommender


BLEND = "blend"  # what a blend is called beside the others
VERBS = {1: "beats", -1: "loses to", 0: "is not shown to differ from"}


@dataclass(frozen=True)
class Scores:
    """What one ranker achieves on a holdout.

    Attributes:
        overall: metric -> mean over users with its interval.
        buckets: "head", "medium", "tail", with new items "seen" and "new" -> the same, counting only true items of
            that bucket.
        coverage: share of the catalogue recommended to anyone.
        per_user: metric -> (V,) values, to compare rankers pair by pair.
    """

    overall: dict[str, Interval]
    buckets: dict[str, dict[str, Interval]]
    coverage: float
    per_user: dict[str, Tensor]

    def to_dict(self) -> dict[str, Any]:
        """Return JSON-able means and intervals; None where there is nothing to average."""
        buckets = {bucket: _plain(metrics) for bucket, metrics in self.buckets.items()}
        return {**_plain(self.overall), "coverage": self.coverage, **buckets}


def _plain(metrics: dict[str, Interval]) -> dict[str, dict[str, float | None]]:
    return {
        name: {part: None if math.isnan(value) else value for part, value in interval._asdict().items()}
        for name, interval in metrics.items()
    }


def metric_names(k: int, num_items: int) -> list[str]:
    """Return the metrics of every table: all at k, and recall at 10 where the catalogue has 10 items."""
    names = [f"{kind}@{k}" for kind in ("map", "recall", "ndcg", "hit", "mrr")]
    return names + (["recall@10"] if k != 10 and num_items >= 10 else [])


def score_ranker(
    score: Scorer, holdout: Holdout, counts: Tensor, *, k: int, repeats: bool = False, new: int = 0
) -> Scores:
    """Return the metrics of one ranker.

    Args:
        score: scores of a block of users.
        holdout: histories and truth.
        counts: (L,) training events of each item, for the buckets.
        k: length of the ranking.
        repeats: whether items of the history may be recommended.
        new: how many of the last items training never saw; where there are any, "seen" and "new" are buckets too.
    """
    names = metric_names(k, len(counts))
    ranked, _ = rank_items(score, holdout.histories, _depth(names), repeats=repeats)
    overall = score_ranking(ranked, holdout.truth, names)
    buckets = {
        bucket: _intervals(score_ranking(ranked, truth, names))
        for bucket, truth in _truth_by_bucket(holdout, counts, new).items()
    }
    return Scores(_intervals(overall), buckets, coverage(ranked[:, :k], len(counts)), overall)


def score_users(
    score: Scorer, holdout: Holdout, counts: Tensor, *, k: int
) -> tuple[dict[str, float], dict[str, Tensor]]:
    """Return the metrics of one ranker as a grid keeps them: every mean, and the main ones in resamples of the users.

    Args:
        score: as in `score_ranker`, like the other arguments.
        holdout: U users. Rankers that are scored on the same ones share their resamples.
        counts: (L,) training events of each item.
        k: length of the ranking.

    Returns:
        metric -> mean, nan where there is nothing to average; "map@3" counts all true items, "tail.map@3" those of the
        tail. And metric -> (1,000,) float64 for recall@10 and all kinds of map@k; nan, so that no difference is told,
        in a bucket of which fewer users than `too_few` asks for have an item.
    """
    names = metric_names(k, len(counts))
    ranked, _ = rank_items(score, holdout.histories, _depth(names))
    truths = {"": holdout.truth} | {f"{name}.": each for name, each in _truth_by_bucket(holdout, counts).items()}
    columns: dict[str, Tensor] = {}
    for prefix, truth in truths.items():
        known = truth.indptr.diff() > 0
        for name, values in score_ranking(ranked, truth, names).items():
            columns[prefix + name] = torch.full((len(known),), math.nan, dtype=torch.float64)
            columns[prefix + name][known] = values
    main = [name for name in columns if name.endswith(f"map@{k}") or name == "recall@10"]
    resampled = resampled_means(torch.stack([columns[name] for name in main], 1))
    few = ["." in name and bool(too_few(int(columns[name].isfinite().sum()))) for name in main]  # in a bucket
    resampled[:, few] = math.nan
    means = {name: float(column.nanmean()) for name, column in columns.items()}
    return means, dict(zip(main, resampled.T, strict=True))


def _depth(names: list[str]) -> int:
    return max(int(name.partition("@")[2]) for name in names)


def _truth_by_bucket(holdout: Holdout, counts: Tensor, new: int = 0) -> dict[str, SparseLabels]:
    """Return the true items of each bucket; those that training never saw are of the tail."""
    unseen = counts.new_zeros(holdout.truth.num_labels - len(counts))
    masks = _buckets(torch.cat([counts, unseen]), len(counts), new)
    return {bucket: only(holdout.truth, mask) for bucket, mask in masks.items()}


def _buckets(counts: Tensor, num_items: int, new: int) -> dict[str, Tensor]:
    """Return bucket -> (M,) which items are in it."""
    masks = dict(bucket_masks(counts))
    if not new:
        return masks
    number = torch.arange(len(counts))
    return masks | {"seen": number < num_items - new, "new": (number >= num_items - new) & (number < num_items)}


def _intervals(per_user: dict[str, Tensor]) -> dict[str, Interval]:
    return dict(zip(per_user, mean_intervals(torch.stack(list(per_user.values()), 1)), strict=True))


def report(
    model: str,
    scores: Mapping[str, Scores],
    *,
    metric: str,
    users: int,
    network: str | None = None,
    told: bool = True,
) -> dict[str, Any]:
    """Return the JSON-able comparison of what ranks with the baselines: scores, and a verdict in words.

    Args:
        model: name of what ranks.
        scores: name -> its scores.
        metric: that the verdict is about.
        users: how many were scored.
        network: name of the network where there is a blend with it too.
        told: whether the verdict compares the two.
    """
    baselines = [name for name in scores if name not in (model, network, BLEND)]
    best = max(baselines, key=lambda name: scores[name].overall[metric].mean, default=None)
    verdict = _verdict(model, best, scores, metric, called=", the best baseline") if best else {}
    if network and told and verdict:
        verdict["words"] += f" {_verdict(BLEND, network, scores, metric)['words']}"
    return {
        "users": users,
        "metric": metric,
        "model": model,
        "scores": {name: part.to_dict() for name, part in scores.items()},
        "verdict": verdict,
    }


def _verdict(model: str, other: str, scores: Mapping[str, Scores], metric: str, called: str = "") -> dict[str, Any]:
    """Say whether the model wins or loses against another, whether chance explains it, or that nobody can tell."""
    ours, theirs = (scores[name].per_user[metric] for name in (model, other))
    difference = paired_difference(ours, theirs)
    values = (
        f"{metric} {scores[model].overall[metric].mean:.4f} against {scores[other].overall[metric].mean:.4f}, "
        f"a difference of {difference.mean:+.4f}"
    )
    if untold := too_few(len(ours)):
        words = f"{model} against {other}{called}: {untold}. {values[:1].upper()}{values[1:]}."
    else:
        verb = VERBS[shown_sign(difference, len(ours))]
        words = f"{model} {verb} {other}{called}: {values} ({_sureness(difference)})."
    return {"baseline": other, "difference": difference._asdict(), "words": words}


def _sureness(difference: Interval) -> str:
    if abs(difference.mean) > ROUNDING >= difference.high - difference.low:
        return "the same for every user, which says nothing about chance"
    return f"95% interval {difference.low:+.4f} to {difference.high:+.4f}"


def compare(
    recommender: Recommender,
    holdout: Holdout,
    *,
    k: int | None = None,
    repeats: bool = False,
    tuned: bool = False,
) -> dict[str, Any]:
    """Return scores and verdict of the model and of every baseline on the same users.

    Args:
        recommender: fitted.
        holdout: users.
        k: length of the ranking; None is what the recommender was trained for.
        repeats: whether items of the history may be recommended.
        tuned: whether these users chose the weight of the blend: then it is not compared.

    Raises:
        ConfigError: k outside 1 to the number of items.
    """
    settings, baselines = recommender.settings_, recommender.baselines_
    k = settings.data.next if k is None else k
    check_depth(k, len(recommender.vocabulary_))
    scorers: dict[str, Scorer] = {settings.model.name: recommender.scorer_alone()}
    if not isinstance(recommender.model_, Baseline):
        scorers[BLEND] = recommender.scorer_blended()
    scorers |= {name: baseline.scores for name, baseline in baselines.items()}
    counts, new = baselines["popularity"].counts, recommender.new_items_
    scores = {
        name: score_ranker(scorer, holdout, counts, k=k, repeats=repeats, new=new) for name, scorer in scorers.items()
    }
    network, weight = settings.model.name if BLEND in scores else None, recommender.blend_weight_
    told = not tuned and weight > 0
    found = report(recommender.ranker_, scores, metric=f"map@{k}", users=len(holdout), network=network, told=told)
    found |= {"blend": {"with": PARTNER, "weight": weight}} if BLEND in scores else {}
    absent = [
        _why_absent(name, len(recommender.vocabulary_), recommender.streamed_) for name in KINDS if name not in scores
    ]
    return found | {"not_compared": absent}


@torch.inference_mode()
def score_validation(recommender: Recommender, data: Prepared) -> dict[str, Any]:
    """Return `metrics_` of a model that was just trained; where it is a network, choose the weight of its blend first.

    Args:
        recommender: trained on these data.
        data: whose validation users score it, and whose first training users show what it learnt by heart.
    """
    settings, counts = recommender.settings_, recommender.baselines_["popularity"].counts
    if not isinstance(recommender.model_, Baseline):
        partner, metric = recommender.baselines_[PARTNER].scores, settings.train.metric
        recommender.blend_weight_ = best_weight(recommender.scorer_alone(), partner, data.valid, metric)
    metrics = compare(recommender, data.valid, tuned=True)
    users = min(TRAIN_USERS_SCORED, len(data.train_holdout))
    on_train = score_ranker(recommender.scorer(), data.train_holdout.first(users), counts, k=settings.data.next)
    return {**metrics, "train": {"users": users, **on_train.to_dict()}, "data": data.counts}


@torch.inference_mode()
def evidence_on(recommender: Recommender, valid: Holdout, *, began: float) -> dict[str, Any]:
    """Return what the report shows of validation users; `began` as in `evidence_of`."""
    counts, k = recommender.baselines_["popularity"].counts, recommender.settings_.data.next
    return evidence_of(
        "recommend", item_evidence(recommender.scorer(), valid, counts, recommender.vocabulary_, k=k), began=began
    )


def _why_absent(baseline: str, items: int, streamed: bool) -> str:
    """Say why a baseline is not in the table."""
    if streamed:
        return f"{baseline} is not in the table: the log was streamed, and memory is kept for one matrix of items."
    reason = f"{items:,} items are more than the {EASE_BESIDE:,} up to which it is fitted beside other models"
    if baseline in baselines_beside(items):
        reason = "the run was fitted before hyperfocal had it"
    hint = f" `--model {baseline}` fits it." if items <= EASE_ITEMS else ""
    return f"{baseline} is not in the table: {reason}.{hint}"
