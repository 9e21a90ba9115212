"""A grid on two Ray nodes against two local workers: how fast, and what is left when a node is killed in the middle.

    python benchmarks/ray_grid.py [--points 24] [--epochs 150] [--documents 2000] [--kill]

The points are equal: one configuration, a seed each, as many epochs. Both sides do them in two halves, by turns
(local, Ray, local, Ray), each with two points at a time and one thread a point, from the first claim to the last result
in the store: local workers start their processes in that time, Ray its own. The nodes are two of one CPU each on this
machine. A node has served one point before: a cluster stays, workers do not. With --kill one half runs on Ray alone,
and the second node is killed when half of its points have ended; then each point has to be in the store once, with the
numbers of a local worker. Made-up documents. Run it with nothing else running.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ray.cluster_utils import Cluster

from hyperfocal.classify.grid import TextSource
from hyperfocal.config.classify import ClassifySettings
from hyperfocal.config.recipes import resolve
from hyperfocal.data.synthetic_documents import make_corpus, write_corpus
from hyperfocal.grid.local import LocalPool
from hyperfocal.grid.points import Point
from hyperfocal.grid.pool import Pool
from hyperfocal.grid.ray import ray_pool
from hyperfocal.grid.ray_cluster import Share
from hyperfocal.grid.search import GridJob
from hyperfocal.grid.store import Store
from hyperfocal.training.watch import Watch

NODE = {"num_cpus": 1, "object_store_memory": 300 * 2**20}


class Counted(Watch):
    """Counts, and calls something when a point has ended."""

    def __init__(self, ended: Callable[[int], None] = lambda _: None) -> None:
        self.events: Counter[str] = Counter()
        self._ended = ended

    def point_started(self, name: str, seed: int) -> None:
        """A point is being trained."""
        self.events["started"] += 1

    def point_finished(self, name: str, seed: int, settings: Any, values: Mapping[str, float], seconds: float) -> None:
        """A point is done."""
        self.events["finished"] += 1
        self._ended(self.events["finished"])

    def point_failed(self, name: str, seed: int, error: str) -> None:
        """A point failed, which spoils the comparison."""
        sys.exit(f"{name} seed {seed} failed: {error}")


def main() -> None:
    """Run both and print rates and ratio; or kill a node and print what the store holds."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--points", type=int, default=24)
    parser.add_argument("--epochs", type=int, default=150, help="the work of a point: 150 are 5 s")
    parser.add_argument("--documents", type=int, default=2_000)
    parser.add_argument("--kill", action="store_true", help="kill a node in the middle instead of measuring")
    options = parser.parse_args()
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    with tempfile.TemporaryDirectory() as folder, two_nodes() as (cluster, node):
        place = Path(folder)
        base = prepare(place, options)
        with ray_pool(cluster.address, Share()) as pool:
            train(place / "warm", base, range(2), pool)
            half = options.points // 2
            if options.kill:
                kill(place, base, range(half), pool, lambda: cluster.remove_node(node, allow_graceful=False))
            else:
                measure(place, base, [range(half), range(half, options.points)], pool)


@contextmanager
def two_nodes() -> Iterator[tuple[Cluster, Any]]:
    """Give a cluster and its second node."""
    cluster = Cluster(initialize_head=True, head_node_args=NODE | {"include_dashboard": False})
    try:
        yield cluster, cluster.add_node(**NODE)
    finally:
        cluster.shutdown()


def prepare(place: Path, options: argparse.Namespace) -> ClassifySettings:
    """Write the documents, and return the settings of all points."""
    write_corpus(make_corpus(options.documents), place / "data")
    settings = {"features.kind": "ngrams", "data.taxonomy": str(place / "data" / "taxonomy.tsv")}
    return resolve(ClassifySettings, overrides=settings | {"train.epochs": options.epochs, "train.patience": 0})


def train(
    out: Path, base: ClassifySettings, seeds: range, where: Pool | None, watch: Watch | None = None
) -> tuple[float, Store]:
    """Return the seconds that points took, features made before, and the store."""
    files = (out.parent / "data" / "train.jsonl", out.parent / "data" / "valid.jsonl")
    source = TextSource(*files, out.parent / "cache")
    job = GridJob(source, base, out, watch or Watch(), where or LocalPool(2, 1))
    points = [Point("point", seed, base) for seed in seeds]
    material, store = job.prepare(points)
    began = time.perf_counter()
    job.run(material, points, store)
    return time.perf_counter() - began, store


def measure(place: Path, base: ClassifySettings, halves: list[range], on_ray: Pool) -> None:
    """Print the rate of each side, and their ratio."""
    seconds: Counter[str] = Counter()
    for number, seeds in enumerate(halves):
        for side, where in (("2 local workers", None), ("2 Ray nodes", on_ray)):
            took, _ = train(place / f"{side}-{number}", base, seeds, where)
            seconds[side] += took
            print(f"{side:<16} half {number + 1}: {len(seeds)} points in {took:.1f} s", flush=True)
    points = sum(map(len, halves))
    for side, took in seconds.items():
        print(f"{side:<16} {points} points in {took:.1f} s, {60 * points / took:.1f} a minute")
    local, ray = seconds.values()
    print(f"2 Ray nodes have {local / ray:.3f} times the rate of 2 local workers")


def kill(place: Path, base: ClassifySettings, seeds: range, on_ray: Pool, kill_node: Callable[[], None]) -> None:
    """Kill a node when half of the points have ended, and print what the store holds."""
    watch = Counted(lambda ended: kill_node() if ended == len(seeds) // 2 else None)
    took, store = train(place / "killed", base, seeds, on_ray, watch)
    _, local = train(place / "local", base, seeds, None)
    ours, theirs = ({each.seed: str(each.values) for each in found.results() if each.done} for found in (store, local))
    same = sum(ours.get(seed) == values for seed, values in theirs.items())
    print(f"a node was killed after {len(seeds) // 2} of {len(seeds)} points; all took {took:.1f} s")
    print(f"started {watch.events['started']}, finished {watch.events['finished']}, rows {len(store.results())}")
    print(f"{same} of {len(theirs)} have the very numbers of a local worker")
    if not len(ours) == len(store.results()) == watch.events["finished"] == same == len(seeds):
        sys.exit("not every point is there once, as a local worker has it")


if __name__ == "__main__":
    main()
