"""The sections of a classifier's page on its labels: the long tail, and a row for each."""

from __future__ import annotations

import math
from collections.abc import Sequence
from io import StringIO
from typing import Any

import polars as pl

from hyperfocal.metrics.frequency import BUCKETS, HEAD, TAIL
from hyperfocal.report.blocks import Cell, Chart, Paragraph, Section, Table
from hyperfocal.report.run_material import RunMaterial
from hyperfocal.report.run_sections import count_cell, score_cell
from hyperfocal.report.tail_charts import end_of_axis, tail_counts, tail_scores
from hyperfocal.tasks.evidence import SHOWN, cut

COUNTS = ("train_documents", "true_documents", "decided_documents")
LABEL_COLUMNS = ("precision", "recall", "f1", "average_precision")
HOW_MANY = "How many labels have so many training documents."
LARGE = "The larger a mark, the more true documents it was scored on."
SCORES = {"f1": "F1, tuned", "average_precision": "average precision"}


def read_labels(material: RunMaterial) -> list[dict[str, Any]]:
    """Return the rows of labels.csv with bucket, threshold and, from the tree, the name."""
    text, run = material.run.read_text("labels.csv"), material.run
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
