"""A grid as its folder tells it, finished or not, without the data.

What the page of a grid asks of a `grid.reading.GridReading`, which says what each attribute is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

import msgspec
import torch

from hyperfocal.config.rules import RULES, flat_settings, flatten, unread
from hyperfocal.config.sections import Section
from hyperfocal.errors import RunError
from hyperfocal.grid.claims import holds
from hyperfocal.grid.database import Database
from hyperfocal.grid.job import why_untold
from hyperfocal.grid.points import NEITHER
from hyperfocal.grid.search import STORE, choose_winner
from hyperfocal.grid.store import FORMAT, PLAN, Result, Store, outcomes
from hyperfocal.metrics.intervals import Interval, intervals
from hyperfocal.metrics.verdict import LABELS, Verdict, rankings, verdicts
from hyperfocal.report.grid_table import Ended
from hyperfocal.storage.run_folder import RunFolder

Wanted = tuple[str, int]  # name and seed of a point


@dataclass(frozen=True, eq=False)
class GridReading:
    """A grid.

    Attributes:
        folder: of the grid.
        job: "classify" or "recommend".
        k: length of the rankings; 0 for labels.
        about: what is known of the data, as {"documents": 900}.
        base: dotted settings that the points share.
        results: name -> what is done, one a seed.
        failed: what failed.
        verdicts: name -> how it differs from the baseline; empty where that is not done.
        levels: name -> metric -> mean over its seeds, and the interval over documents or users.
        settings: name -> dotted settings of a point that is done; None for what its training does not read.
        baseline: name of the point that the others are compared with.
        winner: the best so far; "" where nothing is done.
        by: the metric that chooses it.
        missing: points that have not ended, in the order of the plan.
        unproposed: trials of a search whose points are not known yet.
        running: those of them that a process is at.
        planned: whether the folder tells what was planned: a grid of an earlier version does not.
    """

    folder: Path
    job: str
    k: int
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
    missing: list[Wanted]
    unproposed: int
    running: list[Wanted]
    planned: bool


def is_grid(folder: Path) -> bool:
    """Return whether a folder holds a grid."""
    return (folder / STORE).is_file()


def read_grid(folder: str | Path) -> GridReading:
    """Return what a grid has reached so far. Nothing in the folder is written or renamed.

    Raises:
        RunError: no grid, or a damaged one.
    """
    out = RunFolder(folder)
    if not is_grid(out.path):
        raise RunError(f"grid {folder}: holds no grid: {STORE} is missing. Give the folder that `grid --out` wrote")
    meta, claimed = _meta(out.path / STORE)
    kind = _kind(out.path, meta["settings"])
    store = Store(out.path / STORE, meta["fingerprint"], kind, read_only=True)
    plan: dict[str, Any] = out.read_json(PLAN) if out.has(PLAN) else {}
    with out.guard(PLAN):
        planned = {point["key"]: (str(point["name"]), int(point["seed"])) for point in plan.get("points", [])}
        baseline, by = str(plan.get("baseline", "")), str(plan.get("by", ""))
        unproposed = int(plan.get("unproposed", 0))
    ended = [
        replace(result, name=planned[result.key][0]) if planned else result
        for result in store.results()
        if not planned or result.key in planned
    ]
    missing = {key: each for key, each in planned.items() if key not in {result.key for result in ended}}
    base, about = flatten(msgspec.json.decode(meta["settings"])), msgspec.json.decode(meta.get("about", "{}"))
    results = _by_name([result for result in ended if result.done], list(planned.values()))
    baseline = baseline or (NEITHER if NEITHER in results else next(iter(results), ""))
    k = base["data.next"] if RULES[kind].job == "recommend" else 0
    by = by or (f"map@{k}" if k else "tuned.macro_f1")
    return GridReading(
        folder=out.path,
        job=RULES[kind].job,
        k=k,
        about=about,
        base=base,
        results=results,
        failed=[result for result in ended if not result.done],
        verdicts=_compared(results, baseline, k, why_untold(about)),
        levels={name: _levels(rows) for name, rows in results.items()},
        settings={name: _read_settings(rows[0].settings) for name, rows in results.items()},
        baseline=baseline,
        winner=_winner(results, by),
        by=by,
        missing=list(missing.values()),
        unproposed=unproposed,
        running=[each for key, each in missing.items() if key in claimed],
        planned=bool(planned),
    )


def _meta(path: Path) -> tuple[dict[str, str], set[str]]:
    """Return the description in a store, and the keys of the points that a process is at."""
    file, now = Database(path, read_only=True), datetime.now(UTC).timestamp()
    file.refuse_damaged()
    with file.transaction() as db:
        tables = {name for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        meta = dict(db.execute("SELECT name, value FROM meta").fetchall()) if "meta" in tables else {}
        if meta.get("format") != FORMAT or not {"claims", "results"} <= tables:
            what = meta.get("format", "another program")
            raise RunError(f"grid {path}: it is of {what}, not of {FORMAT}. Give a folder that `grid --out` wrote")
        claims = db.execute("SELECT key, host, pid, birth, beat FROM claims").fetchall()
    return meta, {key for key, *held in claims if holds(tuple(held), now)}


def _kind(folder: Path, settings: str) -> type[Section]:
    sections = msgspec.json.decode(settings).keys()
    for kind in RULES:
        if sections == set(kind.__struct_fields__):
            return kind
    raise RunError(f"grid {folder}: its settings are of no job that this version knows. Run the grid again")


def _by_name(done: Sequence[Result], planned: Sequence[Wanted]) -> dict[str, list[Result]]:
    """Return the results of each name in the order of the plan, by seed."""
    names = dict.fromkeys([*(name for name, _ in planned), *(result.name for result in done)])
    rows = {name: sorted((r for r in done if r.name == name), key=lambda result: result.seed) for name in names}
    return {name: found for name, found in rows.items() if found}


def _compared(results: dict[str, list[Result]], baseline: str, k: int, untold: str) -> dict[str, Verdict]:
    if baseline not in results:
        return {}
    done = [result for rows in results.values() for result in rows]
    return verdicts(outcomes(done), baseline, rankings(k) if k else LABELS, too_few=untold)


def _read_settings(settings: Section) -> dict[str, Any]:
    return flat_settings(settings) | dict.fromkeys(unread(settings))


def _winner(results: dict[str, list[Result]], by: str) -> str:
    try:
        return choose_winner(results, by) if results else ""
    except RunError:  # no point has a value
        return ""


def _levels(rows: Sequence[Result]) -> dict[str, Interval]:
    names = rows[0].resamples.keys()
    means = {name: sum(row.values.get(name, float("nan")) for row in rows) / len(rows) for name in names}
    return intervals(means, {name: torch.stack([row.resamples[name] for row in rows]).mean(0) for name in names})


class Reading(Protocol):
    """A grid, finished or not."""

    @property
    def folder(self) -> Path:
        """Of the grid."""

    @property
    def job(self) -> str:
        """Of the points."""

    @property
    def k(self) -> int:
        """Length of the rankings; 0 for labels."""

    @property
    def about(self) -> dict[str, Any]:
        """What is known of the data."""

    @property
    def base(self) -> dict[str, Any]:
        """Settings that the points share."""

    @property
    def results(self) -> Mapping[str, Sequence[Ended]]:
        """Name -> what is done."""

    @property
    def failed(self) -> Sequence[Ended]:
        """What failed."""

    @property
    def verdicts(self) -> Mapping[str, Verdict]:
        """Name -> how it differs from the baseline."""

    @property
    def levels(self) -> Mapping[str, Mapping[str, Interval]]:
        """Name -> metric -> mean with interval."""

    @property
    def settings(self) -> Mapping[str, Mapping[str, Any]]:
        """Name -> settings; None for what is not read."""

    @property
    def baseline(self) -> str:
        """Name of a point."""

    @property
    def winner(self) -> str:
        """Name of a point, or ""."""

    @property
    def by(self) -> str:
        """The metric that chooses the winner."""

    @property
    def missing(self) -> Sequence[tuple[str, int]]:
        """Name and seed of what has not ended."""

    @property
    def unproposed(self) -> int:
        """Trials of a search whose points are not known yet."""

    @property
    def running(self) -> Sequence[tuple[str, int]]:
        """Name and seed of what a process is at."""

    @property
    def planned(self) -> bool:
        """Whether it is known what was planned."""
