"""Measure `recommender.recommend([[...]], k=3)` for new users, alone and in batches, on one core, over 5,500 items.

    python benchmarks/online.py [--items 5500] [--width 64] [--threads 1]

Each network is trained for one epoch on made-up users with 10 items, because its speed does not depend on what it has
learnt. The same run also measures the bare product of a hidden vector and the output layer with its best k, which no
ranking of all items can avoid. Run it with nothing else running.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch

from hyperfocal.data.synthetic_logs import make_challenges
from hyperfocal.recommend.recommender import Recommender

ALONE, TOGETHER, HISTORY, K = 400, 20_000, 10, 3
MODELS = ("transformer", "gru", "concat_mlp", "decayed_markov")


def main() -> None:
    """Print one row per model."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--items", type=int, default=5_500)
    parser.add_argument("--width", type=int, default=64, help="of the item vectors")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    data = make_challenges(users=4_000, challenges=options.items, seed=0)
    hidden, weight = torch.randn(TOGETHER, options.width), torch.randn(options.items, options.width)
    bare = median(lambda row: (hidden[row : row + 1] @ weight.T).topk(K), ALONE)
    many = seconds(lambda: [(rows @ weight.T).topk(K) for rows in hidden.split(256)])
    print(f"{options.items:,} items, width {options.width}, histories of {HISTORY}, {options.threads} thread(s)\n")
    print("| | one user, ms | over the bare product | users a second, together | of the bare product |")
    print("|---|---|---|---|---|")
    print(f"| bare product and best {K} | {bare * 1e3:.2f} | 1.0 | {TOGETHER / many:,.0f} | 100% |")
    for name in MODELS:
        settings = {"train.epochs": 1, "train.threads": options.threads, "model.embedding_width": options.width}
        recommender = Recommender(model=name, history=HISTORY, settings=settings).fit(data.train)
        ids, draw = recommender.vocabulary_.names, torch.Generator().manual_seed(0)
        users = torch.randint(0, len(ids), (TOGETHER, HISTORY), generator=draw).tolist()
        histories = [[ids[item] for item in row] for row in users]
        one = median(lambda row, found=recommender, asked=histories: found.recommend([asked[row]], k=K), ALONE)
        rate = TOGETHER / seconds(lambda found=recommender, asked=histories: found.recommend(asked, k=K))
        print(
            f"| {name} | {one * 1e3:.2f} | {one / bare:.1f} | {rate:,.0f} | {rate * many / TOGETHER:.0%} |", flush=True
        )


def median(call: Callable[[int], object], times: int) -> float:
    """Return the median seconds of `times` calls, each with another number, after 20 to warm up."""
    taken = []
    for row in range(times + 20):
        began = time.perf_counter()
        call(row)
        taken.append(time.perf_counter() - began)
    return statistics.median(taken[20:])


def seconds(call: Callable[[], object]) -> float:
    """Return the shortest of three times of a call."""
    taken = []
    for _ in range(3):
        began = time.perf_counter()
        call()
        taken.append(time.perf_counter() - began)
    return min(taken)


if __name__ == "__main__":
    main()
