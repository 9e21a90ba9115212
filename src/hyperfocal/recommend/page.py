"""The report page of a run: comparison with the baselines, the long tail, groups of items, example users."""

from __future__ import annotations

from typing import Any

from hyperfocal.labels import BUCKETS, HEAD, TAIL
from hyperfocal.metrics.intervals import Interval, shown_sign, too_few
from hyperfocal.recommend.compare import VERBS
from hyperfocal.recommend.terminal import BEYOND, BEYOND_WORDS, blend_lines, data_lines
from hyperfocal.report import charts
from hyperfocal.report.blocks import Block, Cell, Chart, Chips, Page, Paragraph, Section, Table
from hyperfocal.report.format import capitalized
from hyperfocal.report.run import (
    EVIDENCE,
    MISSING,
    FinishedRun,
    count_cell,
    details,
    interval_cell,
    number,
    score_cell,
    training,
)

DIGITS = 4
ENOUGH = 3  # users with an item as truth, for a mark of that item
NAMES = {"blend": "The blend", "gru": "The GRU", "concat_mlp": "The original network", "mean": "The mean encoder"}


def recommend_page(run: FinishedRun) -> Page:
    """Return the page of a run; raise RunError if a file is damaged."""
    folder, metrics = run.folder, run.metrics
    with folder.guard("metrics.json"):
        lines = data_lines(metrics["data"])
        words = (metrics.get("verdict") or {}).get("words", "")
        headline, lead = _headline(metrics), [_question(run), *([capitalized(words)] if words else [])]
        scores, groups = _scores(metrics), _groups(metrics)
    with folder.guard(EVIDENCE):
        tail, table, examples = _long_tail(run), _item_table(run), _example_users(run)
    with folder.guard("history.jsonl"):
        curves = training(run)
    sections = [scores, tail, groups, examples, table, curves, details(run, lines)]
    title = f"Run of recommend · {run.name} · {run.finished:%d %B %Y}"
    return Page(f"{run.name} · recommend", title, headline, lead, sections)


def _name(model: str) -> str:
    return NAMES.get(model, f"The {model.replace('_', ' ')}")


def _headline(metrics: dict[str, Any]) -> str:
    metric, model, verdict = metrics["metric"], metrics["model"], metrics.get("verdict")
    if not verdict:
        return f"{_name(model)} reaches {metric} {number(metrics['scores'][model][metric]['mean'], DIGITS)}."
    best = f"the best baseline, {verdict['baseline'].replace('_', ' ')}"
    if reason := too_few(metrics["users"]):
        return f"{_name(model)} against {best}: {reason}."
    return f"{_name(model)} {VERBS[shown_sign(Interval(**verdict['difference']), metrics['users'])]} {best}."


def _question(run: FinishedRun) -> str:
    counts, metrics = run.metrics["data"], run.metrics
    scored = f"on {metrics['users']:,} other users"
    if run.settings["data.protocol"] == "leave-one-out":
        scored = f"on the next item of {metrics['users']:,} of them"
    if run.settings["data.protocol"] == "time":
        scored = f"on what {metrics['users']:,} users did from {run.settings['data.until']} on"
    k = metrics["metric"].partition("@")[2]
    return (
        f"Question: after a user's history, what are the next {k} of {counts['items']:,} items? "
        f"Trained on {counts['users']:,} users with {counts['events']:,} events; scored {scored}."
    )


def _scores(metrics: dict[str, Any]) -> Section:
    metric, scores, model = metrics["metric"], metrics["scores"], metrics["model"]
    order = sorted(scores, key=lambda name: -(scores[name][metric]["mean"] or 0))
    dots = [{"name": name, **scores[name][metric]} for name in order]
    about = f"{metric} of every ranker on the same users, with 95% intervals."
    chart = Chart(f"{metric}, with 95% intervals", charts.dots(dots, order, model, metric, about), about)
    means = [name for name, score in scores[model].items() if isinstance(score, dict) and "mean" in score]
    columns = ["model", *means, "coverage"]
    rows = [
        [Cell(name), *(_cell(scores[name], each, metric) for each in means), Cell(f"{share:.1%}", share)]
        for name in order
        for share in [scores[name]["coverage"]]
    ]
    lines = [*blend_lines(metrics), *metrics.get("not_compared", [])]
    if "before" in metrics:
        before = number(metrics["before"][metric]["mean"], DIGITS)
        lines.append(f"Before the update, {metric} on these users was {before}.")
    words = "± is half a 95% interval over users; coverage is the share of the items recommended to anyone."
    table = Table("All metrics", columns, rows, marked=[order.index(model)])
    notes = [Paragraph(text, quiet=True) for text in (" ".join([words, *lines]), _on_train(metrics))]
    return Section("scores", "Comparison with the baselines", [chart, table, *notes, *_beside(metrics, order)])


def _beside(metrics: dict[str, Any], order: list[str]) -> list[Block]:
    """Return the table of what lists are like beside their accuracy, with its words; [] for an earlier version."""
    scores, model = metrics["scores"], metrics["model"]
    shown = [name for name in BEYOND if name in scores[model].get("beyond", {})]
    if not shown:
        return []
    rows = [
        [Cell(name), *(score_cell(scores[name].get("beyond", {}).get(each), DIGITS) for each in shown)]
        for name in order
    ]
    table = Table("Beside accuracy", ["model", *shown], rows, marked=[order.index(model)])
    return [table, Paragraph(BEYOND_WORDS, quiet=True)]


def _cell(scores: dict[str, Any], name: str, metric: str) -> Cell:
    """Return a cell with the mean; for the main metric also with its interval."""
    if name == metric:
        return interval_cell(scores.get(name), DIGITS)
    return score_cell((scores.get(name) or {}).get("mean"), DIGITS)


def _on_train(metrics: dict[str, Any]) -> str:
    metric = metrics["metric"]
    ours = number(metrics["scores"][metrics["model"]][metric]["mean"], DIGITS)
    on_train = number(metrics["train"][metric]["mean"], DIGITS)
    return (
        f"On {metrics['train']['users']:,} training users {metric} is {on_train}, on validation users {ours}; "
        "a large gap is a sign of overfitting."
    )


def _groups(metrics: dict[str, Any]) -> Section:
    metric, model = metrics["metric"], metrics["model"]
    best = metrics["verdict"].get("baseline") if metrics.get("verdict") else None
    series = list(dict.fromkeys(str(name) for name in (model, best, "popularity") if name in metrics["scores"]))
    rows = [
        {"bucket": bucket, "series": name, **metrics["scores"][name][bucket][metric]}
        for bucket in BUCKETS
        for name in series
        if metrics["scores"][name][bucket][metric]["mean"] is not None
    ]
    about = (
        f"{metric} of the true items of each group, with 95% intervals. head: {HEAD} training events or more; "
        f"medium: {TAIL} to {HEAD - 1}; tail: fewer than {TAIL}."
    )
    chart = Chart(f"{metric} of frequent and rare items", charts.buckets(rows, series, model, metric, about), about)
    return Section("groups", "Head, medium, tail", [chart] if rows else [])


def _long_tail(run: FinishedRun) -> Section:
    """Return the number of items and their recall by training events; without the file, a note that it is missing."""
    evidence = run.evidence
    if not evidence:
        missing = MISSING.format("the long tail, the items and the example users")
        return Section("tail", "The long tail", [Paragraph(missing)])
    bins, k = evidence["by_frequency"], evidence["k"]
    largest = charts.end_of_axis(row["to"] for row in bins)
    counts = [{"from": row["from"], "to": row["to"], "number": row["items"]} for row in bins]
    means = [
        {"events": (row["from"] * row["to"]) ** 0.5, "recall": row["hits"] / row["true"]} for row in bins if row["true"]
    ]
    points = [
        {
            "name": row["item"], "events": row["events"], "bucket": _bucket(row["events"]), "size": row["true"],
            "recall": row["hits"] / row["true"],
        }
        for row in evidence["table"]
        if row["true"] >= ENOUGH
    ]  # fmt: skip
    events, scores = "training events", {"recall": f"recall@{k}"}
    about = (
        f"Each mark is an item that {ENOUGH} users or more took next: the share of them who got it among their {k}. "
        "The line is the recall of all items of similar frequency."
    )
    how_many = "Number of items by training events."
    bars = charts.tail_counts(counts, events, "items", largest, how_many)
    marks = charts.tail_scores(points, means, events, scores, largest, about, counted="users who took it")
    both = [
        Chart("Items by training events", bars, how_many),
        Chart(f"Their recall@{k}, on the same axis", marks, about),
    ]
    return Section("tail", "The long tail", [Paragraph(_rare_items(evidence)), *both])


def _bucket(events: int) -> str:
    return "head" if events >= HEAD else "medium" if events >= TAIL else "tail"


def _rare_items(evidence: dict[str, Any]) -> str:
    never = evidence["items"] - sum(row["shown"] > 0 for row in evidence["table"])
    listed = len(evidence["table"]) == evidence["items"]
    words = f"{evidence['rare']:,} of {evidence['items']:,} items have fewer than {TAIL} training events."
    return words + (f" {never:,} items were recommended to nobody." if listed else "")


def _item_table(run: FinishedRun) -> Section:
    """Return a table with a row per item."""
    evidence = run.evidence
    if not evidence:
        return Section("items", "All items", [])
    k = evidence["k"]
    columns = ["item", "group", "events", "true", "hits", f"recall@{k}", "shown"]
    rows = [
        [
            Cell(row["item"]), Cell(bucket, BUCKETS.index(bucket), bucket),
            count_cell(row["events"]), count_cell(row["true"]), count_cell(row["hits"]),
            score_cell(row["hits"] / row["true"] if row["true"] else None), count_cell(row["shown"]),
        ]
        for row in evidence["table"]
        for bucket in [_bucket(row["events"])]
    ]  # fmt: skip
    notes = {
        "events": "in training",
        "true": "users who took it next",
        "hits": f"of these users, those who got it among their {k}",
        "shown": "users who got it",
    }
    left_out = f"; the {len(rows):,} taken most often of {evidence['items']:,}" if len(rows) < evidence["items"] else ""
    words = f"A row per item{left_out}, on {evidence['users']:,} validation users. Click a column to sort by it."
    table = Table("Items", columns, rows, texts=["group"], notes=notes)
    return Section("items", "All items", [Paragraph(words, quiet=True), table])


def _example_users(run: FinishedRun) -> Section:
    """Return users with history, truth and prediction."""
    examples = run.evidence.get("examples", [])
    with_hit = sum(any(item["hit"] for item in example["predicted"]) for example in examples)
    drawn = f"Drawn at random: {with_hit:,} users with a hit and {len(examples) - with_hit:,} without."
    words = f"{drawn} The newest item of a history is the last."
    blocks: list[Block] = [Paragraph(words, quiet=True), *(_user(example) for example in examples)]
    return Section("examples", "Example users", blocks if examples else [])


def _user(example: dict[str, Any]) -> Chips:
    hit = {item["item"] for item in example["predicted"] if item["hit"]}
    earlier = [(f"{example['earlier']:,} before …", False)] if example["earlier"] else []
    rows = {
        "history": [*earlier, *((item, False) for item in example["history"])],
        "truth": [(item or "(never seen in training)", item in hit) for item in example["truth"]],
        "predicted": [(item["item"], item["hit"]) for item in example["predicted"]],
    }
    return Chips(f"User {example['user']}", list(rows.items()))
