"""Documents larger than memory: time and memory of reading, n-grams and some training steps, at three sizes.

    python benchmarks/stream_documents.py                        100, 200 and 400 thousand documents, about ten minutes
    python benchmarks/stream_documents.py --documents 4_000_000 --length 2   cost of a document without its text

A synthetic document has 3 of 200 labels, and words from a vocabulary of 200,000 whose frequency falls as a power of the
rank. A separate process reads the file as `classify fit` does with data.stream=on, splits, counts n-grams of one and
two words, makes the features, takes the training steps and scores the validation documents. Its memory is measured
twice: anonymous pages only, 20 times a second; and with the pages of mapped files, which the system may drop at any
time. Bytes per document are the slope of the former between the two largest sizes, and the last line extrapolates to 10
million documents. Only Linux distinguishes the two.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch

from hyperfocal.classify.head import head_loss, make_head, make_loss, score_documents
from hyperfocal.classify.prepare import prepare, read_streamed
from hyperfocal.config.classify import ClassifySettings
from hyperfocal.config.recipes import resolve
from hyperfocal.data.examples import batches_at_random
from hyperfocal.losses import frequency_bias
from hyperfocal.machine import set_threads
from hyperfocal.models.text_features import TextFeatures

WORDS, LABELS = 200_000, 200
VALIDATION = 500  # documents held out, at each size
BLOCK = 10_000  # documents written at once
TARGET = 10_000_000
LIMIT_GB = 4.0
STATUS = Path("/proc/self/status")


def write_documents(path: Path, documents: int, length: int) -> None:
    """Write the documents block by block."""
    rng = np.random.default_rng(0)
    words = np.array([f"w{number:x}" for number in rng.permutation(WORDS)])
    with path.open("w") as file:
        for start in range(0, documents, BLOCK):
            rows = min(BLOCK, documents - start)
            texts = words[(WORDS * rng.random((rows, length)) ** 3).astype(np.int64)]
            labels = (LABELS * rng.random((rows, 3)) ** 2).astype(np.int64)
            for row, (text, names) in enumerate(zip(texts, labels.tolist(), strict=True), start):
                file.write(json.dumps({"id": f"d{row}", "text": " ".join(text), "labels": names}) + "\n")


def kilobytes(name: str) -> int:
    """Return a number in this process's status: RssAnon, or VmHWM, the peak of resident memory."""
    return next(int(line.split()[1]) for line in STATUS.read_text().splitlines() if line.startswith(f"{name}:"))


@contextmanager
def watched(peaks: dict[str, float]) -> Iterator[None]:
    """Record the peak of the memory until the block ends."""
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(0.05):
            peaks["own"] = max(peaks.get("own", 0), 1024 * kilobytes("RssAnon"))

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        peaks["resident"] = 1024 * kilobytes("VmHWM")


def build(path: Path, cache: Path, documents: int, steps: int) -> dict[str, float]:
    """Read, split, count, make features, train, score; return the seconds of each, and the peaks."""
    wanted = {"features.kind": "ngrams", "head.name": "linear", "data.valid_fraction": VALIDATION / documents}
    settings = resolve(ClassifySettings, overrides=wanted | {"data.stream": "on"})
    set_threads(0)
    peaks: dict[str, float] = {}
    with watched(peaks):
        times = [time.perf_counter()]
        data = prepare(read_streamed(path, settings.data), None, settings)
        times.append(time.perf_counter())
        how = TextFeatures.fit(data.train.documents.texts, settings.features, cache)
        times.append(time.perf_counter())
        train, valid = (how.make(part.documents.texts, cache) for part in (data.train, data.valid))
        times.append(time.perf_counter())
        labels = data.train.labels
        head = make_head(settings, how.num_sparse, 0, frequency_bias(labels.counts(), len(labels)))
        loss, generator = make_loss(settings.loss, labels.counts(), len(labels)), torch.Generator().manual_seed(0)
        for rows in batches_at_random(len(labels), settings.train.batch_size, generator)[:steps]:
            head_loss(head, loss, train.select(rows), labels.select(rows)).backward()
            head.wide.grad = None  # type: ignore[union-attr]
        score_documents(head, valid)
        times.append(time.perf_counter())
    phases = ("read", "count", "features", "train")
    return {**dict(zip(phases, np.diff(times).tolist(), strict=True)), **peaks}


def measure(folder: Path, documents: int, length: int, steps: int) -> dict[str, float]:
    """Return the time and memory of a separate process for the given number of documents."""
    path, cache = folder / "documents.jsonl", folder / "cache"
    write_documents(path, documents, length)
    command = [sys.executable, __file__, "--build", str(path), "--documents", str(documents), "--steps", str(steps)]
    done = subprocess.run(
        command, env=os.environ | {"HYPERFOCAL_CACHE": str(cache)}, stdout=subprocess.PIPE, check=True
    )
    cached = sum(file.stat().st_size for file in cache.rglob("*") if file.is_file())
    return {**json.loads(done.stdout), "file": path.stat().st_size, "cached": cached}


def report(sizes: list[int], results: list[dict[str, float]], steps: int) -> None:
    """Print one line per size, then the extrapolation."""
    for documents, row in zip(sizes, results, strict=True):
        read, count, features = (row[name] / documents * 1e3 for name in ("read", "count", "features"))
        print(
            f"{documents:>9,} documents, {row['file'] / 1e6:,.0f} MB; seconds per thousand: {read:.3f} to read, "
            f"{count:.3f} to count n-grams, {features:.3f} for features; {steps} steps and {VALIDATION:,} scores "
            f"{row['train']:.1f} s; cached {row['cached'] / documents:,.0f} bytes per document; "
            f"peak {row['own'] / 1e9:.2f} GB anonymous, {row['resident'] / 1e9:.2f} with mapped files"
        )
    slope = (results[-1]["own"] - results[-2]["own"]) / (sizes[-1] - sizes[-2])
    expected = (results[-1]["own"] + slope * (TARGET - sizes[-1])) / 1e9
    print(
        f"{slope:.0f} bytes per document: {TARGET:,} documents would take {expected:.2f} GB of {LIMIT_GB:.0f} allowed"
    )


def main() -> None:
    """Measure three sizes, or, in a separate process, build one."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--documents", type=int, default=400_000, help="the largest of three sizes")
    parser.add_argument("--length", type=int, default=100, help="words per document")
    parser.add_argument("--steps", type=int, default=20, help="training steps at each size")
    parser.add_argument("--build", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.build:
        cache = Path(os.environ["HYPERFOCAL_CACHE"])
        print(json.dumps(build(arguments.build, cache, arguments.documents, arguments.steps)))
        return
    sizes, results = [arguments.documents // divisor for divisor in (4, 2, 1)], []
    for documents in sizes:
        with tempfile.TemporaryDirectory() as folder:
            results.append(measure(Path(folder), documents, arguments.length, arguments.steps))
    report(sizes, results, arguments.steps)


if __name__ == "__main__":
    main()
