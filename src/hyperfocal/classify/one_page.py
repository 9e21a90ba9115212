"""Blocks of the page of a classifier with one label per document: scores, calibration and the confusion table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from hyperfocal.classify.one_terminal import SCORES, applied_prefix, calibration_words, decided_words
from hyperfocal.report.blocks import Block, Cell, Chart, Paragraph, Section, Table
from hyperfocal.report.run import count_cell, cut, interval_cell, number

BOTH = {"arg max": "argmax", "tuned offsets": "tuned"}
NAMES = {"accuracy": "accuracy", "balanced acc.": "balanced accuracy", "macro F1": "macro-F1"}
MORE = {"macro precision": "macro_precision", "macro recall": "macro_recall"}
RANKING = {
    "macro average precision": "macro_ap",
    "log loss (less is better)": "log_loss",
    "log loss before the temperature": "log_loss_before",
    "calibration error (less is better)": "calibration_error",
    "calibration error before the temperature": "calibration_error_before",
}


def one_headline(metrics: Mapping[str, Any]) -> str:
    """Return accuracy, balanced accuracy and macro-F1 of the decisions that the run makes."""
    values, prefix = metrics["values"], applied_prefix(metrics)
    scores = [f"{NAMES[title]} {number(values[f'{prefix}.{name}'])}" for title, name in SCORES.items()]
    how = "tuned offsets" if prefix == "tuned" else "arg max"
    return f"By {how}: {', '.join(scores)}."


def one_question(metrics: Mapping[str, Any]) -> str:
    """Return the question that the run answers, and its documents."""
    counts = metrics["data"]
    scored = (
        "each scored by a head that had not seen it"
        if counts["out_of_fold"]
        else f"scored on {metrics['documents']:,} others"
    )
    return (
        f"Question: which one of {counts['labels']:,} classes does a text have? "
        f"Trained on {counts['train']['documents']:,} documents; {scored}."
    )


def one_scores_section(metrics: Mapping[str, Any], how: str, baselines: Sequence[Block]) -> Section:
    """Return the scores of decisions and of probabilities; `how` says on which documents they were tuned."""
    names = {NAMES[title]: name for title, name in SCORES.items()} | MORE
    rows = [
        [Cell(title), *(_scored(metrics, f"{prefix}.{name}") for prefix in BOTH.values())]
        for title, name in names.items()
    ]
    ranked = [[Cell(title), _scored(metrics, name)] for title, name in RANKING.items()]
    words = f"{how} Each \u00b1 is half a 95% interval. {decided_words(metrics)}"
    return Section(
        "scores",
        "Scores",
        [
            Paragraph(words, quiet=True),
            Table("Decisions", ["", *BOTH], rows, sortable=False, marked=[0]),
            Table("Probabilities", ["", "score"], ranked, sortable=False),
            *baselines,
        ],
    )


def _scored(metrics: Mapping[str, Any], name: str) -> Cell:
    """Return a metric with its interval, if it has one."""
    value = metrics["values"][name]
    return interval_cell(metrics["intervals"][name], 3) if name in metrics["intervals"] else Cell(number(value), value)


def calibration_section(metrics: Mapping[str, Any], diagram: Chart | None) -> Section:
    """Return what the temperature changes, and the reliability diagram if the run has its data."""
    blocks: list[Block] = [Paragraph(calibration_words(metrics))]
    return Section("thresholds", "Probabilities", [*blocks, *([diagram] if diagram else [])])


def confusion_tables(confusion: Mapping[str, Any]) -> Sequence[Block]:
    """Return the most confused pairs of classes, and the whole table if there are at most 20 classes."""
    pairs = [
        [Cell(cut(row["true"])), Cell(cut(row["decided"])), count_cell(row["documents"]),
         count_cell(row["true_documents"])]
        for row in confusion["pairs"]
    ]  # fmt: skip
    blocks: list[Block] = []
    if names := confusion.get("classes"):
        rows = [[Cell(cut(name)), *map(count_cell, row)] for name, row in zip(names, confusion["table"], strict=True)]
        columns = ["true class", *map(cut, names)]
        blocks.append(Table("Documents by true class and decided class", columns, rows, sortable=False))
    if pairs:
        columns = ["true", "decided", "documents", "of"]
        blocks.append(Table("Most confused", columns, pairs, sortable=False, texts=["decided"]))
    return blocks
