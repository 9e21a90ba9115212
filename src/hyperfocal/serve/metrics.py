"""Counters behind `/metrics`, in the Prometheus text format.

Several processes of one service share their counters in a folder, and any of them answers with the sums. The requests
of a dead process stay in the sums; its waiting rows do not. Memory and CPU time are per process, labelled by pid.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead
from prometheus_client.registry import Collector

FOLDER = "PROMETHEUS_MULTIPROC_DIR"  # folder of the shared counters; read when prometheus_client is imported
SECONDS = (0.001, 0.002, 0.003, 0.005, 0.01, 0.015, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
MEDIA_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class Metrics:
    """The counters of one service."""

    def __init__(self) -> None:
        self._registry = registry = CollectorRegistry()
        options: dict[str, Any] = {"namespace": "hyperfocal", "registry": registry}
        self._requests = Counter("requests_total", "Requests answered", ["path", "status"], **options)
        self._seconds = Histogram("request_seconds", "Time to answer", ["path"], buckets=SECONDS, **options)
        self._rows = Histogram("batch_rows", "Histories or texts per batch", buckets=ROWS, **options)
        self._queue = Gauge("queue_rows", "Histories or texts waiting", multiprocess_mode="livesum", **options)
        self._reloads = Counter("reloads_total", "Requests to load a run", ["outcome"], **options)
        self._labelled: dict[tuple[str, int], tuple[Counter, Histogram]] = {}  # a look-up costs more than a count
        ProcessCollector(registry=registry)

    def count_request(self, path: str, status: int, seconds: float) -> None:
        """Count a request that was answered."""
        key = path, status
        if key not in self._labelled:
            self._labelled[key] = self._requests.labels(path, str(status)), self._seconds.labels(path)
        requests, times = self._labelled[key]
        requests.inc()
        times.observe(seconds)

    def count_batch(self, rows: int) -> None:
        """Count a batch."""
        self._rows.observe(rows)

    def set_waiting(self, rows: int) -> None:
        """Set how many rows are waiting now."""
        self._queue.set(rows)

    def count_reload(self, outcome: str) -> None:
        """Count a request to load a run: "done" or "refused"."""
        self._reloads.labels(outcome).inc()

    def text(self) -> bytes:
        """Return all counters in the Prometheus text format."""
        registry = self._registry
        if FOLDER in os.environ:
            registry = CollectorRegistry()
            MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
            registry.register(_LivingProcesses(Path(os.environ[FOLDER])))
        return generate_latest(registry)


def forget(process: int | None) -> None:
    """Remove the waiting rows of a dead process from the sums; its counts stay."""
    mark_process_dead(process)  # type: ignore[no-untyped-call]


class _LivingProcesses(Collector):
    """Memory and CPU time of each living process, labelled by pid."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def collect(self) -> Iterable[Metric]:
        metrics: dict[str, Metric] = {}
        for path in self._folder.glob("gauge_livesum_*.db"):  # `forget` removes those of dead processes
            pid = path.stem.rpartition("_")[2]
            for metric in ProcessCollector(pid=partial(str, pid), registry=None).collect():
                merged = metrics.setdefault(metric.name, Metric(metric.name, metric.documentation, metric.type))
                for sample in metric.samples:
                    merged.add_sample(sample.name, {"pid": pid}, sample.value)
        return metrics.values()
