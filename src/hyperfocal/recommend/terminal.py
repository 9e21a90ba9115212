"""Tables and sentences of scores and data for the terminal, 80 columns wide."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from hyperfocal.labels import BUCKETS
from hyperfocal.report.format import numbers_table, quantity, share, test_table

_share = partial(share, digits=4)
FEW_USERS = 200  # validation users: the 95% interval of a share of 5% is then 3 points to either side
BEYOND = {"novelty": "{:.2f}", "diversity": "{:.3f}", "serendipity": "{:.4f}", "gini": "{:.3f}", "new": "{:.1%}"}
BEYOND_WORDS = (
    "novelty: bits of self-information of an item; diversity: 1 - cosine of two items of a list; serendipity: how far "
    "right items are above their rank by popularity; gini of exposure: 0 if all items are shown alike."
)
AGES = ("seen", "new")  # the buckets that are shown if there are new items


def scores_table(metrics: dict[str, Any]) -> Table:
    """Return the table of model and baselines, best first; `metrics` is `Recommender.metrics_`."""
    metric, scores = metrics["metric"], metrics["scores"]
    others = ["recall@10"] if "recall@10" in scores[metrics["model"]] else []
    buckets = AGES if "new" in scores[metrics["model"]] else BUCKETS
    table = numbers_table("model", metric, "95% interval", *others, *buckets, "coverage", texts=["model"])
    for name in sorted(scores, key=lambda name: -scores[name][metric]["mean"]):
        row, ours = scores[name], name == metrics["model"]
        cells = [_share(row[metric]["mean"]), f"{_share(row[metric]['low'])}-{_share(row[metric]['high'])}"]
        cells += [_share(row[other]["mean"]) for other in others]
        cells += [_share(row[bucket][metric]["mean"]) for bucket in buckets]
        cells.append(f"{row['coverage']:.1%}")
        table.add_row(("> " if ours else "  ") + name, *cells, style="bold green" if ours else "")
    return table


def scores_report(metrics: dict[str, Any], *, title: str) -> Group:
    """Return the table with a title, a legend of its columns, and the verdict in words."""
    chosen = (
        [Text(f"{metrics['model']} predicts: it is the best row on validation users.")] if "chosen" in metrics else []
    )
    lines: list[RenderableType] = [
        *chosen,
        Text(f"{title}, {metrics['users']:,} users", style="bold"),
        scores_table(metrics),
        Text(f"{_legend(metrics)}; coverage: share of the items recommended to anyone.", style="dim"),
        *(Text(line, style="dim") for line in [*blend_lines(metrics), *metrics.get("not_compared", [])]),
        Text(),
    ]
    if metrics.get("verdict"):
        lines.append(Text(metrics["verdict"]["words"]))
    return Group(*lines)


def evaluation_report(metrics: dict[str, Any], *, title: str) -> Group:
    """Return `scores_report`, and a table of what the lists are like beside their accuracy."""
    report, table = scores_report(metrics, title=title), beyond_table(metrics)
    if table is None:
        return report
    heading = Text(f"\nBeside accuracy, of the first {metrics['metric'].partition('@')[2]} items", style="bold")
    return Group(report, heading, table, Text(BEYOND_WORDS, style="dim"))


def beyond_table(metrics: dict[str, Any]) -> Table | None:
    """Return the table of what lists are like beside their accuracy; None: the run is of an earlier version."""
    scores, metric = metrics["scores"], metrics["metric"]
    shown = [name for name in BEYOND if name in scores[metrics["model"]].get("beyond", {})]
    if not shown:
        return None
    table = numbers_table("model", *shown, texts=["model"])
    for name in sorted(scores, key=lambda name: -scores[name][metric]["mean"]):
        values, ours = scores[name].get("beyond", {}), name == metrics["model"]
        cells = [BEYOND[each].format(values[each]) if values.get(each) is not None else "-" for each in shown]
        table.add_row(("> " if ours else "  ") + name, *cells, style="bold green" if ours else "")
    return table


def title_of(counts: Mapping[str, Any]) -> str:
    """Return the title of an evaluation for `scores_report`; `counts` is "data" in the result of `evaluate`."""
    trained, users = counts.get("training_users"), counts["users"]
    if trained is None:  # unknown
        return "Users"
    if trained == users:
        return "Training users"
    return "Training and test users" if 2 * trained >= users else "Test"


def _legend(metrics: dict[str, Any]) -> str:
    metric = metrics["metric"]
    if "new" in metrics["scores"][metrics["model"]]:
        return f"seen, new: {metric} of the true items that were in training, and of those that were not"
    return f"head, medium, tail: {metric} of the true items with >= 200, 20-199, < 20 training events"


def blend_lines(metrics: dict[str, Any]) -> list[str]:
    """Return a line with the weights of the blend, if there is one."""
    if "blend" not in metrics:
        return []
    if "weights" in metrics["blend"]:
        parts = ", ".join(f"{name} {weight:g}" for name, weight in metrics["blend"]["weights"].items())
        return [f"blend in logarithms, weights chosen on validation users (there its row is cross-fitted): {parts}."]
    weight, partner = metrics["blend"]["weight"], metrics["blend"]["with"]
    return [f"blend: {1 - weight:.0%} network, {weight:.0%} {partner}, the best on validation users."]


def hint_lines(metrics: dict[str, Any], best_epoch: int, epochs: int) -> list[str]:
    """Return what may improve a network: a line for each sign that training was too short or too long, or hardly paid.

    Args:
        metrics: of the run, on validation users.
        best_epoch: from 1; 0 for a baseline.
        epochs: number of epochs trained.
    """
    lines = []
    if best_epoch and best_epoch == epochs:
        lines.append("The best epoch is the last one. Train longer: raise train.epochs.")
    if best_epoch == 1 < epochs:
        lines.append(
            "The best epoch is the first one: the network overfits. Raise model.dropout, or lower train.epochs."
        )
    metric, scores = metrics["metric"], metrics["scores"]
    network = next(iter(scores))  # the model of the run comes first
    others = [name for name in scores if name not in (network, "blend")]
    best = max(others, key=lambda name: scores[name][metric]["mean"], default=network)
    if best_epoch and scores[best][metric]["mean"] > scores[network][metric]["mean"]:
        lines.append(f"The network alone is below {best}: it may need more epochs, another width, or more events.")
    if metrics["users"] < FEW_USERS:
        lines.append(f"Only {quantity(metrics['users'], 'validation user')}: small differences are chance.")
    return lines


def data_lines(counts: dict[str, Any]) -> list[str]:
    """Return a line with the counts of the training data, and a line for each kind of data left out."""
    lines = [f"{_read(counts)}; {counts['examples']:,} examples for a network."]
    short = {"skipped_users": "Training users with too few items for an example (only baselines count them)"}
    items = _item_lines(counts["item_table"]) if "item_table" in counts else []
    return [*lines, *_counted_lines(counts, short), *items, *_oddities(counts)]


def grid_data_lines(counts: dict[str, Any]) -> list[str]:
    """Return a line with the counts of the data that all points of a grid share, and a line for each oddity."""
    users = counts["valid"]["users"]
    return [f"{_read(counts)}; all points are compared on {users:,} validation users.", *_oddities(counts)]


def _read(counts: dict[str, Any]) -> str:
    return f"{counts['users']:,} training users, {counts['items']:,} items, {counts['events']:,} events"


def _oddities(counts: dict[str, Any]) -> list[str]:
    words = {
        "ties": "Events with the same time as the event before (in the order of the file)",
        "incomplete": "Rows without a user, an item or an order (left out)",
        "repeats": "Events that repeat the user, time and item of an earlier event (kept)",
    }
    return _counted_lines(counts, words) + holdout_lines(counts["valid"], "validation")


def _item_lines(table: dict[str, Any]) -> list[str]:
    """Return the features that come from the item table, and a line for each kind of row left out."""
    kinds = ", ".join(f"{name} ({kind})" for name, kind in table["columns"].items())
    lines = [f"The network reads these columns of each item: {kinds}."] if kinds else []
    if rest := [name for name in table.get("names", []) if name not in table["columns"]]:
        lines.append(f"Only rules read these columns of each item: {', '.join(rest)}.")
    if table["constant"]:
        lines.append(f"Left out, because all items have the same value or none: {', '.join(table['constant'])}.")
    words = {
        "duplicates": "Rows of the item table that repeat an earlier item (they filled its empty cells)",
        "without_row": "Items of the log without a row in the item table, and so without features",
        "without_log": "Items of the item table that are not in the training log",
    }
    return lines + _counted_lines(table, words)


def holdout_lines(counts: dict[str, int], name: str) -> list[str]:
    """Return a line for each kind of user or item that scoring left out, cannot hit, or has seen in training."""
    words = {
        "skipped_users": f"{name.capitalize()} users that are not scored, because their history is too short or they "
        "have no true item",
        "users_without_history": f"{name.capitalize()} users with true items but an empty history",
        "unknown_events": f"Events in {name} histories with items that are not in training (left out)",
        "unseen_true_items": f"Of {counts['true_items']:,} true items, those that are not in training, which no model "
        "can hit but which count",
    }
    return _trained_lines(counts) + _counted_lines(counts, words)


def _trained_lines(counts: Mapping[str, Any]) -> list[str]:
    """Return a line on the users whose true items were in training, if there are any."""
    trained, users = counts.get("training_users") or 0, counts["users"]
    if trained == users:
        return ["This is not a test: all users were in training, with the items after their histories."]
    share = f"{trained:,} of {quantity(users, 'user')}"
    return [f"{share} were in training, with the items after their histories."] if trained else []


def _counted_lines(counts: dict[str, Any], words: dict[str, str]) -> list[str]:
    """Return the words and the count for each count above 0."""
    return [f"{text}: {counts[key]:,}." for key, text in words.items() if counts.get(key)]


def test_report(scores: dict[str, Any]) -> Group:
    """Return a table of a grid's winner and baseline on test users, and the winner's verdict in words."""
    winner = scores["winner"]
    lines = [winner["verdict"].get("words", ""), *holdout_lines(winner["data"], "test")]
    return test_table(scores, "users", _test_cells, list(filter(None, lines)), 30)


def _test_cells(metrics: dict[str, Any]) -> dict[str, str]:
    row, metric = metrics["scores"][metrics["model"]], metrics["metric"]
    named = {metric: row[metric]} | ({"recall@10": row["recall@10"]} if "recall@10" in row else {})
    named |= {f"  {metric}, {bucket}": row[bucket][metric] for bucket in BUCKETS}
    return {name: _with_half_width(score) for name, score in named.items()} | {"coverage": f"{row['coverage']:.1%}"}


def _with_half_width(score: dict[str, float | None]) -> str:
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
