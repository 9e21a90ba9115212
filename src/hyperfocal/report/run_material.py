"""What the page of a run is made of: the files of its folder, read without the data, the model or a network."""

from __future__ import annotations

import json
import tomllib
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec

from hyperfocal.config.classify import ClassifySettings
from hyperfocal.config.recommend import RecommendSettings
from hyperfocal.errors import RunError
from hyperfocal.runs import CONFIG, DATA, MODEL, RunFolder
from hyperfocal.tasks.evidence import EVIDENCE

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
