"""The time of one user's list, the best 10 of 12,000 items, with and without rules.

    python benchmarks/rules.py

Fits a transformer for one epoch on a generated log, then asks for one list at a time, and prints the median and the
95th percentile of each kind of request beside those without rules.
"""

from __future__ import annotations

import argparse
from statistics import quantiles
from time import perf_counter

import numpy as np
import polars as pl

from hyperfocal import Recommender, Rules

SETTINGS = {"train.epochs": 1, "train.threads": 1, "model.embedding_width": 64, "items.features": ["none"]}


def make_log(items: int, users: int, events: int) -> pl.DataFrame:
    """Return a log of users who walk through neighboring items."""
    draw = np.random.default_rng(0)
    starts = draw.integers(0, items, users)
    steps = draw.integers(1, 4, (users, events)).cumsum(1)
    numbers = (starts[:, None] + steps) % items
    return pl.DataFrame({"user": np.repeat(np.arange(users), events), "item": numbers.ravel()})


def make_table(items: int) -> pl.DataFrame:
    """Return a table with a price, a stock and a brand of each item."""
    draw = np.random.default_rng(1)
    return pl.DataFrame(
        {
            "item": np.arange(items),
            "price": draw.random(items) * 100,
            "in_stock": draw.random(items) < 0.8,
            "brand": draw.integers(0, 200, items).astype(str),
        }
    )


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, default=12_000)
    parser.add_argument("--users", type=int, default=4_000)
    parser.add_argument("--requests", type=int, default=500)
    given = parser.parse_args()
    log, table = make_log(given.items, given.users, 20), make_table(given.items)
    recommender = Recommender(history=20, next_items=1, settings=SETTINGS).fit(log, items=table)
    known = recommender.vocabulary_.values
    kinds = {
        "no rules": Rules(),
        "exclude 100": Rules(exclude=known[:100]),
        "only 1,000": Rules(only=known[:1_000]),
        "filters": Rules(filters=["in_stock = true", "price < 50"]),
        "max_per": Rules(max_per={"brand": 2}),
        "diversity": Rules(diversity=0.3),
        "all": Rules(
            filters=["in_stock = true", "price < 50"], max_per={"brand": 2}, diversity=0.3, exclude=known[:100]
        ),
    }
    histories = log.group_by("user", maintain_order=True).agg("item")["item"].to_list()
    print(f"One user, the best 10 of {len(known):,} items, {given.requests:,} requests of each kind")
    print(f"{'rules':<12} {'p50 ms':>8} {'p95 ms':>8} {'x no rules':>11}")
    base = 0.0
    for name, rules in kinds.items():
        times = []
        for number in range(given.requests + 20):
            start = perf_counter()
            recommender.recommend([histories[number % len(histories)]], 10, rules=rules)
            times.append(1_000 * (perf_counter() - start))
        cuts = quantiles(times[20:], n=20)
        base = base or cuts[9]
        print(f"{name:<12} {cuts[9]:>8.2f} {cuts[18]:>8.2f} {cuts[9] / base:>11.2f}")


if __name__ == "__main__":
    main()
