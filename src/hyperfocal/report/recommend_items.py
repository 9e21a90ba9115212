"""The sections of a recommender's page on its evidence: the long tail, a row an item, and users to look at."""

from __future__ import annotations

from typing import Any

from hyperfocal.metrics.frequency import BUCKETS, HEAD, TAIL
from hyperfocal.report.blocks import Block, Cell, Chart, Chips, Paragraph, Section, Table
from hyperfocal.report.run_material import MISSING, RunMaterial
from hyperfocal.report.run_sections import count_cell, score_cell
from hyperfocal.report.tail_charts import end_of_axis, tail_counts, tail_scores

ENOUGH = 3  # users with an item as truth, for a mark of its own


def item_tail(material: RunMaterial) -> Section:
    """Return how many items are how rare, and how well they do; or what is missing."""
    evidence = material.evidence
    if not evidence:
        return Section(
            "tail", "The long tail", [Paragraph(MISSING.format("the long tail, the items and users to look at"))]
        )
    bins, k = evidence["by_frequency"], evidence["k"]
    largest = end_of_axis(row["to"] for row in bins)
    counts = [{"from": row["from"], "to": row["to"], "number": row["items"]} for row in bins]
    means = [
        {"events": (row["from"] * row["to"]) ** 0.5, "recall": row["hits"] / row["true"]} for row in bins if row["true"]
    ]
    points = [
        {
            "name": row["item"],
            "events": row["events"],
            "bucket": _bucket(row["events"]),
            "size": row["true"],
            "recall": row["hits"] / row["true"],
        }
        for row in evidence["table"]
        if row["true"] >= ENOUGH
    ]
    events, scores = "training events", {"recall": f"recall@{k}"}
    about = (
        f"Each mark is an item that {ENOUGH} users or more took next: the share of them who got it among their {k}. "
        "The line is of all items of like frequency together."
    )
    how_many = "How many items have so many training events."
    marks = tail_scores(points, means, events, scores, largest, about, counted="users who took it")
    return Section(
        "tail",
        "The long tail",
        [
            Paragraph(_concentration(evidence)),
            Chart("Items by training events", tail_counts(counts, events, "items", largest, how_many), how_many),
            Chart(f"Their recall@{k}, on the same axis", marks, about),
        ],
    )  # fmt: skip


def _bucket(events: int) -> str:
    return "head" if events >= HEAD else "medium" if events >= TAIL else "tail"


def _bucket_cell(bucket: str) -> Cell:
    return Cell(bucket, BUCKETS.index(bucket), bucket)


def _concentration(evidence: dict[str, Any]) -> str:
    never = evidence["items"] - sum(row["shown"] > 0 for row in evidence["table"])
    listed = len(evidence["table"]) == evidence["items"]
    words = f"{evidence['rare']:,} of {evidence['items']:,} items have fewer than {TAIL} training events."
    return words + (f" {never:,} items were recommended to nobody." if listed else "")


def item_table(material: RunMaterial) -> Section:
    """Return a row an item."""
    evidence = material.evidence
    if not evidence:
        return Section("items", "Every item", [])
    k = evidence["k"]
    columns = ["item", "group", "events", "true", "hits", f"recall@{k}", "shown"]
    rows = [
        [
            Cell(row["item"]), _bucket_cell(_bucket(row["events"])),
            count_cell(row["events"]), count_cell(row["true"]), count_cell(row["hits"]),
            score_cell(row["hits"] / row["true"] if row["true"] else None), count_cell(row["shown"]),
        ]
        for row in evidence["table"]
    ]  # fmt: skip
    notes = {
        "events": "in training",
        "true": "users who took it next",
        "hits": f"of them, those who got it among their {k}",
        "shown": "users who got it",
    }
    left_out = f"; the {len(rows):,} taken most often of {evidence['items']:,}" if len(rows) < evidence["items"] else ""
    words = f"A row an item{left_out}, on {evidence['users']:,} validation users. A click on a column sorts by it."
    return Section(
        "items",
        "Every item",
        [Paragraph(words, quiet=True), Table("Items", columns, rows, texts=["group"], notes=notes)],
    )


def user_examples(material: RunMaterial) -> Section:
    """Return users with history, truth and prediction."""
    found = material.evidence.get("examples", [])
    lucky = sum(any(item["hit"] for item in example["predicted"]) for example in found)
    drawn = f"Drawn at random: {lucky:,} users with a hit and {len(found) - lucky:,} without."
    words = f"{drawn} The newest item of a history is the last."
    blocks: list[Block] = [Paragraph(words, quiet=True), *(_user(example) for example in found)]
    return Section("examples", "Users to look at", blocks if found else [])


def _user(example: dict[str, Any]) -> Chips:
    hit = {item["item"] for item in example["predicted"] if item["hit"]}
    earlier = [(f"{example['earlier']:,} before …", False)] if example["earlier"] else []
    return Chips(
        f"User {example['user']}",
        [
            ("history", [*earlier, *((item, False) for item in example["history"])]),
            ("truth", [(item or "(never seen in training)", item in hit) for item in example["truth"]]),
            ("predicted", [(item["item"], item["hit"]) for item in example["predicted"]]),
        ],
    )
