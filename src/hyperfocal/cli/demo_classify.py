"""The demo of the job `classify`: a generated corpus, a small grid of losses, its table and verdict."""

from __future__ import annotations

import shutil
from pathlib import Path

from hyperfocal.classify.grid import TextSource
from hyperfocal.classify.grid_layout import LABEL_LAYOUT
from hyperfocal.classify.terminal import data_lines, test_report
from hyperfocal.cli.grid import print_table
from hyperfocal.cli.report import write_report
from hyperfocal.cli.steps import claim_demo, program_name
from hyperfocal.cli.wording import print_lines, print_report
from hyperfocal.config.classify import ClassifySettings
from hyperfocal.config.recipes import resolve
from hyperfocal.data.synthetic_documents import make_corpus, write_corpus
from hyperfocal.grid.axes import expand
from hyperfocal.grid.local import LocalPool
from hyperfocal.grid.points import baseline_name
from hyperfocal.grid.search import WINNER_BY, GridJob, run_grid
from hyperfocal.grid.winner import score_test
from hyperfocal.machine import count_cores
from hyperfocal.report.console import SafeConsole
from hyperfocal.report.format import print_commands
from hyperfocal.report.page import line_of
from hyperfocal.report.progress import GridProgress

AXES = {"caps": [None, 7.0], "gammas": [None, 3.0]}


def run_demo(out: Path, *, documents: int, workers: int | None, seed: int) -> None:
    """Write corpus, grid and winner to the folder `out`, and print the table and the scores."""
    console, folder = SafeConsole(), out / "data"
    pool = LocalPool(count_cores() if workers is None else workers)
    settings = {"seed": seed, "features.kind": "ngrams", "data.taxonomy": str(folder / "taxonomy.tsv")}
    base = resolve(ClassifySettings, overrides=settings)
    points = expand(base, AXES, seeds=1)
    claim_demo(out)
    print_lines(console, [f"Generating {documents:,} documents with 698 labels in a tree of four tiers ..."])
    write_corpus(make_corpus(documents, seed=seed), folder)
    shutil.rmtree(out / "grid", ignore_errors=True)
    with GridProgress(len(points), pool.size, by=WINNER_BY, layout=LABEL_LAYOUT) as progress:
        source = TextSource(folder / "train.jsonl", folder / "valid.jsonl", out / "cache")
        job = GridJob(source, base, out / "grid", progress, pool)
        result = run_grid(job, points, baseline_name(points))
    print_lines(console, [*data_lines(result.prepared.data.counts()), ""])
    print_table(console, result, out / "grid", LABEL_LAYOUT)
    print_report(console, test_report(score_test(result, out / "grid", folder / "test.jsonl")))
    print_commands(console, _closing_lines(out, program_name()))


def _closing_lines(out: Path, program: str) -> list[str]:
    data, tree = out / "data", f"--taxonomy {out / 'data' / 'taxonomy.tsv'}"
    return [
        "",
        f"Data:   {data}",
        f"Table:  {out / 'grid' / 'table.md'}",
        f"Winner: {out / 'grid' / 'winner'}",
        line_of(lambda: write_report(out / "grid"), f"{program} report {out / 'grid'}"),
        f"Try it in a browser: {program} serve {out / 'grid' / 'winner'}",
        "",
        "The same with commands, on these files or on yours:",
        f"  {program} classify grid {data / 'train.jsonl'} --caps none,7 --gammas none,3 --seeds 1 --out grid {tree}",
        f"  {program} classify fit {data / 'train.jsonl'} --out run {tree}",
        f"  {program} classify predict run {data / 'test.jsonl'} --out predictions.jsonl",
        f"  {program} classify evaluate run {data / 'test.jsonl'}",
    ]
