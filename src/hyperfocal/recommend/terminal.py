"""Tables and sentences for the terminal, 80 columns wide."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

BUCKETS = ("head", "medium", "tail")
AGE = ("seen", "new")  # the buckets that are shown where there are new items


def scores_table(metrics: dict[str, Any]) -> Table:
    """Return the model beside the baselines, best first; `metrics` is what `Recommender.metrics_` holds."""
    metric, scores = metrics["metric"], metrics["scores"]
    others = [name for name in ("recall@10",) if name in scores[metrics["model"]]]
    table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False, header_style="bold")
    table.add_column("model", no_wrap=True)
    buckets = AGE if "new" in scores[metrics["model"]] else BUCKETS
    for name in (metric, "95% interval", *others, *buckets, "coverage"):
        table.add_column(name, justify="right", no_wrap=True)
    for name in sorted(scores, key=lambda name: -scores[name][metric]["mean"]):
        row, ours = scores[name], name == metrics["model"]
        cells = [_share(row[metric]["mean"]), f"{_share(row[metric]['low'])}-{_share(row[metric]['high'])}"]
        cells += [_share(row[other]["mean"]) for other in others]
        cells += [_share(row[bucket][metric]["mean"]) for bucket in buckets]
        table.add_row(
            ("> " if ours else "  ") + name, *cells, f"{row['coverage']:.1%}", style="bold green" if ours else ""
        )
    return table


def _share(value: float | None) -> str:
    """Return ".0738" for 0.0738, "-" for nothing."""
    return "-" if value is None else f"{value:.4f}".removeprefix("0")


def scores_report(metrics: dict[str, Any], *, title: str) -> Group:
    """Return the table under a title, what its columns mean, and the verdict in words."""
    lines: list[RenderableType] = [
        Text(f"{title}, {metrics['users']:,} users", style="bold"),
        scores_table(metrics),
        Text(f"{_meaning(metrics)}; coverage: share of the items that anyone gets.", style="dim"),
        *(Text(line, style="dim") for line in [*blend_lines(metrics), *metrics.get("not_compared", [])]),
        Text(),
    ]
    if metrics.get("verdict"):
        lines.append(Text(metrics["verdict"]["words"]))
    return Group(*lines)


def _meaning(metrics: dict[str, Any]) -> str:
    metric = metrics["metric"]
    if "new" in metrics["scores"][metrics["model"]]:
        return f"seen, new: {metric} of the true items that were in training, and of those that were not"
    return f"head, medium, tail: {metric} of the true items with >= 200, 20-199, < 20 training events"


def blend_lines(metrics: dict[str, Any]) -> list[str]:
    """Return what the blend is made of, where there is one."""
    if "blend" not in metrics:
        return []
    weight, partner = metrics["blend"]["weight"], metrics["blend"]["with"]
    return [f"blend: {1 - weight:.0%} network, {weight:.0%} {partner}, as validation users chose."]


def data_lines(counts: dict[str, Any]) -> list[str]:
    """Return what training read, and a line for everything it left out."""
    lines = [f"{_read(counts)}; {counts['examples']:,} examples for a network."]
    if counts["skipped_users"]:
        lines.append(f"{counts['skipped_users']:,} training users are too short for an example; baselines count them.")
    if "item_table" in counts:
        lines += _item_lines(counts["item_table"])
    return lines + _oddities(counts)


def grid_data_lines(counts: dict[str, Any]) -> list[str]:
    """Return what all points of a grid read and are compared on; each cuts its own examples."""
    users = counts["valid"]["users"]
    return [f"{_read(counts)}; all points are compared on {users:,} validation users.", *_oddities(counts)]


def _read(counts: dict[str, Any]) -> str:
    return f"{counts['users']:,} training users, {counts['items']:,} items, {counts['events']:,} events"


def _oddities(counts: dict[str, Any]) -> list[str]:
    ties = f"{counts['ties']:,} events share their time with the one before; they keep the file's order."
    return ([ties] if counts["ties"] else []) + holdout_lines(counts["valid"], "validation")


def _item_lines(table: dict[str, Any]) -> list[str]:
    """Return what the table of items gave, and a line for everything in it that was left out."""
    kinds = ", ".join(f"{name} ({kind})" for name, kind in table["columns"].items())
    lines = [f"The network reads of each item: {kinds}."]
    if table["constant"]:
        lines.append(f"One value, or none, for all items, left out: {', '.join(table['constant'])}.")
    if table["duplicates"]:
        lines.append(f"{table['duplicates']:,} rows have an item that came before; they filled what it lacked.")
    if table["without_row"]:
        lines.append(f"{table['without_row']:,} items of the log have no row in the table: nothing is known of them.")
    if table["without_log"]:
        lines.append(f"{table['without_log']:,} items of the table are not in the training log.")
    return lines


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


def test_report(scores: dict[str, Any]) -> Group:
    """Return winner and baseline of a grid beside one another on test users, and the winner's verdict in words.

    Args:
        scores: "of", the names of "winner" and "baseline"; and under these two words what `evaluate` returns.
    """
    same = scores["of"]["winner"] == scores["of"]["baseline"]
    table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False, header_style="bold")
    table.add_column("", no_wrap=True)
    columns = []
    for role in ("winner",) if same else ("winner", "baseline"):
        found = scores[role]
        table.add_column(Text(f"{role}\n{scores['of'][role]}"), max_width=30, overflow="fold")
        columns.append(_test_cells(found["scores"][found["model"]], found["metric"]))
    for name in columns[0]:
        table.add_row(name, *(cells[name] for cells in columns))
    winner = scores["winner"]
    head = Text(f"Test, {winner['users']:,} users; each ± is half a 95% interval", style="bold")
    lines = [winner["verdict"].get("words", ""), *holdout_lines(winner["data"], "test")]
    return Group(head, table, *(Text(line) for line in lines if line))


def _test_cells(row: dict[str, Any], metric: str) -> dict[str, str]:
    named = {metric: row[metric]} | ({"recall@10": row["recall@10"]} if "recall@10" in row else {})
    named |= {f"  {metric}, {bucket}": row[bucket][metric] for bucket in BUCKETS}
    return {name: _with_reach(score) for name, score in named.items()} | {"coverage": f"{row['coverage']:.1%}"}


def _with_reach(score: dict[str, float | None]) -> str:
    low, high = score["low"], score["high"]
    return _share(score["mean"]) + ("" if low is None or high is None else f" ±{_share((high - low) / 2)}")


def examples_table(rows: Sequence[tuple[str, list[str], list[str], list[str]]]) -> Table:
    """Return example users: (user, history, truth, prediction); a predicted item that is true is marked."""
    table = Table(box=None, padding=(0, 1), header_style="bold")
    for name in ("user", "history", "truth", "prediction"):
        table.add_column(name, overflow="fold")
    for user, history, truth, predicted in rows:
        marked = Text(" ").join(Text(item, style="bold green" if item in truth else "") for item in predicted)
        table.add_row(user, " ".join(history), " ".join(truth), marked)
    return table
