"""Tables and sentences for the terminal, 80 columns wide."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

BUCKETS = ("head", "medium", "tail")


def scores_table(metrics: dict[str, Any]) -> Table:
    """Return the model beside the baselines, best first; `metrics` is what `Recommender.metrics_` holds."""
    metric, scores = metrics["metric"], metrics["scores"]
    others = [name for name in ("recall@10",) if name in scores[metrics["model"]]]
    table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False, header_style="bold")
    table.add_column("model", no_wrap=True)
    for name in (metric, "95% interval", *others, *BUCKETS, "coverage"):
        table.add_column(name, justify="right", no_wrap=True)
    for name in sorted(scores, key=lambda name: -scores[name][metric]["mean"]):
        row, ours = scores[name], name == metrics["model"]
        cells = [_share(row[metric]["mean"]), f"{_share(row[metric]['low'])}-{_share(row[metric]['high'])}"]
        cells += [_share(row[other]["mean"]) for other in others]
        cells += [_share(row[bucket][metric]["mean"]) for bucket in BUCKETS]
        table.add_row(
            ("> " if ours else "  ") + name, *cells, f"{row['coverage']:.1%}", style="bold green" if ours else ""
        )
    return table


def _share(value: float | None) -> str:
    """Return ".0738" for 0.0738, "-" for nothing."""
    return "-" if value is None else f"{value:.4f}".removeprefix("0")


def scores_report(metrics: dict[str, Any], *, title: str) -> Group:
    """Return the table under a title, what its columns mean, and the verdict in words."""
    metric = metrics["metric"]
    lines: list[RenderableType] = [
        Text(f"{title}, {metrics['users']:,} users", style="bold"),
        scores_table(metrics),
        Text(
            f"head, medium, tail: {metric} of the true items with >= 200, 20-199, < 20 training events; "
            "coverage: share of the items that anyone gets.",
            style="dim",
        ),
        *(Text(line, style="dim") for line in metrics.get("not_compared", [])),
        Text(),
    ]
    if metrics.get("verdict"):
        lines.append(Text(metrics["verdict"]["words"]))
    return Group(*lines)


def data_lines(counts: dict[str, Any]) -> list[str]:
    """Return what training read, and a line for everything it left out."""
    lines = [
        f"{counts['users']:,} training users, {counts['items']:,} items, {counts['events']:,} events; "
        f"{counts['examples']:,} examples for a network."
    ]
    if counts["skipped_users"]:
        lines.append(f"{counts['skipped_users']:,} training users are too short for an example; baselines count them.")
    if counts["ties"]:
        lines.append(f"{counts['ties']:,} events share their time with the one before; they keep the file's order.")
    return lines + holdout_lines(counts["valid"], "validation")


def holdout_lines(counts: dict[str, int], name: str) -> list[str]:
    """Return a line for everything that scoring left out or cannot hit."""
    lines = []
    if counts["skipped_users"]:
        lines.append(f"{counts['skipped_users']:,} {name} users are not scored: too short, or without a true item.")
    if counts["users_without_history"]:
        lines.append(f"{counts['users_without_history']:,} {name} users have a truth but no history: scored on none.")
    if counts["unknown_events"]:
        lines.append(
            f"{counts['unknown_events']:,} events in {name} histories are on items that training never saw; left out."
        )
    if counts["unseen_true_items"]:
        lines.append(
            f"{counts['unseen_true_items']:,} of {counts['true_items']:,} true items were never seen in training: "
            "nothing can hit them, and they count."
        )
    return lines


def examples_table(rows: Sequence[tuple[str, list[str], list[str], list[str]]]) -> Table:
    """Return example users: (user, history, truth, prediction); a predicted item that is true is marked."""
    table = Table(box=None, padding=(0, 1), header_style="bold")
    for name in ("user", "history", "truth", "prediction"):
        table.add_column(name, overflow="fold")
    for user, history, truth, predicted in rows:
        marked = Text(" ").join(Text(item, style="bold green" if item in truth else "") for item in predicted)
        table.add_row(user, " ".join(history), " ".join(truth), marked)
    return table


def print_lines(console: Console, lines: Sequence[str]) -> None:
    """Print plain sentences, without reading markup into them."""
    for line in lines:
        console.print(Text(line))


def print_commands(console: Console, lines: Sequence[str]) -> None:
    """Print lines that a person copies: never broken by us."""
    for line in lines:
        console.print(Text(line), soft_wrap=True)
