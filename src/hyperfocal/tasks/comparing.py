"""A recommender beside its baselines on the same users: the table, and what it lacks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from hyperfocal.data.sequences import Holdout
from hyperfocal.metrics.ranking import Scorer, check_depth
from hyperfocal.models.baselines import EASE_BESIDE, EASE_ITEMS, KINDS, Baseline, baselines_beside
from hyperfocal.tasks.blending import PARTNER, best_weight
from hyperfocal.tasks.evaluation import BLEND, report, score_ranker
from hyperfocal.tasks.evidence import evidence_of
from hyperfocal.tasks.evidence_items import item_evidence
from hyperfocal.tasks.preparation import TRAIN_USERS_SCORED, Prepared

if TYPE_CHECKING:
    from hyperfocal.tasks.recommend import Recommender


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
