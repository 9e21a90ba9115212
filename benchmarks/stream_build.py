"""Logs larger than memory: time and memory of a streamed build and some training steps, at three sizes.

    python benchmarks/stream_build.py                       5, 10 and 20 million events, about ten minutes
    python benchmarks/stream_build.py --events 400_000      a quarter, a half and all of that

The log is a CSV file with 20 events per user, in no order of users, and 100,000 items, whose popularity falls as a
power of their rank. A separate process builds it as `recommend fit` does, counts baselines and takes the training
steps. The peak is the largest resident memory of that process, with mapped pages. Part of it is constant (Python,
torch, the network and its sampled softmax); the rest grows with the events. Bytes per event are the slope between the
two largest sizes, and the last line extrapolates to 100 million events.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import polars as pl
import torch

from hyperfocal.config.recommend import DataSettings, LossSettings, ModelSettings, RecommendSettings
from hyperfocal.data.examples import batches_by_length
from hyperfocal.machine import set_threads
from hyperfocal.models.baselines import default_baselines, fit_baseline
from hyperfocal.recommend.network import make_loss, make_network, read_batch
from hyperfocal.recommend.prepare import prepare
from hyperfocal.training.optimizers import make_optimizer

EVENTS_A_USER = 20
BLOCK = 1_000_000  # events written at once
TARGET = 100_000_000
LIMIT_GB = 4.0


def write_log(path: Path, events: int, items: int) -> None:
    """Write the log block by block."""
    rng = np.random.default_rng(0)
    with path.open("wb") as file:
        for start in range(0, events, BLOCK):
            rows = min(BLOCK, events - start)
            users = rng.integers(0, events // EVENTS_A_USER, rows)
            numbers = (items * rng.random(rows) ** 3).astype(np.int64)
            columns = {"user": users, "item": numbers, "timestamp": np.arange(start, start + rows) + 1_600_000_000}
            pl.DataFrame(columns).write_csv(file, include_header=start == 0)


def build(path: Path, steps: int) -> dict[str, float]:
    """Prepare the log, count the baselines and train for some steps; return the seconds of each, and the peak."""
    settings = RecommendSettings(
        model=ModelSettings(name="mean", embedding_width=32),
        data=DataSettings(stream="on", valid_fraction=0.001),
        loss=LossSettings(name="sampled_softmax"),
    )
    set_threads(0)
    times = [time.perf_counter()]
    data = prepare(path, None, None, settings)
    times.append(time.perf_counter())
    baselines = {
        name: fit_baseline(name, data.train) for name in default_baselines(data.train.num_items, streamed=True)
    }
    times.append(time.perf_counter())
    network, loss = (
        make_network(settings, len(data.vocabulary)),
        make_loss(settings.loss, baselines["popularity"].counts),
    )
    optimizer = make_optimizer(network.parameters(), settings.train)
    generator = torch.Generator().manual_seed(0)
    batches = batches_by_length(data.examples.lengths, settings.train.batch_size, generator)  # type: ignore[union-attr]
    for index in batches[:steps]:
        optimizer.zero_grad()
        loss(*read_batch(network, data.examples, index)).backward()
        optimizer.step()
    times.append(time.perf_counter())
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return {**dict(zip(("build", "baselines", "train"), np.diff(times).tolist(), strict=True)), "peak": peak}


def measure(folder: Path, events: int, items: int, steps: int) -> dict[str, float]:
    """Return the time and memory of a separate process for a log with the given number of events."""
    log, cache = folder / "log.csv", folder / "cache"
    write_log(log, events, items)
    command = [sys.executable, __file__, "--build", str(log), "--steps", str(steps)]
    environment = os.environ | {"HYPERFOCAL_CACHE": str(cache)}
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True)
    cached = sum(path.stat().st_size for path in cache.rglob("*") if path.is_file())
    return {**json.loads(done.stdout), "log": log.stat().st_size, "cached": cached}


def report(sizes: list[int], results: list[dict[str, float]], steps: int) -> None:
    """Print one line per size, then the extrapolation."""
    for events, row in zip(sizes, results, strict=True):
        millions = events / 1e6
        print(
            f"{events:>12,} events, {row['log'] / 1e6:,.0f} MB: {row['build'] / millions:.2f} s per million to build, "
            f"{row['baselines'] / millions:.2f} for baselines; {steps} steps {row['train']:.1f} s; "
            f"cached {row['cached'] / events:.1f} bytes per event; peak {row['peak'] / 1e9:.2f} GB"
        )
    slope = (results[-1]["peak"] - results[-2]["peak"]) / (sizes[-1] - sizes[-2])
    expected = (results[-1]["peak"] + slope * (TARGET - sizes[-1])) / 1e9
    print(f"{slope:.1f} bytes per event: {TARGET:,} events would take {expected:.2f} GB of {LIMIT_GB:.0f} allowed")


def main() -> None:
    """Measure three sizes, or, in a separate process, build one."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events", type=int, default=20_000_000, help="the largest of three sizes")
    parser.add_argument("--items", type=int, default=100_000)
    parser.add_argument("--steps", type=int, default=20, help="training steps at each size")
    parser.add_argument("--build", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.build:
        print(json.dumps(build(arguments.build, arguments.steps)))
        return
    sizes, results = [arguments.events // divisor for divisor in (4, 2, 1)], []
    for events in sizes:
        with tempfile.TemporaryDirectory() as folder:
            results.append(measure(Path(folder), events, arguments.items, arguments.steps))
    report(sizes, results, arguments.steps)


if __name__ == "__main__":
    main()
