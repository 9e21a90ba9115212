"""The demo of the job `classify`: a corpus made up, a small grid of losses, its table and verdict."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from rich.console import Console

from hyperfocal.classify.grid import TextSource
from hyperfocal.classify.grid_layout import LABEL_LAYOUT
from hyperfocal.classify.terminal import data_lines, test_report
from hyperfocal.cli.report import write_report
from hyperfocal.config.classify import ClassifySettings
from hyperfocal.config.recipes import resolve
from hyperfocal.data.synthetic_documents import make_corpus, write_corpus
from hyperfocal.grid.axes import caps_and_gammas
from hyperfocal.grid.local import check_workers
from hyperfocal.grid.points import baseline_name
from hyperfocal.grid.search import WINNER_BY, GridJob, run_grid
from hyperfocal.grid.winner import score_test
from hyperfocal.machine import count_cores
from hyperfocal.report.format import print_commands, print_lines
from hyperfocal.report.grid_table import grid_table, printed_table, write_table
from hyperfocal.report.page import line_of
from hyperfocal.report.progress import GridProgress
from hyperfocal.storage.run_folder import claim_demo

CAPS, GAMMAS = [None, 7.0], [None, 3.0]


def run_demo(out: Path, *, documents: int, workers: int | None, seed: int) -> None:
    """Write corpus, grid and winner to the folder `out`, and print what came of it."""
    console, folder = Console(), out / "data"
    workers = count_cores() if workers is None else workers
    threads = check_workers(workers, count_cores())
    settings = {"seed": seed, "features.kind": "ngrams", "data.taxonomy": str(folder / "taxonomy.tsv")}
    base = resolve(ClassifySettings, overrides=settings)
    points = caps_and_gammas(base, CAPS, GAMMAS, seeds=1)
    claim_demo(out)
    print_lines(console, [f"Making {documents:,} documents with 698 labels in a tree of four tiers ..."])
    write_corpus(make_corpus(documents, seed=seed), folder)
    shutil.rmtree(out / "grid", ignore_errors=True)
    source = TextSource(folder / "train.jsonl", folder / "valid.jsonl", out / "cache")
    with GridProgress(len(points), workers, by=WINNER_BY, layout=LABEL_LAYOUT) as progress:
        job = GridJob(source, base, out / "grid", progress, workers, threads)
        result = run_grid(job, points, baseline_name(points))
    table = grid_table(result, LABEL_LAYOUT)
    print_lines(console, [*data_lines(result.material.data.counts()), ""])
    console.print(printed_table(table))
    write_table(table, out / "grid")
    console.print(test_report(score_test(result, out / "grid", folder / "test.jsonl")))
    _say_where(console, out)


def _say_where(console: Console, out: Path) -> None:
    program = "hyperfocal" if shutil.which("hyperfocal") else sys.argv[0]
    data, tree = out / "data", f"--taxonomy {out / 'data' / 'taxonomy.tsv'}"
    lines = [
        "",
        f"Data:   {data}",
        f"Table:  {out / 'grid' / 'table.md'}",
        f"Winner: {out / 'grid' / 'winner'}",
        line_of(lambda: write_report(out / "grid"), f"{program} report {out / 'grid'}"),
        f"Try it in a browser: {program} serve {out / 'grid' / 'winner'}",
        "",
        "The same with commands, on these files or on yours:",
        f"  {program} classify grid {data / 'train.jsonl'} --caps none,7 --gammas none,3 --out grid {tree}",
        f"  {program} classify fit {data / 'train.jsonl'} --out run {tree}",
        f"  {program} classify predict run {data / 'test.jsonl'} --out predictions.jsonl",
        f"  {program} classify evaluate run {data / 'test.jsonl'}",
    ]
    print_commands(console, lines)
