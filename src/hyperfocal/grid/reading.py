"""Read a grid from its folder, finished or not, without the data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import torch

from hyperfocal.config.recipes import flat_settings, flatten
from hyperfocal.config.rules import RULES, unread
from hyperfocal.config.sections import Section
from hyperfocal.errors import RunError
from hyperfocal.grid.claims import holds
from hyperfocal.grid.database import Database
from hyperfocal.grid.points import NEITHER
from hyperfocal.grid.search import STORE, WINNER_BY, choose_winner, compare
from hyperfocal.grid.store import FORMAT, PLAN, Result, Store, earlier_outcomes, outcomes
from hyperfocal.metrics.differences import Outcome
from hyperfocal.metrics.intervals import Interval, intervals
from hyperfocal.metrics.verdict import CLASSES, LABELS, Families, Verdict, rankings
from hyperfocal.storage.run_folder import RunFolder

Training = tuple[str, int]  # the name of a point, and a seed


@dataclass(frozen=True, eq=False)
class GridReading:
    """The state of a grid.

    Attributes:
        folder: of the grid.
        job: "classify" or "recommend".
        about: description of the data, for example {"documents": 900}.
        base: dotted settings that the points share.
        results: point -> its finished trainings, one per seed.
        failed: trainings that failed.
        verdicts: point -> its comparison with the baseline; empty without a result of the baseline.
        levels: point -> metric -> mean over its seeds, with the interval over documents or users.
        settings: finished point -> its dotted settings; None for a setting that its training does not read.
        baseline: the point that the others are compared with.
        winner: the best point so far; "": no point has a value.
        by: the metric that chooses the winner.
        missing: trainings that have not ended, in the order of the plan.
        running: the missing trainings that a process works on.
        unproposed: trials of a search whose points are not known yet.
        planned: whether the folder holds a plan; a grid of an earlier version does not.
    """

    folder: Path
    job: str
    about: dict[str, Any]
    base: dict[str, Any]
    results: dict[str, list[Result]]
    failed: list[Result]
    verdicts: dict[str, Verdict]
    levels: dict[str, dict[str, Interval]]
    settings: dict[str, dict[str, Any]]
    baseline: str
    winner: str
    by: str
    missing: list[Training]
    running: list[Training]
    unproposed: int
    planned: bool


class Plan(NamedTuple):
    """The plan of the last command, with the fields of GridReading; all are empty in a grid of an earlier version."""

    trainings: dict[str, Training]  # by their keys in the store, in the order of the plan
    baseline: str
    by: str
    unproposed: int


def is_grid(folder: Path) -> bool:
    """Return whether a folder holds a grid."""
    return (folder / STORE).is_file()


def read_grid(folder: str | Path) -> GridReading:
    """Return the state of a grid. Nothing in the folder is written or renamed.

    Raises:
        RunError: the folder holds no grid, or a damaged one.
    """
    out = RunFolder(folder)
    if not is_grid(out.path):
        raise RunError(f"grid {folder}: holds no grid: {STORE} is missing. Give the folder that `grid --out` wrote")
    meta, claimed = _read_meta(out.path / STORE)
    kind = _settings_class(out.path, meta["settings"])
    plan = _read_plan(out)
    everything = Store(out.path / STORE, meta["fingerprint"], kind, read_only=True).results()
    ended = _planned(everything, plan)
    results = _by_point([result for result in ended if result.done], list(plan.trainings.values()))
    base, about = flatten(msgspec.json.decode(meta["settings"])), msgspec.json.decode(meta.get("about", "{}"))
    families, default_by = _metrics(RULES[kind].job, base)
    baseline, by = plan.baseline or _default_baseline(results), plan.by or default_by
    keys = {result.key for result in ended}
    missing = {key: training for key, training in plan.trainings.items() if key not in keys}
    return GridReading(
        folder=out.path,
        job=RULES[kind].job,
        about=about,
        base=base,
        results=results,
        failed=[result for result in ended if not result.done],
        verdicts=_verdicts(results, baseline, families, by, about, earlier_outcomes(everything, keys)),
        levels={name: _levels(rows) for name, rows in results.items()},
        settings={name: _settings_read(rows[0].settings) for name, rows in results.items()},
        baseline=baseline,
        winner=_winner(results, by),
        by=by,
        missing=list(missing.values()),
        running=[training for key, training in missing.items() if key in claimed],
        unproposed=plan.unproposed,
        planned=bool(plan.trainings),
    )


def _read_meta(path: Path) -> tuple[dict[str, str], set[str]]:
    """Return the description in a store, and the keys of the points that processes work on."""
    database, now = Database(path, read_only=True), datetime.now(UTC).timestamp()
    database.refuse_damaged()
    with database.transaction() as db:
        tables = {name for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        meta = dict(db.execute("SELECT name, value FROM meta").fetchall()) if "meta" in tables else {}
        if meta.get("format") != FORMAT or not {"claims", "results"} <= tables:
            writer = meta.get("format", "another program")
            raise RunError(
                f"grid {path}: its format is {writer!r}, not {FORMAT!r}. Give a folder that `grid --out` wrote"
            )
        claims = db.execute("SELECT key, host, pid, birth, beat FROM claims").fetchall()
    return meta, {key for key, *claim in claims if holds(tuple(claim), now)}


def _settings_class(folder: Path, settings: str) -> type[Section]:
    sections = msgspec.json.decode(settings).keys()
    for kind in RULES:
        if sections == set(kind.__struct_fields__):
            return kind
    raise RunError(f"grid {folder}: its settings belong to no job that this version knows. Run the grid again")


def _read_plan(out: RunFolder) -> Plan:
    content: dict[str, Any] = out.read_json(PLAN) if out.has(PLAN) else {}
    with out.guard(PLAN):
        trainings = {point["key"]: (str(point["name"]), int(point["seed"])) for point in content.get("points", [])}
        unproposed = int(content.get("unproposed", 0))
        return Plan(trainings, str(content.get("baseline", "")), str(content.get("by", "")), unproposed)


def _planned(ended: list[Result], plan: Plan) -> list[Result]:
    """Return the planned trainings among those that ended, by the names in the plan; without a plan all of them."""
    if not plan.trainings:
        return ended
    names = {key: name for key, (name, _) in plan.trainings.items()}
    return [replace(result, name=names[result.key]) for result in ended if result.key in names]


def _by_point(done: Sequence[Result], planned: Sequence[Training]) -> dict[str, list[Result]]:
    """Return the results of each point in the order of the plan, by seed."""
    names = dict.fromkeys([*(name for name, _ in planned), *(result.name for result in done)])
    rows = {name: sorted((r for r in done if r.name == name), key=lambda result: result.seed) for name in names}
    return {name: results for name, results in rows.items() if results}


def _metrics(job: str, base: dict[str, Any]) -> tuple[Families, str]:
    """Return the metrics of a job's verdicts, and the one that chooses the winner by default."""
    if job == "classify":
        return CLASSES if base.get("data.single") else LABELS, WINNER_BY
    k = base["data.next"]
    return rankings(k), f"map@{k}"


def _default_baseline(results: dict[str, list[Result]]) -> str:
    return NEITHER if NEITHER in results else next(iter(results), "")


def _verdicts(
    results: dict[str, list[Result]],
    baseline: str,
    families: Families,
    by: str,
    about: dict[str, Any],
    earlier: Sequence[Sequence[Outcome]],
) -> dict[str, Verdict]:
    if baseline not in results:
        return {}
    done = [result for rows in results.values() for result in rows]
    return compare(outcomes(done), baseline, families, by, about=about, earlier=earlier)


def _settings_read(settings: Section) -> dict[str, Any]:
    """Return all settings of a point; None: its training does not read the setting."""
    return flat_settings(settings) | dict.fromkeys(unread(settings))


def _winner(results: dict[str, list[Result]], by: str) -> str:
    try:
        return choose_winner(results, by) if results else ""
    except RunError:  # no point has a value
        return ""


def _levels(rows: Sequence[Result]) -> dict[str, Interval]:
    """Return metric -> mean over the seeds of a point, with its interval."""
    names = rows[0].resamples.keys()
    means = {name: sum(row.values.get(name, float("nan")) for row in rows) / len(rows) for name in names}
    return intervals(means, {name: torch.stack([row.resamples[name] for row in rows]).mean(0) for name in names})
