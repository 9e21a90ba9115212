"""The layout of a grid of classifiers: the metrics that its table and its page show, and their names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from hyperfocal.classify.terminal import TEST
from hyperfocal.metrics.differences import Difference
from hyperfocal.metrics.verdict import LABELS
from hyperfocal.report.grid_table import Layout, Row, Scores


def scores_on_test(scores: Mapping[str, Any]) -> Scores:
    """Return title -> score of what `MultiLabelClassifier.evaluate` returns."""
    values, intervals = scores["values"], scores["intervals"]
    return {title.strip(): intervals.get(name) or {"mean": values[name]} for title, name in TEST.items()}


def threshold_remark(rows: Sequence[Row]) -> list[str]:
    """Return what tuned thresholds leave of the largest gain at 0.5; nothing without a gain beyond chance."""
    gains = [row for row in rows if row.change("half.macro_f1").sign == 1]
    if not gains:
        return []
    best = max(gains, key=lambda row: row.change("half.macro_f1").mean)
    half, tuned, ranking = (best.change(metric) for metric in ("half.macro_f1", "tuned.macro_f1", "macro_ap"))
    return [
        f"With the threshold 0.5, macro-F1 of {best.configuration} is {half.percent.mean:.0f}% higher than the "
        f"baseline's; with tuned thresholds it is {_direction(tuned)}, and its average precision is "
        f"{_direction(ranking)}."
    ]


def _direction(difference: Difference) -> str:
    percent = difference.percent.mean
    if not difference.sign:
        return f"not shown to differ ({percent:+.1f}%)"
    return f"{abs(percent):.1f}% {'lower' if percent < 0 else 'higher'}"


LABEL_LAYOUT = Layout(
    scored="documents",
    families=LABELS,
    columns={
        "half.macro_f1": "F1 at\n0.5",
        "tuned.macro_f1": "F1\ntuned",
        "tuned.micro_f1": "micro\ntuned",
        "macro_ap": "macro\nAP",
        "head_ap": "head\nAP",
        "medium_ap": "med.\nAP",
        "tail_ap": "tail\nAP",
    },
    optional=("tuned.micro_f1", "medium_ap", "head_ap"),
    compared={
        "half.macro_f1": "F1 at 0.5",
        "tuned.macro_f1": "F1, tuned thresholds",
        "macro_ap": "ranking (average precision)",
    },
    buckets={"average precision": "{}_ap", "F1, tuned": "tuned.{}_f1"},
    meaning="F1: macro-F1; change: of F1 at 0.5 against {baseline}, with its 95% interval; AP: average precision",
    progress={"macro_ap": "macro AP {}", "tuned.macro_f1": "F1 {} tuned"},
    test_scores=scores_on_test,
    remarks=threshold_remark,
)
