"""A finished run and its page: the data in evidence.json, the files of the run, and the sections of both jobs.

    evidence.json   format, job, seconds, peak_bytes, shown, and the job's own data for its page

`fit` and `update` write evidence.json, so that a page needs no data, model or network later. The file stays below 1 MB:
a table has at most SHOWN labels or items, and long texts are cut.
"""

from __future__ import annotations

import json
import sys
import time
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from hyperfocal.config.recipes import flat_settings, flatten
from hyperfocal.config.rules import RULES
from hyperfocal.data.reading import LISTS, ReadingPlan
from hyperfocal.errors import RunError
from hyperfocal.report.blocks import DASH, Block, Bullets, Cell, Chart, Facts, Folded, Paragraph, Section
from hyperfocal.report.format import duration, plain, quantity, share
from hyperfocal.report.reading import ignored_lines, plan_table
from hyperfocal.storage.run_folder import CONFIG, DATA, MODEL, RunFolder
from hyperfocal.training.run import read_plan

EVIDENCE = "evidence.json"
FORMAT = 1
SHOWN = 2_000  # rows of a table
LONGEST, NAME = 240, 80  # characters of a text, and of an id, a label or an item
LISTED = 12  # names in a list
MISSING = (
    "This run has no evidence.json: an earlier version fitted it, or Python saved it without the fit that made it. "
    "Fit again, into a run folder, to see {}."
)
SETTINGS = {rules.job: rules.settings for rules in RULES.values()}


@dataclass(frozen=True, eq=False)
class FinishedRun:
    """The content of a run folder.

    Attributes:
        folder: of the run.
        job: "classify" or "recommend".
        settings: dotted key -> value; the default for a key that the file lacks.
        changed: the settings that differ from the defaults.
        metrics: metrics.json.
        history: one row per epoch.
        environment: environment.json.
        evidence: evidence.json; {}: the run has none.
        finished: time at which the model was written.
        plan: how the data were read. None: the run is of an earlier version without a plan.
    """

    folder: RunFolder
    job: str
    settings: dict[str, Any]
    changed: dict[str, Any]
    metrics: dict[str, Any]
    history: list[dict[str, float]]
    environment: dict[str, Any]
    evidence: dict[str, Any]
    finished: datetime
    plan: ReadingPlan | None

    @property
    def name(self) -> str:
        """The name of the folder."""
        return self.folder.path.resolve().name


def evidence_of(job: str, content: dict[str, Any], *, began: float) -> dict[str, Any]:
    """Return the content of evidence.json.

    Args:
        job: "classify" or "recommend".
        content: the job's own data for its page.
        began: `time.perf_counter()` at the start of the fit or the update.
    """
    cost = {"seconds": time.perf_counter() - began, "peak_bytes": peak_bytes()}
    return {"format": FORMAT, "job": job, **cost, "shown": SHOWN, **content}


def peak_bytes() -> int | None:
    """Return the peak memory of this process so far; None if the system does not report it."""
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1_024


def cut(text: str | None, longest: int = NAME) -> str:
    """Return a text on one line, shortened to `longest` characters.

    >>> cut("two  words"), cut("too long", 4)
    ('two words', 'too…')
    """
    words = " ".join((text or "")[: 4 * longest].split())
    return words if len(words) <= longest else words[: longest - 1] + "…"


def read_run(folder: RunFolder) -> FinishedRun:
    """Return the content of a run folder.

    Raises:
        RunError: an unfinished run, or a file that is missing or damaged.
    """
    if not folder.has(MODEL):
        folder.read_text(MODEL)  # raises an error that says what is missing
    job = _read_job(folder)
    settings, changed = _read_settings(folder, job)
    with folder.guard("history.jsonl"):
        history = [json.loads(line) for line in folder.read_text("history.jsonl").splitlines()]
    finished = datetime.fromtimestamp((folder.path / MODEL).stat().st_mtime).astimezone()
    metrics, environment = (_read_object(folder, name) for name in ("metrics.json", "environment.json"))
    evidence = _read_evidence(folder, job)
    return FinishedRun(
        folder, job, settings, changed, metrics, history, environment, evidence, finished, read_plan(folder)
    )


def _read_job(folder: RunFolder) -> str:
    job = str(_read_object(folder, DATA).get("job", "recommend"))  # the earliest runs name no job
    if job not in SETTINGS:
        raise folder.damaged(DATA, ValueError(f"its job is {job!r}, not {' or '.join(SETTINGS)}"))
    return job


def _read_settings(folder: RunFolder, job: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return all settings and those that differ from the defaults; a run of an earlier version may lack some."""
    try:
        given = flatten(tomllib.loads(folder.read_text(CONFIG)))
    except (ValueError, RecursionError) as error:  # not TOML, a number of 5,000 digits, 100,000 brackets
        raise folder.damaged(CONFIG, error) from None
    default = flat_settings(SETTINGS[job]())
    changed = {key: value for key, value in given.items() if key not in default or _listed(default[key]) != value}
    return default | given, changed


def _listed(value: Any) -> Any:
    """Return a tuple as a list, as a file holds it."""
    return list(value) if isinstance(value, tuple) else value


def _read_object(folder: RunFolder, name: str) -> dict[str, Any]:
    value = folder.read_json(name)
    if not isinstance(value, dict):
        raise folder.damaged(name, ValueError("it is not a JSON object"))
    return value


def _read_evidence(folder: RunFolder, job: str) -> dict[str, Any]:
    if not folder.has(EVIDENCE):
        return {}
    content = _read_object(folder, EVIDENCE)
    if content.get("job") != job:
        raise folder.damaged(EVIDENCE, RunError(f"its job is {content.get('job')!r}, the run's is {job!r}"))
    return content


def training(run: FinishedRun, *, refit: str = "") -> Section:
    """Return the section of the learning curves; it is empty for a model without epochs, which only counts.

    Args:
        run: its content.
        refit: note for a run whose saved model was trained again after the scores; "": the scored model was saved.
    """
    from hyperfocal.report import charts  # altair, which `fit` itself does not need

    history, metric = run.history, str(run.settings["train.metric"])
    if not history:
        return Section("training", "Training", [])
    blocks: list[Block] = [Paragraph(_best_epoch(history, metric, "were scored" if refit else "were saved"))]
    blocks += [Paragraph(refit)] if refit else []
    for field, title, about in (
        ("loss", "Training loss by epoch", "Mean loss of the training examples in each epoch; lower is better."),
        (metric, f"Validation {metric} by epoch", "Higher is better."),
    ):
        rows = [{"x": row["epoch"], "y": row[field], "series": field} for row in history if row.get(field) is not None]
        if rows:
            blocks.append(Chart(title, charts.curves(rows, "epoch", field, title, names=[field], height=180), about))
    return Section("training", "Training", blocks)


def _best_epoch(history: Sequence[dict[str, Any]], metric: str, fate: str) -> str:
    seconds = sum(row.get("train_seconds", 0) + row.get("valid_seconds", 0) for row in history)
    spent = f"{quantity(len(history), 'epoch')} took {duration(seconds)}."
    scored = [row for row in history if row.get(metric) is not None]
    if not scored:
        return f"{spent} The weights after the last epoch {fate}."
    best = max(scored, key=lambda row: row[metric])
    choice = f"The weights after epoch {best['epoch']:.0f} {fate}, the best by validation {metric}"
    return f"{spent} {choice} ({number(best[metric], 4)})."


def details(run: FinishedRun, lines: Sequence[str]) -> Section:
    """Return the section of data counts, time and memory, settings and versions.

    Args:
        run: its content.
        lines: the training data: first the counts, then a line for each anomaly.
    """
    settings = [(key, plain(value)) for key, value in run.settings.items()]
    changed = [(key, plain(value)) for key, value in run.changed.items()]
    blocks: list[Block] = [Paragraph(lines[0])]
    blocks += [Bullets(lines[1:], warn=True)] if lines[1:] else []
    if run.plan is not None and run.plan.form != LISTS:
        blocks += [plan_table(run.plan), *map(Paragraph, ignored_lines(run.plan))]
    blocks.append(Facts([("Run folder", run.name), ("Finished", f"{run.finished:%Y-%m-%d %H:%M}"), *_cost(run)]))
    blocks.append(Paragraph("Settings that differ from the defaults:" if changed else "All settings are defaults."))
    blocks += [Facts(changed)] if changed else []
    blocks += [Folded("All settings", [Facts(settings)]), Folded("Versions and machine", [Facts(_environment(run))])]
    return Section("details", "Details", blocks)


def _cost(run: FinishedRun) -> list[tuple[str, str]]:
    evidence = run.evidence
    facts = [("Fit took", duration(evidence["seconds"]))] if evidence else []
    if evidence.get("peak_bytes"):
        facts.append(("Peak memory", f"{evidence['peak_bytes'] / 2**20:,.0f} MiB"))
    return facts


def _environment(run: FinishedRun) -> list[tuple[str, str]]:
    machine = {key: value for key, value in run.environment.items() if key != "packages"}
    packages = run.environment.get("packages", {})
    return [(key.replace("_", " "), plain(value)) for key, value in [*packages.items(), *machine.items()]]


def number(value: float | None, digits: int = 3) -> str:
    """Return a score as text; a dash for None."""
    return DASH if value is None else share(value, digits=digits)


def score_cell(value: float | None, digits: int = 3, *, look: str = "") -> Cell:
    """Return the cell of a score."""
    return Cell(number(value, digits), value, look)


def interval_cell(score: dict[str, float | None] | None, digits: int = 3) -> Cell:
    """Return the cell of a mean with the half width of its interval; `score` is mean, low and high."""
    if not score or score.get("mean") is None:
        return Cell(DASH)
    low, high, mean = score.get("low"), score.get("high"), score["mean"]
    reach = "" if low is None or high is None else f" ±{share((high - low) / 2, digits=digits)}"
    return Cell(number(mean, digits) + reach, mean)


def count_cell(value: int) -> Cell:
    """Return the cell of a count."""
    return Cell(f"{value:,}", value)
