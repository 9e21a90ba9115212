"""Terminal output of a classifier with one label per document: its scores and its confusions, 80 columns wide."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.table import Table
from rich.text import Text

from hyperfocal.labels import BUCKETS
from hyperfocal.report.format import half_width, numbers_table, share

RANKING = {"macro AP": "macro_ap", "nDCG@5": "ndcg@5"}
DECISIONS = {"arg max": "argmax", "tuned": "tuned"}
SCORES = {"accuracy": "accuracy", "balanced acc.": "balanced_accuracy", "macro F1": "macro_f1"}
TEST = {
    "accuracy": "argmax.accuracy",
    "balanced accuracy": "argmax.balanced_accuracy",
    "macro-F1": "argmax.macro_f1",
    "accuracy, tuned": "tuned.accuracy",
    "balanced accuracy, tuned": "tuned.balanced_accuracy",
    "macro-F1, tuned": "tuned.macro_f1",
    "macro average precision": "macro_ap",
    **{f"  {bucket}": f"{bucket}_ap" for bucket in BUCKETS},
    "log loss": "log_loss",
    "calibration error": "calibration_error",
}
WIDEST = 10  # classes whose confusion table fits in a terminal
LONGEST = 10  # columns for the name of a class in the table
SHOWN = 5  # confusions in a list


def is_one(metrics: Mapping[str, Any]) -> bool:
    """Return whether metrics are of one label per document."""
    return "argmax.accuracy" in metrics["values"]


def one_scores_table(metrics: Mapping[str, Any]) -> Table:
    """Return ranking and decisions, by arg max and with tuned offsets, and macro means by frequency of the classes."""
    table = numbers_table("", "", "score", "95%", *BUCKETS)
    values = metrics["values"]
    for place, (title, name) in enumerate(RANKING.items()):
        buckets = [share(values[f"{bucket}_ap"]) for bucket in BUCKETS] if name == "macro_ap" else []
        table.add_row("" if place else "ranking", title, share(values[name]), half_width(metrics, name), *buckets)
    for title, prefix in DECISIONS.items():
        for place, (score, name) in enumerate(SCORES.items()):
            cells = [share(values[f"{prefix}.{name}"]), half_width(metrics, f"{prefix}.{name}")]
            if name == "macro_f1":
                cells += [share(values[f"{prefix}.{bucket}_f1"]) for bucket in BUCKETS]
            style = "bold" if applied_prefix(metrics) == prefix and name == "macro_f1" else ""
            table.add_row("" if place else title, score, *cells, style=style)
    return table


def applied_prefix(metrics: Mapping[str, Any]) -> str:
    """Return the prefix of the decisions that the run makes."""
    return "tuned" if metrics.get("decide") == "balanced" else "argmax"


def calibration_words(metrics: Mapping[str, Any]) -> str:
    """Return a sentence on the probabilities, before and after the temperature."""
    values = metrics["values"]
    before, after = (share(values[f"calibration_error{end}"]) for end in ("_before", ""))
    return (
        f"Probabilities are softmax(logits / {metrics['temperature']:.3g}): calibration error {before} before, {after} "
        f"after; log loss {_number(values['log_loss_before'])} before, {_number(values['log_loss'])} after."
    )


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def decided_words(metrics: Mapping[str, Any]) -> str:
    """Return a sentence on the rule that the run decides by."""
    if applied_prefix(metrics) == "tuned":
        return "The run decides by tuned offsets per class (`decide='balanced'`)."
    return "The run decides by arg max; `decide='balanced'` would apply the tuned offsets per class."


def confusion_report(confusion: Mapping[str, Any]) -> list[Table]:
    """Return the confusion table, if there are at most 10 classes, and the most frequent confusions."""
    tables = []
    names = confusion.get("classes", [])
    if 0 < len(names) <= WIDEST:
        table = numbers_table("true \\ decided", *map(short, names), texts=["true \\ decided"])
        for name, row in zip(names, confusion["table"], strict=True):
            table.add_row(Text(short(name)), *map(str, row))
        tables.append(table)
    if pairs := confusion["pairs"][:SHOWN]:
        table = numbers_table("mistaken", "for", "documents", "of", texts=["mistaken", "for"])
        for pair in pairs:
            table.add_row(
                Text(short(pair["true"], 25)), Text(short(pair["decided"], 25)),
                f"{pair['documents']:,}", f"{pair['true_documents']:,}",
            )  # fmt: skip
        tables.append(table)
    return tables


def short(name: str, longest: int = LONGEST) -> str:
    """Return the name of a class in one line, cut to a length."""
    line = " ".join(str(name).split())
    return line if len(line) <= longest else line[: longest - 1] + "\u2026"
