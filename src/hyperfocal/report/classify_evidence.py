"""The sections of a classifier's page on its evidence: thresholds, reliability, and what is mistaken for what."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from hyperfocal.report import charts
from hyperfocal.report.blocks import Block, Chart, Folded, Paragraph, Quote, Section
from hyperfocal.report.classify_labels import read_labels
from hyperfocal.report.reliability import reliability_chart
from hyperfocal.report.run_material import MISSING, RunMaterial
from hyperfocal.report.run_sections import number

DECIDED = {
    "half": "the threshold 0.5",
    "global": "one tuned threshold",
    "per_label": "a tuned threshold for each label",
    "top_k": "taking the best few labels of each document",
}


def threshold_section(material: RunMaterial) -> Section:
    """Return the threshold curve and the reliability diagram, or what is missing."""
    evidence, values = material.evidence, material.metrics["values"]
    if not evidence:
        return Section(
            "thresholds",
            "Thresholds and reliability",
            [Paragraph(MISSING.format("the threshold curve, the reliability diagram and the confusions"))],
        )
    curve = evidence["thresholds"]
    names = {"macro-F1": "macro_f1", "micro-F1": "micro_f1"}
    rows = [
        {"x": at, "y": value, "series": title}
        for title, field in names.items()
        for at, value in zip(curve["threshold"], curve[field], strict=True)
    ]
    best = max(zip(curve["macro_f1"], curve["threshold"], strict=True), key=lambda pair: pair[0] or 0)
    decided = DECIDED[str(material.settings["decide.rule"])]
    words = (
        f"One threshold for all labels would be best at {best[1]:g} for macro-F1 ({number(best[0])}), with hindsight; "
        f"the run decides by {decided}, which reaches {number(values['tuned.macro_f1'])}, "
        "scored on documents that did not tune it."
    )
    about = "F1 when every label is decided from the same probability on, on all validation documents."
    chart = charts.curves(rows, "threshold", "F1", about, names=list(names), marks=[{"x": 0.5, "label": "0.5"}])
    return Section(
        "thresholds",
        "Thresholds and reliability",
        [Paragraph(words), Chart("F1 by threshold", chart, about), *_reliability(evidence["reliability"])],
    )


def _reliability(bins: Sequence[dict[str, Any]]) -> list[Block]:
    total = sum(row["pairs"] for row in bins)
    low = sum(row["pairs"] for row in bins if row["high"] <= 0.0101)
    about = (
        "Of the labels that are given a probability, how many are true: on the line where it is calibrated, above it "
        f"where the model is too shy, below where it is too sure. {low / max(total, 1):.1%} of all (document, label) "
        "pairs are given less than 1%. Both axes are square roots, so that small probabilities can be seen."
    )
    return [Chart("Reliability", reliability_chart(bins, about), about)]


def confusion_section(material: RunMaterial) -> Section:
    """Return the worst confusions, each with documents."""
    found = material.evidence.get("confusions", [])
    if not found:
        return Section("confusions", "What is mistaken for what", [])
    names = {str(row["label"]): str(row["name"]) for row in read_labels(material)}

    def called(label: str) -> str:
        return names.get(label, label)

    blocks: list[Block] = [
        Paragraph(
            "A true label that was missed and a wrong one that was given in the same document; most documents first."
            + _left_out(material.evidence),
            quiet=True,
        )
    ]
    for row in found:
        often = f"{row['documents']:,} of {_documents(row['true_documents'])}"
        title = f"{called(row['true'])} missed, {called(row['decided'])} given: {often}"
        blocks.append(Folded(title, [_document(each, called) for each in row["examples"]]))
    return Section("confusions", "What is mistaken for what", blocks)


def _left_out(evidence: dict[str, Any]) -> str:
    """Say it where there were too many errors to look at all documents."""
    documents = evidence["documents"]
    looked_at = evidence.get("confused_documents", documents)
    if looked_at == documents:
        return ""
    return (
        f" There are so many wrong labels that only the first {looked_at:,} of {documents:,} validation documents "
        "were looked at for this."
    )


def _documents(number: int) -> str:
    return f"{number:,} document" + ("" if number == 1 else "s")


def _document(example: dict[str, Any], called: Callable[[str], str]) -> Quote:
    parts = {"true": example["true"], "given": example["decided"]}
    rows = [(name, [(called(each["label"]), bool(each["both"])) for each in part]) for name, part in parts.items()]
    return Quote(f"Document {example['id']}", example["text"] or "(no text)", rows)
