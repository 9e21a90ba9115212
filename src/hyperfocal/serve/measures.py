"""What `/metrics` counts, in Prometheus' form; several processes of one service are summed."""

from __future__ import annotations

import os

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector

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
        self._known: dict[tuple[str, int], Counter] = {}
        ProcessCollector(registry=registry)

    def request(self, path: str, status: int, seconds: float) -> None:
        """Count a request."""
        key = path, status
        if key not in self._known:
            self._known[key] = self._requests.labels(path, str(status))
        self._known[key].inc()
        self._seconds.labels(path).observe(seconds)

    def batch(self, rows: int) -> None:
        """Count a batch."""
        self._rows.observe(rows)

    def reload(self, outcome: str) -> None:
        """Count a swap that was asked for: "done" or "refused"."""
        self._reloads.labels(outcome).inc()

    def text(self, waiting: int) -> bytes:
        """Return all counts, in Prometheus' text form."""
        self._queue.set(waiting)
        registry = self._registry
        if FOLDER in os.environ:
            registry = CollectorRegistry()
            MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
        return generate_latest(registry)
