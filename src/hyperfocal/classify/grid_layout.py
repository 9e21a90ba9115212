"""The layout of a grid of classifiers: the metrics that its table and its page show, and their names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from hyperfocal.classify import one_terminal
from hyperfocal.classify.one_terminal import is_one
from hyperfocal.classify.terminal import TEST
from hyperfocal.metrics.differences import Difference
from hyperfocal.metrics.verdict import CLASSES, LABELS
from hyperfocal.report.grid_table import Layout, Row, Scores


def scores_on_test(scores: Mapping[str, Any]) -> Scores:
    """Return title -> score of what `MultiLabelClassifier.evaluate` returns."""
    values, intervals = scores["values"], scores["intervals"]
    shown = one_terminal.TEST if is_one(scores) else TEST
    return {title.strip(): intervals.get(name) or {"mean": values[name]} for title, name in shown.items()}


def threshold_remark(rows: Sequence[Row]) -> list[str]:
    """Return what tuned thresholds leave of the largest gain at 0.5; nothing without a gain beyond chance."""
    return _remark(rows, "half.macro_f1", "With the threshold 0.5", "thresholds")


def offset_remark(rows: Sequence[Row]) -> list[str]:
    """Return what tuned offsets leave of the largest gain by arg max; nothing without a gain beyond chance."""
    return _remark(rows, "argmax.macro_f1", "By arg max", "offsets")


def _remark(rows: Sequence[Row], plain: str, lead: str, what: str) -> list[str]:
    gains = [row for row in rows if row.change(plain).sign == 1]
    if not gains:
        return []
    best = max(gains, key=lambda row: row.change(plain).mean)
    half, tuned, ranking = (best.change(metric) for metric in (plain, "tuned.macro_f1", "macro_ap"))
    return [
        f"{lead}, macro-F1 of {best.configuration} is {half.percent.mean:.0f}% higher than the "
        f"baseline's; with tuned {what} it is {_direction(tuned)}, and its average precision is "
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
CLASS_LAYOUT = Layout(
    scored="documents",
    families=CLASSES,
    columns={
        "argmax.macro_f1": "F1 by\narg max",
        "tuned.macro_f1": "F1\ntuned",
        "tuned.accuracy": "acc.\ntuned",
        "macro_ap": "macro\nAP",
        "head_ap": "head\nAP",
        "medium_ap": "med.\nAP",
        "tail_ap": "tail\nAP",
    },
    optional=("tuned.accuracy", "medium_ap", "head_ap"),
    compared={
        "argmax.macro_f1": "F1 by arg max",
        "tuned.macro_f1": "F1, tuned offsets",
        "macro_ap": "ranking (average precision)",
    },
    buckets={"average precision": "{}_ap", "F1, tuned": "tuned.{}_f1"},
    meaning="F1: macro-F1; change: of F1 by arg max against {baseline}, with its 95% interval; AP: average precision",
    progress={"macro_ap": "macro AP {}", "tuned.macro_f1": "F1 {} tuned"},
    test_scores=scores_on_test,
    remarks=offset_remark,
)


def layout_of_labels(*, single: bool) -> Layout:
    """Return the layout of a grid of classifiers, whose documents have one label each if `single`."""
    return CLASS_LAYOUT if single else LABEL_LAYOUT
