"""The page of a run of `classify`."""

from __future__ import annotations

from typing import Any

from hyperfocal.metrics.frequency import BUCKETS, HEAD, TAIL
from hyperfocal.report import charts
from hyperfocal.report.blocks import DASH, Cell, Chart, Page, Paragraph, Section, Table
from hyperfocal.report.classify_evidence import DECIDED, confusion_section, threshold_section
from hyperfocal.report.classify_labels import label_table, label_tail, read_labels
from hyperfocal.report.label_tables import data_lines, how_decided
from hyperfocal.report.run_material import RunMaterial
from hyperfocal.report.run_sections import details, interval_cell, number, training
from hyperfocal.tasks.evidence import EVIDENCE

HYPHEN = "\u2011"  # at which no line is broken
AT_HALF, TUNED = "at 0.5", "tuned"
BOTH = {AT_HALF: "half", TUNED: "tuned"}
DECISIONS = {
    "macro-F1": "macro_f1",
    "micro-F1": "micro_f1",
    "document F1": "document_f1",
    "macro precision": "macro_precision",
    "macro recall": "macro_recall",
    "micro precision": "micro_precision",
    "micro recall": "micro_recall",
    "labels a document": "labels_per_document",
}
RANKING = {
    "macro average precision": "macro_ap",
    "micro average precision": "micro_ap",
    "precision at 1": "precision@1",
    "precision at 5": "precision@5",
    "nDCG at 5": "ndcg@5",
    "propensity-scored precision at 1": "psp@1",
    "propensity-scored precision at 5": "psp@5",
    "calibration error (less is better)": "calibration_error",
}
BY_SIZE = f"head: {HEAD} training documents or more; medium: {TAIL} to {HEAD - 1}; tail: fewer than {TAIL}"


def classify_page(material: RunMaterial) -> Page:
    """Return the page.

    Raises:
        RunError: a file is missing or damaged.
    """
    run, metrics = material.run, material.metrics
    with run.guard("labels.csv"):
        labels = read_labels(material)
    with run.guard("metrics.json"):
        lines = data_lines(metrics["data"])
        fixed = [_scores(metrics), _buckets(metrics)]
        headline, lead = (
            _headline(metrics, DECIDED[str(material.settings["decide.rule"])]),
            [_asked(metrics), _ranked(metrics)],
        )
    with run.guard(EVIDENCE):
        found = [threshold_section(material), confusion_section(material)]
    with run.guard("history.jsonl"):
        learnt = training(material)
    tail, table = label_tail(labels), label_table(labels)
    sections = [fixed[0], tail, fixed[1], table, *found, learnt, details(material, lines)]
    return Page(
        f"{material.name} · classify",
        f"Run of classify · {material.name} · {material.finished:%d %B %Y}",
        headline,
        lead,
        sections,
    )


def _headline(metrics: dict[str, Any], decided: str) -> str:
    """Say what macro-F1 is, and at 0.5 beside it: which of both is better is for the intervals in the table to tell."""
    half, tuned = (metrics["intervals"][f"{part}.macro_f1"]["mean"] for part in ("half", "tuned"))
    beside = f", {number(half)} at 0.5" if decided != DECIDED["half"] else ""
    return f"Macro{HYPHEN}F1 is {number(tuned)} by {decided}{beside}."


def _asked(metrics: dict[str, Any]) -> str:
    counts = metrics["data"]
    train = counts["train"]
    each = train["positives"] / max(train["documents"], 1)
    scored = (
        "each scored by a head that had not seen it"
        if counts["out_of_fold"]
        else f"scored on {metrics['documents']:,} others"
    )
    return (
        f"Asked: which of {counts['labels']:,} labels does a text have? "
        f"Learnt from {train['documents']:,} documents with {each:.1f} labels each; {scored}."
    )


def _ranked(metrics: dict[str, Any]) -> str:
    found = metrics["intervals"]["macro_ap"]
    return (
        f"The ranking, which needs no threshold: macro average precision {number(found['mean'])} "
        f"(95% interval {number(found['low'])} to {number(found['high'])}); the best label of a document is right in "
        f"{_percent(metrics['values']['precision@1'])} of the documents."
    )


def _percent(value: float | None) -> str:
    return DASH if value is None else f"{value:.0%}"


def _scores(metrics: dict[str, Any]) -> Section:
    values, found = metrics["values"], metrics["intervals"]
    rows = [
        [Cell(title), *(_scored(found, values, f"{part}.{name}") for part in BOTH.values())]
        for title, name in DECISIONS.items()
    ]
    ranked = [[Cell(title), _scored(found, values, name)] for title, name in RANKING.items()]
    return Section(
        "scores",
        "Scores",
        [
            Paragraph(f"{how_decided(metrics['data']['out_of_fold'])} Each ± is half a 95% interval.", quiet=True),
            Table("Decisions", ["", *BOTH], rows, sortable=False, marked=[0]),
            Table("Ranking, without a threshold", ["", "score"], ranked, sortable=False),
        ],
    )  # fmt: skip


def _scored(found: dict[str, Any], values: dict[str, Any], name: str) -> Cell:
    digits = 2 if name.endswith("labels_per_document") else 3
    return interval_cell(found[name], digits) if name in found else Cell(_unshared(values[name], digits), values[name])


def _unshared(value: float | None, digits: int) -> str:
    return f"{value:.2f}" if digits == 2 and value is not None else number(value, digits)


def _buckets(metrics: dict[str, Any]) -> Section:
    found = metrics["intervals"]
    rows = [
        {"bucket": bucket, "series": title, **found[name]}
        for bucket in BUCKETS
        for title, part in BOTH.items()
        if (name := f"{part}.{bucket}_f1") in found and found[name]["mean"] is not None
    ]
    about = "Mean F1 of the labels of each group, at 0.5 and with tuned thresholds; the lines are 95% intervals."
    chart = Chart(
        "F1 of frequent and rare labels",
        charts.buckets(rows, list(BOTH), TUNED, "macro-F1", about),
        f"{about} {BY_SIZE}.",
    )
    return Section("groups", "Head, medium, tail", [chart] if rows else [])
