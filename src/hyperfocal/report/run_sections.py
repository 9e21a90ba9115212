"""The sections that the pages of both jobs share: how training went, and the details at the end.

What the page of a run is made of: the files of its folder, read without the data, the model or a network.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec

from hyperfocal.config.classify import ClassifySettings
from hyperfocal.config.recommend import RecommendSettings
from hyperfocal.errors import RunError
from hyperfocal.report import charts
from hyperfocal.report.blocks import DASH, Block, Bullets, Cell, Chart, Facts, Folded, Paragraph, Section
from hyperfocal.report.evidence import EVIDENCE
from hyperfocal.report.format import share
from hyperfocal.storage.run_folder import CONFIG, DATA, MODEL, RunFolder


def training(material: RunMaterial) -> Section:
    """Return learning curves; nothing for a model that only counts."""
    history, metric = material.history, str(material.settings["train.metric"])
    if not history:
        return Section("training", "Training", [])
    refitted = bool(material.settings.get("train.refit"))
    blocks: list[Block] = [Paragraph(_best_epoch(history, metric, "were scored" if refitted else "are kept"))]
    blocks += [Paragraph(_refitted(material.metrics["data"], len(history)))] if refitted else []
    for field, title, about in (
        ("loss", "Training loss by epoch", "Mean loss of the training examples in each epoch; less is better."),
        (metric, f"Validation {metric} by epoch", "More is better."),
    ):
        rows = [{"x": row["epoch"], "y": row[field], "series": field} for row in history if row.get(field) is not None]
        if rows:
            blocks.append(Chart(title, charts.curves(rows, "epoch", field, title, names=[field], height=180), about))
    return Section("training", "Training", blocks)


def _best_epoch(history: Sequence[dict[str, Any]], metric: str, fate: str) -> str:
    seconds = sum(row.get("train_seconds", 0) + row.get("valid_seconds", 0) for row in history)
    scored = [row for row in history if row.get(metric) is not None]
    spent = f"{len(history)} epochs took {duration(seconds)}."
    if not scored:
        return f"{spent} The weights after the last one {fate}."
    best = max(scored, key=lambda row: row[metric])
    chosen = f"The weights after epoch {best['epoch']:.0f} {fate}, the best by validation {metric}"
    return f"{spent} {chosen} ({number(best[metric], 4)})."


def _refitted(data: dict[str, Any], epochs: int) -> str:
    """Say which head predicts where it is another than the one that was scored."""
    documents = data["train"]["documents"] + data["valid"]["documents"]
    return (
        "The head that predicts is another one, which no curve here shows: it was trained anew on all "
        f"{documents:,} documents, those of training and of validation, for {epochs:,} epochs, and has the weights "
        "after the last. All scores and thresholds on this page are of the first head, for nothing was left to score "
        "the second on."
    )


def details(material: RunMaterial, lines: Sequence[str]) -> Section:
    """Return data counts, time and memory, settings and versions.

    Args:
        material: of the run.
        lines: what training read; the first is of the counts, the others are of what is odd.
    """
    settings = {key: plain(value) for key, value in material.settings.items()}
    changed = [(key, plain(value)) for key, value in material.changed.items()]
    blocks: list[Block] = [Paragraph(lines[0])]
    blocks += [Bullets(lines[1:], warn=True)] if lines[1:] else []
    blocks.append(
        Facts([("Run folder", material.name), ("Kept", f"{material.finished:%Y-%m-%d %H:%M}"), *_spent(material)])
    )
    blocks.append(Paragraph("Settings unlike the defaults:" if changed else "All settings are at their defaults."))
    blocks += [Facts(changed)] if changed else []
    blocks.append(Folded("All settings", [Facts(list(settings.items()))]))
    return Section("details", "Details", [*blocks, Folded("Versions and machine", [Facts(_environment(material))])])


def _spent(material: RunMaterial) -> list[tuple[str, str]]:
    evidence = material.evidence
    found = [("Fit took", duration(evidence["seconds"]))] if evidence else []
    if evidence.get("peak_bytes"):
        found.append(("Peak memory", f"{evidence['peak_bytes'] / 2**20:,.0f} MiB"))
    return found


def _environment(material: RunMaterial) -> list[tuple[str, str]]:
    found = {key: value for key, value in material.environment.items() if key != "packages"}
    packages = material.environment.get("packages", {})
    return [(key.replace("_", " "), plain(value)) for key, value in [*packages.items(), *found.items()]]


def duration(seconds: float) -> str:
    """Return seconds as a person says them.

    >>> duration(4.2), duration(75), duration(7260)
    ('4.2 s', '1 min 15 s', '2 h 1 min')
    """
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def plain(value: Any) -> str:
    r"""Return a setting as text.

    >>> plain(True), plain([100, 50]), plain(""), plain(0.002)
    ('yes', '100, 50', '\u2013', '0.002')
    """
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list | tuple):
        return ", ".join(map(plain, value)) or DASH
    return DASH if value in ("", None) else str(value)


def number(value: float | None, digits: int = 3) -> str:
    """Return a score; a dash for nothing."""
    return DASH if value is None else share(value, digits=digits)


def score_cell(value: float | None, digits: int = 3, *, look: str = "") -> Cell:
    """Return a cell of a score."""
    return Cell(number(value, digits), value, look)


def interval_cell(found: dict[str, float | None] | None, digits: int = 3, *, look: str = "") -> Cell:
    """Return a cell of a mean with the half width of its interval."""
    if not found or found.get("mean") is None:
        return Cell(DASH)
    low, high, mean = found.get("low"), found.get("high"), found["mean"]
    reach = "" if low is None or high is None else f" ±{share((high - low) / 2, digits=digits)}"
    return Cell(number(mean, digits) + reach, mean, look)


def count_cell(value: int, *, look: str = "") -> Cell:
    """Return a cell of a count."""
    return Cell(f"{value:,}", value, look)


DEFAULTS = {"classify": ClassifySettings, "recommend": RecommendSettings}
MISSING = (
    "This run has no evidence.json, for it was fitted by an earlier version, or fitted without a run folder and saved "
    "from Python: {} cannot be shown. Fit again with --out to have them."
)


@dataclass(frozen=True, eq=False)
class RunMaterial:
    """A finished run.

    Attributes:
        run: its folder.
        job: "classify" or "recommend".
        settings: dotted key -> value; what the file lacks stands at its default.
        changed: those unlike the defaults.
        metrics: metrics.json.
        history: a row an epoch.
        environment: environment.json.
        evidence: evidence.json; empty where there is none.
        finished: when the run was kept.
    """

    run: RunFolder
    job: str
    settings: dict[str, Any]
    changed: dict[str, Any]
    metrics: dict[str, Any]
    history: list[dict[str, float]]
    environment: dict[str, Any]
    evidence: dict[str, Any]
    finished: datetime

    @property
    def name(self) -> str:
        """Return what the folder is called."""
        return self.run.path.resolve().name


def read_run(path: str | Path) -> RunMaterial:
    """Return what a run folder tells.

    Raises:
        RunError: no run, an unfinished one, or a file that is missing or damaged.
    """
    run = RunFolder.open(path)
    if not run.has(MODEL):
        run.read_text(MODEL)  # says in its error what is missing
    job = _job(run)
    settings, changed = _settings(run, job)
    with run.guard("history.jsonl"):
        history = [json.loads(line) for line in run.read_text("history.jsonl").splitlines()]
    finished = datetime.fromtimestamp((run.path / MODEL).stat().st_mtime).astimezone()
    metrics, environment = (_table_of(run, name) for name in ("metrics.json", "environment.json"))
    return RunMaterial(run, job, settings, changed, metrics, history, environment, _evidence(run, job), finished)


def _job(run: RunFolder) -> str:
    job = str(_table_of(run, DATA).get("job", "recommend"))  # the only one there was at first
    if job not in DEFAULTS:
        raise run.damaged(DATA, ValueError(f"its job is {job!r}, not {' or '.join(DEFAULTS)}"))
    return job


def _settings(run: RunFolder, job: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return all settings and those unlike the defaults; a run of an earlier version may lack some."""
    try:
        found = flattened(tomllib.loads(run.read_text(CONFIG)))
    except (ValueError, RecursionError) as error:  # no TOML, a number of 5,000 digits, 100,000 brackets
        raise run.damaged(CONFIG, error) from None
    default = flattened(msgspec.to_builtins(DEFAULTS[job]()))
    changed = {
        key: value for key, value in found.items() if key not in default or list_of(default[key]) != list_of(value)
    }
    return default | found, changed


def list_of(value: Any) -> Any:
    """Return a tuple as the list that a file has in its place."""
    return list(value) if isinstance(value, tuple) else value


def flattened(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return dotted key -> value.

    >>> flattened({"seed": 1, "loss": {"gamma": 2.0}})
    {'seed': 1, 'loss.gamma': 2.0}
    """
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= flattened(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return flat


def _table_of(run: RunFolder, name: str) -> dict[str, Any]:
    value = run.read_json(name)
    if not isinstance(value, dict):
        raise run.damaged(name, ValueError("it is no table of names and values"))
    return value


def _evidence(run: RunFolder, job: str) -> dict[str, Any]:
    if not run.has(EVIDENCE):
        return {}
    found = _table_of(run, EVIDENCE)
    if found.get("job") != job:
        raise run.damaged(EVIDENCE, RunError(f"it is of the job {found.get('job')!r}, the run is of {job!r}"))
    return found
