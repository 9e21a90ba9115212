"""The printed table of a grid: every point beside the baseline, best first, and the verdicts in words.

A row a point of a grid, over its seeds: what the printed table and the files show.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from rich.cells import cell_len
from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from hyperfocal.metrics.differences import Difference
from hyperfocal.metrics.verdict import ALWAYS_SHOWN, FAMILIES, WIDE, Verdict, rankings
from hyperfocal.report.format import share

NARROWEST, UNBROKEN = 16, 28  # columns at least for the name of a point; a longer one than that may be broken
CHANGE, SECONDS, SPREAD = "change\nin %", "time\ns", "sd of\nseeds"


@dataclass(frozen=True)
class Layout:
    """The table of one job.

    Attributes:
        scored: what points are scored on, as "documents".
        called: metric -> what it is called in a sentence.
        columns: metric -> its column, in two lines; the change stands after the first.
        changed: the metric whose change the table shows.
        all_changed: metrics whose change the files hold.
        dispensable: columns that a narrow table leaves out, the first of them first.
        meaning: what the columns mean; {baseline} stands for the baseline's name.
        progress: metric -> how a line of progress says it.
        digits: of a score, after the point.
    """

    scored: str
    called: Mapping[str, str]
    columns: Mapping[str, str]
    changed: str
    all_changed: tuple[str, ...]
    dispensable: tuple[str, ...]
    meaning: str
    progress: Mapping[str, str]
    digits: int = 3

    def name_of(self, metric: str) -> str:
        """Return what a metric is called."""
        return self.called.get(metric, metric)


LABELS = Layout(
    scored="documents",
    called=FAMILIES,
    columns={
        "half.macro_f1": "F1 at\n0.5",
        "tuned.macro_f1": "F1\ntuned",
        "tuned.micro_f1": "micro\ntuned",
        "macro_ap": "macro\nAP",
        "head_ap": "head\nAP",
        "medium_ap": "med.\nAP",
        "tail_ap": "tail\nAP",
    },
    changed="half.macro_f1",
    all_changed=ALWAYS_SHOWN,
    dispensable=("micro\ntuned", "med.\nAP", "head\nAP", SECONDS, SPREAD),
    meaning="F1 is macro-F1; change: of F1 at 0.5 against {baseline}, with its 95% interval; AP: average precision",
    progress={"macro_ap": "macro AP {}", "tuned.macro_f1": "F1 {} tuned"},
)


def ranking_layout(k: int) -> Layout:
    """Return the table of a grid on rankings of k items."""
    ranking = f"map@{k}"
    buckets = {"head": "head", "medium": "med.", "tail": "tail"}
    return Layout(
        scored="users",
        called=rankings(k).called,
        columns={
            ranking: f"map\n@{k}",
            WIDE: "recall\n@10",
            **{f"{bucket}.{ranking}": f"{short}\nmap" for bucket, short in buckets.items()},
        },
        changed=ranking,
        all_changed=tuple(rankings(k).called),
        dispensable=("med.\nmap", "head\nmap", SECONDS, SPREAD),
        meaning=(
            f"change: of {ranking} against {{baseline}}, with its 95% interval; head, medium, tail: {ranking} of the "
            "true items with >= 200, 20-199, < 20 training events"
        ),
        progress={ranking: ranking + " {}", WIDE: WIDE + " {}"},
        digits=4,
    )


BY = "tuned.macro_f1"


class Ended(Protocol):
    """What the table reads of a `grid.store.Result`."""

    @property
    def name(self) -> str:
        """Of the point."""

    @property
    def seed(self) -> int:
        """Of the training."""

    @property
    def error(self) -> str:
        """Why it failed, or ""."""

    @property
    def values(self) -> dict[str, float]:
        """Metric -> number."""

    @property
    def seconds(self) -> float:
        """That it took."""


@dataclass(frozen=True)
class Row:
    """One point of a grid, over its seeds.

    Attributes:
        configuration: the point's name.
        winner: whether it is the one that was chosen.
        baseline: whether it is the one that the others are compared with.
        seeds: how many of its trainings are done.
        errors: seed -> why that training failed.
        means: metric -> mean over the done seeds; nan where a seed has none.
        spreads: metric -> standard deviation over the done seeds; nan with fewer than two.
        seconds: mean of a done training; nan without one.
        verdict: against the baseline; None where there is none, as for a point that failed.
    """

    configuration: str
    winner: bool
    baseline: bool
    seeds: int
    errors: dict[int, str]
    means: dict[str, float]
    spreads: dict[str, float]
    seconds: float
    verdict: Verdict | None

    @property
    def words(self) -> str:
        """The verdict in a few words."""
        return self.verdict.words if self.verdict else "not compared" if self.seeds else "failed"

    def change(self, metric: str) -> Difference:
        """Return the difference from the baseline; all nan where it is not known."""
        return self.verdict.differences.get(metric, Difference()) if self.verdict else Difference()


def grid_rows(
    results: Mapping[str, Sequence[Ended]],
    failed: Sequence[Ended],
    verdicts: Mapping[str, Verdict],
    baseline: str,
    winner: str,
    *,
    by: str = BY,
) -> list[Row]:
    """Return a row a point: best first, then those without a value, those of which nothing is done last.

    Args:
        results: name -> what is done, one a seed.
        failed: what failed, of the same points or of others.
        verdicts: from `metrics.verdict.verdicts`.
        baseline: name of the point that the others are compared with.
        winner: name of the point that was chosen.
        by: the metric that puts them in order.
    """
    ended = {name: list(done) for name, done in results.items()}
    for each in failed:
        ended.setdefault(each.name, []).append(each)
    rows = [
        _row(name, found, verdicts.get(name), winner=name == winner, baseline=name == baseline)
        for name, found in ended.items()
    ]
    return sorted(rows, key=lambda row: _place(row, by))


def _place(row: Row, by: str) -> tuple[bool, bool, float]:
    mean = row.means.get(by, math.nan)
    return not row.seeds, math.isnan(mean), 0.0 if math.isnan(mean) else -mean


def _row(name: str, ended: Sequence[Ended], verdict: Verdict | None, *, winner: bool, baseline: bool) -> Row:
    done = _done(ended)
    metrics = list(done[0].values) if done else []
    errors = {each.seed: each.error for each in ended if each.error}
    means = {metric: _mean(done, metric) for metric in metrics}
    several = len(done) > 1
    spreads = {metric: float(np.std(_values(done, metric), ddof=1)) if several else math.nan for metric in metrics}
    seconds = sum(each.seconds for each in done) / len(done) if done else math.nan
    return Row(name, winner, baseline, len(done), errors, means, spreads, seconds, verdict)


def _done(ended: Sequence[Ended]) -> list[Ended]:
    return [each for each in ended if not each.error]


def _values(done: Sequence[Ended], metric: str) -> list[float]:
    return [each.values.get(metric, math.nan) for each in done]


def _mean(done: Sequence[Ended], metric: str) -> float:
    return sum(_values(done, metric)) / len(done)


def grid_report(rows: Sequence[Row], *, by: str = BY, layout: Layout = LABELS, width: int = 80) -> Group:
    """Return the table, what its columns mean, and the verdicts in words; columns that do not fit are left out.

    Args:
        rows: from `grid_rows`.
        by: the metric that put them in order.
        layout: of the job.
        width: of the terminal, in characters.
    """
    parts: list[RenderableType] = [
        Text(title(rows, by, layout), style="bold"),
        Text(),
        _table(rows, by, layout, width),
        Text(legend(rows, by, layout), style="dim"),
    ]
    for words, names in _by_words(rows).items():
        parts += [Text(f"{words}:"), Padding(Text(", ".join(names)), (0, 0, 0, 4))]
    return Group(*parts, Text(), *(Text(line) for line in notes(rows, layout)))


def title(rows: Sequence[Row], by: str, layout: Layout) -> str:
    """Return how many points and seeds there are, and what puts them in order."""
    most = max((row.seeds for row in rows), default=0)
    each = f", {most} seeds each" if most > 1 else ""
    return f"{len(rows):,} points{each}, best first by {layout.name_of(by)}"


def legend(rows: Sequence[Row], by: str, layout: Layout, *, star: str = "*") -> str:
    """Return what the columns mean; `star` is the winner's mark."""
    several = f" sd: of {layout.name_of(by)} over the seeds." if several_seeds(rows) else ""
    baseline = next((row.configuration for row in rows if row.baseline), "the baseline")
    return f"{star} the winner. {layout.meaning.format(baseline=baseline)}; time: of one training.{several}"


def several_seeds(rows: Sequence[Row]) -> bool:
    """Return whether a point has more than one seed, so that there is a spread to show."""
    return any(row.seeds > 1 for row in rows)


def _by_words(rows: Sequence[Row]) -> dict[str, list[str]]:
    groups: dict[str, list[str]] = {}
    for row in rows:
        groups.setdefault(row.words, []).append(row.configuration)
    return groups


def notes(rows: Sequence[Row], layout: Layout, *, star: str = "*") -> list[str]:
    """Return the winner's verdict with its numbers, what it lacks, and what went wrong."""
    most = max((row.seeds for row in rows), default=0)
    fewer = [f"{row.configuration} ({row.seeds} of {most} seeds)" for row in rows if 0 < row.seeds < most]
    lines = [f"{star} {row.verdict.sentence}" for row in rows if row.winner and row.verdict]
    lines += [_one_seed(layout)] if most == 1 else []
    lines += [f"Cannot win, for seeds are missing: {', '.join(fewer)}."] if fewer else []
    return lines + [f"Failed: {row.configuration} {error}" for row in rows for error in errors_of(row)]


def _one_seed(layout: Layout) -> str:
    return (
        f"With one seed the intervals hold the chance of the {layout.scored}, not that of training: a second run of "
        "the same point differs too. Give --seeds 3 to count it in."
    )


def errors_of(row: Row) -> list[str]:
    """Return a line for each training that failed."""
    return [f"seed {seed}: {error.strip().splitlines()[0]}" for seed, error in row.errors.items()]


def _table(rows: Sequence[Row], by: str, layout: Layout, width: int) -> Table:
    cells = [cells_of(row, by, layout, several=several_seeds(rows)) for row in rows]
    widths = {
        name: max(map(cell_len, [*name.split("\n"), *(row[name] for row in cells)])) for name in columns_of(cells)
    }
    wanted = max((_wanted(row.configuration) for row in rows), default=0)
    for name in layout.dispensable:
        if 2 + wanted + sum(widths.values()) + len(widths) > width:
            widths.pop(name, None)
    table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False, header_style="bold")
    table.add_column("", no_wrap=True)
    left = width - 2 - sum(widths.values()) - len(widths)
    table.add_column("configuration", vertical="bottom", max_width=max(NARROWEST, left), overflow="fold")
    for name in widths:
        table.add_column(name, justify="right", no_wrap=True)
    for row, cell in zip(rows, cells, strict=True):
        style = "bold green" if row.winner else "" if row.seeds else "dim"
        table.add_row("*" if row.winner else "", Text(row.configuration), *(cell[n] for n in widths), style=style)
    return table


def _wanted(name: str) -> int:
    """Return the columns for a name: all of it where it is short, else it may be broken between its settings."""
    return min(cell_len(name), max(UNBROKEN, *map(cell_len, name.split())))


def columns_of(cells: Sequence[Mapping[str, str]]) -> list[str]:
    """Return the names of the columns."""
    return list(cells[0]) if cells else []


def cells_of(row: Row, by: str, layout: Layout, *, several: bool, ends: bool = False) -> dict[str, str]:
    """Return column -> text; `ends`: whether the interval of the change is given by its ends."""
    digits = layout.digits
    scores = {column: share(row.means.get(metric), digits=digits) for metric, column in layout.columns.items()}
    first, *others = scores
    cells = {first: scores[first], CHANGE: "baseline" if row.baseline else _change(row, layout.changed, ends=ends)}
    cells |= {column: scores[column] for column in others}
    cells |= {SPREAD: share(row.spreads.get(by), digits=4)} if several else {}
    return cells | {SECONDS: "-" if math.isnan(row.seconds) else f"{row.seconds:,.{0 if row.seconds >= 10 else 1}f}"}


def _change(row: Row, metric: str, *, ends: bool) -> str:
    mean, low, high = row.change(metric).percent
    if math.isnan(mean):
        return "-"
    return f"{mean:+.1f}" + (f" ({low:+.1f} to {high:+.1f})" if ends else f" ±{(high - low) / 2:.1f}")
