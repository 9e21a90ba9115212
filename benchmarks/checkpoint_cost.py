"""Measure the cost of checkpoints.

    python benchmarks/checkpoint_cost.py [--users 20000] [--items 5000] [--epochs 4] [--rounds 3]

Trains a transformer on synthetic events several times, in turn with checkpoints at the default rate (every 30 seconds
and at the end), ten times as often, and only at the end. Prints the time of copying and writing checkpoints as a
fraction of the training time; the target is 2% at the default. One thread; run it with nothing else running. A training
must take a few times 30 seconds, or the default writes none before the end.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest.mock import patch

import numpy as np
import polars as pl

from hyperfocal.config.sections import TrainSettings
from hyperfocal.recommend.recommender import Recommender
from hyperfocal.storage.run_folder import CHECKPOINT, RunFolder
from hyperfocal.training.trainer import Checkpoint, Trainer

DEFAULT = TrainSettings().checkpoint_seconds
OFF = 1e9  # seconds between two checkpoints: none before the end
TARGET = 0.02


@dataclass
class Spent:
    """Seconds of training, of copying for checkpoints in total, and of writing each checkpoint."""

    training: float = 0.0
    copying: float = 0.0
    checkpoints: list[float] = field(default_factory=list)

    @property
    def share(self) -> float:
        """Return the fraction of the training time that checkpoints took."""
        return (self.copying + sum(self.checkpoints)) / self.training


def main() -> None:
    """Run the trainings in turn and print a line for each, then the medians and the target."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--users", type=int, default=20_000)
    parser.add_argument("--items", type=int, default=5_000)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    log = events(options.users, options.items)
    intervals = {"default": DEFAULT, "ten times as often": DEFAULT / 10, "only the last": OFF}
    results: dict[str, list[Spent]] = {name: [] for name in intervals}
    for _ in range(options.rounds):
        for name, seconds in intervals.items():
            results[name].append(train(log, options.epochs, seconds))
            print(f"{name:20} {line(results[name][-1])}", flush=True)
    shares = {name: float(np.median([each.share for each in spent])) for name, spent in results.items()}
    for name, share in shares.items():
        print(f"{name:20} median share of training time {share:.2%}")
    if all(len(each.checkpoints) < 2 for each in results["default"]):
        print(f"not measured: no checkpoint came before the last one. Train for longer than {DEFAULT:g} seconds")
    else:
        met = "met" if shares["default"] <= TARGET else "MISSED"
        print(f"target: at most {TARGET:.0%} at the default: {met}")


def events(users: int, items: int) -> pl.DataFrame:
    """Return 30 events per user, with item frequencies of Zipf's law."""
    rng = np.random.default_rng(0)
    chosen = np.minimum(rng.zipf(1.2, users * 30) - 1, items - 1)
    chosen[:items] = np.arange(items)
    return pl.DataFrame({"user": np.repeat(np.arange(users), 30).astype(str), "item": chosen.astype(str)})


def train(log: pl.DataFrame, epochs: int, seconds: float) -> Spent:
    """Train once in a temporary folder; return the times."""
    settings: dict[str, Any] = {"train.epochs": epochs, "train.patience": 0, "train.threads": 1}
    settings |= {"train.checkpoint_seconds": seconds}
    with TemporaryDirectory() as place, watched() as spent:
        Recommender(settings=settings).fit(log, out=Path(place) / "run")
        size = (Path(place) / "run" / CHECKPOINT).stat().st_size
        print(f"{'':20} a checkpoint has {size / 1e6:.1f} MB", flush=True)
    return spent


@contextmanager
def watched() -> Iterator[Spent]:
    """Measure the time of every training and checkpoint inside."""
    spent, run, copy, write = Spent(), Trainer.run, Trainer.checkpoint, RunFolder.write_checkpoint

    def clocked_run(trainer: Trainer) -> bool:
        began = time.perf_counter()
        ended = run(trainer)
        spent.training += time.perf_counter() - began
        return ended

    def clocked_copy(trainer: Trainer, *random: Any) -> Checkpoint:
        began = time.perf_counter()
        checkpoint = copy(trainer, *random)
        spent.copying += time.perf_counter() - began
        return checkpoint

    def clocked_write(folder: RunFolder, tensors: Any, state: Any) -> None:
        began = time.perf_counter()
        write(folder, tensors, state)
        spent.checkpoints.append(time.perf_counter() - began)

    with (
        patch.object(Trainer, "run", clocked_run),
        patch.object(Trainer, "checkpoint", clocked_copy),
        patch.object(RunFolder, "write_checkpoint", clocked_write),
    ):
        yield spent


def line(spent: Spent) -> str:
    """Return the times of one training in words."""
    count, slowest = len(spent.checkpoints), max(spent.checkpoints)
    return f"{spent.training:7.1f} s, {count} checkpoints, slowest {slowest * 1e3:.0f} ms: {spent.share:.2%}"


if __name__ == "__main__":
    main()
