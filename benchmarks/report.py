"""Measure the time to write the HTML report of a `classify` run, and its size.

    python benchmarks/report.py [--labels 600] [--documents 5000] [--repeats 5] [--profile]

A classifier of n-grams is fitted for two epochs on made-up texts and scored on as many validation documents, which is
not timed. Then its report is written several times, as `hyperfocal report` does. The first time is reported separately,
because it may have to bundle the script of the charts. The target is 5 seconds of CPU and 3 MB. Run it on an idle
machine.
"""

from __future__ import annotations

import argparse
import cProfile
import pstats
import tempfile
import time
from pathlib import Path

import numpy as np

from hyperfocal.classify.classifier import MultiLabelClassifier
from hyperfocal.cli.report import write_run_report
from hyperfocal.data.documents import Documents

WORDS = 40  # per text
SETTINGS = {"features.kind": "ngrams", "features.word_ngrams": 1, "head.name": "linear", "train.epochs": 2}
MOST_SECONDS, MOST_MEGABYTES = 5.0, 3.0


def main() -> None:
    """Fit, write the report, and print seconds and megabytes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--labels", type=int, default=600)
    parser.add_argument("--documents", type=int, default=5_000, help="for training, and the same number for validation")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--profile", action="store_true", help="profile one report")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        train, valid = (make_documents(options.documents, options.labels, seed) for seed in (0, 1))
        MultiLabelClassifier(settings=SETTINGS).fit(train, valid=valid, out=run)
        print(f"{options.labels:,} labels, {options.documents:,} validation documents")
        wall, cpu = timed(run)
        print(f"first report   {wall:6.2f} s, {cpu:6.2f} s of CPU, perhaps with the script of the charts")
        rest = [timed(run) for _ in range(options.repeats)]
        wall, cpu = (float(np.median(column)) for column in zip(*rest, strict=True))
        size = (run / "report.html").stat().st_size / 1e6
        print(f"median of {options.repeats:<4} {wall:6.2f} s, {cpu:6.2f} s of CPU   target {MOST_SECONDS} s")
        print(f"size           {size:6.2f} MB                      target {MOST_MEGABYTES} MB")
        if options.profile:
            profile(run)


def make_documents(number: int, labels: int, seed: int) -> Documents:
    """Return texts with 1 to 4 labels, the first labels most often; some words belong to a label, others to none."""
    rng = np.random.default_rng(seed)
    weights = 1 / np.arange(1, labels + 1)
    drawn = [
        np.unique(rng.choice(labels, size, p=weights / weights.sum())).tolist() for size in rng.integers(1, 5, number)
    ]
    texts = []
    for row in drawn:
        topical, noise = rng.choice(row, WORDS // 4), rng.integers(0, 10 * labels, WORDS)
        texts.append(" ".join([*(f"word{label}" for label in topical), *(f"other{word}" for word in noise)]))
    ids = [f"{seed}-{place}" for place in range(number)]
    return Documents.from_lists(texts, [[f"label {label}" for label in row] for row in drawn], ids=ids)


def timed(run: Path) -> tuple[float, float]:
    """Return the wall and the CPU seconds of one report."""
    wall, cpu = time.perf_counter(), time.process_time()
    write_run_report(run)
    return time.perf_counter() - wall, time.process_time() - cpu


def profile(run: Path) -> None:
    """Print the functions in which one report spends the most time."""
    profiler = cProfile.Profile()
    profiler.runcall(write_run_report, run)
    pstats.Stats(profiler).sort_stats("cumulative").print_stats(30)


if __name__ == "__main__":
    main()
