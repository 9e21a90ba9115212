"""The layout of a grid of recommenders: the metrics that its table and its page show, and their names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hyperfocal.labels import BUCKETS, HEAD, TAIL
from hyperfocal.metrics.verdict import WIDE, rankings
from hyperfocal.report.grid_table import Layout, Scores


def scores_on_test(scores: Mapping[str, Any]) -> Scores:
    """Return title -> score of what `Recommender.evaluate` returns: each metric, and the main one per bucket."""
    model, metric = scores["scores"][scores["model"]], scores["metric"]
    means = {name: score for name, score in model.items() if isinstance(score, dict) and "mean" in score}
    return means | {f"{metric}, {bucket}": model[bucket][metric] for bucket in BUCKETS}


def ranking_layout(k: int) -> Layout:
    """Return the layout of a grid on rankings of k items."""
    metric, families = f"map@{k}", rankings(k)
    return Layout(
        scored="users",
        families=families,
        columns={
            metric: f"map\n@{k}",
            WIDE: "recall\n@10",
            f"head.{metric}": "head\nmap",
            f"medium.{metric}": "med.\nmap",
            f"tail.{metric}": "tail\nmap",
        },
        optional=(f"medium.{metric}", f"head.{metric}"),
        compared=families.called,
        buckets={metric: f"{{}}.{metric}"},
        meaning=(
            f"change: of {metric} against {{baseline}}, with its 95% interval; head, medium, tail: {metric} of the "
            f"true items with >= {HEAD}, {TAIL}-{HEAD - 1}, < {TAIL} training events"
        ),
        progress={metric: metric + " {}", WIDE: WIDE + " {}"},
        test_scores=scores_on_test,
    )
