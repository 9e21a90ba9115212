"""The page of a run of `classify`.

The sections of a classifier's page on its labels: the long tail, and a row for each.

The sections of a classifier's page on its evidence: thresholds, reliability, and what is mistaken for what.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from io import StringIO
from typing import Any

import polars as pl

from hyperfocal.classify.terminal import data_lines, how_decided, how_refitted
from hyperfocal.metrics.buckets import BUCKETS, HEAD, TAIL
from hyperfocal.report import charts
from hyperfocal.report.blocks import DASH, Block, Cell, Chart, Folded, Page, Paragraph, Quote, Section, Table
from hyperfocal.report.charts import end_of_axis, reliability_chart, tail_counts, tail_scores
from hyperfocal.report.run import (
    EVIDENCE,
    MISSING,
    SHOWN,
    FinishedRun,
    count_cell,
    cut,
    details,
    interval_cell,
    number,
    score_cell,
    training,
)

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


def classify_page(material: FinishedRun) -> Page:
    """Return the page.

    Raises:
        RunError: a file is missing or damaged.
    """
    run, metrics = material.folder, material.metrics
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
        refitted = bool(material.settings.get("train.refit"))
        learnt = training(material, refit=how_refitted(metrics["data"], len(material.history)) if refitted else "")
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


COUNTS = ("train_documents", "true_documents", "decided_documents")
LABEL_COLUMNS = ("precision", "recall", "f1", "average_precision")
HOW_MANY = "How many labels have so many training documents."
LARGE = "The larger a mark, the more true documents it was scored on."
SCORES = {"f1": "F1, tuned", "average_precision": "average precision"}


def read_labels(material: FinishedRun) -> list[dict[str, Any]]:
    """Return the rows of labels.csv with bucket, threshold and, from the tree, the name."""
    text, run = material.folder.read_text("labels.csv"), material.folder
    try:
        rows = pl.read_csv(StringIO(text), schema_overrides={"label": pl.String}, infer_schema_length=None).to_dicts()
    except pl.exceptions.PolarsError as error:
        raise run.damaged("labels.csv", error) from None
    with run.guard("thresholds.json"):
        decisions = run.read_json("thresholds.json")
        known, cuts = set(decisions["thresholds"]), {} if decisions["top_k"] else decisions["thresholds"]
    if {row.get("label") for row in rows} != known:
        raise run.damaged("labels.csv", ValueError("it has not a row for each label in thresholds.json"))
    names: dict[str, str] = {}
    if run.has("taxonomy.json"):
        with run.guard("taxonomy.json"):
            tree = run.read_json("taxonomy.json")
            names = dict(zip(tree["ids"], tree["names"], strict=True))
    return [row | _known(row, cuts, names) for row in rows]


def _known(row: dict[str, Any], cuts: dict[str, float], names: dict[str, str]) -> dict[str, Any]:
    label, counts = str(row["label"]), {each: int(row[each]) for each in COUNTS}
    trained = counts["train_documents"]
    name = cut(names.get(label, label))
    scores = {each: _finite(row[each]) for each in LABEL_COLUMNS}
    bucket = "head" if trained >= HEAD else "medium" if trained >= TAIL else "tail"
    return {"name": name, "bucket": bucket, "threshold": _probability(cuts.get(label)), **counts, **scores}


def _finite(value: Any) -> float | None:
    return None if value is None or not math.isfinite(float(value)) else float(value)


def _probability(logit: float | None) -> float | None:
    return None if logit is None else 1 / (1 + math.exp(-min(max(logit, -60), 60)))


def label_tail(labels: Sequence[dict[str, Any]]) -> Section:
    """Return how many labels are how rare, and how well they do."""
    known = [row for row in labels if row["average_precision"] is not None]
    points = [
        {"name": row["name"], "events": row["train_documents"], "bucket": row["bucket"], "size": row["true_documents"]}
        | {field: row[field] for field in SCORES}
        for row in thinned(known)
    ]
    largest = end_of_axis(row["train_documents"] for row in labels)
    counts, means = by_powers(labels, "train_documents", list(SCORES))
    rare = sum(row["train_documents"] < TAIL for row in labels)
    words = f"{rare:,} of {len(labels):,} labels have fewer than {TAIL} training documents."
    unseen = len(labels) - len(known)
    words += f" {unseen:,} labels have no true document in validation and so no score." if unseen else ""
    events, about = "training documents", "Each mark is a label; the line is the mean of labels of like frequency."
    scores = tail_scores(points, means, events, SCORES, largest, about, counted="true documents")
    return Section(
        "tail",
        "The long tail",
        [
            Paragraph(words),
            Chart("Labels by training documents", tail_counts(counts, events, "labels", largest, HOW_MANY), HOW_MANY),
            Chart("Their scores, on the same axis", scores, f"{about} {LARGE}", "score", SCORES),
        ],
    )  # fmt: skip


def thinned(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return every so-manieth row where there are more than a chart can show."""
    return list(rows[:: max(-(-len(rows) // SHOWN), 1)])


def by_powers(
    rows: Sequence[dict[str, Any]], field: str, scores: Sequence[str]
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return how many rows there are between powers of two of a field, and their mean scores at the middle."""
    bins: dict[int, list[dict[str, Any]]] = {}
    for row in rows:
        bins.setdefault(int(row[field]).bit_length(), []).append(row)
    ends = {power: (1 << power >> 1, (1 << power) - 1) for power in bins}
    counts = [{"from": ends[p][0], "to": ends[p][1], "number": len(bins[p])} for p in sorted(bins)]
    means: list[dict[str, Any]] = [
        {"events": math.sqrt(ends[p][0] * ends[p][1])}
        | {score: _mean([row[score] for row in bins[p]]) for score in scores}
        for p in sorted(bins)
    ]
    return counts, means


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def label_table(labels: Sequence[dict[str, Any]]) -> Section:
    """Return a row a label."""
    columns = ["label", "group", "trained", "true", "decided", "precision", "recall", "F1", "AP", "threshold"]
    rows = [
        [
            Cell(row["name"]), Cell(row["bucket"], BUCKETS.index(row["bucket"]), row["bucket"]),
            *(count_cell(row[f"{part}_documents"]) for part in ("train", "true", "decided")),
            *(score_cell(row[name]) for name in LABEL_COLUMNS), score_cell(row["threshold"]),
        ]
        for row in labels[:SHOWN]
    ]  # fmt: skip
    left_out = (
        f" The {SHOWN:,} most frequent of {len(labels):,} are listed; labels.csv has all."
        if len(labels) > SHOWN
        else ""
    )
    notes = {
        "trained": "training documents",
        "true": "validation documents that have it",
        "decided": "validation documents that were given it",
        "AP": "average precision, which needs no threshold",
        "threshold": "the probability from which it is decided",
    }
    words = f"A row a label, the most frequent first. A click on a column sorts by it.{left_out}"
    return Section(
        "labels",
        "Every label",
        [Paragraph(words, quiet=True), Table("Labels", columns, rows, texts=["group"], notes=notes)],
    )


DECIDED = {
    "half": "the threshold 0.5",
    "global": "one tuned threshold",
    "per_label": "a tuned threshold for each label",
    "top_k": "taking the best few labels of each document",
}


def threshold_section(material: FinishedRun) -> Section:
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


def confusion_section(material: FinishedRun) -> Section:
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
