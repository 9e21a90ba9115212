"""Measure the cost of writing a run safely: locks, temporary folders, the exchange, and the binding of its parts.

    python benchmarks/write_cost.py [--users 20000] [--items 5000] [--epochs 2] [--rounds 3]

Fits a transformer on synthetic events and writes its run over an earlier one. Prints the seconds in each function that
makes this safe, without the writing of the content itself, and their sum as a fraction of the fit; the target is 1%.
One thread; run it with nothing else running.
"""

from __future__ import annotations

import argparse
import time
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest.mock import patch

import numpy as np

from checkpoint_cost import events
from hyperfocal.recommend.recommender import Recommender

STORAGE = "hyperfocal.storage"
TIMED = {
    "lock": (f"{STORAGE}.lock.FolderLock.__enter__", f"{STORAGE}.lock.FolderLock.__exit__"),
    "temporary folder": ("hyperfocal.private.work._make", "hyperfocal.private.work.remove_leftovers"),
    "mode": (f"{STORAGE}.whole._mode_for", f"{STORAGE}.exchange.finish"),
    "exchange": (f"{STORAGE}.exchange.put_in_place", f"{STORAGE}.exchange._link_others"),
    "binding": ("hyperfocal.training.weights._settings", "hyperfocal.training.weights._fingerprint"),
}
TARGET = 0.01


def main() -> None:
    """Fit several times, and print a line for each, then the median and the target."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--users", type=int, default=20_000)
    parser.add_argument("--items", type=int, default=5_000)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    log = events(options.users, options.items)
    shares = []
    with TemporaryDirectory() as folder:
        for number in range(options.rounds + 1):
            spent, seconds = fit(log, options.epochs, Path(folder) / "run")
            if number:  # the first one has nothing to replace
                shares.append(sum(spent.values()) / seconds)
                parts = ", ".join(f"{name} {1_000 * value:.1f} ms" for name, value in spent.items())
                print(f"fit {seconds:.1f} s; {parts}; together {shares[-1]:.3%}", flush=True)
    share = float(np.median(shares))
    print(f"median {share:.3%}; target: at most {TARGET:.0%}: {'met' if share <= TARGET else 'MISSED'}")


def fit(log: Any, epochs: int, out: Path) -> tuple[Counter[str], float]:
    """Return the seconds in each group of functions, and those of the whole fit."""
    spent: Counter[str] = Counter()
    settings = {"train.epochs": epochs, "train.threads": 1, "train.checkpoint_seconds": 5}
    with ExitStack() as stack:
        for group, names in TIMED.items():
            for name in names:
                stack.enter_context(patch(name, timed(name, group, spent)))
        began = time.perf_counter()
        Recommender(model="transformer", settings=settings).fit(log, out=out, overwrite=True)
        return spent, time.perf_counter() - began


def timed(name: str, group: str, spent: Counter[str]) -> Callable[..., Any]:
    """Return the function of this name, which then adds its seconds to a group."""
    owner, _, attribute = name.rpartition(".")
    module, _, _ = owner.partition(".FolderLock")
    place = __import__(module, fromlist=["_"])
    function = getattr(place.FolderLock if owner != module else place, attribute)

    def call(*arguments: Any, **options: Any) -> Any:
        began = time.perf_counter()
        try:
            return function(*arguments, **options)
        finally:
            spent[group] += time.perf_counter() - began

    return call


if __name__ == "__main__":
    main()
