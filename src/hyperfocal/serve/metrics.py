"""What `/metrics` counts, in Prometheus' form.

Several processes of one service share their counts in a folder: whichever is asked answers with the sums, in which what
a dead one has counted stays, and what waited in it does not. Memory and CPU time stand for each process by its pid.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from functools import partial
from pathlib import Path

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead
from prometheus_client.registry import Collector

FOLDER = "PROMETHEUS_MULTIPROC_DIR"  # where processes share their counts; read when prometheus_client is imported
SECONDS = (0.001, 0.002, 0.003, 0.005, 0.01, 0.015, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
MEDIA_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class Measures:
    """The counts of one service."""

    def __init__(self) -> None:
        self._registry = registry = CollectorRegistry()
        name = "hyperfocal_requests_total"
        self._requests = Counter(name, "Requests answered", ["path", "status"], registry=registry)
        name = "hyperfocal_request_seconds"
        self._seconds = Histogram(name, "Time to answer", ["path"], buckets=SECONDS, registry=registry)
        name = "hyperfocal_batch_rows"
        self._rows = Histogram(name, "Histories or texts a batch", buckets=ROWS, registry=registry)
        name = "hyperfocal_queue_rows"
        self._queue = Gauge(name, "Histories or texts waiting", registry=registry, multiprocess_mode="livesum")
        name = "hyperfocal_reloads_total"
        self._reloads = Counter(name, "Runs asked for anew", ["outcome"], registry=registry)
        self._known: dict[tuple[str, int], tuple[Counter, Histogram]] = {}  # to look labels up costs more than to count
        ProcessCollector(registry=registry)

    def request(self, path: str, status: int, seconds: float) -> None:
        """Count a request."""
        key = path, status
        if key not in self._known:
            self._known[key] = self._requests.labels(path, str(status)), self._seconds.labels(path)
        requests, times = self._known[key]
        requests.inc()
        times.observe(seconds)

    def batch(self, rows: int) -> None:
        """Count a batch."""
        self._rows.observe(rows)

    def waiting(self, rows: int) -> None:
        """Tell how many rows wait now."""
        self._queue.set(rows)

    def reload(self, outcome: str) -> None:
        """Count a swap that was asked for: "done" or "refused"."""
        self._reloads.labels(outcome).inc()

    def text(self) -> bytes:
        """Return all counts, in Prometheus' text form."""
        registry = self._registry
        if FOLDER in os.environ:
            registry = CollectorRegistry()
            MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
            registry.register(_Processes(Path(os.environ[FOLDER])))
        return generate_latest(registry)


def forget(process: int | None) -> None:
    """Take what waited in a process that is dead out of the sums; what it has counted stays in them."""
    mark_process_dead(process)  # type: ignore[no-untyped-call]


class _Processes(Collector):
    """What `ProcessCollector` tells, of each process that lives, by its pid."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def collect(self) -> Iterable[Metric]:
        found: dict[str, Metric] = {}
        for path in self._folder.glob("gauge_livesum_*.db"):  # which `forget` removes
            pid = path.stem.rpartition("_")[2]
            for metric in ProcessCollector(pid=partial(str, pid), registry=None).collect():
                merged = found.setdefault(metric.name, Metric(metric.name, metric.documentation, metric.type))
                for sample in metric.samples:
                    merged.add_sample(sample.name, {"pid": pid}, sample.value)
        return found.values()
