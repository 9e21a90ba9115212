"""The page of a run of `recommend`."""

from __future__ import annotations

from typing import Any

from hyperfocal.metrics.compare import Interval, shown_sign, too_few
from hyperfocal.metrics.frequency import BUCKETS, HEAD, TAIL
from hyperfocal.report import charts
from hyperfocal.report.blocks import Cell, Chart, Page, Paragraph, Section, Table
from hyperfocal.report.recommend_items import item_table, item_tail, user_examples
from hyperfocal.report.run_material import RunMaterial
from hyperfocal.report.run_sections import details, interval_cell, number, score_cell, training
from hyperfocal.report.tables import blend_lines, data_lines
from hyperfocal.tasks.evaluation import VERBS
from hyperfocal.tasks.evidence import EVIDENCE

DIGITS = 4
SERIES = 3  # models in the chart of buckets
CALLED = {"blend": "The blend", "gru": "The GRU", "concat_mlp": "The original network", "mean": "The mean encoder"}


def recommend_page(material: RunMaterial) -> Page:
    """Return the page.

    Raises:
        RunError: a file is damaged.
    """
    run, metrics = material.run, material.metrics
    with run.guard("metrics.json"):
        lines = data_lines(metrics["data"])
        headline, lead = _headline(metrics), [_asked(material), *_answer(metrics)]
        scores, groups = _scores(metrics), _buckets(metrics)
    with run.guard(EVIDENCE):
        tail, table, examples = item_tail(material), item_table(material), user_examples(material)
    with run.guard("history.jsonl"):
        learnt = training(material)
    sections = [scores, tail, groups, examples, table, learnt, details(material, lines)]
    return Page(
        f"{material.name} · recommend",
        f"Run of recommend · {material.name} · {material.finished:%d %B %Y}",
        headline,
        lead,
        sections,
    )


def _called(model: str) -> str:
    return CALLED.get(model, f"The {model.replace('_', ' ')}")


def _headline(metrics: dict[str, Any]) -> str:
    metric, model, verdict = metrics["metric"], metrics["model"], metrics.get("verdict")
    if not verdict:
        return f"{_called(model)} reaches {metric} {number(metrics['scores'][model][metric]['mean'], DIGITS)}."
    best = f"the best baseline, {verdict['baseline'].replace('_', ' ')}"
    if untold := too_few(metrics["users"]):
        return f"{_called(model)} against {best}: {untold}."
    return f"{_called(model)} {VERBS[shown_sign(Interval(**verdict['difference']), metrics['users'])]} {best}."


def _asked(material: RunMaterial) -> str:
    counts, metrics = material.metrics["data"], material.metrics
    scored = f"on {metrics['users']:,} other users"
    if material.settings["data.protocol"] == "leave-one-out":
        scored = f"on the item that follows for {metrics['users']:,} of them"
    k = metrics["metric"].partition("@")[2]
    return (
        f"Asked: what are the next {k} of {counts['items']:,} items, after what a user did so far? "
        f"Learnt from {counts['users']:,} users with {counts['events']:,} events; scored {scored}."
    )


def _answer(metrics: dict[str, Any]) -> list[str]:
    words = str(metrics["verdict"]["words"]) if metrics.get("verdict") else ""
    return [words[:1].upper() + words[1:]] if words else []


def _scores(metrics: dict[str, Any]) -> Section:
    metric, scores, model = metrics["metric"], metrics["scores"], metrics["model"]
    order = _ranked(metrics)
    dots = [{"name": name, **scores[name][metric]} for name in order]
    about = f"{metric} of every ranker on the same users, with 95% intervals."
    chart = Chart(f"{metric}, with 95% intervals", charts.dots(dots, order, model, metric, about), about)
    means = [name for name, found in scores[model].items() if isinstance(found, dict) and "mean" in found]
    columns = ["model", *means, "coverage"]
    rows = [
        [
            Cell(name),
            *(_cell(scores[name], each, metric) for each in means),
            Cell(f"{scores[name]['coverage']:.1%}", scores[name]["coverage"]),
        ]
        for name in order
    ]
    lines = [*blend_lines(metrics), *metrics.get("not_compared", []), *_before(metrics)]
    words = "± is half a 95% interval over users; coverage is the share of the items that anyone gets."
    table = Table("All metrics", columns, rows, marked=[order.index(model)])
    said = [Paragraph(text, quiet=True) for text in (" ".join([words, *lines]), _on_train(metrics))]
    return Section("scores", "Beside the baselines", [chart, table, *said])


def _cell(found: dict[str, Any], name: str, metric: str) -> Cell:
    """Return a mean, of the metric that counts with its interval."""
    return (
        interval_cell(found.get(name), DIGITS)
        if name == metric
        else score_cell((found.get(name) or {}).get("mean"), DIGITS)
    )


def _ranked(metrics: dict[str, Any]) -> list[str]:
    """Return the names of the rankers, best first."""
    metric, scores = metrics["metric"], metrics["scores"]
    return sorted(scores, key=lambda name: -(scores[name][metric]["mean"] or 0))


def _before(metrics: dict[str, Any]) -> list[str]:
    if "before" not in metrics:
        return []
    metric = metrics["metric"]
    return [f"Before the update {metric} on these users was {number(metrics['before'][metric]['mean'], DIGITS)}."]


def _on_train(metrics: dict[str, Any]) -> str:
    metric = metrics["metric"]
    ours = number(metrics["scores"][metrics["model"]][metric]["mean"], DIGITS)
    learnt = number(metrics["train"][metric]["mean"], DIGITS)
    return (
        f"On {metrics['train']['users']:,} training users {metric} is {learnt}, on validation users {ours}; "
        "what is more was perhaps learnt by heart."
    )


def _buckets(metrics: dict[str, Any]) -> Section:
    metric, model = metrics["metric"], metrics["model"]
    best = metrics["verdict"].get("baseline") if metrics.get("verdict") else None
    series = [str(name) for name in (model, best, "popularity") if name in metrics["scores"]]
    series = list(dict.fromkeys(series))[:SERIES]
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
