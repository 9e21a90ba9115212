"""The report page of a run of `classify`: scores, labels by frequency, thresholds and confusions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from hyperfocal.classify import one_page
from hyperfocal.classify.acceptance import COUNTED
from hyperfocal.classify.files import read_label_table
from hyperfocal.classify.one_page import (
    calibration_section,
    confusion_tables,
    one_headline,
    one_question,
    one_scores_section,
)
from hyperfocal.classify.one_terminal import is_one
from hyperfocal.classify.scaling import scaling_words
from hyperfocal.classify.terminal import (
    baseline_rows,
    data_lines,
    how_decided,
    how_refitted,
    opinion_columns,
    opinions_words,
)
from hyperfocal.labels import BUCKETS, HEAD, TAIL
from hyperfocal.report import charts
from hyperfocal.report.blocks import DASH, Block, Cell, Chart, Folded, Page, Paragraph, Quote, Section, Table
from hyperfocal.report.charts import end_of_axis, reliability_chart, tail_counts, tail_scores
from hyperfocal.report.format import quantity
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
    "labels per document": "labels_per_document",
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
DECIDED = {
    "half": "the threshold 0.5",
    "global": "one tuned threshold",
    "per_label": "a tuned threshold for each label",
    "top_k": "taking the best few labels of each document",
}
COUNTS = ("train_documents", "true_documents", "decided_documents")  # columns of labels.csv
LABEL_COLUMNS = ("precision", "recall", "f1", "average_precision")  # columns of labels.csv
SCORES = {"f1": "F1, tuned", "average_precision": "average precision"}
COLUMNS = ["label", "group", "trained", "true", "decided", "precision", "recall", "F1", "AP", "threshold"]
NOTES = {
    "trained": "training documents",
    "true": "validation documents that have the label",
    "decided": "validation documents that were given the label",
    "AP": "average precision, which needs no threshold",
    "threshold": "the probability from which the label is decided",
}
HOW_MANY = "The number of labels by their number of training documents."
LARGE = "The larger a mark, the more true documents its score comes from."


def classify_page(run: FinishedRun) -> Page:
    """Return the page; raise RunError if a file is missing or damaged."""
    folder, metrics = run.folder, run.metrics
    with folder.guard("labels.csv"):
        labels = read_labels(run)
    with folder.guard("metrics.json"):
        lines = [*data_lines(metrics["data"]), *filter(None, [scaling_words(metrics.get("scaling", {}))])]
        one, groups = is_one(metrics), _buckets(metrics)
        opinions = _opinions(metrics.get("opinions", {}))
        how = _how_decided(metrics)
        scores = one_scores_section(metrics, how, _baselines(metrics)) if one else _scores(metrics)
        line = one_headline(metrics) if one else headline(metrics, DECIDED[str(run.settings["decide.rule"])])
        lead = [one_question(metrics) if one else _question(metrics), _ranked(metrics)]
    with folder.guard(EVIDENCE):
        evidence = [threshold_section(run), confusion_section(run, labels)]
    with folder.guard("history.jsonl"):
        refitted = bool(run.settings.get("train.refit")) and "update" not in metrics["data"]
        refit = how_refitted(metrics["data"], len(run.history)) if refitted else ""
        losses = training(run, refit=refit)
    title = f"Run of classify · {run.name} · {run.finished:%d %B %Y}"
    tables = [scores, *opinions, label_tail(labels), groups, label_table(labels)]
    sections = [*tables, *evidence, losses, details(run, lines)]
    return Page(f"{run.name} · classify", title, line, lead, sections)


def headline(metrics: dict[str, Any], decided: str) -> str:
    """Return macro-F1 as decided and at 0.5; the intervals in the table show which of the two is better."""
    half, tuned = (metrics["intervals"][f"{prefix}.macro_f1"]["mean"] for prefix in ("half", "tuned"))
    at_half = f", {number(half)} at 0.5" if decided != DECIDED["half"] else ""
    return f"Macro{HYPHEN}F1 is {number(tuned)} by {decided}{at_half}."


def _question(metrics: dict[str, Any]) -> str:
    counts = metrics["data"]
    train = counts["train"]
    each = train["positives"] / max(train["documents"], 1)
    scored = (
        "each scored by a head that had not seen it"
        if counts["out_of_fold"]
        else f"scored on {metrics['documents']:,} others"
    )
    return (
        f"Question: which of {counts['labels']:,} labels does a text have? "
        f"Trained on {train['documents']:,} documents with {each:.1f} labels each; {scored}."
    )


def _ranked(metrics: dict[str, Any]) -> str:
    macro, best = metrics["intervals"]["macro_ap"], metrics["values"]["precision@1"]
    return (
        f"The ranking, which needs no threshold: macro average precision {number(macro['mean'])} "
        f"(95% interval {number(macro['low'])} to {number(macro['high'])}); the best label of a document is right in "
        f"{DASH if best is None else f'{best:.0%}'} of the documents."
    )


def _scores(metrics: dict[str, Any]) -> Section:
    rows = [
        [Cell(title), *(_scored(metrics, f"{prefix}.{name}") for prefix in BOTH.values())]
        for title, name in DECISIONS.items()
    ]
    ranked = [[Cell(title), _scored(metrics, name)] for title, name in RANKING.items()]
    words = Paragraph(f"{_how_decided(metrics)} Each ± is half a 95% interval.", quiet=True)
    decisions = Table("Decisions", ["", *BOTH], rows, sortable=False, marked=[0])
    ranking = Table("Ranking, without a threshold", ["", "score"], ranked, sortable=False)
    return Section("scores", "Scores", [words, decisions, ranking, *_baselines(metrics)])


def _how_decided(metrics: dict[str, Any]) -> str:
    return how_decided(metrics["data"]["out_of_fold"], metrics["data"].get("update"))


def _baselines(metrics: dict[str, Any]) -> list[Block]:
    """Return a table of the model and the baselines; runs of earlier versions, or without baselines, have none."""
    if not metrics.get("baselines"):
        return []
    columns, named = baseline_rows(metrics)
    rows = [[Cell(name), *map(score_cell, values)] for name, values in named.items()]
    return [Table("Baselines on the same documents", ["", *columns], rows, sortable=False, marked=[0])]


def _scored(metrics: dict[str, Any], name: str) -> Cell:
    """Return a metric with its interval, if it has one; numbers of labels have two digits and a leading digit."""
    digits, value = 2 if name.endswith("labels_per_document") else 3, metrics["values"][name]
    if name in metrics["intervals"]:
        return interval_cell(metrics["intervals"][name], digits)
    return Cell(f"{value:.2f}" if digits == 2 and value is not None else number(value, digits), value)


def _opinions(opinions: dict[str, Any]) -> list[Section]:
    """Return a section on what the label texts add; none if the labels have no texts, or in an older run."""
    rows = opinions.get("rows", [])
    if not rows:
        return []
    columns, counted = opinion_columns(rows), COUNTED if opinions["accepted"] else rows[0]["scores"]
    cells = [[Cell(row["scores"]), *(score_cell(row[name]) for name in columns.values())] for row in rows]
    marked = [place for place, row in enumerate(rows) if row["scores"] == counted]
    table = Table("Scores with and without opinions", ["", *columns], cells, sortable=False, marked=marked)
    return [Section("opinions", "What the label texts add", [Paragraph(" ".join(opinions_words(opinions))), table])]


def _buckets(metrics: dict[str, Any]) -> Section:
    intervals, one = metrics["intervals"], is_one(metrics)
    both = one_page.BOTH if one else BOTH
    rows = [
        {"bucket": bucket, "series": title, **intervals[name]}
        for bucket in BUCKETS
        for title, prefix in both.items()
        if (name := f"{prefix}.{bucket}_f1") in intervals and intervals[name]["mean"] is not None
    ]
    about = "Mean F1 of the labels of each group, at 0.5 and with tuned thresholds; the lines are 95% intervals."
    about = about.replace("at 0.5 and with tuned thresholds", "by arg max and with tuned offsets") if one else about
    spec = charts.buckets(rows, list(both), list(both)[-1], "macro-F1", about)
    chart = Chart("F1 of frequent and rare labels", spec, f"{about} {BY_SIZE}.")
    return Section("groups", "Head, medium, tail", [chart] if rows else [])


def read_labels(run: FinishedRun) -> list[dict[str, Any]]:
    """Return the rows of labels.csv with bucket, threshold and the name in the tree."""
    folder = run.folder
    with folder.guard("thresholds.json"):
        decisions = folder.read_json("thresholds.json")
        known, cuts = list(decisions["thresholds"]), decisions["thresholds"]
        if decisions["top_k"] or decisions.get("one"):
            cuts = {}
    rows = read_label_table(folder, known)
    names: dict[str, str] = {}
    if folder.has("taxonomy.json"):
        with folder.guard("taxonomy.json"):
            tree = folder.read_json("taxonomy.json")
            names = dict(zip(tree["ids"], tree["names"], strict=True))
    return [row | _derived(row, cuts, names) for row in rows]


def _derived(row: dict[str, Any], cuts: dict[str, float], names: dict[str, str]) -> dict[str, Any]:
    label, counts = str(row["label"]), {each: int(row[each]) for each in COUNTS}
    trained = counts["train_documents"]
    bucket = "head" if trained >= HEAD else "medium" if trained >= TAIL else "tail"
    threshold = 1 / (1 + math.exp(-min(max(cuts[label], -60), 60))) if label in cuts else None
    named = {"name": cut(names.get(label, label)), "bucket": bucket, "threshold": threshold}
    return named | counts | {each: _finite(row[each]) for each in LABEL_COLUMNS}


def _finite(value: Any) -> float | None:
    return None if value is None or not math.isfinite(float(value)) else float(value)


def label_tail(labels: Sequence[dict[str, Any]]) -> Section:
    """Return the charts of label frequencies, and of scores by frequency."""
    known = [row for row in labels if row["average_precision"] is not None]
    points = [
        {"name": row["name"], "events": row["train_documents"], "bucket": row["bucket"], "size": row["true_documents"]}
        | {field: row[field] for field in SCORES}
        for row in known[:: max(-(-len(known) // SHOWN), 1)]  # a chart shows at most SHOWN marks
    ]
    largest = end_of_axis(row["train_documents"] for row in labels)
    counts, means = _by_powers(labels)
    rare = sum(row["train_documents"] < TAIL for row in labels)
    words = f"{rare:,} of {len(labels):,} labels have fewer than {TAIL} training documents."
    unseen = len(labels) - len(known)
    words += f" {unseen:,} labels have no true document in validation and so no score." if unseen else ""
    events, about = "training documents", "Each mark is a label; the line is the mean of labels of similar frequency."
    scores = tail_scores(points, means, events, SCORES, largest, about, counted="true documents")
    frequencies = tail_counts(counts, events, "labels", largest, HOW_MANY)
    blocks: list[Block] = [
        Paragraph(words),
        Chart("Labels by training documents", frequencies, HOW_MANY),
        Chart("Their scores, on the same axis", scores, f"{about} {LARGE}", "score", SCORES),
    ]
    return Section("tail", "The long tail", blocks)


def _by_powers(labels: Sequence[dict[str, Any]]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return the number of labels between powers of two of training documents, and their mean scores in the middle."""
    bins: dict[int, list[dict[str, Any]]] = {}
    for row in labels:
        bins.setdefault(row["train_documents"].bit_length(), []).append(row)
    counts, means = list[dict[str, Any]](), list[dict[str, Any]]()
    for power, rows in sorted(bins.items()):
        low, high = 1 << power >> 1, (1 << power) - 1
        counts.append({"from": low, "to": high, "number": len(rows)})
        known = {score: [row[score] for row in rows if row[score] is not None] for score in SCORES}
        scores = {score: sum(values) / len(values) if values else None for score, values in known.items()}
        means.append({"events": math.sqrt(low * high)} | scores)
    return counts, means


def label_table(labels: Sequence[dict[str, Any]]) -> Section:
    """Return the table with one row per label."""
    rows = [
        [
            Cell(row["name"]), Cell(row["bucket"], BUCKETS.index(row["bucket"]), row["bucket"]),
            *(count_cell(row[name]) for name in COUNTS),
            *(score_cell(row[name]) for name in LABEL_COLUMNS), score_cell(row["threshold"]),
        ]
        for row in labels[:SHOWN]
    ]  # fmt: skip
    words = "One row per label, the most frequent first. A click on a column sorts by it."
    if len(labels) > SHOWN:
        words += f" The {SHOWN:,} most frequent of {len(labels):,} are listed; labels.csv has all."
    table = Table("Labels", COLUMNS, rows, texts=["group"], notes=NOTES)
    return Section("labels", "Every label", [Paragraph(words, quiet=True), table])


def threshold_section(run: FinishedRun) -> Section:
    """Return the threshold curve and the reliability diagram; without evidence, a sentence on what is missing."""
    evidence, values = run.evidence, run.metrics["values"]
    if is_one(run.metrics):
        return calibration_section(run.metrics, _reliability(evidence["reliability"]) if evidence else None)
    if not evidence:
        missing = MISSING.format("the threshold curve, the reliability diagram and the confusions")
        return Section("thresholds", "Thresholds and reliability", [Paragraph(missing)])
    curve, names = evidence["thresholds"], {"macro-F1": "macro_f1", "micro-F1": "micro_f1"}
    rows = [
        {"x": at, "y": value, "series": title}
        for title, field in names.items()
        for at, value in zip(curve["threshold"], curve[field], strict=True)
    ]
    best = max(zip(curve["macro_f1"], curve["threshold"], strict=True), key=lambda pair: pair[0] or 0)
    decided = DECIDED[str(run.settings["decide.rule"])]
    words = (
        f"One threshold for all labels would be best at {best[1]:g} for macro-F1 ({number(best[0])}), with hindsight; "
        f"the run decides by {decided}, which reaches {number(values['tuned.macro_f1'])}, "
        "scored on documents that did not tune it."
    )
    about = "F1 when every label is decided from the same probability on, on all validation documents."
    chart = charts.curves(rows, "threshold", "F1", about, names=list(names), marks=[{"x": 0.5, "label": "0.5"}])
    curves, diagram = Chart("F1 by threshold", chart, about), _reliability(evidence["reliability"])
    return Section("thresholds", "Thresholds and reliability", [Paragraph(words), curves, diagram])


def _reliability(bins: Sequence[dict[str, Any]]) -> Chart:
    total = sum(row["pairs"] for row in bins)
    low = sum(row["pairs"] for row in bins if row["high"] <= 0.0101)
    about = (
        "The share of labels that are true, by the probability that the model gives: on the line if it is calibrated, "
        "above the line if the model is underconfident, below if it is overconfident. "
        f"{low / max(total, 1):.1%} of all (document, label) pairs get less than 1%. Both axes are square roots, so "
        "that small probabilities can be seen."
    )
    return Chart("Reliability", reliability_chart(bins, about), about)


def confusion_section(run: FinishedRun, labels: Sequence[dict[str, Any]]) -> Section:
    """Return the most frequent confusions, each with documents."""
    evidence, blocks = run.evidence, list[Block]()
    if is_one(run.metrics):
        blocks += confusion_tables(run.metrics["confusion"])
    confusions, names = evidence.get("confusions", []), {str(row["label"]): str(row["name"]) for row in labels}
    if confusions:
        words = "A true label that was missed, a wrong label that was given in the same document; most documents first."
        if (looked_at := evidence.get("confused_documents", evidence["documents"])) < evidence["documents"]:
            words += f" There are so many wrong labels that only the first {looked_at:,} of {evidence['documents']:,} "
            words += "validation documents were looked at for this."
        blocks.append(Paragraph(words, quiet=True))
    for row in confusions:
        true, given = (names.get(row[kind], row[kind]) for kind in ("true", "decided"))
        often = f"{row['documents']:,} of {quantity(row['true_documents'], 'document')}"
        quotes = [_document(example, names) for example in row["examples"]]
        blocks.append(Folded(f"{true} missed, {given} given: {often}", quotes))
    return Section("confusions", "What is mistaken for what", blocks)


def _document(example: dict[str, Any], names: dict[str, str]) -> Quote:
    rows = [
        (title, [(names.get(each["label"], each["label"]), bool(each["both"])) for each in example[kind]])
        for title, kind in {"true": "true", "given": "decided"}.items()
    ]
    return Quote(f"Document {example['id']}", example["text"] or "(no text)", rows)
